"""``surco.solve(problem, method="neuroplan")``: a trained agent plans, the exact engine finishes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from problems.planning.problem import NonlinearPlanning, PlanningProblem
from rl.two_stage import first_stage, planning_policy, second_stage
from surco.bridge import to_torch
from surco.counted import CountedProblem
from surco.errors import InvalidInputError
from surco.protocols import Estimate, State


@dataclass(frozen=True, slots=True)
class NeuroPlan:
    """Rollouts of a policy on the network, trim and exchanges, then the exact engine in a box around the plan.

    Attributes:
        policy: folder of a trained policy; None is the one that comes with the package.
        alpha: the box allows this many times the units of the agent's plan, and one unit at least, on every link.
        samples: sampled rollouts beside the greedy one.
        temperature: of the samples.
        trims: of the cheapest rollouts, how many are trimmed.

    Source: Zhu et al. 2021, "Network planning with deep reinforcement learning" (SIGCOMM), section 4.
    Note: the box is around the plan before trimming (a wide plan leaves a better box), keeps every link open, and the
        trimmed and polished plan is the incumbent that stage 2 must beat.
    """

    policy: str | None = None
    alpha: float = 1.5
    samples: int = 7
    temperature: float = 1.0
    trims: int = 3
    name: str = field(default="neuroplan", init=False)

    def init(self, problem: CountedProblem, *, generator: torch.Generator) -> State:
        """Check the problem and the options, and load the policy.

        Raises:
            InvalidInputError: not a planning problem with prices, or an option out of range.
        """
        inner = problem.inner
        if not isinstance(inner, PlanningProblem) or isinstance(inner, NonlinearPlanning):
            raise InvalidInputError(
                f"`neuroplan` plans networks at linear prices; {type(inner).__name__} is something else. Try `auto`."
            )
        if not self.alpha >= 1.0 or not self.temperature > 0.0:
            raise InvalidInputError(
                f"Expected `alpha` >= 1 and `temperature` > 0, got {self.alpha} and {self.temperature}."
            )
        planning_policy(self.policy)
        return {"stage": 1}

    def step(
        self, problem: CountedProblem, state: State, *, generator: torch.Generator
    ) -> tuple[State, Estimate | None]:
        """Stage 1, then stage 2."""
        inner: Any = problem.inner
        engine, ledger = inner.engine, problem.ledger
        left = ledger.seconds_left
        if state["stage"] == 1:
            seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
            found = first_stage(
                engine,
                planning_policy(self.policy),
                samples=self.samples,
                trims=self.trims,
                seed=seed,
                temperature=self.temperature,
                seconds=0.5 * left,
            )
            problem.objective(to_torch(found.rollout)[None])
            problem.objective(to_torch(found.polished)[None])
            engine.offer_checked(found.polished)
            return {"stage": 2, "plan": to_torch(found.rollout), "start": to_torch(found.polished)}, None
        plan, start = state["plan"].numpy(), state["start"].numpy()
        limit = None if not math.isfinite(left) else max(0.05, 0.85 * left - 0.05)
        best = second_stage(engine, plan, self.alpha, start=start, seconds=limit)
        problem.objective(to_torch(best)[None])
        if math.isfinite(engine.lower):
            ledger.offer_bound(engine.lower)
        return {"done": True}, None
