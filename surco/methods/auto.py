"""The portfolio: cheap certainties first, then the arms that earn their share of the budget."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from surco.budget import FREE_OBJECTIVE_CALLS, BudgetExhausted
from surco.counted import CountedProblem
from surco.errors import CutGradientError
from surco.methods.aggregates import Aggregates
from surco.methods.exact import ExactMethod
from surco.methods.hybrid import Hybrid
from surco.methods.local_search import LocalSearch
from surco.methods.one_shot import Heuristic, Linear
from surco.methods.prior import PriorMethod, check_prior
from surco.methods.random_perturbation import RandomPerturbation
from surco.methods.slp import SequentialLinearization
from surco.methods.zero import Zero
from surco.protocols import (
    Estimate,
    HasAggregates,
    HasExact,
    HasHeuristics,
    Method,
    State,
    exact_goes_on,
    exact_is_fast,
    exact_share,
    heuristics_take_seconds,
    is_convex,
    search_share,
)

if TYPE_CHECKING:
    from surco.training.prior import Prior


@dataclass(frozen=True, slots=True)
class Auto:
    """A portfolio under one budget.

    First, in this order and each only where the problem offers it: an exact method that declares itself fast
    (``problem.exact_is_fast``), the natural costs, the problem's heuristics, a short try of a slow exact method, the
    small space of aggregates, and sequential linearization. Then SurCo, local search and random perturbation take
    turns; a turn goes to the arm with the best recent gain per cost, every third turn to the one that waited longest.
    In the middle of the run an exact method that was not done gets its share of the seconds, started from the
    incumbent. An exact method whose calls go on where the last one stopped (``problem.exact_goes_on``) takes turns like
    any other arm. The last share of the budget polishes the incumbent by such a method, else, or where local search
    gained more of late, by local search. A problem whose exact method is its best search too says so by
    ``problem.exact_share``, the part of the seconds it then gets, at once after the heuristics; what it leaves, because
    it is done or makes no progress, goes to the other arms. One that local search serves best says so by
    ``problem.search_share``. Heuristics that take seconds (``problem.heuristics_take_seconds``) come after either
    leader. A turn cannot cut a call of the oracle: under a budget in seconds an arm whose turns run past their slice
    waits as many turns longer, and one whose last turn was longer than what is left does not begin another.

    Under a budget in calls the turns are measured in calls, so that the run does not depend on the clock; an exact
    method that is not declared fast takes part only if there is a budget in seconds.

    Attributes:
        exact_share: of the seconds, for a slow exact method in the middle of the run.
        probe_share: of the seconds, for its first try.
        exact_at: used part of the budget at which the middle begins.
        opening_share: of the budget, at most, for aggregates and for sequential linearization each.
        slice_share: of the budget, one turn of an arm.
        exact_slice_share: of the budget, one turn of an exact method that goes on: it loses what its last master began.
        polish_share: of the budget, for the final local search.
        prior: a trained :class:`surco.Prior` or its folder: its vertex joins the opening, and SurCo starts from it
            (``hybrid``). One whose schema does not describe the problem is an error.
    """

    exact_share: float = 0.35
    probe_share: float = 0.05
    exact_at: float = 0.3
    opening_share: float = 0.1
    slice_share: float = 0.02
    exact_slice_share: float = 0.1
    polish_share: float = 0.1
    prior: Prior | str | Path | None = None
    name: str = field(default="auto", init=False)

    def init(self, problem: CountedProblem, *, generator: torch.Generator) -> State:
        """Plan the opening."""
        inner = problem.inner
        opening: list[str] = []
        has_seconds = problem.ledger.budget.seconds is not None
        fast = isinstance(inner, HasExact) and exact_is_fast(inner)
        leads = isinstance(inner, HasExact) and has_seconds and exact_share(inner) > 0.0
        if fast and not leads:
            opening.append("exact")
        if self.prior is not None:
            check_prior(self.prior, problem)
            opening.append("prior")  # before all that costs calls: it is the best that one call can buy
        searches = has_seconds and search_share(inner) > 0.0
        is_costly = isinstance(inner, HasHeuristics) and heuristics_take_seconds(inner)
        if leads and is_costly:
            opening.append("lead")  # rules and a first oracle call that cost seconds would be at its expense
        if isinstance(inner, HasHeuristics) and not (is_costly and searches):
            opening.append("heuristics")  # before the first oracle call, which may take long
        opening.append("linear")
        if leads and not is_costly:
            opening.append("lead")
        is_slow = isinstance(inner, HasExact) and not fast and not leads and has_seconds
        if is_slow:
            opening.append("probe")
        if searches:
            opening.append("local_search")
            if is_costly:
                opening.append("heuristics")
        if isinstance(inner, HasAggregates):
            opening.append("aggregates")
        if problem.is_differentiable and (is_convex(inner) or not (fast or leads)):
            opening.append("slp")
        return {
            "opening": opening,
            "is_exact_due": is_slow,
            "goes_on": has_seconds and exact_goes_on(inner),
            "arms": {},
            "gain": {},
            "waited": {},
            "length": {},
            "turns": 0,
            "current": "",
        }

    def step(
        self, problem: CountedProblem, state: State, *, generator: torch.Generator
    ) -> tuple[State, Estimate | None]:
        """One opening move, or one turn of an arm."""
        if state["opening"]:
            name, *rest = state["opening"]
            leaders = {"lead": exact_share, "local_search": search_share}
            share = leaders[name](problem.inner) if name in leaders else self.opening_share
            self._turn(problem, name, None, share, generator)
            return {**state, "opening": rest, "done": problem.ledger.is_optimal}, None
        if state["is_exact_due"] and self._used(problem) >= self.exact_at:
            self._turn(problem, "exact", None, 1.0, generator)
            return {**state, "is_exact_due": False, "done": problem.ledger.is_optimal}, None
        return self._play(problem, state, generator)

    def _play(self, problem: CountedProblem, state: State, generator: torch.Generator) -> tuple[State, Estimate | None]:
        ledger = problem.ledger
        names = ["exact_turn"] if state["goes_on"] else []
        waited = state["waited"] or dict.fromkeys([*names, "local_search", self._learner, "random"], 0)
        arms = {name: state["arms"].get(name) for name in waited}
        open_arms = [name for name in waited if not (arms[name] or {}).get("done")]
        if not open_arms:
            return {**state, "done": True}, None
        length = {name: state.get("length", {}).get(name, self._slice(name)) for name in waited}
        left = 1 - self._used(problem)
        open_arms = [name for name in open_arms if length[name] <= max(left, self._slice(name))] or open_arms
        gain = {name: state["gain"].get(name, math.inf) for name in waited}  # untried arms first
        # A stalled exact method leaves the polish to a local search that is still gaining.
        polish = "exact_turn" if state["goes_on"] and gain["exact_turn"] >= gain["local_search"] else "local_search"
        if self._used(problem) >= 1 - self.polish_share and polish in open_arms:
            name = polish
        elif state["turns"] % 3 == 2:
            name = max(open_arms, key=lambda arm: waited[arm] * self._slice(arm) / max(length[arm], self._slice(arm)))
        else:
            name = max(open_arms, key=lambda arm: (gain[arm], waited[arm]))
        before, clock = ledger.value, self._clock(problem)
        arm = self._turn(problem, name, arms[name], self._slice(name), generator)
        if name == "exact_turn":
            arm = None  # the problem keeps its state; the next turn goes on
        cost = max(self._clock(problem) - clock, 1e-9)
        overran = {} if ledger.budget.is_counted else {name: cost}  # a ledger cuts a batch of calls, but not seconds
        improved = max(before - ledger.value, 0.0) if math.isfinite(before) else 0.0
        rate = improved / (abs(before) + 1e-12) / cost if math.isfinite(before) else 0.0
        old = state["gain"].get(name, rate)
        return {
            **state,
            "arms": {**arms, name: arm},
            "gain": {**state["gain"], name: 0.5 * old + 0.5 * rate},
            "waited": {other: 0 if other == name else waited[other] + 1 for other in waited},
            "length": {**state.get("length", {}), **overran},
            "turns": state["turns"] + 1,
            "current": name,
        }, None

    def _slice(self, name: str) -> float:
        """Part of the budget that a turn of an arm should use."""
        return self.exact_slice_share if name == "exact_turn" else self.slice_share

    def _turn(
        self, problem: CountedProblem, name: str, arm: State | None, share: float, generator: torch.Generator
    ) -> State:
        """Let one arm step until its slice of the budget is used; returns its state."""
        ledger = problem.ledger
        method = self._method(name)
        outer, ledger.method = ledger.method, name
        start = self._clock(problem)
        if ledger.budget.seconds is not None:
            ledger.turn_ends = ledger.seconds + share * ledger.budget.seconds
        try:
            if arm is None:
                arm = method.init(problem, generator=generator)
            while not arm.get("done"):
                arm, _ = method.step(problem, arm, generator=generator)
                problem.value_pending()
                ledger.check()
                if self._clock(problem) - start >= share:
                    break
        except BudgetExhausted:
            if ledger.is_optimal or ledger.is_closed or self._used(problem) >= 1:
                raise
            arm = {**(arm or {}), "done": True}
        except CutGradientError as error:  # the other arms need no gradient
            ledger.note(f"{name}: {error}")
            arm = {"done": True}
        finally:
            ledger.method, ledger.turn_ends = outer, math.inf
        return arm

    @property
    def _learner(self) -> str:
        return "zero" if self.prior is None else "hybrid"

    def _method(self, name: str) -> Method:
        match name:
            case "linear":
                return Linear()
            case "heuristics":
                return Heuristic()
            case "aggregates":
                return Aggregates()
            case "slp":
                return SequentialLinearization()
            case "exact":
                return ExactMethod(share=self.exact_share / (1 - self.exact_at))
            case "exact_turn" | "lead":
                return ExactMethod(share=1.0, of_turn=True)
            case "probe":
                return ExactMethod(share=self.probe_share)
            case "local_search":
                return LocalSearch()
            case "zero":
                return Zero()
            case "prior":
                return PriorMethod(self.prior)
            case "hybrid":
                return Hybrid(self.prior)
            case _:
                return RandomPerturbation()

    def _used(self, problem: CountedProblem) -> float:
        """Part of the budget that is used, in [0, 1]."""
        return self._clock(problem)

    def _clock(self, problem: CountedProblem) -> float:
        """The largest used part of any limit."""
        ledger, budget = problem.ledger, problem.ledger.budget
        used = 0.0
        if budget.calls is not None:
            used = max(used, ledger.oracle_calls / budget.calls)
        if budget.objective_calls is not None:
            used = max(used, ledger.objective_calls / budget.objective_calls)
        if budget.is_counted:
            if budget.calls is not None and budget.objective_calls is None:
                # objective calls are nearly free here, but a turn must end: some of them count like one oracle call
                free = FREE_OBJECTIVE_CALLS * budget.calls
                used = max(used, ledger.oracle_calls / budget.calls + ledger.objective_calls / free)
            return used
        return max(used, ledger.seconds / float(budget.seconds or 1.0))
