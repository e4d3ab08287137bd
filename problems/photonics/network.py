"""The surrogate of photonic families: what surrounds the design in, latent pixels and costs out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from problems.photonics.brush import Brush

SHARPNESS = 8.0


class DesignNetwork(nn.Module):
    """Convolutions over the design box, the brush filter, tanh.

    A device is no translation-invariant picture: next to the guides' channels and coordinates each pixel has a learned
    embedding, and every layer is scaled and shifted by the context (guide widths and lengths).

    Features: ``pixel`` [B, C, H, W], ``context`` [B, G], ``variables`` [B, H, W].

    Args:
        channels: C.
        context: G.
        shape: (H, W).
        brush: of the filter.
        hidden: width.
        layers: convolutions.
        embedding: learned channels of a pixel.
    """

    def __init__(
        self,
        channels: int,
        context: int,
        shape: tuple[int, int],
        brush: Brush,
        *,
        hidden: int = 24,
        layers: int = 3,
        embedding: int = 16,
    ) -> None:
        super().__init__()
        self.embedding = nn.Parameter(0.3 * torch.randn(embedding, *shape))
        self.first = nn.Conv2d(channels + embedding, hidden, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(hidden, hidden, 3, padding=1) for _ in range(layers - 1))
        self.films = nn.ModuleList(
            nn.Sequential(nn.Linear(context, hidden), nn.GELU(), nn.Linear(hidden, 2 * hidden)) for _ in range(layers)
        )
        self.last = nn.Conv2d(hidden, 1, 1)
        with torch.no_grad():  # start around the solid design, as the latents of pass-through do
            self.last.weight.mul_(0.3)
            torch.nn.init.constant_(self.last.bias, 0.15)  # type: ignore[arg-type]
        low = brush.diameter // 2
        self.pad = (low, brush.diameter - 1 - low) * 2
        kernel = torch.from_numpy(brush.mask).float()
        self.register_buffer("kernel", (kernel / kernel.sum())[None, None], persistent=False)

    def latent(self, features: dict[str, Tensor]) -> Tensor:
        """Latent pixels [B, H, W], what pass-through learns for one device."""
        pixel, context = features["pixel"], features["context"]
        x = self.first(torch.cat([pixel, self.embedding.expand(len(pixel), -1, -1, -1)], 1))
        for number, film in enumerate(self.films):
            scale, shift = film(context)[..., None, None].chunk(2, 1)
            x = nn.functional.gelu(x * (1 + scale) + shift)
            if number < len(self.layers):
                x = x + self.layers[number](x)
        return self.last(x)[:, 0]

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Costs [B, H, W], between -1 and 1."""
        padded = nn.functional.pad(self.latent(features)[:, None], self.pad, mode="replicate")
        kernel = self.get_buffer("kernel")
        return -torch.tanh(SHARPNESS * nn.functional.conv2d(padded, kernel)[:, 0]) * features["variables"]
