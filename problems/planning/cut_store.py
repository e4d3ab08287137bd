"""The cuts of the exact engine: how violated points become rows of its master."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from problems.planning.cuts import CutsetPool, cutset_pool, joined, strengthen
from problems.planning.gating import depth_of, gate_of_variables, gated_depths, gated_row, narrow_sets
from problems.planning.master import Master
from problems.planning.network import Array, Network
from problems.planning.separation import Answer
from problems.planning.survival import MetricCut, metric_cut
from problems.planning.translation import Translator, deepest

TRANSLATED = 4
MOST_TRANSLATIONS = 30


class CutStore:
    """Cutset cuts, metric cuts and their rounded or gated forms, put into a master as points violate them.

    Args:
        network: compiled instance.
        master: gets the rows.
        binding: scenarios that no other one implies.
        largest: node sets of the cutset pool have at most so many nodes.
        most: so many node sets.

    Attributes:
        metric_cuts: all found so far, unrounded, on links.
        is_gated: whether links have set-up prices, whose variables open them.
        pool: cutset cuts, filled by ``fill``; None before.
    """

    def __init__(
        self, network: Network, master: Master, binding: NDArray[np.int64], *, largest: int, most: int
    ) -> None:
        self._network, self._master = network, master
        self._largest, self._most = largest, most
        self._translator = Translator(network, binding)
        self._gate_of = gate_of_variables(network)
        self.is_gated = bool((self._gate_of >= 0).any())
        self.metric_cuts: list[MetricCut] = []
        self.pool: CutsetPool | None = None

    def fill(self) -> None:
        """Make the cutset pool."""
        self.pool = cutset_pool(self._network, largest=self._largest, most=self._most)

    def add_metric_cuts(self, found: Sequence[tuple[int, Answer]], x: Array) -> int:
        """Store the metric cuts of answers, and those that they make for other scenarios; returns how many cut x off.

        Each is rounded to be deep at ``x``.
        """
        hits = self._add_rounded([metric_cut(self._network, scenario, answer) for scenario, answer in found], x)
        if found and self._translator.is_worthwhile:
            order = sorted(found, key=lambda item: -item[1].shortfall / float(item[1].lengths.sum()))  # type: ignore
            hits += self._add_rounded(deepest(self._translator, order[:TRANSLATED], x, most=MOST_TRANSLATIONS), x)
        return hits

    def _add_rounded(self, cuts: Sequence[MetricCut], x: Array) -> int:
        rows, values = [], []
        hits = 0
        for cut in cuts:
            self.metric_cuts.append(cut)
            row = self._network.to_variables(cut.weights)
            rhs = cut.rhs - float(cut.weights @ self._network.offset)
            if rhs <= 1e-9 * (1.0 + cut.rhs):
                continue
            best_row, best_rhs = strengthen(row, rhs, x)
            if self.is_gated:
                opened = gated_row(self._gate_of, row, rhs, x)
                opened_row, opened_rhs = strengthen(opened, rhs, x)
                if depth_of(opened_row, opened_rhs, x) > depth_of(best_row, best_rhs, x):
                    best_row, best_rhs = opened_row, opened_rhs
            rows.append(best_row)
            values.append(best_rhs)
            hits += bool(best_rhs - best_row @ x > 1e-6 * (1.0 + abs(best_rhs)))
        if rows:
            self._master.add(np.array(rows), np.array(values))
        return hits

    def add_cutsets(self, x: Array, *, most: int = 60) -> int:
        """Add the deepest cutset cuts that x [n] violates, one per node set; returns how many."""
        assert self.pool is not None
        pool = self.pool
        if not len(pool.rhs):
            return 0
        depth = pool.rhs - pool.rows @ x
        if self.is_gated:
            depth = np.maximum(depth, gated_depths(self._gate_of, pool.rows, pool.rhs, x))
        violated = np.flatnonzero(depth > 1e-4)
        if not len(violated):
            return 0
        norm = np.linalg.norm(pool.rows[violated], axis=1)
        order = violated[np.argsort(-depth[violated] / norm)]
        _, first = np.unique(pool.node_set[order], return_index=True)
        chosen = order[np.sort(first)][:most]
        rows = pool.rows[chosen]
        if self.is_gated:
            pairs = zip(rows, pool.rhs[chosen], strict=True)
            rows = np.array([gated_row(self._gate_of, row, rhs, x) for row, rhs in pairs])
        self._master.add(rows, pool.rhs[chosen])
        return len(chosen)

    def add_gated(self, x: Array, *, most: int = 40) -> int:
        """For links with set-up prices: known metric cuts in the form that is deepest now, and new narrow node sets."""
        assert self.pool is not None
        sets = narrow_sets(self._network, x)
        if len(sets):
            known = {row.tobytes() for row in self.pool.sets}
            sets = np.array([row for row in sets if row.tobytes() not in known]).reshape(-1, sets.shape[1])
        if len(sets):
            self.pool = joined(self.pool, cutset_pool(self._network, sets=sets))
            return self.add_cutsets(x)
        if not self.metric_cuts:
            return 0
        weights = np.array([cut.weights for cut in self.metric_cuts])
        rows = self._network.to_variables(weights)
        rhs = np.array([cut.rhs for cut in self.metric_cuts]) - weights @ self._network.offset
        rows, rhs = rows[rhs > 0.0], rhs[rhs > 0.0]
        depth = gated_depths(self._gate_of, rows, rhs, x) / np.maximum(rhs, 1e-12)
        chosen = np.argsort(-depth)[:most]
        better, values = [], []
        for k in chosen[depth[chosen] > 1e-3]:
            row, value = strengthen(gated_row(self._gate_of, rows[k], float(rhs[k]), x), float(rhs[k]), x)
            better.append(row)
            values.append(value)
        if better:
            self._master.add(np.array(better), np.array(values))
        return len(better)
