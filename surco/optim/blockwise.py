"""Adam moments in one byte each: logarithmic codes with one power-of-two scale a row.

Row i of the moments m, v [N, r] is stored as

    m = sign * 2^(e_i - (127 - |a|) / 9),   a in -127..127 (0 is zero), reach 2^-14 of the scale
    sqrt(v) = 2^(e_i - (255 - b) / 16),     b in 0..255 (0 is zero), reach 2^-15.9 of the scale

with one exponent e_i (int8) for both, since m and sqrt(v) have the same unit: (2 r + 1) bytes a row against 8 r.
The scales are whole octaves and both code steps divide an octave (for m up to the dither), so a new scale alone does
not wear a value out. Rounding is stochastic and unbiased *in v*: with rounding to nearest, a step of 4 percent would
swallow every change of size 1 - beta2 = 0.1 percent and v would stand still after about 45 steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surco.optim.dither import uniform

_FIRST_STEPS = 9.0  # codes an octave of |m|
_SECOND_STEPS = 8.0  # codes an octave of v, that is 16 an octave of sqrt(v)
_SECOND_SALT = 0.4142135  # the two moments must not share their dither


def pack_rows(first: Tensor, second: Tensor, rows: Tensor | int, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of the moments of some rows.

    Args:
        first: m, [U, r] float32.
        second: v, [U, r] or [U, 1] float32, not negative.
        rows: numbers of the rows, [U] int64, or their count where they are 0..U-1; they seed the dither.
        step: number of the step, seeds the dither.

    Returns:
        (a [U, r] int8, b uint8 of the shape of v, e [U] int8).
    """
    magnitude = first.abs()
    top = torch.maximum(magnitude.amax(dim=1), second.amax(dim=1).sqrt_())
    exponent = torch.frexp(top)[1].clamp_(-60, 60)
    device = first.device
    scale = torch.exp2(exponent.to(torch.float32))[:, None]
    codes = _log_codes(magnitude / scale, _FIRST_STEPS, 127.0, uniform(rows, first.shape[1], step, device=device))
    codes = torch.where(first < 0, -codes, codes).to(torch.int8)
    share = second / scale / scale
    # A positive v never becomes 0: it divides.
    noise = uniform(rows, second.shape[1], step, device=device, salt=_SECOND_SALT)
    squares = _log_codes(share, _SECOND_STEPS, 255.0, noise)
    squares = torch.where(share > 0, squares.clamp_min(1.0), squares).to(torch.uint8)
    return codes, squares, exponent.to(torch.int8)


def _log_codes(share: Tensor, steps: float, top: float, noise: Tensor) -> Tensor:
    """Code of shares in [0, 1] of the scale, rounded up with the probability that keeps the mean of the value."""
    position = torch.log2(share).mul_(steps).add_(top)
    floor = position.floor()
    gain = 2.0 ** (1.0 / steps) - 1.0
    chance = torch.exp2((position - floor) / steps).sub_(1.0).div_(gain)
    codes = floor + (noise < chance)
    smallest = 2.0 ** ((1.0 - top) / steps)
    codes = torch.where(share < smallest, (noise * smallest < share).to(codes.dtype), codes)
    return codes.clamp_(0.0, top)


def unpack_rows(first: Tensor, second: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
    """The moments (m, v), float32 [U, r], of the codes that ``pack_rows`` made."""
    scale = torch.exp2(exponent.to(torch.float32))[:, None]
    code = first.to(torch.float32)
    m = torch.exp2((code.abs() - 127.0) / _FIRST_STEPS) * code.sign() * scale
    square = second.to(torch.float32)
    v = torch.exp2((square - 255.0) / _SECOND_STEPS) * (square > 0) * (scale * scale)
    return m, v
