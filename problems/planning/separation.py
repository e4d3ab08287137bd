"""Is a capacity vector enough in one scenario? A persistent path LP that answers with flows or with a metric cut.

The LP routes every demand over generated paths and buys the cheapest extra capacity z that makes it fit:

    min w.z   s.t.  sum_p f_p = d (each demand),  sum_{p over a} f_p - z_e <= capacity_a (each arc),  f, z >= 0

Value 0 proves the scenario survived. Otherwise its duals are arc lengths pi, and *whatever* lengths an LP returns,
sum_d d dist_pi(d) <= sum_a pi_a capacity_a holds for every sufficient capacity (the Japanese theorem): the right-hand
side is recomputed here by shortest paths, so a cut is valid even if the LP was stopped early or is inexact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from problems.planning.bridges import project_over_bridges
from problems.planning.linear_program import linear_program
from problems.planning.network import Array, Network, Scenario
from problems.planning.routing import distances

_INF = float("inf")
_PRICE_TOLERANCE = 1e-6  # of reduced costs; prices average 1
_MOST_PRICINGS = 300
_KEPT_FLOWS = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """Of one separation.

    Attributes:
        is_survived: everything fits (with flows in hand).
        lengths: [2, e] arc lengths pi of the cut, None if survived; row 1 is all 0 for symmetric demand.
        rhs: sum_d d dist_pi(d), Gbps x length.
        shortfall: rhs - pi.capacity, > 0 if not survived.
        extra: [e] capacity z that would make it fit (an upper bound on what is missing).
    """

    is_survived: bool
    lengths: Array | None
    rhs: float
    shortfall: float
    extra: Array


class PathPool:
    """Paths found in any scenario, offered to every new one: [P, 2] end nodes and padded arcs [P, longest]."""

    def __init__(self, n_nodes: int) -> None:
        self._width = n_nodes
        self._seen: set[bytes] = set()
        self._ends: list[NDArray[np.int64]] = []
        self._arcs: list[NDArray[np.int32]] = []

    def add(self, ends: NDArray[np.int64], arcs: NDArray[np.int32]) -> None:
        """Remember paths; ``arcs`` [P, depth] is padded with -1. Known ones are skipped."""
        wide = np.full((len(arcs), self._width), -1, dtype=np.int32)
        wide[:, : arcs.shape[1]] = arcs
        fresh = []
        for i, row in enumerate(wide):
            key = row.tobytes()
            if key not in self._seen:
                self._seen.add(key)
                fresh.append(i)
        if fresh:
            self._ends.append(ends[fresh])
            self._arcs.append(wide[fresh])

    def all(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """All paths: end nodes [P, 2], arcs [P, longest] padded with -1."""
        if not self._arcs:
            return np.zeros((0, 2), np.int64), np.zeros((0, 1), np.int32)
        self._ends, self._arcs = [np.concatenate(self._ends)], [np.concatenate(self._arcs)]
        used = int((self._arcs[0] >= 0).sum(axis=1).max())
        return self._ends[0], self._arcs[0][:, :used]


class ScenarioProgram:
    """The path LP of one scenario, kept warm.

    Args:
        network: compiled instance.
        scenario: one of its scenarios.
        price: [e] > 0, w: price of a Gbps on each edge.
        pool: paths shared by all scenarios; arc a is edge a forward, e + a backward.
        backend: of ``linear_program``.
    """

    def __init__(
        self, network: Network, scenario: Scenario, price: Array, pool: PathPool, backend: str = "auto"
    ) -> None:
        self._network, self._scenario, self._pool = network, scenario, pool
        self._is_symmetric = network.is_symmetric
        n_edges = self._n_edges = len(network.edges)
        self._is_up = np.bincount(network.link_edge, scenario.alive, n_edges) > 0
        demand = project_over_bridges(scenario.demand, network.edges, self._is_up)
        demand = np.triu(demand) if self._is_symmetric else demand
        self._pairs = np.argwhere(demand > 0.0)
        self._demand = demand[self._pairs[:, 0], self._pairs[:, 1]]
        self._scale = float(np.mean(self._demand)) if len(self._demand) else 1.0
        # The judge allows 1e-6 of the largest demand on a link: of the instance's own demands, before any is projected
        # over bridges, where sums of many end. With very many demands 1e-7 of their sum is more.
        self._tolerance = min(1e-7 * float(self._demand.sum()), 5e-7 * float(scenario.demand.max(initial=0.0)))
        self._sources, self._source_row = np.unique(self._pairs[:, 0], return_inverse=True)
        self._graph = _SearchGraph(network, self._is_up)
        n_rows = n_edges if self._is_symmetric else 2 * n_edges
        n_pairs = len(self._pairs)
        self._capacity_rows = n_pairs + np.arange(n_rows)
        self._lp = linear_program(backend)
        scaled = self._demand / self._scale
        nothing = (np.zeros(0), np.zeros(0))
        self._lp.add_rows(
            np.r_[scaled, np.full(n_rows, -_INF)], np.r_[scaled, np.zeros(n_rows)], [nothing] * (n_pairs + n_rows)
        )
        copies = 1 if self._is_symmetric else 2
        slack = [(n_pairs + e + n_edges * np.arange(copies), np.full(copies, -1.0)) for e in range(n_edges)]
        self._lp.add_columns(price, np.zeros(n_edges), np.where(self._is_up, _INF, 0.0), slack)
        self.n_solves = 0
        self._loads = np.zeros((0, n_rows))  # of flows that carried everything lately, scaled as the LP
        self._take_pool()
        usual = np.where(self._is_up, price, _INF)
        self._price_out(np.vstack([usual, usual]), np.full(n_pairs, _INF))

    def separate(self, capacities: Array, *, share: float = 0.9) -> Answer:
        """Decide link ``capacities`` [m] (usable Gbps).

        Args:
            capacities: [m].
            share: stop pricing as soon as the exact cut proves this share of the LP's shortfall; 1 for the deepest cut.
        """
        return self.separate_edges(self._network.edge_capacities(capacities, self._scenario), share=share)

    def separate_edges(self, capacity: Array, *, share: float = 0.9) -> Answer:
        """Decide edge capacities [e] (usable Gbps, already 0 where down)."""
        n_edges = self._n_edges
        if not len(self._pairs):
            return Answer(True, None, 0.0, 0.0, np.zeros(n_edges))
        scaled = capacity / self._scale
        limits = scaled if self._is_symmetric else np.r_[scaled, scaled]
        if (self._loads <= limits).all(axis=1).any():
            return Answer(True, None, 0.0, 0.0, np.zeros(n_edges))  # flows that are in hand fit
        self._lp.change_rows(self._capacity_rows, np.full(len(limits), -_INF), limits)
        best: Answer | None = None
        tolerance = self._tolerance
        for _ in range(_MOST_PRICINGS):
            value, x, dual = self._lp.solve()
            self.n_solves += 1
            extra = np.maximum(x[:n_edges], 0.0) * self._scale
            if extra.sum() <= tolerance:
                load = self._lp.row_values()[self._capacity_rows]
                self._loads = np.vstack([load, self._loads[: _KEPT_FLOWS - 1]])
                return Answer(True, None, 0.0, 0.0, extra)
            pi = np.maximum(-dual[self._capacity_rows], 0.0)
            lengths = np.vstack([pi, np.zeros(n_edges)]) if self._is_symmetric else pi.reshape(2, n_edges)
            both = np.vstack([pi, pi]) if self._is_symmetric else lengths
            added, distance = self._price_out(both, dual[: len(self._pairs)])
            rhs = float(self._demand @ distance)
            shortfall = rhs - float(lengths.sum(axis=0) @ capacity)
            if best is None or shortfall > best.shortfall:
                best = Answer(False, lengths, rhs, shortfall, extra)
            is_proven = best.shortfall > tolerance * float(pi.max(initial=0.0))
            if not added or (is_proven and best.shortfall >= share * value * self._scale):
                if not is_proven:
                    return Answer(True, None, 0.0, 0.0, extra)  # nothing provable is missing: within tolerance
                return Answer(False, best.lengths, best.rhs, best.shortfall, extra)
        raise ArithmeticError(f"Separation of {self._scenario.name!r} did not settle in {_MOST_PRICINGS} pricings.")

    def _price_out(self, lengths: Array, dual: Array) -> tuple[int, Array]:
        """Add every demand's shortest path that beats its dual; returns how many, and all distances [pairs]."""
        distance, previous = self._graph.trees(lengths, self._sources)
        mine = distance[self._source_row, self._pairs[:, 1]]
        finite = np.where(np.isfinite(dual), dual, 0.0)
        better = np.flatnonzero(mine < dual - _PRICE_TOLERANCE * (1.0 + np.abs(finite)))
        if len(better):
            arcs = self._graph.paths(previous, self._source_row[better], self._pairs[better])
            self._add(better, arcs)
            self._pool.add(self._pairs[better], arcs)
        return len(better), mine

    def _take_pool(self) -> None:
        ends, arcs = self._pool.all()
        if not len(ends):
            return
        row_of = np.full((len(self._network.is_transit),) * 2, -1)
        row_of[self._pairs[:, 0], self._pairs[:, 1]] = np.arange(len(self._pairs))
        rows = row_of[ends[:, 0], ends[:, 1]]
        up = np.append(np.r_[self._is_up, self._is_up], True)  # the last entry answers for the padding
        usable = np.flatnonzero((rows >= 0) & up[arcs].all(axis=1))
        if len(usable):
            self._add(rows[usable], arcs[usable])

    def _add(self, rows: NDArray[np.int64], arcs: NDArray[np.int32]) -> None:
        """Append path columns: demand ``rows`` [P], ``arcs`` [P, depth] padded with -1."""
        count, n_pairs = len(rows), len(self._pairs)
        is_arc = arcs >= 0
        index = np.where(is_arc, (arcs % self._n_edges if self._is_symmetric else arcs) + n_pairs, -1)
        index = np.column_stack([rows, index])
        used = index >= 0
        starts = np.r_[0, np.cumsum(used.sum(axis=1))[:-1]]
        flat = index[used]
        zeros = np.zeros(count)
        self._lp.add_packed_columns(zeros, zeros, np.full(count, _INF), starts, flat, np.ones(len(flat)))


