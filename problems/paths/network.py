"""A road network as flat arrays: one column an edge, both directions as arcs, shortest-path trees toward the target."""

from __future__ import annotations

import difflib
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from solvers.oracle import Array
from surco.errors import InfeasibleError, InvalidInputError

IntArray = NDArray[np.int64]
Arc = tuple[int, int, float, float]  # head, column, mean, variance


@dataclass(frozen=True, slots=True)
class Tree:
    """Cheapest costs from every node to one root, and the first step of each cheapest path.

    Attributes:
        cost: [N] float64, infinite where the root cannot be reached.
        next_node: [N], the next node toward the root; negative at the root and where there is no path.
        weight: [A] float64, cost of each arc in the order of the network's arcs.
    """

    cost: Array
    next_node: NDArray[np.int32]
    weight: Array


@dataclass(frozen=True, slots=True)
class RouteNetwork:
    """Nodes, columns and arcs of a graph whose edges carry a mean and a variance.

    A column is a variable of the route problem: one an edge. A column of an undirected graph is two arcs. Self-loops
    keep their column and have no arc, since no simple path uses one.

    Attributes:
        nodes: N node names as in the graph.
        index: name -> position in ``nodes``.
        edges: n edges ``(u, v)`` or ``(u, v, key)``, the columns in order.
        is_directed: whether a column may be used from tail to head only.
        tail: [n] positions of u.
        head: [n] positions of v.
        mean: [n] float64, expected time of a column, >= 0.
        variance: [n] float64, variance of that time, > 0.
        arc_tail: [A], arcs sorted by head.
        arc_head: [A].
        arc_column: [A], the column of each arc.
        out: out[u] lists the arcs that leave u, as (head, column, mean, variance).
    """

    nodes: tuple[Hashable, ...]
    index: dict[Hashable, int]
    edges: tuple[tuple[Any, ...], ...]
    is_directed: bool
    tail: IntArray
    head: IntArray
    mean: Array
    variance: Array
    arc_tail: NDArray[np.int32]
    arc_head: NDArray[np.int32]
    arc_column: IntArray
    row_start: NDArray[np.int32]
    out: tuple[tuple[Arc, ...], ...]
    arcs_between: dict[tuple[int, int], tuple[int, ...]]

    @classmethod
    def from_graph(cls, graph: nx.Graph, edges: Sequence[tuple[Any, ...]]) -> RouteNetwork:
        """Read ``mean`` and ``variance`` of each edge.

        Args:
            graph: any networkx graph.
            edges: the columns in order, as in ``graph.edges`` (with keys for a multigraph).

        Raises:
            InvalidInputError: an attribute is missing, not a number, or out of range; the message names the edge.
        """
        nodes = tuple(graph.nodes)
        index = {node: position for position, node in enumerate(nodes)}
        columns = tuple(tuple(edge) for edge in edges)
        moments = np.array([_moments(graph, edge) for edge in columns], dtype=np.float64).reshape(-1, 2)
        tail = np.fromiter((index[edge[0]] for edge in columns), np.int64, len(columns))
        head = np.fromiter((index[edge[1]] for edge in columns), np.int64, len(columns))
        return cls._build(nodes, index, columns, graph.is_directed(), tail, head, moments)

    @classmethod
    def _build(
        cls,
        nodes: tuple[Hashable, ...],
        index: dict[Hashable, int],
        columns: tuple[tuple[Any, ...], ...],
        is_directed: bool,
        tail: IntArray,
        head: IntArray,
        moments: Array,
    ) -> RouteNetwork:
        proper = np.flatnonzero(tail != head)
        arc_tail, arc_head, arc_column = tail[proper], head[proper], proper
        if not is_directed:
            arc_tail, arc_head = np.concatenate([arc_tail, arc_head]), np.concatenate([arc_head, arc_tail])
            arc_column = np.concatenate([proper, proper])
        order = np.argsort(arc_head, kind="stable")
        arc_tail, arc_head, arc_column = arc_tail[order], arc_head[order], arc_column[order]
        counts = np.bincount(arc_head, minlength=len(nodes))
        mean, variance = np.ascontiguousarray(moments[:, 0]), np.ascontiguousarray(moments[:, 1])
        out: list[list[Arc]] = [[] for _ in nodes]
        between: dict[tuple[int, int], list[int]] = {}
        for arc, (u, v, column) in enumerate(
            zip(arc_tail.tolist(), arc_head.tolist(), arc_column.tolist(), strict=True)
        ):
            out[u].append((v, column, float(mean[column]), float(variance[column])))
            between.setdefault((u, v), []).append(arc)
        return cls(
            nodes=nodes,
            index=index,
            edges=columns,
            is_directed=is_directed,
            tail=tail,
            head=head,
            mean=mean,
            variance=variance,
            arc_tail=arc_tail.astype(np.int32),
            arc_head=arc_head.astype(np.int32),
            arc_column=arc_column,
            row_start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
            out=tuple(tuple(arcs) for arcs in out),
            arcs_between={pair: tuple(arcs) for pair, arcs in between.items()},
        )

    def position(self, node: Hashable, role: str) -> int:
        """Position of a node; ``role`` ("source", "target") names it in the error.

        Raises:
            InvalidInputError: no such node; the message names the closest one.
        """
        try:
            return self.index[node]
        except (KeyError, TypeError):
            raise InvalidInputError(
                f"Expected the {role} to be a node of the graph, got {node!r}.{closest_node(node, self.nodes)}"
            ) from None

    def tree(self, arc_weight: Array, root: int) -> Tree:
        """Shortest paths from every node to ``root`` under non-negative arc weights [A]."""
        size = len(self.nodes)
        # Rows are heads, so that a search from the root runs against the arcs.
        reverse = csr_array((arc_weight, self.arc_tail, self.row_start), shape=(size, size))
        cost, next_node = dijkstra(reverse, indices=root, return_predecessors=True)
        return Tree(cost, next_node, arc_weight)

    def follow(self, tree: Tree, start: int) -> list[int]:
        """Columns of the tree's path from ``start`` to its root, in order; the cheapest of parallel edges."""
        columns: list[int] = []
        next_node = tree.next_node
        u, v = start, int(next_node[start])
        while v >= 0:
            arcs = self.arcs_between[u, v]
            arc = arcs[0] if len(arcs) == 1 else min(arcs, key=lambda a: float(tree.weight[a]))
            columns.append(int(self.arc_column[arc]))
            u, v = v, int(next_node[v])
        return columns

    def walk(self, columns: Iterable[int], start: int) -> tuple[list[int], list[int]]:
        """The route that leaves ``start`` along the given columns, until it ends, forks, or would meet itself.

        Returns:
            Positions of the nodes visited, and the columns used, both in order. The columns are one simple path from
            ``start`` exactly if all of them were used.
        """
        leaving: dict[int, list[tuple[int, int]]] = {}
        for column in columns:
            u, v = int(self.tail[column]), int(self.head[column])
            leaving.setdefault(u, []).append((v, column))
            if not self.is_directed:
                leaving.setdefault(v, []).append((u, column))
        visited, used, seen, last = [start], [], {start}, -1
        while True:
            onward = [step for step in leaving.get(visited[-1], ()) if step[1] != last]
            if len(onward) != 1 or onward[0][0] in seen:
                return visited, used
            node, last = onward[0]
            visited.append(node)
            used.append(last)
            seen.add(node)


