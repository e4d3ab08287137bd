"""A planning instance as agents see it: options to install, known cuts, a bound, and the exact evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from problems.planning.construction import trim
from problems.planning.cuts import strengthen
from problems.planning.decomposition import Decomposition
from problems.planning.evaluator import Evaluator
from problems.planning.network import Array, Network
from problems.planning.routing import shortest_path_loads
from problems.planning.separation import Answer
from problems.planning.survival import Deadline, MetricCut, Survival, edge_prices
from problems.planning.translation import Translator, deepest

TOLERANCE = 1e-7  # relative, of a cut's right-hand side
MOST_TRANSLATED = 8  # cuts of other scenarios that one refusal may bring
MOST_CUTS = 160  # of the cutset relaxation that enter the pool; the evaluator adds what refuses plans later


class Topology:
    """One instance, shared by all environments that play it.

    Letters: M options (a module size on a link; one a link in most instances), K cuts ``rows @ x >= rhs`` over them,
    each valid for every survivable plan. The first cuts are those of the *cutset relaxation* (prices, side rules and
    cutset cuts alone, a linear program of milliseconds); the evaluator's metric cuts follow, each with its deepest
    integer rounding.

    Args:
        network: compiled instance.
        bound: proven lower bound on the cost of a plan, to normalize rewards; default that of the relaxation.
        target: [n] a very good plan, as the teacher of imitation; None where none is known.
        engine: exact engine to share linear programs and cuts with; default a small one of its own.

    Attributes:
        options: [M] numbers of the variables that agents may change.
        ends: [M, 2] node numbers.
        gbps, cost, upper: [M].
        limits: side rules over the options, ``side @ x <= limits``, cover variables at their most.
        relaxed: [M] point of the cutset relaxation; ``dual_share`` [M] share of the price that cuts pay for.
        intact_gbps: [M] larger direction's load of shortest-path routing without failure, of the option's link.
        greedy: [M] units of the shortest-path plan; zeros if that breaks a rule.
        scale_gbps: mean relaxed capacity of an option, the unit of every feature.
    """

    def __init__(
        self,
        network: Network,
        *,
        bound: float | None = None,
        target: Array | None = None,
        engine: Decomposition | None = None,
    ) -> None:
        self.network = network
        if engine is None:
            engine = Decomposition(network, cutset_size=4, most_cutsets=1000)
        engine.prepare()
        lower, relaxed = _cutset_relaxation(engine)
        self.options: NDArray[np.int64] = np.flatnonzero((network.variable_module >= 0) & (network.gbps > 0.0))
        link = network.variable_link[self.options]
        self.link = link
        self.ends = network.link_ends[link]
        self.gbps, self.cost = network.gbps[self.options], network.cost[self.options]
        self.upper = network.upper[self.options]
        self.has_covers = len(self.options) < network.n
        others = np.setdiff1d(np.arange(network.n), self.options)
        reserve = np.minimum(network.rows[:, others], 0.0) @ network.upper[others]
        self.side, self.limits = network.rows[:, self.options], network.limits - reserve
        self.bound = lower if bound is None else float(bound)
        self.target = None if target is None else np.asarray(target, dtype=np.float64)[self.options]
        self.relaxed = relaxed[self.options]
        _, reduced = engine.master.reduced_costs()
        self.dual_share = 1.0 - np.clip(reduced[self.options] / np.maximum(self.cost, 1e-12), -1.0, 1.0)
        greedy = engine.best
        self.greedy = np.zeros(len(self.options)) if greedy is None else greedy[self.options]
        price = edge_prices(network)[network.link_edge]
        load = shortest_path_loads(
            len(network.is_transit),
            network.link_ends,
            price,
            network.scenarios[0].demand,
            alive=network.scenarios[0].alive,
            is_transit=network.is_transit,
        )
        self.intact_gbps = load.max(axis=0)[link]
        self.scale_gbps = max(float((self.relaxed * self.gbps).mean()), float(self.gbps.min()), 1e-9)
        self._cutsets = engine.cuts.pool
        self.evaluator = Evaluator(network, cutsets=self._cutsets)
        self._translator: Translator | None = None
        self._known = 0
        self.rows, self.rhs = np.zeros((0, len(self.options))), np.zeros(0)
        self._seed_pool(engine, relaxed)

    @property
    def survival(self) -> Survival:
        """The evaluator's warm linear programs."""
        return self.evaluator.survival

    def share(self, engine: Decomposition) -> None:
        """Use the scenario programs of ``engine`` from now on, so that neither is built twice."""
        self.evaluator.survival = engine.survival

    def teach(self, engine: Decomposition) -> None:
        """Give the cuts that rollouts ran into to the engine's master, where they are valid as well."""
        rows = np.zeros((len(self.rhs) - self._seeded, self.network.n))
        rows[:, self.options] = self.rows[self._seeded :]
        if len(rows):
            engine.master.add(rows, self.rhs[self._seeded :])
        self._seeded = len(self.rhs)

    def point(self, units: Array) -> Array:
        """Units of the options [M] as variables [n], covers included."""
        x = np.zeros(self.network.n)
        x[self.options] = units
        return self.network.complete(x) if self.has_covers else x

    def price(self, units: Array) -> float:
        """Price of units [M]."""
        return float(self.network.cost @ self.point(units))

    def is_survivable(self, units: Array, *, is_translated: bool = False) -> bool:
        """Exact answer for units [M] by the evaluator; what refuses them joins ``rows`` and ``rhs``.

        With ``is_translated`` the cut's link lengths are tried in all other scenarios too, which costs less than a
        linear program and pays where many refusals follow each other.
        """
        x, known = self.point(units), len(self.evaluator.cuts)
        if self.evaluator.is_survivable(self.network.capacities(x)[None])[0]:
            return True
        if is_translated and len(self.evaluator.cuts) > known:
            self.evaluator.add_cuts(self._translations(self.evaluator.cuts[-1], x))
        self._take_cuts(x)
        return False

    def trimmed(self, units: Array, *, seconds: float = 10.0) -> Array:
        """Survivable units [M] with modules taken away, the dearest first, as long as the plan survives."""
        rows = np.zeros((len(self.rhs), self.network.n))
        rows[:, self.options] = self.rows
        x = trim(self.network, self.survival, self.point(units), Deadline(seconds), cuts=(rows, self.rhs))
        return x[self.options]

    # ------------------------------------------------------------------ cuts

    def _seed_pool(self, engine: Decomposition, relaxed: Array) -> None:
        rows, rhs = engine.master.rows, engine.master.rhs
        others = np.setdiff1d(np.arange(self.network.n), self.options)
        own = (rows[:, others] == 0.0).all(axis=1) if len(rhs) else np.zeros(0, dtype=bool)
        rows, rhs = rows[own], rhs[own]
        tightest = np.argsort((rows @ relaxed - rhs) / np.maximum(np.abs(rhs), 1e-12), kind="stable")[:MOST_CUTS]
        self._append(rows[tightest][:, self.options], rhs[tightest])
        self._seeded = len(self.rhs)  # the engine knows these

    def _append(self, rows: Array, rhs: Array) -> None:
        """Rows over the options; trivial ones are left out, and all are scaled to a right-hand side of 1."""
        keep = rhs > 1e-9
        self.rows = np.vstack([self.rows, rows[keep] / rhs[keep, None]])
        self.rhs = np.r_[self.rhs, np.ones(int(keep.sum()))]

    def _translations(self, cut: MetricCut, x: Array) -> list[MetricCut]:
        """Cuts of other scenarios with the lengths of ``cut`` that x [n] violates."""
        network = self.network
        if self._translator is None:
            self._translator = Translator(network, self.survival.binding)
        if not self._translator.is_worthwhile or cut.scenario not in self._translator.scenarios:
            return []
        per_edge = np.zeros(len(network.edges))
        np.maximum.at(per_edge, network.link_edge, cut.weights)
        # a cut on links has forgotten which share of a length is whose direction's; any split is valid
        lengths = np.array([per_edge, 0.0 * per_edge] if network.is_symmetric else [per_edge / 2.0, per_edge / 2.0])
        answer = Answer(False, lengths, cut.rhs, 0.0, per_edge)
        return deepest(self._translator, [(cut.scenario, answer)], x, most=MOST_TRANSLATED)

    def _take_cuts(self, x: Array) -> None:
        for cut in self.evaluator.cuts[self._known :]:
            row = self.network.to_variables(cut.weights)
            rhs = cut.rhs - float(cut.weights @ self.network.offset)
            if rhs <= 1e-9 * (1.0 + cut.rhs):
                continue
            deep_row, deep_rhs = strengthen(row, rhs, x)
            self._append(np.array([row, deep_row])[:, self.options], np.array([rhs, deep_rhs]))
        self._known = len(self.evaluator.cuts)

    # ------------------------------------------------------------------ state

    def checkpoint(self) -> dict[str, Any]:
        """Cuts as tensors; forgets warm programs and proven plans, so that a resumed run goes on alike."""
        cuts = self.evaluator.cuts
        state = {
            "rows": torch.from_numpy(self.rows.copy()),
            "rhs": torch.from_numpy(self.rhs.copy()),
            "weights": torch.from_numpy(np.array([c.weights for c in cuts]).reshape(-1, self.network.n_links)),
            "scenario": [c.scenario for c in cuts],
            "cut_rhs": [c.rhs for c in cuts],
        }
        self.restore(state)
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what ``checkpoint`` returned."""
        weights = state["weights"].numpy()
        self.rows, self.rhs = state["rows"].numpy().copy(), state["rhs"].numpy().copy()
        self.evaluator = Evaluator(self.network, cutsets=self._cutsets)
        self.evaluator.add_cuts(
            [
                MetricCut(int(s), weights[i].copy(), float(r))
                for i, (s, r) in enumerate(zip(state["scenario"], state["cut_rhs"], strict=True))
            ]
        )
        self._known = len(self.evaluator.cuts)


def _cutset_relaxation(engine: Decomposition) -> tuple[float, Array]:
    """Value and point [n] of the linear program over prices, side rules and violated cutset cuts."""
    while True:
        value, x = engine.master.solve_lp()
        if not engine.add_cutsets(x):
            return value + engine.constant, x
