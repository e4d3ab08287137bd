"""Methods that look once: the natural linear costs, and the field's own constructive rules."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from surco.bridge import to_numpy, to_torch
from surco.counted import CountedProblem
from surco.protocols import Estimate, State, heuristics_take_seconds


@dataclass(frozen=True, slots=True)
class Linear:
    """One oracle call at the problem's natural linear costs: what a MILP user has today."""

    name: str = field(default="linear", init=False)

    def init(self, problem: CountedProblem, *, generator: torch.Generator) -> State:
        """Nothing to prepare."""
        return {}

    def step(
        self, problem: CountedProblem, state: State, *, generator: torch.Generator
    ) -> tuple[State, Estimate | None]:
        """The one call."""
        batch = problem.oracle.solve(to_numpy(problem.initial_costs())[None])
        problem.objective(to_torch(batch.x))
        return {"done": True}, None


@dataclass(frozen=True, slots=True)
class Heuristic:
    """One of the problem's own constructive rules, or all of them where ``name`` is ``"heuristics"``."""

    name: str = "heuristics"

    def init(self, problem: CountedProblem, *, generator: torch.Generator) -> State:
        """Nothing to prepare."""
        return {}

    def step(
        self, problem: CountedProblem, state: State, *, generator: torch.Generator
    ) -> tuple[State, Estimate | None]:
        """Build and value the designs."""
        inner, ledger = problem.inner, problem.ledger
        limit = ledger.turn_left
        if heuristics_take_seconds(inner) and math.isfinite(limit):
            designs = inner.heuristics(seconds=limit)  # type: ignore[attr-defined]
        else:
            designs = inner.heuristics()  # type: ignore[attr-defined]
        chosen = designs if self.name == "heuristics" else {self.name: designs[self.name]}
        method = ledger.method
        for name, x in chosen.items():
            ledger.method = name
            problem.objective(x[None])
        ledger.method = method
        return {"done": True}, None
