"""The fixed border: the brush rule with the real surroundings of the design, and a border that continues the guides.

Under the free rule of `problems.photonics.brush` a touch is clipped at the design's edge and the outside never blocks
it. Under the fixed rule the design is seen on a larger canvas that shows what is really around it: solid where a guide
arrives, void elsewhere. A border of ``depth`` pixels inside the design equals what is next to it outside, as public
leaderboards ask for, and solid and void of the whole canvas must be paintable. The fixed rule is the stricter one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from problems.photonics.brush import BoolArray, Brush, unpaintable
from problems.photonics.geometry import Device
from surco.errors import InvalidInputError


@dataclass(frozen=True, slots=True, eq=False)
class Border:
    """What surrounds a design.

    Attributes:
        margin: pixels of the canvas around the design.
        depth: pixels of the fixed border inside the design.
        fixed: [H + 2 margin, W + 2 margin] int8: 1 = solid, 0 = void, -1 = free to design.
        outward: same shape, bool: every pixel as its nearest fixed one, that is with the guides going straight on.
    """

    margin: int
    depth: int
    fixed: NDArray[np.int8]
    outward: BoolArray

    @property
    def inside(self) -> tuple[slice, slice]:
        """The design's part of the canvas."""
        m = self.margin
        return (slice(m, self.fixed.shape[0] - m), slice(m, self.fixed.shape[1] - m))

    def canvas(self, design: NDArray[Any]) -> BoolArray:
        """[..., H, W] designs on their canvas, the fixed border included as it is in the design."""
        solid = np.asarray(design, dtype=np.float64) > 0.5
        out = np.broadcast_to(self.outward, (*solid.shape[:-2], *self.outward.shape)).copy()
        out[(..., *self.inside)] = solid
        return out

    def broken(self, design: NDArray[Any], brush: Brush) -> BoolArray:
        """[..., H, W] pixels that break the rule: unpaintable on the canvas, or unlike the fixed border.

        A surrounding pixel that cannot be painted any more counts at the design pixel next to it.
        """
        full = self.canvas(design)
        lost = unpaintable(full, brush)
        rows, cols = self.inside
        bad = lost[(..., rows, cols)].copy()
        outside = lost.copy()
        outside[(..., rows, cols)] = False
        for index in np.argwhere(outside):
            i, j = (int(np.clip(index[-2 + a] - self.margin, 0, bad.shape[-2 + a] - 1)) for a in (0, 1))
            bad[(*index[:-2], i, j)] = True
        fixed = self.fixed[rows, cols]
        return bad | ((fixed >= 0) & (full[(..., rows, cols)] != (fixed == 1)))


def fixed_border(device: Device, brush: Brush, *, depth: int = 1) -> Border:
    """The surroundings of a device's design region.

    Raises:
        InvalidInputError: the device shows less than one brush around the design, or has gray surroundings.
    """
    margin, (i0, j0, i1, j1) = brush.diameter, device.box
    nx, ny = device.shape
    if min(i0, j0, nx - i1, ny - j1) < margin:
        raise InvalidInputError(
            f"Expected at least {margin} cells around the design of {device.name} for the fixed border."
        )
    around = device.density[i0 - margin : i1 + margin, j0 - margin : j1 + margin]
    height, width = around.shape
    x, y = np.mgrid[:height, :width]
    gaps = np.stack([x - margin, height - 1 - margin - x, y - margin, width - 1 - margin - y])  # >= 0 inside
    nearest, gap = gaps.argmin(0), gaps.min(0)
    source_x = np.select([nearest == 0, nearest == 1], [margin - 1, height - margin], x)
    source_y = np.select([nearest == 2, nearest == 3], [margin - 1, width - margin], y)
    outward = np.where(gap >= 0, around[source_x, source_y], around)
    if not np.isin(outward, (0.0, 1.0)).all():
        raise InvalidInputError(f"Expected solid or void around the design of {device.name}, got values between.")
    solid = outward > 0.5
    return Border(margin, depth, np.where(gap < depth, solid, -1).astype(np.int8), solid)
