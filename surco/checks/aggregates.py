"""Check of the talent ``aggregates``: points with equal W x must have equal f."""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg import null_space
from torch import Tensor

from solvers.oracle import Array
from surco.bridge import to_numpy, to_torch
from surco.checks.oracle import random_costs
from surco.checks.report import Skipped, expect
from surco.protocols import HasAggregates, Problem, is_differentiable

MOST_VERTICES = 64
MIXTURES = 4


def check_aggregates(problem: Problem, x: Tensor, values: Tensor, rng: np.random.Generator) -> str:
    """Compare designs x [V, n] of known values [V], and mixtures of designs where f is known between them."""
    assert isinstance(problem, HasAggregates)
    w, n = problem.aggregates(), x.shape[1]
    is_right = isinstance(w, Tensor) and w.ndim == 2 and w.shape[1] == n
    came = list(w.shape) if isinstance(w, Tensor) else type(w).__name__
    expect(is_right, f"expected W as a tensor [k, {n}], got {came}.")
    w = w.to(x)
    expect(bool(torch.isfinite(w).all()), "expected finite numbers in W, got NaN or inf.")
    known = torch.isfinite(values)
    x, values = x[known], values[known]
    spread = float(values.max() - values.min()) + 1e-9 * float(values.abs().max())
    pairs = _equal_pairs(w, x)
    for i, j in pairs:
        off = float((values[i] - values[j]).abs())
        expect(off <= 1e-6 * spread + 1e-12, f"two designs with equal W x differ by {off:.3g} in f: W misses a row.")
    mixtures = _check_mixtures(problem, to_numpy(w), to_numpy(x), rng) if is_differentiable(problem) else 0
    if not (pairs or mixtures):
        raise Skipped(f"{len(w)} rows, but no two points with equal W x were met")
    return f"{len(w)} rows, {len(pairs)} pairs of designs and {mixtures} of mixtures with equal W x"


def _equal_pairs(w: Tensor, x: Tensor) -> list[tuple[int, int]]:
    """Indices of distinct designs with equal W x, each design with the first such one."""
    sums = x @ w.T
    size = sums.abs().amax(0).clamp(min=1e-300)
    first: dict[bytes, int] = {}
    pairs = []
    for row, key in enumerate(np.round(to_numpy(sums / size), 12) + 0.0):
        other = first.setdefault(key.tobytes(), row)
        if not torch.equal(x[other], x[row]):
            pairs.append((other, row))
    return pairs


def _check_mixtures(problem: Problem, w: Array, points: Array, rng: np.random.Generator) -> int:
    """Move a mixture of designs along directions that W does not see; returns how many there were.

    A direction is a combination sum_j t_j (v_j - center) of designs v_j with W times it zero. The step keeps every
    weight of the mixture positive, so that f is asked inside the hull only.
    """
    points = _more_points(problem, points, rng, wanted=len(w) + 8)
    weights = rng.dirichlet(np.full(len(points), 5.0))
    center = weights @ points
    spread = points - center
    seen = w @ spread.T
    kernel = null_space(seen / max(float(np.abs(seen).max(initial=0.0)), 1e-300), rcond=1e-9)
    if not kernel.shape[1]:
        return 0
    unseen = rng.standard_normal((MIXTURES, kernel.shape[1])) @ kernel.T
    directions = unseen @ spread
    is_move = np.linalg.norm(directions, axis=1) > 1e-6 * np.linalg.norm(spread)
    if not is_move.any():
        return 0

    def change(t: Array) -> float:
        coefficients = t - weights * t.sum(axis=1, keepdims=True)
        step = 0.5 * weights.min() / np.abs(coefficients).max(axis=1, keepdims=True)
        with torch.no_grad():
            f = problem.objective(to_torch(np.concatenate([center[None], center + step * (t @ spread)]))).double()
        return float((f[1:] - f[0]).abs().max())

    hidden, usual = change(unseen[is_move]), change(rng.standard_normal((MIXTURES, len(points))))
    expect(
        hidden <= 1e-5 * usual,
        f"f changes by {hidden:.3g} where W x stays the same (by {usual:.3g} where it does not): W misses a row.",
    )
    return int(is_move.sum())


def _more_points(problem: Problem, points: Array, rng: np.random.Generator, wanted: int) -> Array:
    """At least ``wanted`` distinct designs where the oracle has them, at most MOST_VERTICES."""
    near = to_numpy(problem.initial_costs())
    for _ in range(8):
        if len(points) >= min(wanted, MOST_VERTICES):
            break
        batch = problem.oracle.solve(random_costs(problem.oracle, rng, near))
        points = np.unique(np.concatenate([points, batch.x[batch.has_point]]), axis=0)
    return points[rng.permutation(len(points))[:MOST_VERTICES]]
