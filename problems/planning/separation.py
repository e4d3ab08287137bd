"""Is a capacity vector enough in one scenario? A persistent path LP that answers with flows or with a metric cut.

The LP routes every demand over generated paths and buys the cheapest extra capacity z that makes it fit:

    min w.z   s.t.  sum_p f_p = d (each demand),  sum_{p over a} f_p - z_e <= capacity_a (each arc),  f, z >= 0

One path of every demand, its *key path*, is eliminated by the demand's equation, which leaves sum of the others <= d: a
column is a detour, the arcs of a path less those of the key path. (Dantzig and Van Slyke's generalized upper bounds.)
The basis of slacks is dual feasible, and few demands leave their key path, so that most pivots are saved.

Value 0 proves the scenario survived. Otherwise its duals are arc lengths pi, and *whatever* lengths an LP returns,
sum_d d dist_pi(d) <= sum_a pi_a capacity_a holds for every sufficient capacity (the Japanese theorem): the right-hand
side is recomputed here by shortest paths, so a cut is valid even if the LP was stopped early or is inexact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from problems.planning.bridges import project_over_bridges
from problems.planning.linear_program import linear_program
from problems.planning.network import Array, Network, Scenario
from problems.planning.paths import PathPool, SearchGraph
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
        self._graph = SearchGraph(network, self._is_up)
        n_rows = self._n_rows = n_edges if self._is_symmetric else 2 * n_edges
        self._lp = linear_program(backend)
        upper, nothing = np.r_[np.zeros(n_rows), self._demand / self._scale], (np.zeros(0), np.zeros(0))
        self._lp.add_rows(np.full(len(upper), -_INF), upper, [nothing] * len(upper))
        copies = 1 if self._is_symmetric else 2
        slack = [(e + n_edges * np.arange(copies), np.full(copies, -1.0)) for e in range(n_edges)]
        self._lp.add_columns(price, np.zeros(n_edges), np.where(self._is_up, _INF, 0.0), slack)
        self.n_solves = 0
        self._loads = np.zeros((0, n_rows))  # of flows that carried everything lately, scaled as the LP
        self._detours: list[tuple[int, NDArray[np.int32]]] = []  # pair and arcs of every column
        self._is_offered = np.zeros(0, dtype=bool)  # to the pool
        usual = np.where(self._is_up, price, _INF)
        distance, previous = self._graph.trees(np.vstack([usual, usual]), self._sources)
        if not np.isfinite(distance[self._source_row, self._pairs[:, 1]]).all():
            raise ArithmeticError(f"Scenario {scenario.name!r} leaves a demand without a path.")
        self._keys = self._incidence(self._graph.paths(previous, self._source_row, self._pairs))
        self._key_load = self._keys.T @ (self._demand / self._scale)
        self._take_pool()

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
        rows = np.arange(self._n_rows)
        self._lp.change_rows(rows, np.full(len(limits), -_INF), limits - self._key_load)
        best: Answer | None = None
        for _ in range(_MOST_PRICINGS):
            value, x, dual = self._lp.solve()
            self.n_solves += 1
            extra = np.maximum(x[:n_edges], 0.0) * self._scale
            if extra.sum() <= self._tolerance:
                load = self._lp.row_values()[: self._n_rows] + self._key_load
                self._loads = np.vstack([load, self._loads[: _KEPT_FLOWS - 1]])
                self._offer(x[n_edges:])
                return Answer(True, None, 0.0, 0.0, extra)
            pi = np.maximum(-dual[: self._n_rows], 0.0)
            lengths = np.vstack([pi, np.zeros(n_edges)]) if self._is_symmetric else pi.reshape(2, n_edges)
            both = np.vstack([pi, pi]) if self._is_symmetric else lengths
            added, distance = self._price_out(both, self._keys @ pi + np.minimum(dual[self._n_rows :], 0.0))
            rhs = float(self._demand @ distance)
            shortfall = rhs - float(lengths.sum(axis=0) @ capacity)
            if best is None or shortfall > best.shortfall:
                best = Answer(False, lengths, rhs, shortfall, extra)
            is_proven = best.shortfall > self._tolerance * float(pi.max(initial=0.0))
            if not added or (is_proven and best.shortfall >= share * value * self._scale):
                if not is_proven:
                    return Answer(True, None, 0.0, 0.0, extra)  # nothing provable is missing: within tolerance
                return Answer(False, best.lengths, best.rhs, best.shortfall, extra)
        raise ArithmeticError(f"Separation of {self._scenario.name!r} did not settle in {_MOST_PRICINGS} pricings.")

    def _price_out(self, lengths: Array, prices: Array) -> tuple[int, Array]:
        """Add every demand's shortest path that beats its price; returns how many, and all distances [pairs]."""
        distance, previous = self._graph.trees(lengths, self._sources)
        mine = distance[self._source_row, self._pairs[:, 1]]
        better = np.flatnonzero(mine < prices - _PRICE_TOLERANCE * (1.0 + np.abs(prices)))
        if not len(better):
            return 0, mine
        return self._add(better, self._graph.paths(previous, self._source_row[better], self._pairs[better])), mine

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

    def _offer(self, flow: Array) -> None:
        """Give detours that carry ``flow`` [detours] to the other scenarios."""
        used = np.flatnonzero((flow > 1e-9) & ~self._is_offered)
        self._is_offered[used] = True
        if len(used):
            pairs, arcs = zip(*[self._detours[k] for k in used.tolist()], strict=True)
            self._pool.add(self._pairs[list(pairs)], np.array(arcs))

    def _incidence(self, arcs: NDArray[np.int32]) -> sparse.csr_matrix:
        """[P, rows] of paths with ``arcs`` [P, depth] padded with -1."""
        path, step = np.nonzero(arcs >= 0)
        row = arcs[path, step] % self._n_rows
        return sparse.csr_matrix((np.ones(len(path)), (path, row)), shape=(len(arcs), self._n_rows))

    def _add(self, pairs: NDArray[np.int64], arcs: NDArray[np.int32]) -> int:
        """Append the detours of ``pairs`` [P] by paths of ``arcs`` [P, depth] padded with -1, but for the key paths."""
        detours = (self._incidence(arcs) - self._keys[pairs]).tocsr()
        detours.eliminate_zeros()
        fresh = np.diff(detours.indptr) > 0
        pairs, detours = pairs[fresh], detours[fresh]
        if not len(pairs):
            return 0
        count, width = len(pairs), self._n_rows + len(self._pairs)
        own = sparse.csr_matrix((np.ones(count), (np.arange(count), self._n_rows + pairs)), shape=(count, width))
        detours.resize(own.shape)
        columns, zeros = (detours + own).tocsr(), np.zeros(count)
        starts, index, value = columns.indptr[:-1], columns.indices, columns.data
        self._lp.add_packed_columns(zeros, zeros, np.full(count, _INF), starts, index, value)
        wide = np.full((count, len(self._network.is_transit)), -1, dtype=np.int32)
        wide[:, : arcs.shape[1]] = arcs[fresh]
        self._detours += zip(pairs.tolist(), wide, strict=True)
        self._is_offered = np.r_[self._is_offered, np.zeros(count, dtype=bool)]
        return count


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
