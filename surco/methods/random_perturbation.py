"""Perturbation without learning: the baseline that SurCo must beat."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from surco.bridge import to_numpy, to_torch
from surco.counted import CountedProblem
from surco.protocols import Estimate, State


@dataclass(frozen=True, slots=True)
class RandomPerturbation:
    """Solve at c0 + sigma |c0| z, z normal, with sigma drawn log-uniformly, and keep the best vertex.

    Attributes:
        batch: cost rows a step.
        least_noise: smallest sigma.
        most_noise: largest sigma.
    """

    batch: int = 16
    least_noise: float = 0.03
    most_noise: float = 3.0
    name: str = field(default="random", init=False)

    def init(self, problem: CountedProblem, *, generator: torch.Generator) -> State:
        """The center of the perturbations; it is solved itself in the first step."""
        return {"center": problem.initial_costs().detach().clone(), "is_first": True}

    def step(
        self, problem: CountedProblem, state: State, *, generator: torch.Generator
    ) -> tuple[State, Estimate | None]:
        """One batch."""
        costs = perturbed(state["center"], self.batch, (self.least_noise, self.most_noise), generator)
        if state["is_first"]:
            costs[0] = state["center"]
        batch = problem.oracle.solve(to_numpy(costs))
        problem.objective(to_torch(batch.x))
        return {**state, "is_first": False}, None


def perturbed(center: torch.Tensor, rows: int, noise: tuple[float, float], generator: torch.Generator) -> torch.Tensor:
    """[rows, n]: center + sigma s z; half of the rows scale each cost by itself, half by the mean |center|."""
    low, high = noise
    u = torch.rand(rows, 1, generator=generator, dtype=center.dtype)
    sigma = low * (high / low) ** u
    z = torch.randn(rows, len(center), generator=generator, dtype=center.dtype)
    scale = cost_scale(center)
    own = center.abs() + 1e-3 * scale
    is_own = (torch.arange(rows) % 2 == 0)[:, None]
    return center + sigma * torch.where(is_own, own, scale) * z


def cost_scale(costs: torch.Tensor) -> torch.Tensor:
    """Mean |c| over the last axis [..., 1]; 1 where all costs are zero."""
    scale = costs.abs().mean(-1, keepdim=True)
    return torch.where(scale > 0, scale, torch.ones_like(scale))
