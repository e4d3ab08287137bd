"""Losses of a campaign, with bounds that stay on the device (a CUDA graph must not copy them)."""

from __future__ import annotations

import torch
from torch import Tensor

from problems.photonics.targets import Spec, signed_distance

KINDS = ("spec", "margin", "square", "deep", "norm", "tight")


class Objective:
    """Loss and metric of a batch of S.

    ``spec`` is the literature's loss: softplus(d / smallest window)^2, summed over ports. ``margin`` takes each bound
    by its own window, as the metric does, sharper: softplus(k d / window)^2 / k^2. It goes on where the metric does;
    the literature's loss hardly sees a port with a wide window once that is met. ``square`` takes each bound by its own
    window, too, and never rests: max(1 + d / window, 0)^2, zero only at no reflection and full transmission. As the
    metric is 1 - max(1 + d / window), it is that metric with squares in place of the maximum. ``deep`` is the
    literature's loss for windows that begin at 0.9 of their depth, softplus((d + 0.9 depth) / smallest window)^2; the
    depth is the window if that has one bound, and half of it if it has two. ``norm`` is the 6-norm, over ports and
    wavelengths, of what ``square`` squares: nearly one minus the metric, with a slope at every bound. ``tight`` is the
    literature's loss for windows that are tighter by the smallest window: a reflection then is pressed down to zero,
    while a wide window still asks for no more than a percent beyond its bound.

    Args:
        spec: windows.
        wavelengths: how many.
        device: of S.
        kind: ``spec``, ``margin``, ``square``, ``deep``, ``norm`` or ``tight``.
        sharpness: k.
    """

    def __init__(
        self, spec: Spec, wavelengths: int, device: torch.device, kind: str = "spec", sharpness: float = 8.0
    ) -> None:
        self.kind = kind
        self.lower, self.upper = (bound.to(device) for bound in spec.windows(wavelengths))
        own = self.upper - self.lower
        self.window = own
        smallest = torch.full_like(own, float(own.min()))
        self.shift = {
            "deep": 0.9 * own / torch.where((self.lower > 0) & (self.upper < 1), 2.0, 1.0), "tight": smallest,
        }.get(kind, torch.zeros_like(own))  # fmt: skip
        self.is_bounded = ((self.lower > 0) | (self.upper < 1)).to(own.dtype)
        self.scale, self.sharpness = (
            (smallest, 1.0) if kind in ("spec", "deep", "tight") else (own / sharpness, sharpness)
        )

    def distance(self, s: Tensor) -> Tensor:
        """Signed distances [B, L, P] in power of S [B, L, P, 1]."""
        return signed_distance(s[..., 0].abs() ** 2, self.lower, self.upper)

    def loss(self, s: Tensor) -> Tensor:
        """[B]."""
        if self.kind in ("square", "norm"):
            short = ((1.0 + self.distance(s) / self.window) * self.is_bounded).clamp_min(0.0)
            return (short**2).sum(-1).mean(-1) if self.kind == "square" else (short**6).flatten(1).sum(-1) ** (1 / 6)
        parts = torch.nn.functional.softplus((self.distance(s) + self.shift) / self.scale) / self.sharpness
        return (parts**2).sum(-1).mean(-1)

    def metric(self, s: Tensor) -> Tensor:
        """[B], > 0 = spec met."""
        return -(self.distance(s) / self.window).flatten(1).amax(1)
