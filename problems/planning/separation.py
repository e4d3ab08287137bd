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

from problems.planning.linear_program import linear_program
from problems.planning.network import Array, Network, Scenario
from problems.planning.routing import distances

_INF = float("inf")


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
        paths: pool of paths shared by all scenarios: (source, target) -> tuples of arcs; arc a is edge a forward,
            e + a backward.
        backend: of ``linear_program``.
    """

    def __init__(
        self,
        network: Network,
        scenario: Scenario,
        price: Array,
        paths: dict[tuple[int, int], set[tuple[int, ...]]],
        backend: str = "auto",
    ) -> None:
        self._network, self._scenario, self._paths = network, scenario, paths
        self._is_symmetric = network.is_symmetric
        n_edges = len(network.edges)
        self._n_edges = n_edges
        self._is_up = np.bincount(network.link_edge, scenario.alive, n_edges) > 0
        demand = np.triu(scenario.demand) if self._is_symmetric else scenario.demand
        self._pairs = np.argwhere(demand > 0.0)
        self._demand = demand[self._pairs[:, 0], self._pairs[:, 1]]
        self._scale = float(np.mean(self._demand)) if len(self._demand) else 1.0
        self._sources, self._source_row = np.unique(self._pairs[:, 0], return_inverse=True)
        self._graph = _SearchGraph(network, self._is_up)
        n_rows = n_edges if self._is_symmetric else 2 * n_edges
        n_pairs = len(self._pairs)
        self._capacity_rows = n_pairs + np.arange(n_rows)
        self._lp = linear_program(backend)
        self._row_of = {(int(u), int(v)): i for i, (u, v) in enumerate(self._pairs)}
        self._lp.add_rows(
            np.r_[self._demand / self._scale, np.full(n_rows, -_INF)],
            np.r_[self._demand / self._scale, np.zeros(n_rows)],
            [(np.zeros(0), np.zeros(0))] * (n_pairs + n_rows),
        )
        copies = 1 if self._is_symmetric else 2
        slack = [(n_pairs + e + n_edges * np.arange(copies), np.full(copies, -1.0)) for e in range(n_edges)]
        self._lp.add_columns(price, np.zeros(n_edges), np.where(self._is_up, _INF, 0.0), slack)
        self._known: set[tuple[int, ...]] = set()
        self._n_columns = n_edges
        self.n_solves = 0
        ones = np.where(self._is_up, 1.0, _INF)
        self._price_out(np.vstack([ones, ones]), np.full(n_pairs, _INF))
        for pair in self._row_of:
            self._add(pair, [p for p in paths.get(pair, ()) if self._is_up[np.array(p) % n_edges].all()])

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
        self._lp.change_rows(self._capacity_rows, np.full(len(limits), -_INF), limits)
        best: Answer | None = None
        tolerance = 1e-7 * float(self._demand.sum())
        while True:
            value, x, dual = self._lp.solve()
            self.n_solves += 1
            extra = np.maximum(x[:n_edges], 0.0) * self._scale
            if extra.sum() <= tolerance:
                return Answer(True, None, 0.0, 0.0, extra)
            pi = np.maximum(-dual[self._capacity_rows], 0.0)
            lengths = np.vstack([pi, np.zeros(n_edges)]) if self._is_symmetric else pi.reshape(2, n_edges)
            both = np.vstack([pi, pi]) if self._is_symmetric else lengths
            added, distance = self._price_out(both, dual[: len(self._pairs)])
            rhs = float(self._demand @ distance)
            shortfall = rhs - float(lengths.sum(axis=0) @ capacity)
            if best is None or shortfall > best.shortfall:
                best = Answer(False, lengths, rhs, shortfall, extra)
            if not added or best.shortfall >= share * value * self._scale:
                if best.shortfall <= tolerance * float(pi.max(initial=0.0)):
                    return Answer(True, None, 0.0, 0.0, extra)  # nothing provable is missing: within tolerance
                return Answer(False, best.lengths, best.rhs, best.shortfall, extra)

    def _price_out(self, lengths: Array, dual: Array) -> tuple[int, Array]:
        """Add every demand's shortest path that beats its dual; returns how many, and all distances [pairs]."""
        distance, previous = self._graph.trees(lengths, self._sources)
        mine = distance[self._source_row, self._pairs[:, 1]]
        added = 0
        better = np.flatnonzero(mine < dual - 1e-9 * (1.0 + np.abs(np.where(np.isfinite(dual), dual, 0.0))))
        for i in better.tolist():
            u, v = self._pairs[i].tolist()
            path = self._graph.path(previous[self._source_row[i]], u, v)
            added += self._add((u, v), [path])
        return added, mine

    def _add(self, pair: tuple[int, int], paths: list[tuple[int, ...]]) -> int:
        fresh = [p for p in paths if p not in self._known]
        if not fresh:
            return 0
        self._known.update(fresh)
        self._paths.setdefault(pair, set()).update(fresh)
        row, n_pairs = self._row_of[pair], len(self._pairs)
        entries = []
        for path in fresh:
            arcs = np.array(path, dtype=np.int64)
            arcs = arcs % self._n_edges if self._is_symmetric else arcs
            entries.append((np.r_[row, n_pairs + arcs], np.ones(len(arcs) + 1)))
        count = len(fresh)
        self._lp.add_columns(np.zeros(count), np.zeros(count), np.full(count, _INF), entries)
        self._n_columns += count
        return count


class _SearchGraph:
    """Shortest path trees over the edges that are up; a stub node is split, so that nothing passes through it."""

    def __init__(self, network: Network, is_up: NDArray[np.bool_]) -> None:
        n_nodes, n_edges = len(network.is_transit), len(network.edges)
        stub = np.flatnonzero(~network.is_transit)
        leaves_from = np.arange(n_nodes)
        leaves_from[stub] = n_nodes + np.arange(len(stub))
        tail = leaves_from[np.r_[network.edges[:, 0], network.edges[:, 1]]]
        head = np.r_[network.edges[:, 1], network.edges[:, 0]]
        arcs = np.flatnonzero(np.r_[is_up, is_up])
        size = n_nodes + len(stub)
        order = np.lexsort((head[arcs], tail[arcs]))
        self._arcs = arcs[order]
        starts = np.searchsorted(tail[self._arcs], np.arange(size + 1))
        self._matrix = sparse.csr_matrix((np.ones(len(arcs)), head[self._arcs], starts), shape=(size, size))
        self._leaves_from = leaves_from
        self._arc = {(int(tail[a]), int(head[a])): int(a) for a in self._arcs}
        self._n_edges = n_edges

    def trees(self, lengths: Array, sources: NDArray[np.int64]) -> tuple[Array, NDArray[np.int32]]:
        """Distances and predecessors from ``sources`` under lengths [2, e]."""
        self._matrix.data = np.maximum(lengths.reshape(-1)[self._arcs], 0.0) + 1e-13  # a stored 0 would be no arc
        distance, previous = csgraph.dijkstra(
            self._matrix, indices=self._leaves_from[sources], return_predecessors=True
        )
        return distance, previous

    def path(self, previous: NDArray[np.int32], source: int, target: int) -> tuple[int, ...]:
        """Arcs from source to target."""
        start = int(self._leaves_from[source])
        arcs, node = [], target
        while node != start:
            before = int(previous[node])
            arcs.append(self._arc[before, node])
            node = before
        return tuple(reversed(arcs))


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
