"""One scenario's arc lengths make cuts for all scenarios: a batched all-pairs shortest path instead of many programs.

Any arc lengths pi >= 0 give a valid cut in every scenario t: sum_d d dist_pi^t(d) <= sum_{a up in t} pi_a capacity_a.
Lengths that an LP found for scenario s are deep for its neighbors too, above all where pi is a bottleneck that each of
its own links may break. The link that is down in s has no price there; in t it gets the distance of its ends, which is
the least length that changes no distance of s.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from problems.planning.network import Array, Network
from problems.planning.separation import Answer
from problems.planning.survival import MetricCut

_MOST_WORK = 4e7  # scenarios x nodes^3 of one translation


class Translator:
    """Cuts of all scenarios from the lengths of one.

    Args:
        network: compiled instance.
        scenarios: numbers of the scenarios that count.
    """

    def __init__(self, network: Network, scenarios: NDArray[np.int64]) -> None:
        self.network, self.scenarios = network, scenarios
        n_nodes, n_edges = len(network.is_transit), len(network.edges)
        self.is_worthwhile = len(scenarios) > 1 and len(scenarios) * n_nodes**3 <= _MOST_WORK
        alive = np.array([network.scenarios[s].alive for s in scenarios], dtype=bool)
        self._is_up = np.array([np.bincount(network.link_edge, row, n_edges) > 0 for row in alive])
        self._alive = alive.astype(np.float64)
        demand = [network.scenarios[s].demand for s in scenarios]
        self._demand = (
            np.array([np.triu(d) if network.is_symmetric else d for d in demand])
            if (self.is_worthwhile)
            else np.zeros((0, 0, 0))
        )
        self._row_of = {int(s): i for i, s in enumerate(scenarios)}

    def cuts(self, scenario: int, answer: Answer) -> tuple[Array, Array]:
        """Link weights [S, m] and right-hand sides [S] of the cuts that ``answer``'s lengths make; see the module."""
        assert answer.lengths is not None
        lengths = self._filled(scenario, answer.lengths)
        table = self._distances(lengths)
        rhs = np.einsum("sij,sij->s", self._demand, np.where(self._demand > 0.0, table, 0.0))
        per_edge = lengths[0] if self.network.is_symmetric else lengths.sum(axis=0)
        return self._alive * per_edge[self.network.link_edge], rhs

    def _filled(self, scenario: int, lengths: Array) -> Array:
        """[2, e] lengths with a price on the edges that are down in ``scenario``."""
        both = np.vstack([lengths[0], lengths[0]]) if self.network.is_symmetric else lengths.copy()
        row = self._row_of[scenario]
        down = np.flatnonzero(~self._is_up[row])
        if len(down):
            table = self._distances(both, rows=np.array([row]))[0]
            u, v = self.network.edges[down].T
            top = float(both.max(initial=0.0))
            both[0, down] = np.where(np.isfinite(table[u, v]), table[u, v], top)
            both[1, down] = np.where(np.isfinite(table[v, u]), table[v, u], top)
        return both

    def _distances(self, lengths: Array, rows: NDArray[np.int64] | None = None) -> Array:
        """[S, N, N] shortest distances in each scenario, by Floyd and Warshall on all of them at once."""
        network = self.network
        up = self._is_up if rows is None else self._is_up[rows]
        n_nodes = len(network.is_transit)
        table = np.full((len(up), n_nodes, n_nodes), np.inf)
        u, v = network.edges.T
        table[:, u, v] = np.where(up, lengths[0], np.inf)
        table[:, v, u] = np.where(up, lengths[1], np.inf)
        table[:, np.arange(n_nodes), np.arange(n_nodes)] = 0.0
        for k in np.flatnonzero(network.is_transit):
            np.minimum(table, table[:, :, k, None] + table[:, None, k, :], out=table)
        return table


def deepest(translator: Translator, found: list[tuple[int, Answer]], x: Array, *, most: int) -> list[MetricCut]:
    """The deepest translated cut of each other scenario at variables x [n], at most ``most`` in all."""
    network = translator.network
    capacity = network.capacities(x)
    own = {s for s, _ in found}
    best: dict[int, tuple[float, MetricCut]] = {}
    for scenario, answer in found:
        rows, rhs = translator.cuts(scenario, answer)
        norm = np.maximum(np.linalg.norm(rows, axis=1), 1e-12)
        depth = (rhs - rows @ capacity) / norm
        for i in np.flatnonzero(np.isfinite(rhs) & (depth > 1e-6 * np.abs(rhs) / norm)):
            t = int(translator.scenarios[i])
            if t in own or (t in best and best[t][0] >= depth[i]):
                continue
            top = float(rows[i].max())
            best[t] = float(depth[i]), MetricCut(t, rows[i] / top, float(rhs[i]) / top)
    ordered = sorted(best.values(), key=lambda item: -item[0])
    return [cut for _, cut in ordered[:most]]
