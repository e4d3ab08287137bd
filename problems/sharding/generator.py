"""Seeded tables in the manner of production recommendation models."""

from __future__ import annotations

import math

import numpy as np

from problems.sharding.access import ZipfMandelbrot
from problems.sharding.tables import Table

MAX_ROWS = 10**8
MAX_TOUCHED_ROWS = 10**7
DIMS = (4, 8, 16, 32, 64, 128)


def dlrm_tables(
    count: int,
    *,
    rng: np.random.Generator,
    dims: tuple[int, ...] = DIMS,
    mean_rows: float = 4.1e6,
    rows_sigma: float = 2.0,
    mean_pooling: float = 15.8,
    pooling_sigma: float = 1.6,
) -> tuple[Table, ...]:
    """Draw ``count`` tables.

    rows ~ lognormal(mean ``mean_rows``, sigma ``rows_sigma``), 100 to 1e8; pooling ~ lognormal(mean ``mean_pooling``,
    sigma ``pooling_sigma``), 0.05 to 300; dim uniform from ``dims``; access Zipf-Mandelbrot (k + q)^-1.1 over R touched
    rows, R ~ lognormal(mean 2e6, sigma 1.5) * pooling / mean pooling, up to the rows; q = R lognormal(median 3e-3,
    sigma 1.5).

    Note: R was fitted to the published totals of the 856 tables of the DLRM data sets (2021, batch 65536): 6.9 lookups
    per distinct row, 150,000 distinct rows a table, 47 % of them used once; the draw gives 6.6 to 6.9, 133,000 to
    156,000 and 46 %. The totals fix no spread from table to table: the sigmas of rows and pooling are guesses, so vary
    them before drawing conclusions.
    """
    rows = np.clip(_lognormal(rng, mean_rows, rows_sigma, count), 100, MAX_ROWS).astype(np.int64)
    pooling = np.clip(_lognormal(rng, mean_pooling, pooling_sigma, count), 0.05, 300.0)
    dim = rng.choice(np.array(dims), size=count)
    touched = _lognormal(rng, 2e6, 1.5, count) * pooling / mean_pooling
    touched = np.clip(touched, 1, np.minimum(rows, MAX_TOUCHED_ROWS)).astype(np.int64)
    shift = touched * 3e-3 * np.exp(1.5 * rng.standard_normal(count))
    return tuple(
        Table(
            f"table_{t}",
            rows=int(rows[t]),
            dim=int(dim[t]),
            pooling_factor=round(float(pooling[t]), 4),
            access=ZipfMandelbrot(touched_rows=int(touched[t]), exponent=1.1, shift=round(float(shift[t]), 4)),
        )
        for t in range(count)
    )


def _lognormal(rng: np.random.Generator, mean: float, sigma: float, count: int) -> np.ndarray:
    """Lognormal draws of a given arithmetic mean."""
    return np.exp(math.log(mean) - sigma**2 / 2 + sigma * rng.standard_normal(count))