class _SearchGraph:
    """Shortest path trees over the edges that are up; a stub node is split, so that nothing passes through it."""

    def __init__(self, network: Network, is_up: NDArray[np.bool_]) -> None:
        n_nodes = len(network.is_transit)
        stub = np.flatnonzero(~network.is_transit)
        leaves_from = np.arange(n_nodes)
        leaves_from[stub] = n_nodes + np.arange(len(stub))
        tail = leaves_from[np.r_[network.edges[:, 0], network.edges[:, 1]]]
        head = np.r_[network.edges[:, 1], network.edges[:, 0]]
        arcs = np.flatnonzero(np.r_[is_up, is_up])
        size = n_nodes + len(stub)
        self._arcs = arcs[np.lexsort((head[arcs], tail[arcs]))]
        starts = np.searchsorted(tail[self._arcs], np.arange(size + 1))
        self._matrix = sparse.csr_matrix((np.ones(len(arcs)), head[self._arcs], starts), shape=(size, size))
        self._leaves_from = leaves_from
        self._arc = np.full((size, size), -1, dtype=np.int32)
        self._arc[tail[self._arcs], head[self._arcs]] = self._arcs

    def trees(self, lengths: Array, sources: NDArray[np.int64]) -> tuple[Array, NDArray[np.int32]]:
        """Distances and predecessors from ``sources`` under lengths [2, e]."""
        self._matrix.data = np.maximum(lengths.reshape(-1)[self._arcs], 0.0) + 1e-13  # a stored 0 would be no arc
        return csgraph.dijkstra(self._matrix, indices=self._leaves_from[sources], return_predecessors=True)

    def paths(
        self, previous: NDArray[np.int32], tree: NDArray[np.int64], pairs: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """Arcs of the paths of ``pairs`` [P, 2], target first, [P, depth] padded with -1; ``tree`` [P] rows."""
        start = self._leaves_from[pairs[:, 0]]
        node = pairs[:, 1].copy()
        steps = []
        while (node != start).any():
            moving = node != start
            before = np.where(moving, previous[tree, node], node)
            steps.append(np.where(moving, self._arc[before, node], -1))
            node = before
        return np.array(steps, dtype=np.int32).T


def exact_rhs(network: Network, scenario: Scenario, lengths: Array) -> float:
    """Right-hand side of the metric cut of arc lengths [2, e] in ``scenario``, by all shortest distances.

    For symmetric demand, row 1 of ``lengths`` is ignored and one direction is counted, as in ``Answer``.
    """
    up = np.bincount(network.link_edge, scenario.alive, len(network.edges)) > 0
    both = np.vstack([lengths[0], lengths[0]]) if network.is_symmetric else lengths
    table = distances(len(network.is_transit), network.edges, np.where(up, both, np.inf), network.is_transit)
    demand = np.triu(scenario.demand) if network.is_symmetric else scenario.demand
    used = demand > 0.0
    return float(demand[used] @ table[used])
