"""Brushes, symmetries, and the rule that a design must obey to be fabricated with a brush.

A design x of H x W pixels is feasible when both its solid and its void can be painted: a set of solid touches and a set
of void touches exist such that x is the union of the solid ones and its complement the union of the void ones.
Equivalently the morphological opening of the solid, and of the void, by the brush leaves each unchanged.

Border rule: a touch may be centered anywhere in the closed design rectangle (on pixel centers for odd brushes, on pixel
corners for even ones) and is clipped at the border; what lies outside never blocks a touch. This is stricter than an
opening with replicated edges, which would accept one-pixel slivers along the border.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surco.errors import InvalidInputError

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Brush:
    """A brush: boolean [d, d], and the name it came from."""

    name: str
    mask: BoolArray

    @property
    def diameter(self) -> int:
        """Side of the bounding square, pixels."""
        return int(self.mask.shape[0])

    @property
    def offsets(self) -> IntArray:
        """[k, 2] pixel offsets from a touch; a touch of an even brush sits on the pixel's lower corner."""
        return np.argwhere(self.mask) - self.diameter // 2

    def touch_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Touch positions along each axis of a design: one more than pixels for even brushes."""
        extra = 1 - self.diameter % 2
        return (shape[0] + extra, shape[1] + extra)


def circle(diameter: int) -> Brush:
    """Pixels whose centers lie within half a diameter of the center; the circle of 3 is the cross of 5 pixels."""
    if diameter < 1:
        raise InvalidInputError(f"Expected a brush diameter of at least 1 pixel, got {diameter}.")
    if diameter == 3:
        return Brush("circle-3px", cross().mask)
    center = np.arange(diameter) - (diameter - 1) / 2
    mask = center[:, None] ** 2 + center**2 <= (diameter / 2) ** 2
    return Brush(f"circle-{diameter}px", mask)


def cross() -> Brush:
    """The 3 x 3 plus of 5 pixels."""
    mask = np.zeros((3, 3), bool)
    mask[1], mask[:, 1] = True, True
    return Brush("cross", mask)


def notched_square(side: int) -> Brush:
    """Square without its four corner pixels: gives a width and spacing rule of side - 2 pixels."""
    if side < 3:
        raise InvalidInputError(f"Expected a notched square of at least 3 pixels, got {side}.")
    mask = np.ones((side, side), bool)
    mask[[0, 0, -1, -1], [0, -1, 0, -1]] = False
    return Brush(f"notched-{side}px", mask)


def parse_brush(text: str, grid_nm: float) -> Brush:
    """``cross``, ``circle-9px``, ``circle-100nm``, ``notched-10px`` or ``notched-100nm`` on a grid of ``grid_nm``."""
    if text == "cross":
        return cross()
    match = re.fullmatch(r"(circle|notched)-(\d+(?:\.\d+)?)(px|nm)", text)
    if match is None:
        raise InvalidInputError(f"Expected a brush such as cross, circle-9px or notched-100nm, got {text!r}.")
    size = float(match[2]) / (grid_nm if match[3] == "nm" else 1.0)
    if abs(size - round(size)) > 1e-9:
        raise InvalidInputError(f"Expected a brush of a whole number of {grid_nm:g} nm pixels, got {text!r}.")
    return circle(round(size)) if match[1] == "circle" else notched_square(round(size))


class Symmetry(enum.StrEnum):
    """Mirror symmetries that a design can be held to."""

    NONE = "none"
    DIAGONAL = "diagonal"  # x[i, j] = x[j, i]
    X = "x"  # mirrored along the first axis
    Y = "y"  # mirrored along the second axis
    XY = "xy"


def orbits(shape: tuple[int, int], symmetry: Symmetry) -> IntArray:
    """[H, W] class index of each pixel; pixels of one class always have the same value. Classes count from 0."""
    height, width = shape
    if symmetry is Symmetry.DIAGONAL and height != width:
        raise InvalidInputError(f"Expected a square design for the diagonal symmetry, got {shape}.")
    i, j = np.mgrid[:height, :width]
    if symmetry in (Symmetry.X, Symmetry.XY):
        i = np.minimum(i, height - 1 - i)
    if symmetry in (Symmetry.Y, Symmetry.XY):
        j = np.minimum(j, width - 1 - j)
    if symmetry is Symmetry.DIAGONAL:
        i, j = np.minimum(i, j), np.maximum(i, j)
    _, index = np.unique(i * width + j, return_inverse=True)
    return index.reshape(shape)


def open_design(solid: BoolArray, brush: Brush) -> BoolArray:
    """Opening of a boolean design [..., H, W] under the border rule, by shifted copies; independent of the painter."""
    reach = brush.diameter
    height, width = solid.shape[-2:]
    rows, cols = brush.touch_shape((height, width))
    pad = [(0, 0)] * (solid.ndim - 2) + [(reach, reach), (reach, reach)]
    padded = np.pad(solid, pad, constant_values=True)
    fits = np.ones((*solid.shape[:-2], rows, cols), bool)
    for di, dj in brush.offsets:
        fits &= padded[..., reach + di : reach + di + rows, reach + dj : reach + dj + cols]
    covered = np.zeros_like(padded)
    for di, dj in brush.offsets:
        covered[..., reach + di : reach + di + rows, reach + dj : reach + dj + cols] |= fits
    return covered[..., reach : reach + height, reach : reach + width]


def unpaintable(design: NDArray[np.generic], brush: Brush) -> BoolArray:
    """[..., H, W] pixels that break the rule: lost by the opening of their own color."""
    solid = np.asarray(design, dtype=np.float64) > 0.5
    return (solid & ~open_design(solid, brush)) | (~solid & ~open_design(~solid, brush))
