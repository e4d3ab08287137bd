"""The exact engine: a master over whole capacities, cuts from warm scenario LPs, bounds from both sides at any time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from problems.planning.checkpoint import restore, save
from problems.planning.construction import cover_cuts, keeps_rules, repair, shortest_path_plan, trim
from problems.planning.cut_store import CutStore
from problems.planning.explanation import explain_rules, refuse_if_hopeless
from problems.planning.master import Master
from problems.planning.network import Array, Network
from problems.planning.parallel import MapPool, PooledSurvival
from problems.planning.separation import Answer
from problems.planning.survival import Deadline, MetricCut, Survival
from problems.planning.symmetrized import SymmetrizedSurvival, is_worthwhile
from surco.errors import InfeasibleError

_LOG = logging.getLogger(__name__)
CORE_WEIGHT = 0.5  # of the core in the points that are separated
PATIENCE = 3  # scenarios survived in a row, after one that failed, that end a scan
ROUND = 4  # failing scenarios after which the master is asked again
SYMMETRIZED_LEAST = 3e-4  # rise of the bound in a round below which the symmetrized demand has said what it can
SYMMETRIZED_GAIN = 0.13  # share of the best plan's cost that mending a plan for the symmetrized demand must save
CROSSING_GAP = 0.01  # with set-up prices, plans are crossed while the gap is larger


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where an engine stands: seconds used, proven lower bound, cost of the best plan (inf if none).

    Seconds of the trace and of callbacks count all runs of the engine, those of ``run``'s answer that run alone.
    """

    seconds: float
    lower: float
    upper: float

    @property
    def gap(self) -> float:
        """Relative gap of the best plan to the bound."""
        if not np.isfinite(self.upper):
            return np.inf
        return max(0.0, self.upper - self.lower) / max(abs(self.upper), 1e-12)


@dataclass(slots=True)
class Statistics:
    """Work of a run."""

    rounds: int = 0
    integer_solves: int = 0
    lps: int = 0
    cuts: int = 0
    trace: list[Bounds] = field(default_factory=list)


