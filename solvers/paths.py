"""The shortest-path oracle on a networkx graph."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import breadth_first_order

from solvers.oracle import Array, OracleBatch, Status
from solvers.points import as_points, not_binary, settle
from solvers.rows import Answer, Failures, solve_together


def shortest_path(graph: Any, source: Hashable, target: Hashable) -> ShortestPathOracle:
    """Oracle over the simple paths from ``source`` to ``target`` in a networkx graph.

    Variable j is edge ``oracle.edges[j]``, in the order of ``graph.edges`` (with keys in a multigraph); an undirected
    edge is one variable that may be used in either direction.

    Args:
        graph: networkx Graph, DiGraph, MultiGraph or MultiDiGraph. Edge attributes are not read: costs come with each
            call.
        source: first node.
        target: last node, another one.

    Raises:
        ValueError: a node that is not in the graph, source equal to target, or a graph without edges.

    Examples:
        >>> import networkx as nx, numpy as np
        >>> oracle = shortest_path(nx.DiGraph([("a", "b"), ("b", "c"), ("a", "c")]), "a", "c")
        >>> oracle.edges
        (('a', 'b'), ('a', 'c'), ('b', 'c'))
        >>> batch = oracle.solve(np.array([[1.0, 3.0, 1.0], [1.0, 1.0, 1.0]]))
        >>> batch.x.tolist(), oracle.path(batch.x[0])
        ([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], ['a', 'b', 'c'])
    """
    return ShortestPathOracle(graph, source, target)


class ShortestPathOracle:
    """0/1 vectors over the edges that are a simple path from source to target.

    A directed acyclic graph is solved by a dynamic program, for costs of any sign. Other graphs are solved by Dijkstra
    for rows of non-negative costs; a directed row with negative costs by Bellman-Ford. A negative cycle that a path
    could touch (an undirected edge of negative cost is one) makes the row an ``ERROR``: the problem is then NP-hard.

    Attributes:
        edges: n edges as (u, v) or (u, v, key).
        nodes: the nodes of the graph.
    """

    def __init__(self, graph: Any, source: Hashable, target: Hashable) -> None:
        for name, node in (("source", source), ("target", target)):
            if node not in graph:
                raise ValueError(f"Expected `{name}` to be a node of the graph, got {node!r}.")
        if source == target:
            raise ValueError(f"Expected source and target to differ, got {source!r} twice.")
        self.is_directed = bool(graph.is_directed())
        self.nodes: tuple[Any, ...] = tuple(graph.nodes)
        self.edges: tuple[Any, ...] = tuple(graph.edges(keys=True) if graph.is_multigraph() else graph.edges)
        if not self.edges:
            raise ValueError("Expected a graph with edges, got none.")
        self.source, self.target = source, target
        index = {node: i for i, node in enumerate(self.nodes)}
        self._source, self._target = index[source], index[target]
        self._tail = np.array([index[edge[0]] for edge in self.edges], np.int64)
        self._head = np.array([index[edge[1]] for edge in self.edges], np.int64)
        ones, columns, shape = np.ones(self.n), np.arange(self.n), (len(self.nodes), self.n)
        self._leaves = sp.csr_array((ones, (self._tail, columns)), shape=shape)
        self._enters = sp.csr_array((ones, (self._head, columns)), shape=shape)
        starts = np.searchsorted(np.sort(self._tail), np.arange(len(self.nodes) + 1))
        by_tail = self._head[np.argsort(self._tail, kind="stable")]
        self._may_have_cycles = not self.is_directed or _topological_order(starts, by_tail, len(self.nodes)) is None
        self._build()

    def _build(self) -> None:
        columns = np.arange(len(self.edges))
        keep = self._tail != self._head  # a loop is never on a simple path
        tail, head, edge = self._tail[keep], self._head[keep], columns[keep]
        if not self.is_directed:
            tail, head, edge = np.concatenate([tail, head]), np.concatenate([head, tail]), np.concatenate([edge, edge])
        # Arcs that no route from source to target can use are left out, and so are cycles among them.
        count = len(self.nodes)
        useful = _reach(tail, head, self._source, count) & _reach(head, tail, self._target, count)
        keep = useful[tail] & useful[head] & (head != self._source) & (tail != self._target)
        tail, head, edge = tail[keep], head[keep], edge[keep]
        order = np.argsort(tail, kind="stable")
        self._arc_tail, self._arc_head, self._arc_edge = tail[order], head[order], edge[order]
        self._start = np.searchsorted(self._arc_tail, np.arange(count + 1)).astype(np.int64)
        self._used = np.zeros(len(self.edges), bool)
        self._used[self._arc_edge] = True
        self._order = _topological_order(self._start, self._arc_head, count) if self.is_directed else None
        self._solve(np.zeros((0, self.n)))  # compile (or load) the loops now, not in the first timed call

    @property
    def n(self) -> int:
        """Number of edges."""
        return len(self.edges)

    @property
    def is_acyclic(self) -> bool:
        """Whether the part of the graph between source and target has no directed cycle: any cost is then allowed."""
        return self._order is not None

    @property
    def needs_nonnegative_costs(self) -> bool:
        """Whether costs must be >= 0 to be sure of an answer: True where there are cycles."""
        return not self.is_acyclic

    def solve(self, costs: Array) -> OracleBatch:
        """Minimize each row of ``costs`` [B, n]."""
        return solve_together(costs, self.n, self._solve)

    def path(self, x: Array) -> list[Any]:
        """Nodes of the path x [n], from source to target.

        Raises:
            ValueError: x is not a path.
        """
        point = np.asarray(x, dtype=np.float64)
        if point.shape != (self.n,) or self.violation(np.rint(point)) > 0:
            raise ValueError("Expected a simple path from source to target; `violation(x)` says how far off x is.")
        return [self.nodes[node] for node in self._walk(point)]

    def violation(self, x: Array) -> Array:
        """Distance from {0, 1} or of a node's balance, or edges that are not on the path; [..., n] -> [...]."""
        points, finite = as_points(x, self.n)
        flat = points.reshape(-1, self.n)
        worst = np.maximum(not_binary(flat), self._imbalance(flat))
        right = np.flatnonzero(worst == 0.0)  # right degrees: only a separate cycle can be wrong now
        if right.size and self._may_have_cycles:
            worst[right] = self._off_the_path(flat[right] > 0.5)
        return settle(finite, worst.reshape(points.shape[:-1]))

    def _imbalance(self, flat: Array) -> Array:
        """Largest violation of a degree rule at a node; flat [B, n] -> [B]."""
        leaving, entering = self._leaves @ flat.T, self._enters @ flat.T
        if self.is_directed:
            wanted = np.zeros((len(self.nodes), 1))
            wanted[self._source], wanted[self._target] = 1.0, -1.0
            balance = np.abs(leaving - entering - wanted)
            return np.maximum(balance, np.maximum(leaving, entering) - 1.0).max(axis=0)
        degree = leaving + entering
        ends = [self._source, self._target]
        inner = np.minimum(np.abs(degree), np.abs(degree - 2.0))
        inner[ends] = np.abs(degree[ends] - 1.0)
        return inner.max(axis=0)

    def _off_the_path(self, chosen: NDArray[np.bool_]) -> Array:
        """Number of edges that a walk from the source does not meet, [B, n] with right degrees -> [B]."""
        batch = len(chosen)
        rows, columns = np.nonzero(chosen)
        # Sum of the nodes that the chosen edges of a node lead to: in an undirected path, less where one came from.
        onward = np.zeros((batch, len(self.nodes)), np.int64)
        np.add.at(onward, (rows, self._tail[columns]), self._head[columns])
        if not self.is_directed:
            np.add.at(onward, (rows, self._head[columns]), self._tail[columns])
        left = chosen.sum(axis=1)
        every = np.arange(batch)
        node, before = np.full(batch, self._source), np.zeros(batch, np.int64)
        for _ in range(int(left.max(initial=0))):
            moving = node != self._target
            ahead = onward[every, node] - (0 if self.is_directed else before)
            node, before = np.where(moving, ahead, node), np.where(moving, node, before)
            left = left - moving
        return left.astype(np.float64)

    def _walk(self, x: Array) -> list[int]:
        """Nodes of a path x [n]."""
        exits: dict[int, list[int]] = {}
        for column in np.flatnonzero(x > 0.5):
            tail, head = int(self._tail[column]), int(self._head[column])
            exits.setdefault(tail, []).append(head)
            if not self.is_directed:
                exits.setdefault(head, []).append(tail)
        walk = [self._source]
        while walk[-1] != self._target:
            (node,) = [node for node in exits[walk[-1]] if len(walk) < 2 or node != walk[-2]]
            walk.append(node)
        return walk

    def _solve(self, costs: Array) -> tuple[Array, Failures]:
        from solvers.kernels import paths as kernels

        x = np.zeros(costs.shape)
        outcome = np.zeros(len(costs), np.int64)
        arcs = (self._start, self._arc_head, self._arc_tail, self._arc_edge, self._source, self._target)
        if self._order is not None:
            kernels.acyclic_paths(self._order, *arcs, costs, x, outcome)
        else:
            negative = ((costs < 0) & self._used).any(axis=1)
            rows = np.flatnonzero(~negative)
            if len(rows) == len(costs):
                kernels.dijkstra_paths(*arcs, costs, x, outcome)
            else:
                self._solve_some(kernels.dijkstra_paths, arcs, costs, x, outcome, rows)
                rows = np.flatnonzero(negative)
                if self.is_directed:
                    self._solve_some(kernels.bellman_ford_paths, arcs, costs, x, outcome, rows)
                else:
                    outcome[rows] = kernels.NEGATIVE
        if np.count_nonzero(outcome) == 0:
            return x, {}
        return x, {int(row): self._failure(int(outcome[row])) for row in np.flatnonzero(outcome)}

    @staticmethod
    def _solve_some(kernel: Any, arcs: tuple, costs: Array, x: Array, outcome: NDArray, rows: NDArray) -> None:
        part, found = np.zeros((len(rows), costs.shape[1])), np.zeros(len(rows), np.int64)
        kernel(*arcs, costs[rows], part, found)
        x[rows], outcome[rows] = part, found

    def _failure(self, outcome: int) -> Answer:
        if outcome == 1:
            return Answer(Status.INFEASIBLE, message=f"no path from {self.source!r} to {self.target!r}")
        rule = "a cycle of negative cost" if self.is_directed else "an undirected edge of negative cost"
        return Answer(
            Status.ERROR, message=f"{rule} between source and target: expected non-negative costs on such a graph"
        )


def _reach(tail: NDArray, head: NDArray, root: int, count: int) -> NDArray[np.bool_]:
    """Nodes that can be reached from ``root`` over arcs tail -> head."""
    graph = sp.csr_array((np.ones(len(tail)), (tail, head)), shape=(count, count))
    reached = np.zeros(count, bool)
    reached[breadth_first_order(graph, root, return_predecessors=False)] = True
    return reached


def _topological_order(start: NDArray, head: NDArray, count: int) -> NDArray[np.int64] | None:
    """Nodes before their successors, or None where there is a cycle."""
    waiting = np.bincount(head, minlength=count)
    ready = [int(node) for node in np.flatnonzero(waiting == 0)]
    order: list[int] = []
    while ready:
        node = ready.pop()
        order.append(node)
        for arc in range(start[node], start[node + 1]):
            waiting[head[arc]] -= 1
            if waiting[head[arc]] == 0:
                ready.append(int(head[arc]))
    return np.array(order, np.int64) if len(order) == count else None
