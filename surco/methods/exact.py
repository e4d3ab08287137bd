"""The problem's own exact or bounding method, as a citizen of the loop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from surco.bridge import to_torch
from surco.counted import CountedProblem
from surco.errors import InvalidInputError
from surco.protocols import Estimate, HasExact, State


@dataclass(frozen=True, slots=True)
class ExactMethod:
    """Run ``problem.exact``, started from the incumbent; its bound is taken as proven, its point is checked.

    Attributes:
        share: of the seconds that are left, the part given to it.
        seconds: hard limit of one run; None leaves ``share`` to decide.
        of_turn: whether ``share`` is of the turn that a portfolio gave, not of the run.
    """

    share: float = 1.0
    seconds: float | None = None
    of_turn: bool = False
    name: str = field(default="exact", init=False)

    def init(self, problem: CountedProblem, *, generator: torch.Generator) -> State:
        """Check that there is such a method.

        Raises:
            InvalidInputError: the problem offers none.
        """
        if not isinstance(problem.inner, HasExact):
            raise InvalidInputError(f"{type(problem.inner).__name__} offers no exact method. Try `auto`.")
        return {}

    def step(
        self, problem: CountedProblem, state: State, *, generator: torch.Generator
    ) -> tuple[State, Estimate | None]:
        """The one run."""
        ledger = problem.ledger
        left = ledger.turn_left if self.of_turn else ledger.seconds_left
        limit = min(self.share * left, math.inf if self.seconds is None else self.seconds)
        start = None if ledger.x is None else to_torch(ledger.x)
        answer = problem.inner.exact(seconds=limit if math.isfinite(limit) else None, start=start)  # type: ignore[attr-defined]
        method, ledger.method = ledger.method, self.name
        if answer.x is not None:
            problem.objective(answer.x.detach()[None])
        ledger.offer_bound(answer.bound)
        if answer.is_optimal and math.isclose(answer.bound, ledger.value, rel_tol=1e-6, abs_tol=1e-9):
            ledger.offer_bound(ledger.value)  # proven optimal: the last digits of its bound say nothing
        ledger.method = method
        return {"done": True}, None
