"""The minimum-cost flow oracle, through OR-Tools' cost-scaling push-relabel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solvers.oracle import Array, OracleBatch, Status
from solvers.points import as_points, settle
from solvers.rows import Answer, solve_one_by_one

_LARGEST_COST = 2.0**44
_TOTAL = 2.0**61
"""OR-Tools multiplies costs by the number of nodes plus one; their product with a flow must stay inside int64."""


def min_cost_flow(graph: Any, *, capacity: str = "capacity", demand: str = "demand") -> MinCostFlowOracle:
    """Oracle over the integer flows of a directed networkx graph that meet every demand.

    Variable j is the flow on edge ``oracle.edges[j]``, in the order of ``graph.edges`` (with keys in a multigraph).

    Args:
        graph: networkx DiGraph or MultiDiGraph.
        capacity: edge attribute, an integer >= 0 or inf; an edge without it has no limit.
        demand: node attribute, an integer, negative where flow is supplied (as in networkx); 0 where it is missing.

    Raises:
        ValueError: an undirected graph, capacities or demands that are not integers.

    Examples:
        >>> import networkx as nx, numpy as np
        >>> graph = nx.DiGraph()
        >>> graph.add_node("a", demand=-3)
        >>> graph.add_node("b", demand=3)
        >>> graph.add_edge("a", "b", capacity=2)
        >>> graph.add_edges_from([("a", "c"), ("c", "b")], capacity=9)
        >>> oracle = min_cost_flow(graph)
        >>> oracle.edges
        (('a', 'b'), ('a', 'c'), ('c', 'b'))
        >>> oracle.solve(np.array([[1.0, 1.0, 1.0]])).x.tolist()
        [[2.0, 1.0, 1.0]]
    """
    return MinCostFlowOracle(graph, capacity=capacity, demand=demand)


class MinCostFlowOracle:
    """{ x integer : 0 <= x <= capacity, inflow - outflow = demand at every node }.

    OR-Tools wants integer costs. A row is scaled by a power of two s to k = round(s c); its answer is within
    2 sum_j |k_j / s - c_j| capacity_j of the optimum. Where that is more than 1e-9 of max(1, |objective|), the row is
    ``FEASIBLE`` with its valid bound.

    Attributes:
        edges: n edges as (u, v) or (u, v, key).
        nodes: the nodes of the graph.
    """

    def __init__(self, graph: Any, *, capacity: str = "capacity", demand: str = "demand") -> None:
        if not graph.is_directed():
            raise ValueError("Expected a directed graph. Try `graph.to_directed()`.")
        self.nodes: tuple[Any, ...] = tuple(graph.nodes)
        self.edges: tuple[Any, ...] = tuple(graph.edges(keys=True) if graph.is_multigraph() else graph.edges)
        if not self.edges:
            raise ValueError("Expected a graph with edges, got none.")
        index = {node: i for i, node in enumerate(self.nodes)}
        self._tail = np.array([index[edge[0]] for edge in self.edges], np.int32)
        self._head = np.array([index[edge[1]] for edge in self.edges], np.int32)
        self._capacities = np.array([float(data.get(capacity, np.inf)) for *_, data in graph.edges(data=True)])
        self._demands = np.array([float(graph.nodes[node].get(demand, 0.0)) for node in self.nodes])
        bounded = np.isfinite(self._capacities)
        finite = self._capacities[bounded]
        if np.isnan(self._capacities).any() or (self._capacities < 0).any() or (finite != np.rint(finite)).any():
            raise ValueError(f"Expected integer capacities >= 0 (or inf) in edge attribute {capacity!r}.")
        if not np.isfinite(self._demands).all() or (self._demands != np.rint(self._demands)).any():
            raise ValueError(f"Expected integer demands in node attribute {demand!r}.")
        # No optimal flow needs more than this on an edge: paths carry the supply, and every cycle worth using has
        # an edge with a capacity (one without is looked for at each row).
        enough = float(np.abs(self._demands).sum() / 2 + finite.sum())
        self._usable = np.where(bounded, np.minimum(self._capacities, max(enough, 1.0)), max(enough, 1.0))
        self._unlimited = np.flatnonzero(~bounded)
        if float(self._usable.max()) >= 2.0**50:
            raise ValueError("Expected capacities and demands below 2^50 in total.")

    @property
    def n(self) -> int:
        """Number of edges."""
        return len(self.edges)

    def solve(self, costs: Array) -> OracleBatch:
        """Minimize each row of ``costs`` [B, n]."""
        return solve_one_by_one(costs, self.n, self._solve_row)

    def violation(self, x: Array) -> Array:
        """Largest violation of a balance, a capacity, a sign or integrality; absolute, [..., n] -> [...]."""
        points, finite = as_points(x, self.n)
        flat = points.reshape(-1, self.n)
        balance = np.zeros((len(self.nodes), len(flat)))
        np.add.at(balance, self._head, flat.T)
        np.subtract.at(balance, self._tail, flat.T)
        worst = np.abs(balance - self._demands[:, None]).max(axis=0)
        for distance in (flat - self._capacities, -flat, np.abs(flat - np.rint(flat))):
            worst = np.maximum(worst, distance.max(axis=1))
        return settle(finite, np.where(worst <= 1e-9, 0.0, worst).reshape(points.shape[:-1]))

    def _solve_row(self, costs: Array) -> Answer:
        from ortools.graph.python.min_cost_flow import SimpleMinCostFlow

        if self._has_endless_gain(costs):
            feasible = self._solve_row(np.zeros_like(costs))
            return Answer(Status.UNBOUNDED) if feasible.x is not None else feasible
        integers, error = self._scale(costs)
        flow: Any = SimpleMinCostFlow()  # its stubs know one-dimensional arrays under another name
        arcs = flow.add_arcs_with_capacity_and_unit_cost(
            self._tail, self._head, self._usable.astype(np.int64), integers
        )
        flow.set_nodes_supplies(np.arange(len(self.nodes), dtype=np.int32), -self._demands.astype(np.int64))
        code = flow.solve()
        if code in (flow.INFEASIBLE, flow.UNBALANCED):
            return Answer(Status.INFEASIBLE)
        if code != flow.OPTIMAL:
            return Answer(Status.ERROR, message=f"OR-Tools' min-cost flow stopped: {code.name}")
        x = flow.flows(arcs).astype(np.float64)
        objective = float(costs @ x)
        bound = objective - 2.0 * error
        if objective - bound > 1e-9 * max(1.0, abs(objective)):
            return Answer(Status.FEASIBLE, x, bound, f"optimal up to {2 * error:.3g}, the error of integer costs")
        return Answer(Status.OPTIMAL, x)

    def _scale(self, costs: Array) -> tuple[NDArray[np.int64], float]:
        """Integer costs, and the largest difference that they make to the cost of a flow."""
        largest = float(np.abs(costs).max())
        if largest == 0.0:
            return np.zeros(self.n, np.int64), 0.0
        room = min(_LARGEST_COST, _TOTAL / (len(self.nodes) + 1) / max(float(self._usable.max()), 1.0))
        scale = 2.0 ** min(max(math.floor(math.log2(room / largest)), -1000), 1000)
        integers = np.rint(costs * scale)
        return integers.astype(np.int64), float(np.abs(integers / scale - costs) @ self._usable)

    def _has_endless_gain(self, costs: Array) -> bool:
        """Whether edges without a limit form a cycle of negative cost."""
        if not len(self._unlimited) or (costs[self._unlimited] >= 0).all():
            return False
        distance = np.zeros(len(self.nodes))
        tail, head, cost = self._tail[self._unlimited], self._head[self._unlimited], costs[self._unlimited]
        tolerance = 1e-12 * float(np.abs(cost).max())
        for _ in range(len(self.nodes)):
            reached = distance.copy()
            np.minimum.at(reached, head, distance[tail] + cost)
            if (reached >= distance - tolerance).all():
                return False
            distance = reached
        return True
