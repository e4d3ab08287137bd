"""The last part of a step: a batch of projected gradients advances its moments and writes its weights."""

from __future__ import annotations

import math

from torch import Tensor

from surco.optim.direction import adam_directions, rowwise_direction
from surco.optim.options import Conventions, Mode
from surco.optim.update import Projected, finish, finish_rows, load_moments, store_moments


def is_rowwise(work: Projected) -> bool:
    """Whether the second moment of ``work`` is one number a row; what is not projected has the inner rule itself."""
    return work.group["mode"] == Mode.ROWWISE and "rank" in work.state


def advance(batch: list[Projected]) -> None:
    """Advance the Adam moments of parameters of one group, device, step and kind, and write their weights.

    Args:
        batch: finite projected gradients; ``step`` of each state is already that of this step.
    """
    group, step = batch[0].group, batch[0].state["step"]
    eps = float(group["eps"])
    if group["conventions"] == Conventions.GALORE_TORCH:
        # m_hat / (sqrt(v) + eps) * sqrt(1 - beta2^t) is torch's form with eps / sqrt(1 - beta2^t).
        eps /= math.sqrt(1.0 - group["betas"][1] ** step)
    if is_rowwise(batch[0]):
        for work in batch:
            _advance_rows(work, eps)
        return
    moments = [load_moments(work) for work in batch]
    directions = adam_directions(
        [work.values for work in batch],
        [first for first, _ in moments],
        [second for _, second in moments],
        step=step,
        betas=group["betas"],
        eps=eps,
        implementation=group["implementation"],
    )
    for work, (first, second), negative in zip(batch, moments, directions, strict=True):
        _store(work, first, second)
        finish(work, negative)


def _advance_rows(work: Projected, eps: float) -> None:
    first, second = load_moments(work)
    assert work.gradient is not None  # prepare() kept it for this mode
    inside, factor = rowwise_direction(
        work.values, work.gradient, first, second, step=work.state["step"], betas=work.group["betas"], eps=eps
    )
    _store(work, first, second)
    finish_rows(work, inside, factor)


def _store(work: Projected, first: Tensor, second: Tensor) -> None:
    """Put moments back that are copies: those of some rows, and those of one byte."""
    if work.rows is not None or "exponent" in work.state:
        store_moments(work, first, second)
