"""The search as a method of the loop: one annealing round a step, so that the incumbent streams."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from problems.moe.search import BOUND_SHARE, LEAST_MOVES, MOST_CYCLES, Pace, PlacementSearch
from surco.bridge import to_torch
from surco.counted import CountedProblem
from surco.designs import pack, unpack
from surco.protocols import Estimate, State

if TYPE_CHECKING:
    from problems.moe.problem import ExpertPlacement

MOST_ROUNDS = 8  # without a clock to end the search: some seven million moves
COUNTED_CYCLES = 2  # of the bound, likewise


@dataclass(slots=True)
class Annealing:
    """Rounds of annealing from the field's plans and the incumbent, one objective call each; then a better bound.

    Deterministic under a budget in calls, and then at most `MOST_ROUNDS`; under one in seconds, rounds are cut to fit.
    """

    problem: ExpertPlacement
    name: str = field(default="annealing", init=False)
    _pace: Pace = field(default_factory=Pace, init=False, repr=False)

    def init(self, problem: CountedProblem, *, generator: torch.Generator) -> State:
        """The field's rules, valued; an empty set is named by the oracle."""
        plans = self.problem.start_plans()
        if not plans:
            problem.oracle.solve(self.problem.initial_costs().numpy()[None])
            return {"done": True}
        for plan in plans:
            problem.objective(to_torch(plan.reshape(1, -1)))
        seed = int(torch.randint(0, 2**31, (1,), generator=generator).item())
        return {"seed": seed, "rounds": 0, "cycles": 0, "best": pack(to_torch(plans[0].reshape(1, -1)))}

    def step(
        self, problem: CountedProblem, state: State, *, generator: torch.Generator
    ) -> tuple[State, Estimate | None]:
        """One round."""
        left = problem.ledger.turn_left
        is_over = self._pace.moves(left) < LEAST_MOVES if math.isfinite(left) else state["rounds"] >= MOST_ROUNDS
        if is_over:
            return {**state, "done": True}, None
        search = PlacementSearch(self.problem, self.problem.plan_of(unpack(state["best"])[0]))
        search.rounds = state["rounds"]
        self._pace.turn(search, seed=state["seed"], seconds=left)
        best = to_torch(np.asarray(search.best, dtype=np.float64).reshape(1, -1))
        problem.objective(best)
        cycles = self._raise_bound(problem, state["cycles"])
        return {**state, "rounds": search.rounds, "cycles": cycles, "best": pack(best)}, None

    def _raise_bound(self, problem: CountedProblem, cycles: int) -> int:
        """One more cycle of the bound; after a resume, the earlier ones again."""
        bound, left = self.problem.cost_bound, problem.ledger.turn_left
        if not bound.applies:
            return cycles
        if math.isfinite(left):
            if bound.cycles < MOST_CYCLES:
                problem.ledger.offer_bound(bound.run(seconds=BOUND_SHARE * max(left, 0.0)))
            return bound.cycles
        cycles = min(cycles + 1, COUNTED_CYCLES)
        while bound.cycles < cycles:
            bound.run()
        problem.ledger.offer_bound(bound.value)
        return cycles


def methods(problem: ExpertPlacement) -> dict[str, Any]:
    """Name -> method of a problem."""
    return {"annealing": Annealing(problem)}
