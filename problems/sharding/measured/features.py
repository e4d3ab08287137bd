"""What a cost model may know of a table: ten numbers for a network, six that add up for a linear model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from problems.sharding.tables import Table

FEATURES = (
    "rows", "dim", "pooling factor", "samples", "lookups", "distinct rows", "gathered bytes", "distinct bytes",
    "pooled bytes", "weight bytes",
)  # fmt: skip
SUMS = ("tables", "lookups", "distinct rows", "gathered bytes", "distinct bytes", "pooled bytes")


def quantities(tables: Sequence[Table], samples: int) -> NDArray[np.float64]:
    """[T, 10] plain numbers in the order of ``FEATURES``, for a call of ``samples`` samples.

    Distinct rows are expected ones, from the table's access law.
    """
    rows = np.zeros((len(tables), len(FEATURES)))
    for t, table in enumerate(tables):
        lookups = table.pooling_factor * samples
        distinct = table.access.distinct_rows(table.rows, lookups) if lookups > 0 else 0.0
        size = table.row_bytes
        rows[t] = (
            table.rows, table.dim, table.pooling_factor, samples, lookups, distinct, lookups * size, distinct * size,
            min(1.0, table.pooling_factor) * samples * size, table.rows * size,
        )  # fmt: skip
    return rows


def logarithms(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Network inputs [..., 10]: log(1 + number). The network normalizes them over the pool it was trained on."""
    return np.log1p(numbers)


def sums(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., 6] numbers that add up over the tables of a device, in the order of ``SUMS``, from `quantities`."""
    one = np.ones(numbers.shape[:-1])
    return np.stack([one, *(numbers[..., k] for k in (4, 5, 6, 7, 8))], axis=-1)


def pooled_bytes(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """[...] bytes of pooled output, what an all-to-all moves."""
    return numbers[..., 8]
