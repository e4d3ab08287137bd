"""Adam on a list of parameters, with its state as plain tensors for the checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Adam:
    """The update of Kingma and Ba (2015) with a clipped gradient norm.

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
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, step_size: float) -> None:
        """One update by the gradients that the parameters hold; then the gradients are dropped."""
        self.steps += 1
        first, second = self.decays
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        factor = torch.where(norm > self.clip, self.clip / norm.clamp(min=1e-30), 1.0)
        gradients = torch._foreach_mul(gradients, factor)
        firsts, seconds = [m for m, _ in self.moments], [v for _, v in self.moments]
        torch._foreach_mul_(firsts, first)
        torch._foreach_add_(firsts, gradients, alpha=1 - first)
        torch._foreach_mul_(seconds, second)
        torch._foreach_addcmul_(seconds, gradients, gradients, value=1 - second)
        scales = torch._foreach_div(seconds, 1 - second**self.steps)
        torch._foreach_sqrt_(scales)
        torch._foreach_add_(scales, self.least)
        torch._foreach_addcdiv_(self.parameters, firsts, scales, value=-step_size / (1 - first**self.steps))
        for p in self.parameters:
            p.grad = None

    def state(self) -> dict[str, Any]:
        """Plain data."""
        return {"steps": self.steps, "moments": [[m.cpu().clone(), v.cpu().clone()] for m, v in self.moments]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.steps = state["steps"]
        for (m, v), (saved_m, saved_v) in zip(self.moments, state["moments"], strict=True):
            m.copy_(saved_m)
            v.copy_(saved_v)
