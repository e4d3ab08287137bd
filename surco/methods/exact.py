"""The problem's own exact or bounding method, as a citizen of the loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from surco.bridge import to_torch
from surco.counted import CountedProblem
from surco.errors import InvalidInputError
from surco.protocols import Estimate, HasExact, State, exact_goes_on, exact_reports

STILL_SHARE = 0.8  # of its seconds; a method that returns earlier has nothing left to do
FIRST_PART = 0.6  # of the seconds, where the method can go on after it: a run that overstays loses the rest only


@dataclass(frozen=True, slots=True)
class ExactMethod:
    """Run ``problem.exact``, started from the incumbent; its bound is taken as proven, its point is checked.

    A method that reports what it finds (``problem.exact_reports``) runs once. Another one whose calls go on where the
    last one stopped (``problem.exact_goes_on``) runs in two parts, so that what it found is safe early.

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
        """One part, or the one run."""
        ledger = problem.ledger
        if "ends" in state:
            limit, is_last = max(state["ends"] - ledger.seconds, 0.0), True
        else:
            left = ledger.turn_left if self.of_turn else ledger.seconds_left
            limit = min(self.share * left, math.inf if self.seconds is None else self.seconds)
            is_last = not (math.isfinite(limit) and exact_goes_on(problem.inner)) or exact_reports(problem.inner)
        begin = ledger.seconds
        part = limit if is_last else FIRST_PART * limit
        start = None if ledger.x is None else to_torch(ledger.x)
        named = {"report": self._taker(problem)} if exact_reports(problem.inner) else {}
        answer = problem.inner.exact(seconds=part if math.isfinite(part) else None, start=start, **named)  # type: ignore[attr-defined]
        self._taker(problem)(answer.x, answer.bound)
        if answer.is_optimal and math.isclose(answer.bound, ledger.value, rel_tol=1e-6, abs_tol=1e-9):
            ledger.offer_bound(ledger.value)  # proven optimal: the last digits of its bound say nothing
        is_still = ledger.seconds - begin < STILL_SHARE * part  # it saw no use in the rest
        if is_last or is_still or answer.is_optimal:
            return {"done": True}, None
        return {"ends": begin + limit}, None

    def _taker(self, problem: CountedProblem) -> Callable[[Tensor | None, float], None]:
        """What takes a point and a bound into the ledger under this method's name."""
        ledger = problem.ledger

        def take(x: Tensor | None, bound: float) -> None:
            method, ledger.method = ledger.method, self.name
            try:
                if x is not None:
                    problem.objective(x.detach()[None])
                ledger.offer_bound(bound)
            finally:
                ledger.method = method

        return take
