"""Near-optimal joint plans with a certificate, within a deadline that covers every phase.

Order of work: the level bound; the sweeps; annealing from the best plan; the packing bound; CP-SAT where the space is
small, with the best plan as a hint, and annealing again. A caller may take the phases one by one (`JointRun.turns`) and
see incumbent and bound after each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from problems.sharding.joint.bounds import level_bound
from problems.sharding.joint.cpsat import CpSatProgram, is_small
from problems.sharding.joint.model import Choice, Model
from problems.sharding.joint.packing_bound import PackingBound
from problems.sharding.joint.space import Index
from problems.sharding.joint.starts import Starts
from surco.bridge import to_numpy
from surco.protocols import Exact

if TYPE_CHECKING:
    from problems.sharding.joint.problem import JointProblem

DEFAULT_ROUNDS = 8  # of annealing, where there is no limit in seconds
FIRST_STEPS = 200_000
MOST_STEPS = 3_000_000
GROWTH = 1.25
HEATS = (
    (0.03, 0.005), (0.1, 0.05), (0.003, 0.002), (0.3, 0.02), (0.0005, 0.001), (1.0, 0.01), (0.01, 0.001),
)  # (heat / target, aim below the best)  # fmt: skip
PATH_HEATS = (1e-3, 1e-2, 3e-4, 3e-3)
COLDEST = 1e-4
ENOUGH_GAP = 1e-5
OPTIMAL_GAP = 1e-6
MEMORY_PRICE = 20.0  # a whole capacity over, in targets
ANNEAL_SHARE = 0.1  # of the time: first annealing, and the one between the two calls of CP-SAT
PACKING_SHARE = 0.2  # of what is left then: the packing bound
CPSAT_SHARE = 0.25
MARGIN_SECONDS = 1.0


def compile_loops(model: Model) -> None:
    """Compile the loops, or load their machine code from disk, so that no deadline has to pay for it."""
    from problems.sharding.joint.kernels import anneal

    starts = Starts(model, 1.0)
    modes = starts.modes(math.inf)
    assert modes is not None
    choice, value, _ = starts.place(modes)
    anneal(
        choice.atoms, choice.modes, model.shape, model.unit_arrays, model.arrays(), model.state(choice), model.is_path,
        max(value, 1e-12), 1.0, 1e-3, 1e-4, 1, 0,
    )  # fmt: skip


class JointRun:
    """Search and bound of one problem; every call goes on where the last one stopped."""

    def __init__(self, problem: JointProblem) -> None:
        self.problem = problem
        self.model = problem.model
        self.bound = level_bound(self.model) if self.model is not None else math.inf
        self.best: Choice | None = None
        self.value = math.inf
        self.least_misfit: Choice | None = None  # where to go on while nothing fits
        self.is_empty = self.model is None or problem.oracle.is_overfull
        self.work = 0
        self.rounds = 0
        self.steps = FIRST_STEPS
        self.speed = 1e6  # proposals per second, as measured in the last round
        self.has_started = False
        self.packing: PackingBound | None = None
        self.starts: Starts | None = None
        self.sweeps: list[Iterator[Index]] = []

    def run(self, *, seconds: float | None = None, start: Tensor | None = None) -> Exact:
        """All phases; see `turns`."""
        for _ in self.turns(seconds=seconds, start=start):
            pass
        return self.answer()

    def answer(self) -> Exact:
        """What is known now; an empty set has x None and bound inf."""
        if self.is_empty:
            return Exact(None, math.inf)
        if self.best is None:
            return Exact(None, self.bound)
        is_optimal = self.value <= self.bound * (1.0 + OPTIMAL_GAP)
        return Exact(self.problem.design(self.best), min(self.bound, self.value), is_optimal, self.work)

    def turns(self, *, seconds: float | None = None, start: Tensor | None = None) -> Iterator[None]:
        """The phases, one by one; after each, ``best``, ``value`` and ``bound`` are up to date.

        Without ``seconds`` a fixed number of annealing rounds follows the sweeps, so that the run does not depend on
        the clock.
        """
        if self.is_empty or self.model is None:
            return
        begin = time.perf_counter()
        limit = math.inf if seconds is None else seconds - min(0.08 * seconds, MARGIN_SECONDS)
        deadline = begin + limit
        if start is not None:
            self._offer_design(start)
        if not self.has_started:
            yield from self._begin(begin + 0.5 * limit)
        if seconds is None:
            for _ in range(DEFAULT_ROUNDS):
                if self._is_open():
                    self._anneal()
                    yield
            return
        if self.best is None and is_small(self.model):
            self._prove(0.5 * (deadline - time.perf_counter()))
            yield
        yield from self._anneal_until(begin + max(ANNEAL_SHARE * limit, 0.2), deadline)
        if self._is_open() and self.best is not None and PackingBound.applies(self.model):
            self._pack(time.perf_counter() + PACKING_SHARE * (deadline - time.perf_counter()))
            yield
        if is_small(self.model):
            for share in (CPSAT_SHARE, 1.0):
                left = deadline - time.perf_counter()
                if self._is_open() and left > 0.5:
                    self._prove(share * left if share < 1.0 else (1.0 - ANNEAL_SHARE) * left)
                    yield
                yield from self._anneal_until(time.perf_counter() + ANNEAL_SHARE * limit, deadline)
        else:
            yield from self._anneal_until(deadline, deadline)

    def _is_open(self) -> bool:
        return not self.is_empty and not self.value <= self.bound * (1.0 + ENOUGH_GAP)

    # ------------------------------------------------------------------ phases

    def _begin(self, deadline: float) -> Iterator[None]:
        """The sweeps; dearer ones only where these find no plan that fits."""
        assert self.model is not None
        if self.starts is None:
            self.starts = Starts(self.model, self.bound)
            self.sweeps = [self.starts.level_sweep(), self.starts.cut_sweep()]
        starts = self.starts
        for sweep in self.sweeps:
            found = starts.best(sweep, deadline)
            if found is not None:
                self.offer(found[0], found[1])
            yield
            if time.perf_counter() > deadline and self.best is not None:
                return  # the next call goes on with the sweeps
        self.has_started = True
        if self.best is None:
            choice, value, fits = starts.any(deadline)
            if fits:
                self.offer(choice, value)
            else:
                self.least_misfit = choice
            yield

    def _anneal_until(self, until: float, deadline: float) -> Iterator[None]:
        quiet = 0
        while self._is_open() and time.perf_counter() < min(until, deadline) and quiet < 400:
            before = (self.value, time.perf_counter())
            self._anneal(min(until, deadline))
            quiet = 0 if self.value < before[0] else quiet + 1
            yield

    def _anneal(self, until: float = math.inf) -> None:
        """One round of annealing from the best plan, or from the one that fits least badly."""
        from problems.sharding.joint.kernels import anneal

        assert self.model is not None
        model = self.model
        start = self.best or self.least_misfit
        assert start is not None, "expected the sweeps to come first"
        choice = start.copy()
        state = model.state(choice)
        scale = self.value if math.isfinite(self.value) else model.value(choice)
        k = self.rounds
        if model.is_path:
            heat, target = PATH_HEATS[k % len(PATH_HEATS)], scale
        else:
            heat, aim = HEATS[k % len(HEATS)]
            target = max(self.bound, scale * (1.0 - aim)) if self.best is not None else scale * 1.5
        target = max(target, 1e-12)
        price = MEMORY_PRICE * target / max(float(model.space.capacity.mean()), 1.0)
        steps = self.steps
        if math.isfinite(until) and self.work:
            left = until - time.perf_counter()
            steps = int(min(steps, max(left * self.speed, 2000)))
        clock = time.perf_counter()
        _, done = anneal(
            choice.atoms, choice.modes, model.shape, model.unit_arrays, model.arrays(), state, model.is_path,
            target, price, heat * target, COLDEST * heat * target, steps, k,
        )  # fmt: skip
        self.speed = max(done, 1000) / max(time.perf_counter() - clock, 1e-6)
        self.work += int(done)
        self.rounds += 1
        if model.fits(choice):
            value = model.value(choice)
            if value < self.value:
                self.offer(choice, value)
            elif done == steps:
                self.steps = min(int(self.steps * GROWTH), MOST_STEPS)
        elif self.best is None:
            self.least_misfit = choice

    def _pack(self, deadline: float) -> None:
        """The bound that knows that pieces cannot be cut."""
        assert self.model is not None
        if self.packing is None:
            self.packing = PackingBound(self.model)
        self.bound = max(self.bound, self.packing.run(self.bound, self.value, deadline))

    def _prove(self, seconds: float) -> None:
        """CP-SAT with the best plan as a hint; raises the bound."""
        assert self.model is not None
        if seconds < 0.05:
            return
        clock = time.perf_counter()
        program = CpSatProgram(self.model, upper=self.value, lower=self.bound)
        answer = program.solve(
            seconds - (time.perf_counter() - clock), self.best, gap=ENOUGH_GAP if self.best is not None else 0.05
        )
        self.work += answer.branches
        if answer.is_infeasible:
            if self.best is None:
                self.is_empty = True
            else:  # nothing is better than what is known, to the rounding of the units
                self.bound = max(self.bound, self.value * (1.0 - OPTIMAL_GAP))
            return
        self.bound = max(self.bound, min(answer.bound, self.value))
        if answer.choice is not None and self.model.fits(answer.choice):
            self.offer(answer.choice, self.model.value(answer.choice))

    # ------------------------------------------------------------------ incumbents

    def offer(self, choice: Choice, value: float) -> None:
        """Take a fitting plan if it is better."""
        if value < self.value:
            self.best, self.value = choice.copy(), value

    def _offer_design(self, x: Tensor) -> None:
        assert self.model is not None
        if float(self.problem.violation(x)) <= 0.0:
            choice = self.model.choice((to_numpy(x) > 0.5).nonzero()[0])
            self.offer(choice, self.model.value(choice))
