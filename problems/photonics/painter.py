"""The painter: a greedy, always feasible answer to max reward . x over the designs a brush can paint.

Two sets of touches grow, one of solid and one of void. A touch is legal while it covers nothing of the other color. A
pixel that no legal touch of one color can reach any more is forced to the other. In each round the painter takes
  1. any touch that covers only painted or forced pixels of its own color (it costs the other color nothing), else
  2. the best-paying legal touch that covers a forced pixel, else
  3. the best-paying legal touch of all,
where a touch pays the sum of rewards of the pixels it newly paints (minus it, for void). Every pixel is painted once,
every touch becomes illegal once, so that one call costs O(pixels x brush area); the best touch is found through
maxima of blocks of touches, of which only the changed ones are looked at again.

Source: the conditional generator of Schubert et al., ACS Photonics 9, 2327 (2022), with their rule that a touch is
scored by the reward under it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from problems.photonics.border import Border
from problems.photonics.brush import Brush, Symmetry, orbits
from surco.errors import InvalidInputError, MissingExtraError

FloatArray = NDArray[np.float64]
Int32Array = NDArray[np.int32]
_BLOCK = 32


@dataclass(frozen=True, slots=True, eq=False)
class Incidence:
    """Which touch covers which pixel class, both ways, as compressed rows.

    Attributes:
        classes: [H, W] class of each pixel.
        weight: [n] pixels in each class.
        touch_start: [m + 1], touch_pixel: classes under each touch.
        pixel_start: [n + 1], pixel_touch: touches over each class.
    """

    classes: NDArray[np.int64]
    weight: FloatArray
    touch_start: Int32Array
    touch_pixel: Int32Array
    pixel_start: Int32Array
    pixel_touch: Int32Array

    @property
    def n(self) -> int:
        """Number of pixel classes."""
        return len(self.weight)


def incidence(shape: tuple[int, int], brush: Brush, symmetry: Symmetry = Symmetry.NONE) -> Incidence:
    """Incidence of a brush on a design; under a symmetry, a touch stands for all its mirror images."""
    if min(shape) < brush.diameter:
        raise InvalidInputError(f"Expected a design of at least {brush.diameter} pixels a side, got {shape}.")
    mirrored = brush.mask[::-1], brush.mask[:, ::-1], brush.mask.T
    if symmetry is not Symmetry.NONE and not all(np.array_equal(brush.mask, other) for other in mirrored):
        raise InvalidInputError("Expected a brush with the symmetries of a square for a symmetric design.")
    classes = orbits(shape, symmetry)
    rows, cols = brush.touch_shape(shape)
    a, b = (index.ravel() for index in np.mgrid[:rows, :cols])
    touch, pixel = [], []
    for di, dj in brush.offsets:
        i, j = a + di, b + dj
        inside = (i >= 0) & (i < shape[0]) & (j >= 0) & (j < shape[1])
        touch.append(np.flatnonzero(inside))
        pixel.append(classes[i[inside], j[inside]])
    own = orbits((rows, cols), symmetry).ravel()[np.concatenate(touch)]
    pairs = np.unique(np.stack([own, np.concatenate(pixel)], 1), axis=0)
    touch_start = np.searchsorted(pairs[:, 0], np.arange(own.max() + 2)).astype(np.int32)
    back = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]
    count = int(classes.max()) + 1
    pixel_start = np.searchsorted(back[:, 1], np.arange(count + 1)).astype(np.int32)
    return Incidence(
        classes,
        np.bincount(classes.ravel()).astype(float),
        touch_start,
        pairs[:, 1].astype(np.int32),
        pixel_start,
        back[:, 0].astype(np.int32),
    )


def border_touches(table: Incidence, border: Border) -> Int32Array:
    """Touches 2 t + color that paint every fixed class of a canvas and reach least into the free part.

    Each lies wholly in its color of the pattern in which the guides go straight on, so that none is in another's way.

    Raises:
        InvalidInputError: the brush cannot paint the surroundings.
    """
    n, m = table.n, len(table.touch_start) - 1
    fixed, pattern = np.full(n, -1, np.int8), np.zeros(n, bool)
    fixed[table.classes], pattern[table.classes] = border.fixed, border.outward
    owner = np.repeat(np.arange(m), np.diff(table.touch_start))
    free = np.bincount(owner, fixed[table.touch_pixel] < 0, m)
    chosen: list[int] = []
    for color in (0, 1):
        foreign = np.bincount(owner, pattern[table.touch_pixel] != (color == 0), m)
        missing = fixed == 1 - color
        for t in sorted(np.flatnonzero(foreign == 0), key=lambda t: free[t]):
            pixels = table.touch_pixel[table.touch_start[t] : table.touch_start[t + 1]]
            if missing[pixels].any():
                missing[pixels] = False
                chosen.append(2 * int(t) + color)
        if missing.any():
            raise InvalidInputError("Expected a brush that can paint what surrounds the design. Try a smaller one.")
    return np.array(chosen, np.int32)


@cache
def _kernels() -> tuple[Callable[..., Any], Callable[..., Any]]:
    try:
        from problems.photonics.painter_kernel import improve, paint
    except ImportError as error:
        raise MissingExtraError("The painter needs numba: pip install 'surco[photonics]'") from error
    return paint, improve


class Painter:
    """Paints rewards into feasible designs.

    Args:
        shape: (H, W) of the design.
        brush: what can be painted.
        symmetry: mirror symmetry of all designs; the variables are then the pixel classes.
        threads: rows of a batch painted at once.
        sweeps: rounds of local improvement after each painting; 0 for none.
        border: what surrounds the design, for the fixed border; None for the free one.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        brush: Brush,
        symmetry: Symmetry = Symmetry.NONE,
        *,
        threads: int = 1,
        sweeps: int = 0,
        border: Border | None = None,
    ) -> None:
        self.shape, self.brush, self.symmetry, self.threads, self.sweeps = shape, brush, symmetry, threads, sweeps
        self.border = border
        self.incidence = incidence(shape, brush, symmetry)
        self._table, self._start = self.incidence, np.zeros(0, np.int32)
        self._place = np.arange(self.n)  # where the classes of the design are among those of the table
        self._guard = np.zeros(self.n)
        if border is not None:
            self._table = incidence((border.fixed.shape[0], border.fixed.shape[1]), brush, symmetry)
            self._start = border_touches(self._table, border)
            self._place[self.incidence.classes] = self._table.classes[border.inside]
            self._guard = np.zeros(self._table.n)
            self._guard[self._table.classes] = np.where(border.fixed < 0, 0.0, 2.0 * border.fixed - 1.0)

    @property
    def n(self) -> int:
        """Number of variables (pixel classes)."""
        return self.incidence.n

    def expand(self, x: NDArray[Any]) -> NDArray[Any]:
        """[..., n] classes to [..., H, W] pixels."""
        return x[..., self.incidence.classes]

    def collapse(self, pixels: FloatArray) -> FloatArray:
        """Sum of a pixel quantity [..., H, W] over each class, [..., n]."""
        flat = pixels.reshape(-1, pixels.shape[-2] * pixels.shape[-1])
        sums = [np.bincount(self.incidence.classes.ravel(), row, self.n) for row in flat]
        out = np.asarray(np.stack(sums), dtype=np.float64)
        return out.reshape(*pixels.shape[:-2], self.n)

    def compile(self) -> None:
        """Compile the loops, or load them: the first time it takes seconds that belong to no painting."""
        nothing = np.zeros((1, self.n))
        self.improve(self.paint(nothing), nothing, sweeps=1)

    def paint(self, reward: FloatArray) -> NDArray[np.int8]:
        """Paint a batch.

        Args:
            reward: [B, n] float64, what each class pays for being solid (the sum over its pixels).

        Returns:
            [B, n] int8, 1 = solid; every row feasible.

        Raises:
            InvalidInputError: a reward that is not finite, or of the wrong shape.
        """
        return self._map(self._paint_row, self._checked(reward))

    def improve(self, x: NDArray[Any], reward: FloatArray, *, sweeps: int = 4) -> NDArray[np.int8]:
        """Improve feasible designs by single touches: a warm start from the answer to an earlier reward.

        Args:
            x: [B, n] feasible designs.
            reward: [B, n] float64.
            sweeps: passes over all touches at most.

        Returns:
            [B, n] int8, feasible, no row worse than ``x``.

        Raises:
            InvalidInputError: as `paint`.
        """
        reward = self._checked(reward)
        if x.shape != reward.shape:
            raise InvalidInputError(f"Expected `x` of shape {list(reward.shape)}, got {list(x.shape)}.")
        start = (np.asarray(x) > 0.5).astype(np.int8)
        return self._map(
            lambda pair: self._improve_row(pair[0], pair[1], sweeps), list(zip(start, reward, strict=True))
        )

    def _checked(self, reward: FloatArray) -> FloatArray:
        reward = np.ascontiguousarray(reward, dtype=np.float64)
        if reward.ndim != 2 or reward.shape[1] != self.n:
            raise InvalidInputError(f"Expected `reward` of shape [B, {self.n}], got {list(reward.shape)}.")
        if not np.isfinite(reward).all():
            raise InvalidInputError("Expected finite rewards, got NaN or infinity. Try smaller steps of the costs.")
        return reward

    def _map(self, function: Callable[[Any], NDArray[np.int8]], rows: Any) -> NDArray[np.int8]:
        if self.threads > 1 and len(rows) > 1:
            with ThreadPoolExecutor(self.threads) as pool:
                done = list(pool.map(function, rows))
        else:
            done = [function(row) for row in rows]
        return np.stack(done) if done else np.zeros((0, self.n), np.int8)

    def _paint_row(self, reward: FloatArray) -> NDArray[np.int8]:
        scale = np.abs(reward).max()
        table = self._table
        unit = np.zeros(table.n)
        unit[self._place] = reward / scale if scale > 0 else reward
        color, is_complete = _kernels()[0](
            unit, table.touch_start, table.touch_pixel, table.pixel_start, table.pixel_touch, self._start, _BLOCK
        )
        if not is_complete:
            raise RuntimeError("The painter left a pixel that neither color can reach; please report this reward.")
        x = (color == 0).astype(np.int8)
        x = x[self._place]
        return self._improve_row(x, reward, self.sweeps) if self.sweeps else x

    def _improve_row(self, x: NDArray[np.int8], reward: FloatArray, sweeps: int) -> NDArray[np.int8]:
        scale, table = np.abs(reward).max(), self._table
        if scale == 0:
            return x
        reach = 6 * self.brush.offsets.shape[0]
        unit, full = self._guard * (4.0 * table.n), (self._guard > 0).astype(np.int8)  # no move pays for the border
        free = self._guard[self._place] == 0
        unit[self._place[free]] = (reward / scale)[free]
        full[self._place] = x
        better, _ = _kernels()[1](
            full, unit, table.touch_start, table.touch_pixel, table.pixel_start, table.pixel_touch, sweeps, reach
        )
        return better[self._place]
