"""The spanning-tree oracle on an undirected networkx graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from solvers.oracle import Array, OracleBatch, Status
from solvers.points import as_points, not_binary, settle
from solvers.rows import Answer, Failures, solve_together


def spanning_tree(graph: Any) -> SpanningTreeOracle:
    """Oracle over the spanning trees of an undirected networkx graph, for costs of any sign.

    Variable j is edge ``oracle.edges[j]``, in the order of ``graph.edges`` (with keys in a multigraph).

    Raises:
        ValueError: a directed graph, or fewer than two nodes.

    Examples:
        >>> import networkx as nx, numpy as np
        >>> oracle = spanning_tree(nx.cycle_graph(3))
        >>> oracle.edges
        ((0, 1), (0, 2), (1, 2))
        >>> oracle.solve(np.array([[1.0, 2.0, 3.0]])).x.tolist()
        [[1.0, 1.0, 0.0]]
    """
    return SpanningTreeOracle(graph)


class SpanningTreeOracle:
    """{ x in {0,1}^n : the chosen edges are a spanning tree }; of equal costs the lower index is taken.

    Attributes:
        edges: n edges as (u, v) or (u, v, key).
        nodes: the nodes of the graph.
    """

    def __init__(self, graph: Any) -> None:
        if graph.is_directed():
            raise ValueError("Expected an undirected graph. Try `graph.to_undirected()`.")
        if len(graph) < 2:
            raise ValueError(f"Expected at least two nodes, got {len(graph)}.")
        self.nodes: tuple[Any, ...] = tuple(graph.nodes)
        self.edges: tuple[Any, ...] = tuple(graph.edges(keys=True) if graph.is_multigraph() else graph.edges)
        if not self.edges:
            raise ValueError("Expected a graph with edges, got none.")
        index = {node: i for i, node in enumerate(self.nodes)}
        self._tail = np.array([index[edge[0]] for edge in self.edges], np.int64)
        self._head = np.array([index[edge[1]] for edge in self.edges], np.int64)
        self._solve(np.zeros((0, self.n)))  # compile (or load) the loop now, not in the first timed call

    @property
    def n(self) -> int:
        """Number of edges."""
        return len(self.edges)

    def solve(self, costs: Array) -> OracleBatch:
        """Minimize each row of ``costs`` [B, n]."""
        return solve_together(costs, self.n, self._solve)

    def violation(self, x: Array) -> Array:
        """Distance from {0, 1} or of the number of edges, or parts that are not joined; [..., n] -> [...]."""
        points, finite = as_points(x, self.n)
        flat = points.reshape(-1, self.n)
        count = len(self.nodes)
        worst = np.maximum(not_binary(flat), np.abs(flat.sum(axis=1) - (count - 1)))
        for row in np.flatnonzero(worst <= 1e-6):
            chosen = flat[row] > 0.5
            graph = sp.csr_array(
                (np.ones(chosen.sum()), (self._tail[chosen], self._head[chosen])), shape=(count, count)
            )
            parts = int(connected_components(graph, directed=False, return_labels=False))
            worst[row] = max(float(parts - 1), 0.0 if worst[row] <= 1e-9 else worst[row])
        return settle(finite, worst.reshape(points.shape[:-1]))

    def _solve(self, costs: Array) -> tuple[Array, Failures]:
        from solvers.kernels.trees import span

        x = np.zeros(costs.shape)
        outcome = np.zeros(len(costs), np.int64)
        span(np.argsort(costs, axis=1, kind="stable"), self._tail, self._head, len(self.nodes), x, outcome)
        none = Answer(Status.INFEASIBLE, message="the graph is not connected")
        return x, dict.fromkeys(np.flatnonzero(outcome).tolist(), none)
