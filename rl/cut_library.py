"""Metric cuts that outlive a demand matrix: of the same links and failures, only their right-hand sides change.

Link lengths w prove that sum_d d dist_w(d) <= w.capacities in their failure scenario, whatever the demand d is. The
distances depend on w alone, so the cuts of thousands of demand matrices are one matrix product once the distances are
known: what-if planning starts from everything that earlier matrices taught.

Source: the Japanese theorem (Iri 1971; Onaga and Kakusho 1971), as in ``problems.planning.separation``.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from problems.planning.cuts import strengthen
from problems.planning.decomposition import Decomposition
from problems.planning.network import Array, Network
from problems.planning.routing import distances
from problems.planning.survival import MetricCut
from surco.errors import InvalidInputError

_MOST_ROUNDS = 30  # of the relaxation over the library's cuts
_PER_ROUND = 40


class CutLibrary:
    """Link lengths of metric cuts with their node distances, for one set of links and failures.

    Args:
        network: any instance on these links and failures.
        most: cuts that are kept; those that were added to a master least often leave first.

    Attributes:
        weights: [K, m] a usable Gbps of each link.
        scenario: [K] numbers.
        uses: [K] how often each cut was violated by a relaxation and joined it.
    """

    def __init__(self, network: Network, *, most: int = 600) -> None:
        self._network, self._most = network, most
        self._alive = np.array([s.alive for s in network.scenarios])
        n_nodes = len(network.is_transit)
        self.weights, self.scenario = np.zeros((0, network.n_links)), np.zeros(0, dtype=np.int64)
        self.uses = np.zeros(0, dtype=np.int64)
        self._distance = np.zeros((0, n_nodes * n_nodes))
        self._known: set[tuple[int, bytes]] = set()

    def __len__(self) -> int:
        return len(self.scenario)

    def learn(self, cuts: Iterable[MetricCut]) -> int:
        """Keep the lengths of ``cuts``, whose right-hand sides play no part; returns how many are new."""
        weights, scenario, table = [], [], []
        for cut in cuts:
            key = (cut.scenario, np.round(cut.weights, 9).tobytes())
            if key not in self._known:
                self._known.add(key)
                weights.append(cut.weights)
                scenario.append(cut.scenario)
                table.append(self._distances(cut).reshape(-1))
        if not weights:
            return 0
        self.weights, self.scenario = np.vstack([self.weights, weights]), np.r_[self.scenario, scenario]
        self._distance, self.uses = np.vstack([self._distance, table]), np.r_[self.uses, np.zeros(len(weights), int)]
        self._forget()
        return len(weights)

    def right_hand_sides(self, network: Network) -> Array:
        """[K] in Gbps for the demands of ``network``.

        Raises:
            InvalidInputError: other links or failures than the library's.
        """
        alive = np.array([s.alive for s in network.scenarios])
        if alive.shape != self._alive.shape or (alive != self._alive).any() or not self._fits(network):
            raise InvalidInputError("Expected the links and failures that the cuts of this library are about.")
        demand = np.array([s.demand for s in network.scenarios])
        return np.einsum("kp,kp->k", self._distance, demand.reshape(len(demand), -1)[self.scenario])

    def teach(self, engine: Decomposition) -> int:
        """Prepare ``engine`` and add to its master what its relaxation violates, rounded there; returns how many."""
        engine.prepare()
        network, master = engine.network, engine.master
        if not len(self):
            return 0
        rows = network.to_variables(self.weights)
        rhs = self.right_hand_sides(network) - self.weights @ network.offset
        norm = np.maximum(np.linalg.norm(rows, axis=1), 1e-12)
        added, is_free = 0, rhs > 1e-9
        for _ in range(_MOST_ROUNDS):
            _, x = master.solve_lp()
            cutsets = engine.add_cutsets(x)
            depth = np.where(is_free, rhs - rows @ x, 0.0)
            violated = np.flatnonzero(depth > 1e-6 * (1.0 + np.abs(rhs)))
            chosen = violated[np.argsort(-depth[violated] / norm[violated], kind="stable")[:_PER_ROUND]]
            if len(chosen):
                deep = [strengthen(rows[k], float(rhs[k]), x) for k in chosen.tolist()]
                master.add(np.array([row for row, _ in deep]), np.array([value for _, value in deep]))
                self.uses[chosen] += 1
                is_free[chosen] = False  # its rounding is in; the plain row may be a little deeper elsewhere
                added += len(chosen)
            elif not cutsets:
                break
        return added

    # ------------------------------------------------------------------ inside

    def _fits(self, network: Network) -> bool:
        mine = self._network
        is_same = np.array_equal(network.link_ends, mine.link_ends)
        return is_same and np.array_equal(network.is_transit, mine.is_transit)

    def _distances(self, cut: MetricCut) -> Array:
        """[N, N] shortest distances under the cut's lengths; 0 where no path is left, which keeps the cut valid.

        A link's capacity serves both directions, so each direction's length is half of its weight; where demands are
        symmetric that is the cut of one direction alone.
        """
        network = self._network
        per_edge = np.full(len(network.edges), np.inf)
        up = self._alive[cut.scenario]
        np.minimum.at(per_edge, network.link_edge[up], cut.weights[up])
        both = np.vstack([0.5 * per_edge, 0.5 * per_edge])
        table = distances(len(network.is_transit), network.edges, both, network.is_transit)
        return np.where(np.isfinite(table), table, 0.0)

    def _forget(self) -> None:
        excess = len(self) - self._most
        if excess <= 0:
            return
        # the least used go, among them the oldest
        keep = np.sort(np.argsort(self.uses, kind="stable")[excess:])
        self.weights, self.scenario = self.weights[keep], self.scenario[keep]
        self._distance, self.uses = self._distance[keep], self.uses[keep]
