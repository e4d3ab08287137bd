"""Updates inside the backward pass, which never hold the gradients of more than one parameter.

A hook on each parameter projects its gradient as soon as autograd has summed it and frees it. What may wait until the
end of the backward pass is the projected gradient, n / r times smaller. Projection is linear, so accumulation over
micro-batches and clipping stay exact: the sum and the scaling act on R = G P.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from surco.errors import InvalidInputError
from surco.optim.galore import GaLore
from surco.optim.update import Projected


class ClipNorm(StrEnum):
    """Which norm the clipping threshold is compared with."""

    FULL = "full"  # the norm of the whole gradient, as torch.nn.utils.clip_grad_norm_ has it
    PROJECTED = "projected"  # the norm inside the subspaces: smaller, but known for a sum over micro-batches


class FusedBackward:
    """Runs a ``GaLore`` optimizer from gradient hooks.

    Without accumulation and clipping every weight is updated within the backward pass; else at ``step``, from the
    projected gradients. A refresh falls on the first micro-batch of a step, whose gradient alone gives the basis.
    Modes other than "galore" need the full gradient at the update and keep it while they wait.

    The loop is

        for batch in batches:
            (loss(batch) / accumulation_steps).backward()
            if fused.step():          # True when an optimizer step is complete
                scheduler.step()

    Args:
        optimizer: its own ``step`` must not be called any more; learning rates are read from its groups at the update.
        accumulation_steps: backward passes in one step. Gradients are summed, as autograd does: divide the loss.
        max_norm: global gradient norm to clip to, or None.
        clip_norm: a value of ``ClipNorm``.

    Raises:
        InvalidInputError: accumulation with clipping by the full norm, which cannot be known without all gradients.

    Note:
        Not for DistributedDataParallel, whose reducer owns the gradients.
    """

    def __init__(
        self, optimizer: GaLore, *, accumulation_steps: int = 1, max_norm: float | None = None, clip_norm: str = "full"
    ) -> None:
        if accumulation_steps < 1:
            raise InvalidInputError(f"Expected `accumulation_steps` >= 1; got {accumulation_steps}.")
        self.clip_norm = ClipNorm(clip_norm)
        if max_norm is not None and accumulation_steps > 1 and self.clip_norm is ClipNorm.FULL:
            raise InvalidInputError(
                "The full norm of a sum of micro-batches needs all gradients at once. Expected clip_norm='projected' "
                f"with accumulation_steps={accumulation_steps} and max_norm={max_norm}."
            )
        self.optimizer = optimizer
        self.accumulation_steps = accumulation_steps
        self.max_norm = max_norm
        self.total_norm: float | None = None
        self._micro_step = 0
        self._waiting: dict[int, Projected] = {}
        self._handles = [
            parameter.register_post_accumulate_grad_hook(self._hook)
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]

    @property
    def _is_immediate(self) -> bool:
        return self.accumulation_steps == 1 and self.max_norm is None

    def _hook(self, parameter: Tensor) -> None:
        """Called by autograd when the gradient of ``parameter`` is complete."""
        waiting = self._waiting.get(id(parameter))
        with_norm = self.max_norm is not None and self.clip_norm is ClipNorm.FULL
        work = self.optimizer.prepare(parameter, is_new_step=waiting is None, with_norm=with_norm)
        parameter.grad = None
        if work is None:
            return
        if self._is_immediate:
            self.optimizer.apply([work])
        elif waiting is None:
            self._waiting[id(parameter)] = work
        else:
            waiting.accumulate(work)

    def step(self) -> bool:
        """Call after each backward pass.

        Returns:
            Whether an optimizer step is complete (each ``accumulation_steps``-th call).
        """
        self._micro_step += 1
        if self._micro_step < self.accumulation_steps:
            return False
        self._micro_step = 0
        works = list(self._waiting.values())
        self._waiting.clear()
        if self.max_norm is not None:
            self._clip(works)
        self.optimizer.apply(works)
        return True

    def _clip(self, works: list[Projected]) -> None:
        """Scale all gradients to the threshold, the factor being that of ``torch.nn.utils.clip_grad_norm_``."""
        assert self.max_norm is not None
        if not works:
            return
        device = works[0].values.device
        squares = [
            work.squared_norm if work.squared_norm is not None else torch.linalg.vector_norm(work.values).square()
            for work in works
        ]
        self.total_norm = float(torch.stack([square.to(device) for square in squares]).sum().sqrt())
        factor = self.max_norm / (self.total_norm + 1e-6)
        if factor < 1.0:
            for work in works:
                work.scale(factor)

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> FusedBackward:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def peak_gradient_bytes(parameters: list[Tensor], run: Callable[[], Any]) -> int:
    """Largest number of gradient bytes that ``parameters`` held at any end of accumulation during ``run``."""
    peak = 0

    def measure(_: Tensor) -> None:
        nonlocal peak
        held = (parameter.grad for parameter in parameters)
        peak = max(peak, sum(grad.numel() * grad.element_size() for grad in held if grad is not None))

    handles = [parameter.register_post_accumulate_grad_hook(measure) for parameter in parameters]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return peak
