"""A small convolutional network over pixel grids of different sizes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surco.networks.layers import masked_max, masked_mean


class PixelNetwork(nn.Module):
    """Costs [B, H, W] of the pixels of a design.

    Residual 3x3 convolutions; after each the padding is set to zero, which is also what lies beyond the border, so a
    grid gets the same costs alone and in a larger batch. Pooled over the grid, each layer also adds what the whole
    looks like. Translation-equivariant up to the border.

    Features: ``pixel`` [B, C, H, W], ``context`` [B, G] (optional, ``context=0`` without), ``variables`` [B, H, W].

    Args:
        channels: C.
        context: G.
        hidden: width.
        layers: convolutions.
    """

    def __init__(self, channels: int, *, context: int = 0, hidden: int = 32, layers: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, hidden, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(hidden, hidden, 3, padding=1) for _ in range(layers))
        self.pooled = nn.ModuleList(nn.Linear(2 * hidden + context, hidden) for _ in range(layers))
        self.last = nn.Conv2d(hidden, 1, 1)
        self.context = context

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Costs [B, H, W], of either sign."""
        mask = features["variables"]
        inside = mask[:, None]
        x = self.first(features["pixel"] * inside) * inside
        for convolve, pool in zip(self.layers, self.pooled, strict=True):
            flat, pixels = x.flatten(2).transpose(1, 2), mask.flatten(1)
            whole = torch.cat([masked_mean(flat, pixels)[:, 0], masked_max(flat, pixels)[:, 0]], -1)
            if self.context:
                whole = torch.cat([whole, features["context"]], -1)
            x = (x + nn.functional.gelu(convolve(x) + pool(whole)[:, :, None, None])) * inside
        return self.last(x)[:, 0] * mask
