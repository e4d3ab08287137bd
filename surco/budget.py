"""How much a run may spend, in one or more of: oracle calls, objective calls, seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from surco.errors import InvalidInputError

FREE_OBJECTIVE_CALLS = 20


class BudgetExhausted(Exception):  # noqa: N818 - a signal, not an error
    """Raised inside a method when nothing is left to spend; the loop catches it."""


def checked_seed(seed: Any) -> int:
    """The seed, if it is one.

    Raises:
        InvalidInputError: it is not an integer from 0 to 2**63 - 1.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise InvalidInputError(f"Expected `seed` to be an integer from 0 to 2**63 - 1, got {seed!r}.")
    return seed


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of a run; None is no limit. One oracle call is one row of costs, one objective call one row of x."""

    seconds: float | None = None
    calls: int | None = None
    objective_calls: int | None = None

    def __post_init__(self) -> None:
        for name in ("seconds", "calls", "objective_calls"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise InvalidInputError(f"Expected `{name}` to be a number, got {value!r}.")
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InvalidInputError(f"Expected `{name}` > 0 and finite, got {value!r}. Leave it out for no limit.")
            if name != "seconds" and value is not None and int(value) != value:
                raise InvalidInputError(f"Expected `{name}` to be a whole number, got {value!r}.")

    @property
    def objective_limit(self) -> int | None:
        """Objective calls that may be spent, None for no limit.

        Under ``calls`` alone they are nearly free, but a method that never asks the oracle (local search by moves) must
        end: ``FREE_OBJECTIVE_CALLS`` of them go with every oracle call.
        """
        if self.objective_calls is None and self.calls is not None and self.seconds is None:
            return FREE_OBJECTIVE_CALLS * self.calls
        return self.objective_calls

    @property
    def is_counted(self) -> bool:
        """Whether only calls limit the run, so that it must not depend on the clock."""
        return self.seconds is None
