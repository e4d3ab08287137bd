"""Reproducible noise without a generator: integer hashes of (element, step), the same on every device.

A dither needs no independence, only that each element sees every fraction equally often over the steps. A Weyl
sequence (multiples of an irrational number modulo one) does that exactly, costs two integer operations, and needs no
saved state: a resumed run draws the same values.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ELEMENT = -7046029254386353131  # 2^64 / golden ratio, as a signed 64-bit number
_STEP = -3335678366873096957  # an odd constant that is not a multiple of the first
_MIX = (-4658895280553007687, -7723592293110705685)  # the finalizer of splitmix64


def uniform(elements: Tensor, step: int) -> Tensor:
    """Fractions in [0, 1), float32, one for each int64 element number; equidistributed over ``step``."""
    return _high_bits(elements, step, 24).to(torch.float32).mul_(2.0**-24)


def _high_bits(elements: Tensor, step: int, bits: int) -> Tensor:
    mixed = elements * _ELEMENT + _wrap(step * _STEP)
    return (mixed >> (64 - bits)) & ((1 << bits) - 1)


def _wrap(number: int) -> int:
    """A Python int as the signed 64-bit number that the tensor arithmetic would hold."""
    return (number + 2**63) % 2**64 - 2**63


def random_signs(rows: int, columns: int, *, seed: int, device: torch.device) -> Tensor:
    """Matrix [rows, columns] of +-1, float32, a pure function of (shape, seed) on every device.

    Note:
        A sign sketch has the same Johnson-Lindenstrauss property as the Gaussian one of APOLLO and can be drawn again
        each step instead of being stored.
    """
    bits = torch.arange(rows * columns, dtype=torch.int64, device=device) * _ELEMENT + _wrap(seed * _STEP)
    for shift, factor in zip((30, 27), _MIX, strict=True):
        bits = (bits ^ ((bits >> shift) & ((1 << (64 - shift)) - 1))) * factor
    bits = bits ^ ((bits >> 31) & ((1 << 33) - 1))
    return ((bits & 1) * 2 - 1).to(torch.float32).view(rows, columns)


def round_to_bfloat16(values: Tensor, elements: Tensor, step: int) -> Tensor:
    """Stochastic rounding of float32 ``values`` to bfloat16; ``elements`` (int64, same shape) number the entries.

    The mean over steps is the float32 value, so that updates smaller than half a unit in the last place are not lost.
    Values that are not finite are kept.
    """
    noise = _high_bits(elements, step, 16).to(torch.int32)
    rounded = ((values.view(torch.int32) + noise) & -65536).view(torch.float32)
    return torch.where(torch.isfinite(values), rounded, values).to(torch.bfloat16)


def element_numbers(rows: Tensor | int, columns: int, device: torch.device) -> Tensor:
    """int64 [R, columns] numbers of the entries of whole ``rows`` (their numbers, or how many from 0) of a matrix."""
    first = torch.arange(rows, device=device) if isinstance(rows, int) else rows
    return first[:, None] * columns + torch.arange(columns, device=device)
