"""Parts that the networks share: a perceptron, and sums and means that leave padding out."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def perceptron(inputs: int, hidden: int, outputs: int, *, is_quiet: bool = False) -> nn.Sequential:
    """Two layers with GELU; ``is_quiet`` starts the last one at zero, so that it changes nothing before training."""
    last = nn.Linear(hidden, outputs)
    if is_quiet:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), last)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values [B, S, C] over the S where mask [B, S] is one, [B, 1, C]."""
    weight = mask[..., None]
    return (values * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1.0)


def masked_max(values: Tensor, mask: Tensor) -> Tensor:
    """Max of values [B, S, C] over the S where mask [B, S] is one, [B, 1, C]; zero where there is none."""
    lowest = torch.finfo(values.dtype).min
    found = values.masked_fill(mask[..., None] == 0, lowest).amax(1, keepdim=True)
    return torch.where(found > lowest, found, 0.0)


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Softmax of logits [..., D] over the D where mask is one; zero elsewhere, also in rows without any."""
    weight = logits.masked_fill(mask == 0, torch.finfo(logits.dtype).min).softmax(-1)
    return weight * mask
