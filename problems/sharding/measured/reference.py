"""What an operator should do, in plain torch: whether the thing that is measured is the thing that is meant."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from problems.sharding.measured.inputs import draw_inputs
from problems.sharding.measured.operators import LEARNING_RATE, Operator, make_tables
from problems.sharding.tables import Table

TOLERANCE = 1e-3  # of float32 sums in another order, over three updates; a wrong update is off by far more
EPSILON = 1e-8
SHAPES = ((1000, 16, 5.0), (50_000, 128, 20.5), (300, 4, 0.5))  # rows, dim, pooling factor


def largest_difference(kind: Operator, device: torch.device, *, batch: int = 512, steps: int = 3) -> float:
    """Run the same batches through an operator and through plain torch, updates included.

    Plain torch is `embedding_bag` with dense gradients and row-wise Adagrad written out,

        m_r <- m_r + mean of g_r^2,    w_r <- w_r - rate * g_r / (sqrt(m_r) + epsilon)

    for each row r with its whole gradient g_r, so operators with another optimizer differ from the second step on.

    Args:
        kind: which operator.
        device: where both run.
        batch: samples of a step.
        steps: forward passes; each but the last is followed by an update.

    Returns:
        the largest difference of pooled numbers over the largest of them, the worst of all steps.
    """
    tables = [Table(f"check_{t}", rows, dim, pooling) for t, (rows, dim, pooling) in enumerate(SHAPES)]
    operator = make_tables(kind, [t.rows for t in tables], [t.dim for t in tables], device)
    weights = [torch.full((t.rows, t.dim), 0.01, device=device, requires_grad=True) for t in tables]
    moments = [torch.zeros(t.rows, device=device) for t in tables]
    generator = torch.Generator(device).manual_seed(0)
    worst = 0.0
    for turn in range(steps):
        indices, offsets, counts = draw_inputs(tables, batch, device, seed=turn)
        pooled, reference = operator.forward(indices, offsets), _pooled(weights, indices, offsets, counts)
        difference = (pooled.detach() - reference.detach()).abs().max() / reference.detach().abs().max()
        worst = max(worst, float(difference))
        gradient = torch.randn(reference.shape, generator=generator, device=device)
        operator.backward(pooled, gradient)
        reference.backward(gradient)
        _update(weights, moments)
    return worst


def _pooled(weights: Sequence[Tensor], indices: Tensor, offsets: Tensor, counts: Sequence[int]) -> Tensor:
    """[B, sum of dims], a table after another."""
    batch = (len(offsets) - 1) // len(weights)
    parts, begin = [], 0
    for t, (weight, count) in enumerate(zip(weights, counts, strict=True)):
        edges = offsets[t * batch : (t + 1) * batch + 1] - begin
        rows = indices[begin : begin + count]
        parts.append(torch.nn.functional.embedding_bag(rows, weight, edges, mode="sum", include_last_offset=True))
        begin += count
    return torch.cat(parts, dim=1)


def _update(weights: Sequence[Tensor], moments: Sequence[Tensor]) -> None:
    """One step of row-wise Adagrad; gradients are used up."""
    with torch.no_grad():
        for weight, moment in zip(weights, moments, strict=True):
            assert weight.grad is not None
            moment += weight.grad.square().mean(1)
            weight -= LEARNING_RATE * weight.grad / (moment.sqrt() + EPSILON)[:, None]
            weight.grad = None
