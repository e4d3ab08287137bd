"""Checks that every native oracle makes on points it did not make."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from solvers.oracle import Array

ROUNDING = 1e-9
"""Relative violations below this are float rounding and count as zero."""


def as_points(x: object, n: int) -> tuple[Array, NDArray[np.bool_]]:
    """Points [..., n] as float64 with zeros in place of what is not finite, and which points are finite, [...].

    Raises:
        ValueError: the last axis is not ``n``.
    """
    points = np.asarray(x, dtype=np.float64)
    if points.shape[-1:] != (n,):
        raise ValueError(f"Expected points of shape [..., {n}], got {list(points.shape)}.")
    finite = np.isfinite(points)
    if finite.all():
        return points, np.ones(points.shape[:-1], bool)
    return np.where(finite, points, 0.0), np.asarray(finite.all(axis=-1))


def not_binary(points: Array) -> Array:
    """Largest distance of an entry from {0, 1}, [..., n] -> [...]; float rounding counts as zero."""
    worst = np.minimum(np.abs(points), np.abs(points - 1.0)).max(axis=-1, initial=0.0)
    return np.where(worst <= ROUNDING, 0.0, worst)


def above(values: Array, limits: Array) -> Array:
    """Largest excess of ``values`` [..., m] over ``limits`` [m], [...]; float rounding counts as zero."""
    excess = values - limits
    excess = np.where(excess <= ROUNDING * np.maximum(1.0, np.abs(limits)), 0.0, excess)
    return excess.max(axis=-1, initial=0.0)


def away(values: Array, targets: Array) -> Array:
    """Largest distance of ``values`` [..., m] from ``targets`` [m], [...]; float rounding counts as zero."""
    distance = np.abs(values - targets)
    distance = np.where(distance <= ROUNDING * np.maximum(1.0, np.abs(targets)), 0.0, distance)
    return distance.max(axis=-1, initial=0.0)


def settle(finite: NDArray[np.bool_], *violations: Array) -> Array:
    """The largest of some violations [...]; inf where a point is not ``finite`` [...]."""
    worst = violations[0]
    for other in violations[1:]:
        worst = np.maximum(worst, other)
    return np.where(finite, worst, np.inf)
