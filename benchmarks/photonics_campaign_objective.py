"""Losses of a campaign, with bounds that stay on the device (a CUDA graph must not copy them)."""

from __future__ import annotations

import torch
from torch import Tensor

from problems.photonics.targets import Spec, signed_distance


class Objective:
    """Loss and metric of a batch of S.

    ``spec`` is the literature's loss: softplus(d / smallest window)^2, summed over ports. ``margin`` takes each bound
    by its own window, as the metric does, sharper: softplus(k d / window)^2 / k^2. It goes on where the metric does;
    the literature's loss hardly sees a port with a wide window once that is met.

    Args:
        spec: windows.
        wavelengths: how many.
        device: of S.
        kind: ``spec`` or ``margin``.
        sharpness: k.
    """

    def __init__(
        self, spec: Spec, wavelengths: int, device: torch.device, kind: str = "spec", sharpness: float = 8.0
    ) -> None:
        self.lower, self.upper = (bound.to(device) for bound in spec.windows(wavelengths))
        own = self.upper - self.lower
        self.window = own
        smallest = torch.full_like(own, float(own.min()))
        self.scale, self.sharpness = (smallest, 1.0) if kind == "spec" else (own / sharpness, sharpness)

    def distance(self, s: Tensor) -> Tensor:
        """Signed distances [B, L, P] in power of S [B, L, P, 1]."""
        return signed_distance(s[..., 0].abs() ** 2, self.lower, self.upper)

    def loss(self, s: Tensor) -> Tensor:
        """[B]."""
        parts = torch.nn.functional.softplus(self.distance(s) / self.scale) / self.sharpness
        return (parts**2).sum(-1).mean(-1)

    def metric(self, s: Tensor) -> Tensor:
        """[B], > 0 = spec met."""
        return -(self.distance(s) / self.window).flatten(1).amax(1)
