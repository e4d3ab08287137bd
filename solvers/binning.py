"""Generalized assignment: every item into one bin, bins with capacities."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from solvers.choice import MultipleChoiceOracle
from solvers.oracle import Array


def generalized_assignment(
    sizes: Any,
    capacities: Any,
    *,
    allowed: Any = None,
    minimum_items: int = 0,
    seconds: float | None = None,
) -> GeneralizedAssignmentOracle:
    """Oracle that assigns each of N items to one of K bins within the capacities.

    Variable ``i * K + k`` is 1 where item i is in bin k, so ``x.reshape(N, K)`` is the assignment.

    Args:
        sizes: [N], the size of each item, or [N, K] where it depends on the bin; >= 0.
        capacities: [K], may be unequal; inf where a bin has no limit.
        allowed: [N, K] bool, bins that an item may be in; all by default.
        minimum_items: least number of items in every bin.
        seconds: wall seconds allowed for each row.

    Raises:
        ValueError: shapes that do not fit, or negative sizes.

    Examples:
        >>> import numpy as np
        >>> oracle = generalized_assignment([4.0, 3.0, 2.0], [5.0, 5.0])
        >>> costs = np.array([[0.0, 9.0], [0.0, 1.0], [0.0, 3.0]])
        >>> oracle.solve(costs.reshape(1, -1)).x.reshape(3, 2).argmax(axis=1).tolist()
        [0, 1, 1]
    """
    return GeneralizedAssignmentOracle(sizes, capacities, allowed=allowed, minimum_items=minimum_items, seconds=seconds)


class GeneralizedAssignmentOracle(MultipleChoiceOracle):
    """{ x in {0,1}^(N x K) : every item in one allowed bin, load of bin k <= capacity k, enough items in every bin }.

    Exact: a compiled branch and bound over the linear relaxation (one price for each bin), see `solvers.choice`.

    Attributes:
        items: N.
        bins: K.
    """

    def __init__(
        self,
        sizes: Any,
        capacities: Any,
        *,
        allowed: Any = None,
        minimum_items: int = 0,
        seconds: float | None = None,
    ) -> None:
        limits = np.asarray(capacities, dtype=np.float64)
        if limits.ndim != 1 or limits.size == 0:
            raise ValueError(f"Expected `capacities` of shape [K], got {list(limits.shape)}.")
        bins = len(limits)
        weights = np.asarray(sizes, dtype=np.float64)
        if weights.ndim == 1:
            weights = np.repeat(weights[:, None], bins, axis=1)
        if weights.ndim != 2 or weights.shape[1] != bins or len(weights) == 0:
            raise ValueError(f"Expected `sizes` of shape [N] or [N, {bins}], got {list(np.shape(sizes))}.")
        if not (np.isfinite(weights) & (weights >= 0)).all():
            raise ValueError("Expected finite sizes >= 0.")
        self.items, self.bins = len(weights), bins
        n = weights.size
        bin_of = np.tile(np.arange(bins), self.items)
        usage = sp.csr_array((weights.ravel(), (bin_of, np.arange(n))), shape=(bins, n))
        minimums = np.full(bins, -np.inf)
        if minimum_items:
            counts = sp.csr_array((np.ones(n), (bin_of, np.arange(n))), shape=(bins, n))
            usage = sp.vstack([usage, counts]).tocsr()
            limits = np.concatenate([limits, np.full(bins, np.inf)])
            minimums = np.concatenate([minimums, np.full(bins, float(minimum_items))])
        if allowed is not None:
            mask = np.asarray(allowed, bool)
            if mask.shape != weights.shape:
                raise ValueError(f"Expected `allowed` of shape {list(weights.shape)}, got {list(mask.shape)}.")
            allowed = mask.ravel()
        super().__init__(
            np.repeat(np.arange(self.items), bins), usage, limits, minimums=minimums, allowed=allowed, seconds=seconds
        )

    def assignment(self, x: Array) -> np.ndarray:
        """Bin of each item, [..., N x K] -> [..., N]."""
        points = np.asarray(x)
        return points.reshape(*points.shape[:-1], self.items, self.bins).argmax(axis=-1)
