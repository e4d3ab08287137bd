"""Near-exact plans with a certificate: local search from the greedy rules, then the bound that fits the cost."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from problems.sharding.bounds import quick_bound
from problems.sharding.branch_bound import BranchBound
from problems.sharding.costs import Combine
from problems.sharding.fused import BoundFused
from problems.sharding.level_bound import Form, LevelProgram
from problems.sharding.makespan_cpsat import solve_makespan
from problems.sharding.search import PlanSearch
from surco.bridge import to_numpy
from surco.protocols import Exact

if TYPE_CHECKING:
    from problems.sharding.problem import ShardingProblem

DEFAULT_SECONDS = 30.0
ENOUGH_GAP = 1e-5  # relative; a model of latency is not worth more digits
OPTIMAL_GAP = 1e-9
MARGIN_SECONDS = 0.5
FIRST_SLICE_SECONDS = 0.5
SLICE_GROWTH = 1.5
QUIET_TURNS = 3


class ExactRun:
    """Search and bound of one problem; every `run` goes on where the last one stopped.

    Additive costs: local search against the quick bound, which is almost always tight; where it is not (unequal
    devices, tight memory, few tables), CP-SAT takes turns with the search. Fused costs: the branching bound and the
    forms of the level bound take turns with the search, after one round the two most promising only.
    """

    def __init__(self, problem: ShardingProblem) -> None:
        self.problem = problem
        self.bound = quick_bound(problem)
        self.search: PlanSearch | None = None
        self.is_empty = not math.isfinite(self.bound)
        self._programs: dict[Form | None, LevelProgram | BranchBound] = {}
        self._gains: dict[Form | None, float] = {}  # of each bound in its last slice
        self._weighed_at = math.inf  # value of the plan that gave the weights of the programs
        self._slice = FIRST_SLICE_SECONDS

    def run(self, *, seconds: float | None = None, start: Tensor | None = None) -> Exact:
        """Work for at most ``seconds`` (30 by default) of wall time.

        Stops early once the gap is at most 1e-5, or once neither plan nor bound has moved for three turns. An empty set
        has x None and bound inf.
        """
        limit = DEFAULT_SECONDS if seconds is None else max(seconds, 0.0)
        deadline = time.perf_counter() + limit - min(0.1 * limit, MARGIN_SECONDS)  # be back in time to count
        if not self.is_empty:
            self._begin(start, 0.5 * limit)
        if self.is_empty:
            return Exact(None, math.inf)
        if self.search is None:
            return Exact(None, self.bound)
        quiet = 0
        while self._is_open() and quiet < QUIET_TURNS and (left := deadline - time.perf_counter()) > 0.02:
            before = (self.search.best_value, self.bound)
            turn = min(self._slice, left)
            self.search.run(seconds=turn, target=self.bound * (1.0 + OPTIMAL_GAP))
            if self._is_open():
                self._raise_bound(self._slice, deadline)
            is_still = (
                before[0] - self.search.best_value < 1e-5 * before[0] and self.bound - before[1] < 1e-4 * before[1]
            )
            quiet = quiet + 1 if is_still else 0
            if turn == self._slice:
                self._slice *= SLICE_GROWTH
        x = self.problem.design(self.search.best)
        value = float(self.problem.objective(x))
        bound = min(self.bound, value)
        return Exact(x, bound, value <= bound * (1.0 + OPTIMAL_GAP), self.search.evaluations)

    def _is_open(self) -> bool:
        assert self.search is not None
        return self.search.best_value > self.bound * (1.0 + ENOUGH_GAP)

    def _begin(self, start: Tensor | None, seconds: float) -> None:
        """A first plan, or a better one from outside."""
        problem = self.problem
        choices = [] if self.search is not None else list(problem.rule_choices.values())
        if start is not None and float(problem.violation(start)) <= 0.0:
            choices.append(problem.oracle.choice(to_numpy(start)[None])[0])
        if self.search is None and not choices:  # full memory: the greedy rules found no packing
            loads = problem.single_ms.sum(0)
            answer = solve_makespan(problem.oracle, loads, seconds=seconds, start=None, upper=math.inf, gap=0.05)
            self.is_empty = answer.is_infeasible
            choices = [] if answer.choice is None else [answer.choice]
        if not choices:
            return
        choice = min(choices, key=lambda choice: float(problem.objective(problem.design(choice))))
        if self.search is None:
            self.search = PlanSearch(problem, choice, rng=np.random.default_rng(0))
            if len(problem.devices) == 1:
                self.bound = self.search.best_value  # the only plan
        else:
            self.search.offer(choice)

    def _raise_bound(self, turn: float, deadline: float) -> None:
        if self.problem.cost.combine is Combine.SLOWEST_DEVICE:
            self._solve_makespan(min(turn, 0.7 * (deadline - time.perf_counter())))
        elif isinstance(self.problem.cost, BoundFused):  # the levels are of its cache; other costs keep the quick bound
            self._solve_levels(turn, deadline)

    def _solve_makespan(self, seconds: float) -> None:
        assert self.search is not None
        if seconds < 0.02:
            return
        answer = solve_makespan(
            self.problem.oracle,
            self.problem.single_ms.sum(0),
            seconds=seconds,
            start=self.problem.oracle.canonical(self.search.best[None])[0],
            upper=self.search.best_value,
            lower=self.bound,
            gap=ENOUGH_GAP,
        )
        self.bound = max(self.bound, min(answer.bound, self.search.best_value))
        if answer.choice is not None:
            self.search.offer(answer.choice)

    def _solve_levels(self, turn: float, deadline: float) -> None:
        """One slice for each bound that is still of use; a much better plan gives new weights to the forms."""
        assert self.search is not None
        if self.search.best_value < self._weighed_at * (1.0 - 1e-3):
            for form in Form:
                self._programs.pop(form, None)
                self._gains.pop(form, None)
            self._weighed_at = self.search.best_value
        for form in self._next_forms():
            left = deadline - time.perf_counter()
            if left < 0.5 * turn or not self._is_open():
                return  # a linear program cut off is work lost
            program = self._programs.get(form)
            if program is None:
                if form is None:
                    program = BranchBound(self.problem, self.search.best)
                else:
                    program = LevelProgram(self.problem, self.search.best, form)
                self._programs[form] = program
            program.offer(self.search.best_value)
            before = program.bound
            bound = program.run(seconds=min(turn, left), gap=ENOUGH_GAP)
            self._gains[form] = bound - before if form in self._gains else 0.0
            self.bound = max(self.bound, min(bound, self.search.best_value))

    def _next_forms(self) -> list[Form | None]:
        """All of them once; then the two whose bounds will be highest if each gains what it gained last."""
        forms: list[Form | None] = [None, *Form]  # None: branching, ahead where few heavy groups rule
        if len(self._gains) < len(forms):
            return forms
        return sorted(forms, key=lambda form: -(self._programs[form].bound + self._gains[form]))[:2]
