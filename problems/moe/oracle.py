"""The linear oracle of expert placements: a minimum-cost flow in each layer, and a price on migration."""

from __future__ import annotations

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from problems.moe.instance import Cluster, Index, Migration
from solvers.flows import MinCostFlowOracle
from solvers.oracle import Array, OracleBatch, Status
from solvers.points import as_points, settle
from solvers.rows import Answer, solve_one_by_one

ROUNDS = 60  # of the price of migration; it ends after a handful
TOLERANCE = 1e-9


class ExpertOracle:
    """Argmin of costs c [L, E, G] over placements x [L, E, G] of zeros and ones.

    The set: every expert of a layer on at least one GPU and at most ``most``; at most ``cluster.slots`` experts of a
    layer on a GPU; and, with a migration, at most ``cap`` entries of x in all layers where nothing runs now.

    Without a cap each layer is a flow: from the experts (one unit each, and spare units that may go to any) to the
    GPUs. Its matrix is totally unimodular, so the answers are optimal. The cap gets a price, found by the secant
    method on the dual; where no price meets the cap exactly, the row is ``FEASIBLE`` with the dual bound.

    Args:
        layers: number of layers.
        experts: of a layer.
        cluster: GPUs and slots.
        most: most copies of one expert.
        migration: what runs now, and the cap.
    """

    def __init__(self, layers: int, experts: int, cluster: Cluster, most: int, migration: Migration | None) -> None:
        self.layers, self.experts, self.cluster, self.most = layers, experts, cluster, most
        self.migration = migration
        self._flow: MinCostFlowOracle | None = None

    @property
    def n(self) -> int:
        """Number of variables: layers times experts times GPUs."""
        return self.layers * self.experts * self.cluster.gpus

    @property
    def is_roomy(self) -> bool:
        """Whether the slots hold every expert."""
        return self.experts <= self.cluster.total_slots

    def solve(self, costs: Array) -> OracleBatch:
        """Minimize each row of ``costs`` [B, n]."""
        return solve_one_by_one(costs, self.n, self._solve_row)

    def violation(self, x: Array) -> Array:
        """Largest violation of a rule or of integrality, [..., n] -> [...]."""
        points, finite = as_points(x, self.n)
        plan = points.reshape(*points.shape[:-1], self.layers, self.experts, self.cluster.gpus)
        copies, used = plan.sum(-1), plan.sum(-2)
        worst = np.abs(points - np.clip(np.rint(points), 0.0, 1.0)).max(axis=-1)
        for excess in (1.0 - copies, copies - self.most, used - self.cluster.slots):
            worst = np.maximum(worst, excess.max(axis=(-2, -1)))
        if self.migration is not None:
            worst = np.maximum(worst, points @ self._is_new.astype(np.float64) - self.migration.cap)
        return settle(finite, np.where(worst <= TOLERANCE, 0.0, worst))

    def least_migration(self) -> int:
        """Fewest copies that any placement must send; 0 without a migration."""
        if self.migration is None:
            return 0
        found, _ = self._solve_flows(self._is_new.astype(np.float64))
        return int(self._moved(found))

    # ------------------------------------------------------------------ inside

    @property
    def _is_new(self) -> NDArray[np.bool_]:
        """[n] entries that nothing runs on now."""
        assert self.migration is not None
        return ~self.migration.current.reshape(-1)

    def _solve_row(self, costs: Array) -> Answer:
        if not self.is_roomy:
            return Answer(Status.INFEASIBLE, message=f"{self.experts} experts in {self.cluster.total_slots} slots")
        x, value = self._solve_flows(costs)
        if self.migration is None or self._moved(x) <= self.migration.cap:
            return _answer(costs, x, value)
        return self._solve_capped(costs, x, value, self.migration.cap)

    def _solve_capped(self, costs: Array, x: Array, bound: float, cap: int) -> Answer:
        """Secant search for the price of migration; ``x`` [n], of value ``bound``, is the answer at price 0."""
        is_new = self._is_new.astype(np.float64)
        many, many_value = self._moved(x), bound
        steep = 2.0 * (self.experts + self.cluster.gpus) * self.layers * (np.abs(costs).max() + 1.0)
        x, _ = self._solve_flows(costs + steep * is_new)
        few, few_value = self._moved(x), float(costs @ x)
        if few > cap:
            return Answer(Status.INFEASIBLE, message=f"at least {few:.0f} copies must move, the cap is {cap}")
        for _ in range(ROUNDS):
            price = (few_value - many_value) / (many - few)
            line = few_value + price * (few - cap)
            y, value = self._solve_flows(costs + price * is_new)
            bound = max(bound, value - price * cap)
            count = self._moved(y)
            if line - (value - price * cap) <= TOLERANCE * max(1.0, abs(line)):
                break  # no vertex lies below the line: the dual is solved
            if count > cap:
                many, many_value = count, float(costs @ y)
            else:
                few, few_value, x = count, float(costs @ y), y
        return _answer(costs, x, bound)

    def _moved(self, x: Array) -> float:
        """Copies that go where nothing runs now."""
        return float(np.rint(x[self._is_new].sum()))

    def _solve_flows(self, costs: Array) -> tuple[Array, float]:
        """Optimal placement [n] without the cap, and its value less what integer costs may have lost."""
        if self._flow is None:
            self._flow = self._build()
        edges = self.experts * self.cluster.gpus
        full = np.zeros((self.layers, self._flow.n))
        full[:, :edges] = costs.reshape(self.layers, edges)
        found = self._flow.solve(full)
        if not found.has_point.all():  # there is room for all experts, so a flow exists
            raise RuntimeError(f"The flow of a layer failed: {[str(s) for s in found.status]} {found.message}.")
        return found.x[:, :edges].reshape(-1), float(found.bound.sum())

    def _build(self) -> MinCostFlowOracle:
        gpus, spare = self.cluster.gpus, self.cluster.total_slots - self.experts
        graph = nx.DiGraph()
        for e in range(self.experts):
            graph.add_node(("expert", e), demand=-1)
        graph.add_node("spare", demand=-spare)
        graph.add_node("sink", demand=self.experts + spare)
        ends: Index = np.arange(gpus)
        graph.add_edges_from(((("expert", e), ("gpu", int(g))) for e in range(self.experts) for g in ends), capacity=1)
        graph.add_edges_from((("spare", ("expert", e)) for e in range(self.experts)), capacity=self.most - 1)
        graph.add_edge("spare", "sink", capacity=spare)
        graph.add_edges_from(((("gpu", int(g)), "sink") for g in ends), capacity=self.cluster.slots)
        oracle = MinCostFlowOracle(graph)
        # networkx lists edges by tail in the order of nodes, and the experts came first
        expected = tuple((("expert", e), ("gpu", g)) for e in range(self.experts) for g in range(gpus))
        if oracle.edges[: len(expected)] != expected:
            raise RuntimeError("Expected the edges of the experts first.")
        return oracle


def _answer(costs: Array, x: Array, bound: float) -> Answer:
    """Optimal where the bound is the value, up to the rounding of costs to integers."""
    value = float(costs @ x)
    is_optimal = value - bound <= TOLERANCE * max(1.0, abs(value))
    return Answer(Status.OPTIMAL if is_optimal else Status.FEASIBLE, x, bound)
