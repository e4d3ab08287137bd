"""The adaptive rule inside the subspace: from projected gradients and moments to a direction of descent.

D = m_hat / (sqrt(v_hat) + eps), the update being W <- W - lr * scale * D P'. Shapes [rows, r], float32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_kernels: Any = torch  # the multi-tensor kernels are not in torch's stubs


def adam_directions(
    projected: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    *,
    step: int,
    betas: tuple[float, float],
    eps: float,
    implementation: str = "fused",
) -> list[Tensor]:
    """Advance Adam's moments in place and return the *negative* directions -D, one for each entry.

    Args:
        projected: gradients in the subspace.
        first: m, changed in place.
        second: v, changed in place.
        step: number of this step, from 1 (bias correction).
        betas: decay of m and v.
        eps: added to the root after bias correction.
        implementation: a value of ``Implementation``.
    """
    if implementation in ("fused", "grouped"):
        return _fused(projected, first, second, step, betas, eps)
    corrections = (1.0 - betas[0] ** step, math.sqrt(1.0 - betas[1] ** step))
    if implementation == "compile":
        rule = _compiled_rule()
        # Tensors and not numbers: a number would be a constant of the graph and compile again each step.
        numbers = torch.tensor([betas[0], betas[1], *corrections, eps], device=projected[0].device)
        return [rule(*parts, numbers) for parts in zip(projected, first, second, strict=True)]
    _kernels._foreach_lerp_(first, projected, 1.0 - betas[0])
    _kernels._foreach_mul_(second, betas[1])
    _kernels._foreach_addcmul_(second, projected, projected, 1.0 - betas[1])
    roots = list(_kernels._foreach_sqrt(second))
    _kernels._foreach_div_(roots, corrections[1])
    _kernels._foreach_add_(roots, eps)
    _kernels._foreach_mul_(roots, -corrections[0])
    return list(_kernels._foreach_div(first, roots))


def _fused(
    projected: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    step: int,
    betas: tuple[float, float],
    eps: float,
) -> list[Tensor]:
    """Torch's fused Adam kernel on a weight of zeros with a rate of one leaves exactly -D there, in one pass."""
    # One buffer for all: on a GPU a launch each would cost as much as the work.
    flat = torch.zeros(sum(part.numel() for part in projected), device=projected[0].device)
    pieces = torch.split_with_sizes(flat, [part.numel() for part in projected])
    directions = [piece.view(part.shape) for piece, part in zip(pieces, projected, strict=True)]
    steps = [torch.full((), float(step), device=projected[0].device)] * len(projected)
    _kernels._fused_adam_(
        directions, projected, first, second, [], steps,
        lr=1.0, beta1=betas[0], beta2=betas[1], weight_decay=0.0, eps=eps, amsgrad=False, maximize=False,
    )  # fmt: skip
    return directions


def _adam_rule(projected: Tensor, first: Tensor, second: Tensor, numbers: Tensor) -> Tensor:
    beta1, beta2, correction1, correction2, eps = numbers.unbind()
    first.mul_(beta1).add_(projected * (1.0 - beta1))
    second.mul_(beta2).add_(projected * projected * (1.0 - beta2))
    return -(first / correction1) / (second.sqrt() / correction2 + eps)


@functools.cache
def _compiled_rule() -> Callable[..., Tensor]:
    return torch.compile(_adam_rule, dynamic=True)


def rowwise_direction(
    projected: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    step: int,
    betas: tuple[float, float],
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Low-rank momentum with one second moment a row: advance both in place and return the parts (U, f) of -D.

    v_i is a running mean of |G_i|^2 / n, the mean square of the *whole* row of the gradient, and

        D_i = (m_hat_i P' + (G_i - R_i P')) / (sqrt(v_hat_i) + eps),   -D = U P' + f G

    so that the part of the gradient outside the subspace is followed too, at the same scale but without momentum.
    Without a basis it is row-wise RMSprop, with a full one row-wise Adam.

    Args:
        projected: R, [rows, r].
        gradient: G, [rows, n].
        first: m, [rows, r], changed in place.
        second: v, [rows, 1], changed in place.
        step: number of this step, from 1 (bias correction).
        betas: decay of m and v.
        eps: added to the root after bias correction.

    Returns:
        (U [rows, r], f [rows, 1]).
    """
    first.lerp_(projected, 1.0 - betas[0])
    squares = torch.linalg.vector_norm(gradient, dim=1, keepdim=True).square_().div_(gradient.shape[1])
    second.lerp_(squares, 1.0 - betas[1])
    factor = (second / (1.0 - betas[1] ** step)).sqrt_().add_(eps).reciprocal_().neg_()
    return (first / (1.0 - betas[0] ** step)).sub_(projected).mul_(factor), factor


def adafactor_direction(projected: Tensor, state: dict[str, Any], *, step: int, eps: float = 1e-30) -> Tensor:
    """Advance the factored second moment and return -D, [N, r]; no first moment.

    v_ij = rows_i cols_j / mean(rows), both running means with decay 1 - t^-0.8; D = R / sqrt(v), its root mean square
    clipped to 1.

    Source: Adafactor (arXiv 1804.04235), algorithm 4, without its relative step.
    """
    rate = step**-0.8
    squared = projected.square().add_(eps)
    state["row_avg_sq"].lerp_(squared.mean(dim=1), rate)
    state["column_avg_sq"].lerp_(squared.mean(dim=0), rate)
    rows = state["row_avg_sq"] / state["row_avg_sq"].mean()
    direction = projected * rows.rsqrt()[:, None] * state["column_avg_sq"].rsqrt()
    norm = torch.linalg.vector_norm(direction) / math.sqrt(direction.numel())
    return direction.div_(-norm.clamp_min(1.0))


def are_finite(tensors: list[Tensor]) -> list[bool]:
    """Whether all entries of each tensor (not empty, of one device) are finite, with one synchronization."""
    if len(tensors) == 1:
        # NaN and infinity spread to the sum, which is the cheapest reduction.
        return [math.isfinite(tensors[0].sum().item())]
    return [math.isfinite(norm) for norm in torch.stack(_kernels._foreach_norm(tensors, math.inf)).tolist()]
