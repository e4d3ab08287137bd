"""The rules of the planning game, and what one step of it says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from problems.planning.network import Array
from surco.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class GameRules:
    """What can be done and how it is rewarded.

    Attributes:
        units: sizes of additions, ascending, starting with 1.
        allow_remove: whether the same sizes may be taken away again (only what no known cut needs).
        shaping: weight of the change of the worst cut's ratio; telescopes to the same sum for every survivable plan.
        failure_price: taken from the reward of an episode that ends without a plan, besides the missing share.
        illegal_price: taken from the reward of a masked action, which changes nothing else.
        proof_share: share of the plans that no known cut refuses which the evaluator checks at once; the others count
            as survivable on the word of the cuts (training only).
        trim_share: share of the finished episodes whose plan is trimmed before its price counts (training only).
        start_share: share of the units of the cutset relaxation, rounded down, that episodes start with.
    """

    units: tuple[int, ...] = (1, 2, 4, 8)
    allow_remove: bool = False
    shaping: float = 0.2
    failure_price: float = 0.5
    illegal_price: float = 0.02
    proof_share: float = 1.0
    trim_share: float = 0.0
    start_share: float = 0.0

    def __post_init__(self) -> None:
        units = list(self.units)
        if not units or units[0] != 1 or units != sorted(set(units)):
            raise InvalidInputError(f"Expected `units` to ascend from 1, got {self.units}.")
        for name in ("proof_share", "trim_share", "start_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InvalidInputError(f"Expected `{name}` in [0, 1], got {getattr(self, name)}.")

    @property
    def heads(self) -> int:
        """Actions of each option."""
        return len(self.units) * (2 if self.allow_remove else 1)


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """Of one step of all slots [B]: rewards, ends; of ended ones the price, whether the plan survives, and a proof."""

    reward: Array
    is_terminated: NDArray[np.bool_]
    is_truncated: NDArray[np.bool_]
    price: Array
    is_feasible: NDArray[np.bool_]
    is_proven: NDArray[np.bool_]
