"""Adam on a list of parameters, with its state as plain tensors for the checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Adam:
    """The update of Kingma and Ba (2015) with a clipped gradient norm, on all parameters as one vector.

    The optimizer of torch does the same; it loads the compiler with it, which takes longer than many a training step,
    and its state has to be taken apart to be saved as plain data.

    Args:
        parameters: tensors that require a gradient.
        clip: largest norm of the whole gradient.
        decays: of the first and the second moment.
        least: added to the root of the second moment. Larger than usual: where all costs are right the gradient is
            nearly zero, and must not be blown up to full steps.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        clip: float,
        decays: tuple[float, float] = (0.9, 0.99),
        least: float = 1e-5,
    ) -> None:
        self.parameters = list(parameters)
        self.clip, self.decays, self.least = clip, decays, least
        flat = torch.cat([p.detach().flatten() for p in self.parameters])
        self.first, self.second = torch.zeros_like(flat), torch.zeros_like(flat)
        self.steps = 0

    def step(self, step_size: float) -> None:
        """One update by the gradients that the parameters hold; then the gradients are dropped."""
        self.update(self.rates(step_size))

    def rates(self, step_size: float) -> Tensor:
        """Count a step; what its update multiplies the two moments with, [2] on the CPU.

        They are apart from `update` so that a recorded update finds them in a tensor.
        """
        self.steps += 1
        first, second = self.decays
        return torch.tensor([-step_size / (1 - first**self.steps), 1 / (1 - second**self.steps)]).to(self.first.dtype)

    @torch.no_grad()
    def update(self, rates: Tensor) -> None:
        """The update of a counted step; ``rates`` on the device of the parameters, or on the CPU."""
        first, second = self.decays
        gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in self.parameters])
        norm = gradient.norm()
        gradient = gradient * torch.where(norm > self.clip, self.clip / norm.clamp(min=1e-30), 1.0)
        self.first.mul_(first).add_(gradient, alpha=1 - first)
        self.second.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        scale = (self.second * rates[1]).sqrt().add_(self.least)
        change = self.first / scale * rates[0]
        parts = change.split([p.numel() for p in self.parameters])
        for p, part in zip(self.parameters, parts, strict=True):
            p.add_(part.view_as(p))
            p.grad = None

    def state(self) -> dict[str, Any]:
        """Plain data."""
        return {"steps": self.steps, "first": self.first.cpu().clone(), "second": self.second.cpu().clone()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.steps = state["steps"]
        self.first.copy_(state["first"])
        self.second.copy_(state["second"])
