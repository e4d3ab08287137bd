"""Etch corners: what a design becomes when the process removes too little or too much, as extra rows of a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def disk_offsets(radius: int) -> list[tuple[int, int]]:
    """Pixel offsets within ``radius`` of the center, the center included."""
    span = range(-radius, radius + 1)
    return [(i, j) for i in span for j in span if i * i + j * j <= radius * radius]


def dilate(design: Tensor, radius: int) -> Tensor:
    """Grow the solid of [..., H, W] by ``radius`` pixels; differentiable, ties share the gradient equally."""
    height, width = design.shape[-2:]
    flat = design.reshape(-1, 1, height, width)
    padded = torch.nn.functional.pad(flat, (radius,) * 4, mode="replicate")
    shifted = [
        padded[..., radius + i : radius + i + height, radius + j : radius + j + width] for i, j in disk_offsets(radius)
    ]
    return torch.stack(shifted).amax(0).reshape(design.shape)


def etch_corners(design: Tensor, radius: int) -> Tensor:
    """Nominal, under-etched and over-etched designs.

    Args:
        design: [B, H, W], 1 = solid.
        radius: pixels by which every edge moves out (less etching) and in (more etching).

    Returns:
        [3, B, H, W]: nominal, grown, shrunk.
    """
    if radius == 0:
        return design[None]
    return torch.stack([design, dilate(design, radius), 1.0 - dilate(1.0 - design, radius)])
