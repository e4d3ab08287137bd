"""Reproducible noise without a generator: a function of (row, column, step), the same on every device.

A dither needs no independence, only that each element sees every fraction equally often over the steps. A Kronecker
sequence (multiples of irrational numbers modulo one) does that with the least possible discrepancy, costs one addition
an element, and needs no saved state: a resumed run draws the same values.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROW, _COLUMN, _STEP = 0.7548776662466927, 0.5698402909980532, 0.6180339887498949
_HASH = (-7046029254386353131, -3335678366873096957)  # odd 64-bit constants, as signed numbers
_MIX = (-4658895280553007687, -7723592293110705685)  # the finalizer of splitmix64


def uniform(rows: Tensor | int, columns: int, step: int, *, device: torch.device, salt: float = 0.0) -> Tensor:
    """Fractions in [0, 1), float32 [R, columns], for whole rows of a matrix; equidistributed over ``step`` everywhere.

    Args:
        rows: numbers of the rows, [R] int64, or how many from 0.
        columns: of the matrix.
        step: number of the step.
        device: of the result.
        salt: shift that tells two dithers of one step apart.
    """
    numbers = torch.arange(rows, device=device) if isinstance(rows, int) else rows
    start = (numbers.to(torch.float64) * _ROW).frac_().to(torch.float32)
    shift = torch.arange(columns, device=device, dtype=torch.float64).mul_(_COLUMN).add_(step * _STEP % 1.0 + salt)
    noise = start[:, None] + shift.frac_().to(torch.float32)
    # The sum of two fractions is below 2, and rounding may reach 1.
    return noise.sub_(noise.floor()).clamp_max_(1.0 - 2.0**-24)


def _wrap(number: int) -> int:
    """A Python int as the signed 64-bit number that the tensor arithmetic would hold."""
    return (number + 2**63) % 2**64 - 2**63


def random_signs(rows: int, columns: int, *, seed: int, device: torch.device) -> Tensor:
    """Matrix [rows, columns] of +-1, float32, a pure function of (shape, seed) on every device.

    Note:
        A sign sketch has the same Johnson-Lindenstrauss property as the Gaussian one of APOLLO and can be drawn again
        each step instead of being stored.
    """
    bits = torch.arange(rows * columns, dtype=torch.int64, device=device) * _HASH[0] + _wrap(seed * _HASH[1])
    for shift, factor in zip((30, 27), _MIX, strict=True):
        bits = (bits ^ ((bits >> shift) & ((1 << (64 - shift)) - 1))) * factor
    bits = bits ^ ((bits >> 31) & ((1 << 33) - 1))
    return ((bits & 1) * 2 - 1).to(torch.float32).view(rows, columns)


def round_to_bfloat16(values: Tensor, rows: Tensor | int, step: int) -> Tensor:
    """Stochastic rounding of float32 ``values`` [R, n] to bfloat16; ``rows`` are their row numbers or how many from 0.

    The mean over steps is the float32 value, so that updates smaller than half a unit in the last place are not lost.
    Values that are not finite are kept.
    """
    noise = uniform(rows, values.shape[1], step, device=values.device).mul_(65536.0).to(torch.int32)
    rounded = ((values.view(torch.int32) + noise) & -65536).view(torch.float32)
    return torch.where(torch.isfinite(values), rounded, values).to(torch.bfloat16)
