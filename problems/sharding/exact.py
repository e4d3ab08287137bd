"""Near-exact plans with a certificate: local search from the greedy rules, then the bound that fits the cost."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from problems.sharding.bounds import quick_bound
from problems.sharding.costs import Combine
from problems.sharding.makespan_cpsat import solve_makespan
from problems.sharding.search import PlanSearch
from problems.sharding.symmetry import Index
from surco.bridge import to_numpy
from surco.protocols import Exact

if TYPE_CHECKING:
    from problems.sharding.problem import ShardingProblem

DEFAULT_SECONDS = 30.0
ENOUGH_GAP = 1e-5  # relative; a model of latency is not worth more digits
OPTIMAL_GAP = 1e-9
MARGIN_SECONDS = 0.5


def solve_exact(problem: ShardingProblem, *, seconds: float | None = None, start: Tensor | None = None) -> Exact:
    """Best plan and lower bound within ``seconds`` (30 by default) of wall time.

    Additive costs: local search against the quick bound, which is almost always tight; where it is not (unequal
    devices, tight memory, few tables), CP-SAT. Fused costs: local search and the level bound take turns.

    Stops early once the gap is at most 1e-5, or once neither the plan nor the bound has moved for a while. An empty set
    has x None and bound inf.
    """
    begin = time.perf_counter()
    limit = DEFAULT_SECONDS if seconds is None else max(seconds, 0.0)
    deadline = begin + limit - min(0.1 * limit, MARGIN_SECONDS)  # the answer must be back in time to count
    bound = quick_bound(problem)
    if not math.isfinite(bound):
        return Exact(None, math.inf)
    choice = _first_choice(problem, start)
    if choice is None:
        choice, is_empty = _any_choice(problem, seconds=max(0.5 * limit, 0.01))
        if choice is None:
            return Exact(None, math.inf if is_empty else bound)

    if len(problem.devices) == 1:  # the only plan
        x = problem.design(choice)
        return Exact(x, float(problem.objective(x)), True, 1)
    search = PlanSearch(problem, choice, rng=np.random.default_rng(0))
    target = bound * (1.0 + OPTIMAL_GAP)
    search.run(seconds=min(0.15 * limit, deadline - time.perf_counter()), target=target)
    if problem.cost.combine is Combine.SLOWEST_DEVICE:
        bound = _close_additive(problem, search, bound, deadline)
    else:
        bound = _close_fused(problem, search, bound, deadline)
    x = problem.design(search.best)
    value = float(problem.objective(x))
    is_optimal = value <= bound * (1.0 + OPTIMAL_GAP)
    return Exact(x, min(bound, value), is_optimal, search.evaluations)


def _first_choice(problem: ShardingProblem, start: Tensor | None) -> Index | None:
    """Best of the start and the greedy rules."""
    choices = list(problem.rule_choices.values())
    if start is not None and float(problem.violation(start)) <= 0.0:
        choices.append(problem.oracle.choice(to_numpy(start)[None])[0])
    if not choices:
        return None
    return min(choices, key=lambda choice: float(problem.objective(problem.design(choice))))


def _any_choice(problem: ShardingProblem, *, seconds: float) -> tuple[Index | None, bool]:
    """A plan where the greedy rules find none, by CP-SAT; and whether there is proof that none exists."""
    loads = problem.single_ms.sum(0)
    answer = solve_makespan(problem.oracle, loads, seconds=seconds, start=None, upper=math.inf, gap=0.05)
    return answer.choice, answer.is_infeasible


def _close_additive(problem: ShardingProblem, search: PlanSearch, bound: float, deadline: float) -> float:
    """Raise the bound and improve the plan in turns; CP-SAT gets longer slices each time."""
    slice_seconds = 2.0
    while search.best_value > bound * (1.0 + ENOUGH_GAP) and (left := deadline - time.perf_counter()) > 0.05:
        before = (search.best_value, bound)
        answer = solve_makespan(
            problem.oracle,
            problem.single_ms.sum(0),
            seconds=min(slice_seconds, 0.7 * left),
            start=problem.oracle.canonical(search.best[None])[0],
            upper=search.best_value,
            lower=bound,
            gap=ENOUGH_GAP,
        )
        bound = max(bound, min(answer.bound, search.best_value))
        if answer.choice is not None:
            search.offer(answer.choice)
        target = bound * (1.0 + OPTIMAL_GAP)
        search.run(seconds=min(slice_seconds, deadline - time.perf_counter()), target=target)
        if slice_seconds > 8.0 and before == (search.best_value, bound):
            break  # two long slices changed nothing
        slice_seconds *= 2.0
    return bound


def _close_fused(problem: ShardingProblem, search: PlanSearch, bound: float, deadline: float) -> float:
    """Level bounds and local search in turns.

    Every form of the bound gets a short slice; those far behind the best are dropped, the others go on. A better plan
    gives the weighted forms better weights, so they start afresh from it.
    """
    from problems.sharding.level_bound import Form, LevelProgram

    forms = list(Form)
    programs: dict[Form, LevelProgram] = {}
    known = math.inf
    slice_seconds = 0.5
    quiet = 0
    while search.best_value > bound * (1.0 + ENOUGH_GAP) and deadline - time.perf_counter() > 0.05:
        before = (search.best_value, bound)
        if search.best_value < known * (1.0 - 1e-3):
            programs.clear()
            known = search.best_value
        bounds: dict[Form, float] = {}
        for form in forms:
            left = deadline - time.perf_counter()
            if left < 0.05 or search.best_value <= bound * (1.0 + ENOUGH_GAP):
                break
            if form not in programs:
                programs[form] = LevelProgram(problem, search.best, form)
            programs[form].offer(search.best_value)
            bounds[form] = programs[form].run(seconds=min(slice_seconds, left), gap=ENOUGH_GAP)
            bound = max(bound, bounds[form])
        if len(bounds) == len(forms):
            forms = [form for form in forms if search.best_value - bounds[form] < 2.0 * (search.best_value - bound)]
            forms = forms or [max(bounds, key=lambda form: bounds[form])]
        search.run(seconds=min(slice_seconds, deadline - time.perf_counter()), target=bound * (1.0 + OPTIMAL_GAP))
        is_still = before[0] - search.best_value < 1e-5 * before[0] and bound - before[1] < 1e-4 * bound
        quiet = quiet + 1 if is_still else 0
        if quiet >= 3:
            break
        slice_seconds *= 1.5
    return min(bound, search.best_value)
