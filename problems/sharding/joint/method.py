"""The joint search as a method of the loop: one phase a step, so that incumbent and bound stream."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from surco.bridge import to_torch
from surco.counted import CountedProblem
from surco.protocols import Estimate, State

if TYPE_CHECKING:
    from problems.sharding.joint.problem import JointProblem


@dataclass(slots=True)
class JointMethod:
    """Sweeps, annealing and CP-SAT under the run's deadline (see ``problems.sharding.joint.exact``).

    After a resume the phases begin again, from the incumbent of the checkpoint.
    """

    problem: JointProblem
    name: str = field(default="joint", init=False)
    _turns: Iterator[None] | None = field(default=None, init=False, repr=False)

    def init(self, problem: CountedProblem, *, generator: torch.Generator) -> State:
        """Nothing to prepare."""
        self._turns = None
        return {}

    def step(
        self, problem: CountedProblem, state: State, *, generator: torch.Generator
    ) -> tuple[State, Estimate | None]:
        """One phase."""
        ledger = problem.ledger
        run = self.problem.run
        if self._turns is None:
            seconds = ledger.seconds_left if math.isfinite(ledger.seconds_left) else None
            start = None if ledger.x is None else to_torch(ledger.x)
            self._turns = run.turns(seconds=seconds, start=start)
        is_over = next(self._turns, "over") == "over"
        if is_over and run.is_empty:
            problem.oracle.solve(self.problem.initial_costs().numpy()[None])  # its answer names the empty set
        if run.best is not None and run.value < ledger.value:
            problem.objective(self.problem.design(run.best)[None])
        ledger.offer_bound(run.bound)
        if run.best is not None and run.value <= run.bound * (1.0 + 1e-6):
            ledger.offer_bound(ledger.value)  # proven; the last digits say nothing
        return {"done": is_over}, None


def methods(problem: JointProblem) -> dict[str, Any]:
    """Name -> method of a problem."""
    return {"joint": JointMethod(problem)}