class Decomposition:
    """Benders decomposition that can be run in slices: every ``run`` goes on where the last one stopped.

    Args:
        network: compiled instance.
        tolerance: relative gap at which a plan counts as proven.
        start: [n], a feasible plan to begin with, checked; default the shortest-path plan.
        backend: of the linear programs.
        cutset_size: largest node sets of the cutset pool.
        most_cutsets: how many of them.
        constant: added to every cost, in what is reported and in gaps.
        pool: with ``map`` (an executor of ``concurrent.futures``); separates scenarios in parallel.
    """

    def __init__(
        self,
        network: Network,
        *,
        tolerance: float = 1e-3,
        start: Array | None = None,
        backend: str = "auto",
        cutset_size: int = 5,
        most_cutsets: int = 4000,
        constant: float = 0.0,
        pool: MapPool | None = None,
    ) -> None:
        self.network, self._backend = network, backend
        self.tolerance = tolerance
        self.survival = (
            Survival(network, backend=backend) if pool is None else PooledSurvival(network, pool, backend=backend)
        )
        self.master = Master(network, backend=backend)
        self.cuts = CutStore(network, self.master, self.survival.binding, largest=cutset_size, most=most_cutsets)
        self.constant = constant
        self.lower = constant if (network.cost >= 0.0).all() else -np.inf
        self.best: Array | None = None
        self.statistics = Statistics()
        self.is_root_done = False
        self.root_point: Array | None = None
        self.core: Array | None = None
        self._recent: dict[int, int] = {}
        self._is_nearly_symmetric = is_worthwhile(network)
        self._symmetrized: tuple[SymmetrizedSurvival, Array | None] | None = None  # programs and core, while they last
        self._start = start
        self._deadline, self._callback, self._wants_stop = Deadline(None), None, False
        self._checkpoint: Path | None = None
        self._checkpoint_seconds = self._saved_at = self._seconds_before = 0.0

    @property
    def upper(self) -> float:
        """Cost of the best plan, inf without one."""
        return float("inf") if self.best is None else self.cost_of(self.best)

    def cost_of(self, x: Array) -> float:
        """Cost of a point [n], with the constant."""
        return float(self.network.cost @ x) + self.constant

    @property
    def bounds(self) -> Bounds:
        """Bounds now (without the time)."""
        return Bounds(0.0, self.lower, self.upper)

    def run(
        self,
        seconds: float | None = None,
        *,
        callback: Callable[[Bounds], bool | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        is_root_only: bool = False,
        checkpoint: str | Path | None = None,
        checkpoint_seconds: float = 10.0,
    ) -> Bounds:
        """Work until the gap is at most the tolerance, time is over, or the callback returns True.

        Args:
            seconds: on ``clock``; None for no limit.
            callback: told of every change; returning True stops.
            clock: wall by default, ``time.process_time`` for CPU seconds.
            is_root_only: stop after the relaxation and its rounding.
            checkpoint: file that holds cuts, bounds and incumbent; read first where it exists and the engine is fresh,
                written about every ``checkpoint_seconds`` and at the end.
            checkpoint_seconds: on ``clock``; 0 to write at every change.

        Raises:
            InfeasibleError: no plan survives; the message names a cut.
        """
        deadline = Deadline(seconds, clock)
        self._deadline, self._callback, self._wants_stop = deadline, callback, False
        self._checkpoint, self._checkpoint_seconds = None, checkpoint_seconds
        if checkpoint is not None:
            self._checkpoint, self._saved_at = Path(checkpoint), self._seconds_before
            if self.cuts.pool is None and self._checkpoint.is_file():
                restore(self, self._checkpoint)
        try:
            return self._work(is_root_only=is_root_only)
        finally:
            self._seconds_before += deadline.used
            if self._checkpoint is not None:
                save(self, self._checkpoint)

    def _work(self, *, is_root_only: bool) -> Bounds:
        if self._is_finished():
            return self.bounds
        self.prepare()
        if not self.is_root_done:
            self._root()
        while not is_root_only and not self._is_finished():
            self._integer_round()
        self._tell()
        return Bounds(self._deadline.used, self.lower, self.upper)

    # ------------------------------------------------------------------ state

    def _tell(self) -> None:
        self.statistics.lps = self.survival.n_lps
        self.statistics.cuts = len(self.master.rhs)
        now = Bounds(self._seconds_before + self._deadline.used, self.lower, self.upper)
        self.statistics.trace.append(now)
        if self._checkpoint is not None and now.seconds - self._saved_at >= self._checkpoint_seconds:
            save(self, self._checkpoint)
            self._saved_at = now.seconds
        if self._callback is not None and self._callback(now):
            self._wants_stop = True

    def _is_finished(self) -> bool:
        return self._wants_stop or self._deadline.is_over() or self.bounds.gap <= self.tolerance

    def offer(self, x: Array | None) -> bool:
        """Take a plan [n] that is known to survive as the incumbent if it is cheaper."""
        if x is None or self.cost_of(x) >= self.upper - 1e-9:
            return False
        self.best = x.copy()
        self._tell()
        return True

    def survives(self, x: Array) -> bool:
        """Whether x [n] survives every scenario."""
        return self.survival.is_survivable(self.network.capacities(x))

    def offer_checked(self, x: Array) -> bool:
        """Check a point [n] against rules and scenarios, and take it if it is better."""
        x = self.network.complete(np.round(x))
        if self.cost_of(x) >= self.upper - 1e-9 or not keeps_rules(self.network, x):
            return False
        return self.survives(x) and self.offer(x)

    def relaxed_point(self, seconds: float | None = None) -> Array | None:
        """The relaxation's latest point [n], after working on it for at most ``seconds`` more."""
        if not self.is_root_done:
            self.run(seconds, is_root_only=True)
        return self.root_point

    def _raise_lower(self, bound: float) -> None:
        """Take a bound on the master's cost, which is without the constant."""
        bound = min(bound + self.constant, self.upper)
        if bound > self.lower:
            self.lower = bound

    def prepare(self) -> None:
        """Cutset pool and first plans; ``run`` does it too. Raises ``InfeasibleError`` where no plan can survive."""
        if self.cuts.pool is not None:
            return
        self.cuts.fill()
        network, start = self.network, self._start
        greedy = shortest_path_plan(network)
        if greedy is None:
            refuse_if_hopeless(network, self.survival)
        if start is not None:
            self.offer_checked(start)
        if greedy is not None:
            self.core = greedy if self.core is None else self.core
            self.offer(greedy)
        elif self.best is not None and self.core is None:
            self.core = self.best

    # ------------------------------------------------------------------ cuts

    @property
    def metric_cuts(self) -> list[MetricCut]:
        """Metric cuts found so far, on links, unrounded."""
        return self.cuts.metric_cuts

    def add_metric_cuts(self, found: Sequence[tuple[int, Answer]], x: Array) -> int:
        """See :meth:`CutStore.add_metric_cuts`."""
        return self.cuts.add_metric_cuts(found, x)

    def add_cutsets(self, x: Array) -> int:
        """See :meth:`CutStore.add_cutsets`."""
        return self.cuts.add_cutsets(x)

    # ------------------------------------------------------------------ relaxation

    def _master_point(self) -> Array:
        while True:
            try:
                value, x = self.master.solve_lp()
            except ArithmeticError:
                raise InfeasibleError(explain_rules(self.network, self.master)) from None
            self._raise_lower(value)
            hits = self.add_cutsets(x)
            if self.cuts.is_gated:
                hits += self.cuts.add_gated(x)
            if not hits or self._is_finished():
                return x

    def _root(self) -> None:
        if self._is_nearly_symmetric:
            self._symmetrized_root()
        self.is_root_done = self._relax(self.survival, least=2e-5)
        if self.is_root_done:
            self.improve(self._rounded_root())

    def _symmetrized_root(self) -> None:
        """Most of the relaxation by the cheaper programs of the symmetrized demand, and a plan to go on from."""
        if self._symmetrized is None:
            self._symmetrized = SymmetrizedSurvival(self.network, backend=self._backend), self.core
        survival, (core, self.core) = self._symmetrized[0], (self.core, self._symmetrized[1])
        is_done = self._relax(survival, least=SYMMETRIZED_LEAST, patience=3)
        self._symmetrized, self.core = (survival, self.core), core
        if not is_done:
            return
        x = repair(self.network, survival, self._rounded_root(), self._deadline)
        if x is not None:
            x = trim(self.network, survival, x, self._deadline, cuts=(self.master.rows, self.master.rhs))
            self.survival.learn_paths(survival)
            self.improve(x)
        if not self._is_finished():
            self._is_nearly_symmetric, self._symmetrized = False, None
            self.core = core if self.best is None else self.best

    def _relax(self, survival: Survival, *, least: float, patience: int = 6) -> bool:
        """Cut the relaxation's points off until they survive, or the bound rises by less than the share ``least``.

        Returns whether it came to that, in ``patience`` rounds one after another; False if it was stopped.
        """
        stalled, last = 0, -np.inf
        while not self._is_finished():
            x = self._master_point()
            self.root_point = x
            self.statistics.rounds += 1
            self._tell()
            improved = self.lower - last > least * max(abs(self.lower), 1e-12)
            stalled = 0 if improved else stalled + 1
            last = self.lower
            if stalled >= patience or not self._cut_between(x, survival):
                return True
        return False

    def _cut_between(self, x: Array, survival: Survival) -> bool:
        """Separate between the core and x; False if x survives every scenario (the relaxation is solved).

        The core is a point that survives. The scenarios that failed lately come first, and a few failures are enough to
        ask the master again; a point between that survives becomes the core.
        """
        weight = 0.0 if self.core is None else CORE_WEIGHT
        while not self._is_finished():
            point = x if self.core is None else weight * self.core + (1.0 - weight) * x
            recent = sorted((s for s, age in self._recent.items() if age < 3), key=lambda s: self._recent[s])
            order = recent + [s for s in survival.order if s not in set(recent)]
            found, is_complete = survival.failures(
                self.network.capacities(point), order, until=self._deadline.is_over, most=ROUND, patience=PATIENCE
            )
            self._recent = {s: age + 1 for s, age in self._recent.items()}
            for s, _ in found:
                self._recent[s] = 0
            if found and (self.add_metric_cuts(found, x) or not weight):
                return True
            if not weight:
                return not is_complete
            if not found and is_complete:
                self.core = point
                self._offer_rounded_up(point, survival)
            weight = weight / 2 if weight > 0.1 else 0.0
        return True

    def _offer_rounded_up(self, point: Array, survival: Survival) -> None:
        """Take a point [n] that survives as a plan: rounded up it has no less capacity, so that costs no program.

        If it survives the symmetrized demand only, it is mended for the demand itself where that may gain much.
        """
        x: Array | None = self.network.complete(np.ceil(point - 1e-9))
        if not keeps_rules(self.network, x):
            return
        if survival is not self.survival:
            if self.cost_of(x) > (1.0 - SYMMETRIZED_GAIN) * self.upper:
                return
            x = repair(self.network, self.survival, x, self._deadline)
        self.offer(x)

    def _rounded_root(self) -> Array:
        """The relaxation's point [n], rounded, with modules added until it keeps the cuts."""
        assert self.root_point is not None
        x = np.minimum(np.floor(self.root_point + 0.6), self.network.upper)
        return cover_cuts(self.network, x, self.master.rows, self.master.rhs)

    def improve(self, x: Array) -> bool:
        """Repair and trim a point [n] and offer it."""
        fixed = repair(self.network, self.survival, x, self._deadline)
        if fixed is None:
            return False
        self.offer(fixed)
        return self.offer(
            trim(self.network, self.survival, fixed, self._deadline, cuts=(self.master.rows, self.master.rhs))
        )

    # ------------------------------------------------------------------ integers

    def _integer_round(self) -> None:
        self.statistics.integer_solves += 1
        allowed = self.tolerance * 0.3 * abs(self.upper) if np.isfinite(self.upper) else 0.0
        gap = allowed / max(abs(self.upper - self.constant), 1e-9) if allowed else self.tolerance * 0.3
        answer = self.master.solve_integer(seconds=self._deadline.left, gap=gap)
        if answer.is_infeasible:
            if self.best is None:
                raise InfeasibleError(explain_rules(self.network, self.master))
            self.lower = self.upper
            self._tell()
            return
        self._raise_lower(answer.bound)
        self._tell()
        if answer.x is None:
            return
        x = self.network.complete(answer.x)
        if self.add_cutsets(x):
            return
        found, is_complete = self.survival.failures(self.network.capacities(x), until=self._deadline.is_over)
        if not found:
            if is_complete:
                self.offer(x)
            return
        self.add_metric_cuts(found, x)
        self.improve(x)
        if self.cuts.is_gated and self.bounds.gap > max(CROSSING_GAP, self.tolerance):
            self._cross(x)

    def _cross(self, x: Array) -> None:
        """Best plan on the links that the incumbent or x opens: with set-up prices, choosing links is the hard part."""
        from problems.planning.neighborhoods import search_box

        if self.best is None:
            return
        upper = np.where(self.best + x > 0.5, self.network.upper, 0.0)
        budget = self._deadline.slice(max(2.0, 0.1 * self._deadline.used))
        cutoff = self.upper - self.constant
        found, _ = search_box(self, np.zeros(self.network.n), upper, budget, gap=1e-3, cutoff=cutoff)
        self.offer(found)
