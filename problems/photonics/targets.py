"""What a device should do: power windows, the optimized loss, and the reported metric. Two different functions.

Power T = |S|^2 from port 1. A window [lower, upper] within [0, 1] is set for each output port and each band of
wavelengths. A bound at 0 or at 1 is no bound. With d the signed distance in power to the violated (or nearest) bound:

    loss   = mean over wavelengths of  sum over ports  softplus(d / w_min)^2,    w_min = the smallest window
    metric = - max over wavelengths and ports of  d / w,                         w = that window; > 0 means spec met

Source: loss and windows of Schubert et al., ACS Photonics 9, 2327 (2022); metric as the public leaderboards report it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from surco.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Spec:
    """Power windows.

    Attributes:
        lower: [bands][ports] lower bounds, power.
        upper: [bands][ports] upper bounds, power.
    """

    lower: tuple[tuple[float, ...], ...]
    upper: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        low, high = np.asarray(self.lower), np.asarray(self.upper)
        if low.shape != high.shape or low.ndim != 2 or not (low < high).all():
            raise InvalidInputError("Expected lower and upper of one [bands, ports] shape with lower < upper.")

    def windows(self, wavelengths: int) -> tuple[Tensor, Tensor]:
        """Bounds [L, P] float64; each band serves an equal run of the wavelengths, in order."""
        bands = len(self.lower)
        if wavelengths % bands:
            raise InvalidInputError(f"Expected a multiple of {bands} wavelengths for {bands} bands, got {wavelengths}.")
        repeat = wavelengths // bands
        low = torch.tensor(self.lower, dtype=torch.float64).repeat_interleave(repeat, 0)
        return low, torch.tensor(self.upper, dtype=torch.float64).repeat_interleave(repeat, 0)


def from_db(power_db: float) -> float:
    """Power of a level in dB."""
    return 10.0 ** (power_db / 10.0)


_R, _T, _HALF = from_db(-20.0), from_db(-0.5), from_db(-3.5)
SPECS: dict[str, Spec] = {
    "bend": Spec(((0.0, _T),), ((_R, 1.0),)),
    "mode-converter": Spec(((0.0, _T),), ((_R, 1.0),)),
    "beam-splitter": Spec(((0.0, _HALF, _HALF, 0.0),), ((_R, 1.0 - _HALF, 1.0 - _HALF, _R),)),
    "wdm": Spec(
        ((0.0, from_db(-3.0), 0.0), (0.0, 0.0, from_db(-3.0))),
        ((_R, 1.0, _R), (_R, _R, 1.0)),
    ),
    "power-splitter": Spec(((0.0, _HALF, _HALF),), ((_R, 1.0, 1.0),)),
}


def signed_distance(power: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Signed distance of a power to its window, same shape: > 0 outside, < 0 inside; -1 where nothing is bounded."""
    below = torch.where(lower > 0, lower - power, -torch.ones_like(power))
    above = torch.where(upper < 1, power - upper, -torch.ones_like(power))
    return torch.maximum(below, above)


def spec_loss(s: Tensor, spec: Spec, *, depth: float = 0.0) -> Tensor:
    """Loss of S-parameters.

    Args:
        s: [B, L, P, Q] complex; only column 0 (port 1 excited) counts.
        spec: windows.
        depth: the loss is that of windows which begin so deep inside the real ones, as a share of the way from a
            bound to the far end of its window, or to the middle of a window with two bounds; 0 for the literature's
            loss. Above 0 the loss goes on where the spec is met.

    Returns:
        [B] real, >= 0, differentiable. A design that meets the spec still has a loss of 0.1 to 1.
    """
    power = s[..., 0].abs() ** 2
    lower, upper = (bound.to(power.device, power.dtype) for bound in spec.windows(power.shape[1]))
    smallest = (upper - lower).min()
    within = torch.where((lower > 0) & (upper < 1), 0.5, 1.0) * (upper - lower)
    scaled = (signed_distance(power, lower, upper) + depth * within) / smallest
    return (torch.nn.functional.softplus(scaled) ** 2).sum(-1).mean(-1)


def spec_metric(s: Tensor, spec: Spec) -> Tensor:
    """Metric [B] of S-parameters [B, L, P, Q]: minus the worst signed distance over its own window; > 0 = spec met."""
    power = s[..., 0].abs() ** 2
    lower, upper = (bound.to(power.device, power.dtype) for bound in spec.windows(power.shape[1]))
    return -(signed_distance(power, lower, upper) / (upper - lower)).flatten(1).max(1).values
