"""Access statistics of a table: how many distinct rows a batch of lookups touches.

Repeated rows are served from cache, distinct ones come from memory, so the number of distinct rows is what a
bandwidth model needs. Three descriptions are offered: uniform, Zipf-Mandelbrot, and a measured reuse histogram.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from surco.errors import InvalidInputError

REUSE_BIN_EDGES = tuple(float(2**k) for k in range(16))  # upper edges 1, 2, 4, ..., 32768; the last bin is open
REUSE_BINS = len(REUSE_BIN_EDGES) + 1


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every row is equally likely: rows * (1 - (1 - 1/rows)^lookups) distinct rows are expected."""

    def distinct_rows(self, rows: int, lookups: float) -> float:
        """Expected number of distinct rows among ``lookups`` draws from ``rows`` rows."""
        if rows == 1:
            return min(1.0, lookups)
        return -rows * math.expm1(lookups * math.log1p(-1.0 / rows))


@dataclass(frozen=True, slots=True)
class ZipfMandelbrot:
    """Row of rank k is drawn with probability proportional to (k + shift)^-exponent, k = 1 .. touched_rows.

    Attributes:
        touched_rows: number of rows that are ever looked up; capped by the rows of the table.
        exponent: positive; about 1.1 fits public DLRM traces.
        shift: non-negative; flattens the head. A pure power law (0) has too many singletons.
    """

    touched_rows: int
    exponent: float = 1.1
    shift: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.touched_rows, bool) or not isinstance(self.touched_rows, int) or self.touched_rows < 1:
            raise InvalidInputError(f"Expected touched_rows to be an integer of at least 1, got {self.touched_rows!r}.")
        for name, value, is_valid in (
            ("exponent", self.exponent, self.exponent > 0),
            ("shift", self.shift, self.shift >= 0),
        ):
            if not (math.isfinite(value) and is_valid):
                raise InvalidInputError(f"Expected a finite, non-negative {name} (exponent above 0), got {value!r}.")

    def distinct_rows(self, rows: int, lookups: float) -> float:
        """Expected number of distinct rows: sum over k of 1 - (1 - p_k)^lookups.

        The first ranks are summed one by one; the smooth tail is integrated on blocks that grow by 2 percent, each
        represented by its geometric middle (relative error below 1e-3).
        """
        count = min(self.touched_rows, rows)
        low, high = _rank_blocks(count)
        width = high - low + 1.0
        middle = np.sqrt(low * high)
        weight = (middle + self.shift) ** -self.exponent
        probability = np.minimum(weight / np.dot(weight, width), 1.0)
        with np.errstate(divide="ignore"):  # a table of one touched row has probability 1
            seen = -np.expm1(lookups * np.log1p(-probability))
        return float(min(np.dot(seen, width), lookups, count))


@dataclass(frozen=True, slots=True)
class ReuseHistogram:
    """Measured reuse: share of a batch's distinct rows that are looked up (0,1], (1,2], (2,4], ..., >32768 times.

    Attributes:
        shares: 17 non-negative numbers that sum to 1.
    """

    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        shares = np.asarray(self.shares, dtype=float)
        if shares.shape != (REUSE_BINS,) or not np.isfinite(shares).all() or (shares < 0).any():
            raise InvalidInputError(
                f"Expected a reuse histogram of {REUSE_BINS} non-negative shares of the distinct rows "
                f"(used (0,1], (1,2], (2,4], ..., >32768 times), got {len(self.shares)} values: {self.shares!r}."
            )
        if abs(shares.sum() - 1.0) > 1e-3:
            raise InvalidInputError(f"Expected the shares of a reuse histogram to sum to 1, got {shares.sum():.6g}.")

    @property
    def mean_uses(self) -> float:
        """Mean lookups per distinct row; a bin stands for its geometric middle, the open one for 1.5 times its edge."""
        edges = np.asarray(REUSE_BIN_EDGES)
        middle = np.concatenate([[1.0, 2.0], (edges[1:-1] + 1.0 + edges[2:]) / 2.0, [edges[-1] * 1.5]])
        return float(np.dot(self.shares, middle) / np.sum(self.shares))

    def distinct_rows(self, rows: int, lookups: float) -> float:
        """Distinct rows of a batch: lookups over mean uses, never above rows or lookups."""
        return min(float(rows), lookups, lookups / self.mean_uses)


Access = Uniform | ZipfMandelbrot | ReuseHistogram


def _rank_blocks(count: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last rank of blocks that cover 1 .. ``count``: single ranks first, then widths of 2 percent."""
    low: list[float] = []
    high: list[float] = []
    rank = 1
    while rank <= count:
        last = min(count, rank + max(0, int(rank * 0.02) - 1))
        low.append(rank)
        high.append(last)
        rank = last + 1
    return np.asarray(low, dtype=float), np.asarray(high, dtype=float)