def unreachable(nodes: Sequence[Hashable], cost: Array, source: int, target: int) -> InfeasibleError:
    """The error of a graph without a path, with the number of nodes that can reach the target."""
    return InfeasibleError(
        f"Expected a path from {nodes[source]!r} to {nodes[target]!r}, but there is none: only "
        f"{int(np.isfinite(cost).sum())} of {len(nodes)} nodes can reach the target. "
        "Try another pair, or add an edge between the two components (and check the directions of a directed graph)."
    )


def closest_node(node: object, nodes: Sequence[Hashable]) -> str:
    """``" Did you mean 'x'?"`` for the node whose text is nearest; otherwise the first few nodes."""
    by_text = {str(other): other for other in nodes}
    near = difflib.get_close_matches(str(node), list(by_text), n=1, cutoff=0.5)
    if near:
        return f" Did you mean {by_text[near[0]]!r}?"
    shown = ", ".join(repr(other) for other in list(nodes)[:6]) + (", ..." if len(nodes) > 6 else "")
    return f" The graph has {len(nodes)} nodes: {shown}."


def _moments(graph: nx.Graph, edge: tuple[Any, ...]) -> tuple[float, float]:
    attributes = graph.edges[edge]
    return _number(attributes, "mean", edge, strict=False), _number(attributes, "variance", edge, strict=True)


def _number(attributes: dict[str, Any], name: str, edge: tuple[Any, ...], *, strict: bool) -> float:
    if name not in attributes:
        has = ", ".join(sorted(map(str, attributes))) or "no attributes"
        raise InvalidInputError(
            f"Expected every edge to have a number `{name}`, but edge {edge!r} has {has}. "
            f"Try `graph.edges[{edge!r}][{name!r}] = ...`."
        )
    try:
        value = float(attributes[name])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value) or value < 0 or (strict and value == 0):
        rule = "positive, finite" if strict else "finite, non-negative"
        hint = " A certain travel time still needs a tiny variance, for example 1e-12." if strict else ""
        raise InvalidInputError(
            f"Expected a {rule} `{name}` on every edge, but edge {edge!r} has {attributes[name]!r}.{hint}"
        )
    return value
