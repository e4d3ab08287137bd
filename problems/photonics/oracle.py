"""The brush oracle: min costs . x over the designs that a brush can fabricate."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from problems.photonics.border import Border
from problems.photonics.brush import Brush, Symmetry, unpaintable
from problems.photonics.exact import paint_exact
from problems.photonics.painter import Painter
from solvers.oracle import Array, OracleBatch, Status, as_costs
from surco.errors import InvalidInputError


class BrushOracle:
    """Feasible designs of one shape, brush and symmetry; the variables are the pixel classes.

    Args:
        shape: (H, W).
        brush: what can be painted.
        symmetry: mirror symmetry of every design.
        threads: rows of a batch solved at once.
        sweeps: rounds of local improvement after each painting.
        exact_seconds: solve each row by CP-SAT for so long, started from the painter; None for the painter alone.
        border: what surrounds the design, for the fixed border; None for the free one.

    Note:
        The painter is a heuristic: its rows come back FEASIBLE with the trivial bound sum(min(costs, 0)). Only
        the exact mode reports OPTIMAL.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        brush: Brush,
        symmetry: Symmetry = Symmetry.NONE,
        *,
        threads: int = 1,
        sweeps: int = 0,
        exact_seconds: float | None = None,
        border: Border | None = None,
    ) -> None:
        if border is not None and exact_seconds is not None:
            raise InvalidInputError("Expected the free border in the exact mode. Try `border=None`.")
        self.painter = Painter(shape, brush, symmetry, threads=threads, sweeps=sweeps, border=border)
        self.exact_seconds = exact_seconds

    @property
    def n(self) -> int:
        """Number of variables."""
        return self.painter.n

    def solve(self, costs: Array) -> OracleBatch:
        """Paint each row of ``costs`` [B, n]; a row that is not finite comes back labelled ERROR."""
        costs = as_costs(costs, self.n)
        begin = time.perf_counter()
        is_finite = np.asarray(np.isfinite(costs).all(axis=1))
        x = np.full(costs.shape, np.nan)
        bound = np.full(len(costs), -np.inf)
        bound[is_finite] = np.minimum(costs[is_finite], 0.0).sum(axis=1)
        status = [Status.FEASIBLE if fine else Status.ERROR for fine in is_finite]
        if is_finite.any():
            x[is_finite] = self.painter.paint(-costs[is_finite])
        if self.exact_seconds is not None:
            for row in np.flatnonzero(is_finite):
                answer = paint_exact(self.painter.incidence, -costs[row], seconds=self.exact_seconds, hint=x[row])
                bound[row] = max(bound[row], -answer.bound)
                if answer.x is not None and -answer.value <= costs[row] @ x[row]:
                    x[row], status[row] = answer.x, answer.status
        objective = np.einsum("bn,bn->b", costs, x)
        exact = np.fromiter((s is Status.OPTIMAL for s in status), bool, len(status))
        bound[exact] = objective[exact]
        share = np.full(len(costs), (time.perf_counter() - begin) / max(len(costs), 1))
        message = tuple("" if fine else "costs are not finite" for fine in is_finite)
        return OracleBatch(x, objective, bound, tuple(status), share, message)

    def violation(self, x: Array) -> NDArray[np.float64]:
        """[..., n] -> [...]: pixels that the brush cannot paint, plus the distance of x from 0 and 1."""
        x = np.asarray(x, dtype=np.float64)
        bad = broken(self.painter.expand(x), self.painter.brush, self.painter.border).sum(axis=(-2, -1))
        rounding = np.abs(x - np.clip(np.round(x), 0, 1)).max(axis=-1)
        return bad + np.where(np.isnan(rounding), np.inf, rounding)


def broken(design: NDArray[Any], brush: Brush, border: Border | None) -> NDArray[np.bool_]:
    """[..., H, W] pixels that break the brush rule under the free border or a fixed one, by morphology."""
    return unpaintable(design, brush) if border is None else border.broken(design, brush)
