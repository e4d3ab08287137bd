"""Additive models of measured times, from naive to best fitted: what a cost network must beat to be worth its while.

Each takes the readings that are not held out and predicts all of them, [N] -> [N]. Least squares is on relative
errors (rows divided by the measured time), as times span orders of magnitude.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from problems.sharding.measured.features import quantities, sums
from problems.sharding.measured.records import Campaign

Array = NDArray[np.float64]
RIDGE = 0.03  # of a table's value against the readings' relative errors


def sum_of_singles(campaign: Campaign, times: Array) -> Array:
    """[N], sum of what each table takes alone at the same batch; NaN where a table was never measured alone."""
    alone: dict[tuple[int, int], list[float]] = {}
    for members, batch, time in zip(campaign.members, campaign.batch, times, strict=True):
        if len(members) == 1:
            alone.setdefault((int(members[0]), int(batch)), []).append(float(time))
    value = {key: float(np.median(found)) for key, found in alone.items()}
    return np.array(
        [
            sum(value.get((int(t), int(batch)), np.nan) for t in members)
            for members, batch in zip(campaign.members, campaign.batch, strict=True)
        ]
    )


def affine_in_singles(campaign: Campaign, times: Array) -> Array:
    """[N], a + b * sum of singles + c * number of tables; NaN where a single is missing."""
    singles = sum_of_singles(campaign, times)
    count = np.array([len(members) for members in campaign.members], dtype=float)
    design = np.stack([np.ones_like(count), singles, count], axis=1)
    known = np.isfinite(singles)
    return design @ _relative_least_squares(design, times, known & ~campaign.is_held_out)


def linear_in_features(campaign: Campaign, times: Array) -> Array:
    """[N], an intercept and a non-negative weight of each of the numbers that add up (``SUMS``)."""
    design = np.zeros((len(times), 7))
    design[:, 0] = 1.0
    for batch in np.unique(campaign.batch):
        table = sums(quantities(campaign.tables, int(batch)))
        for n in np.flatnonzero(campaign.batch == batch):
            design[n, 1:] = table[campaign.members[n]].sum(0)
    return design @ _non_negative(design, times, ~campaign.is_held_out)


def value_per_table(campaign: Campaign, times: Array) -> Array:
    """[N], for each batch size an intercept and a non-negative value of each table, with a small ridge.

    Knows the pool's tables only: a bound on additive models, of no use for a table never measured.
    """
    predicted = np.full(len(times), np.nan)
    for batch in np.unique(campaign.batch):
        rows = np.flatnonzero(campaign.batch == batch)
        design = np.zeros((len(rows), len(campaign.tables) + 1))
        design[:, 0] = 1.0
        for k, n in enumerate(rows):
            design[k, 1 + campaign.members[n]] = 1.0
        train = ~campaign.is_held_out[rows]
        if not train.any():
            continue
        ridge = np.zeros((len(campaign.tables), design.shape[1]))
        typical = float(np.median(times[rows][train])) / 10.0
        ridge[:, 1:] = np.eye(len(campaign.tables)) * RIDGE / typical
        weighted = np.concatenate([design[train] / times[rows][train, None], ridge])
        values, _ = nnls(weighted, np.concatenate([np.ones(int(train.sum())), np.zeros(len(ridge))]))
        predicted[rows] = design @ values
    return predicted


def _relative_least_squares(design: Array, times: Array, rows: NDArray[np.bool_]) -> Array:
    weights, *_ = np.linalg.lstsq(design[rows] / times[rows, None], np.ones(int(rows.sum())), rcond=None)
    return weights.astype(np.float64)


def _non_negative(design: Array, times: Array, rows: NDArray[np.bool_]) -> Array:
    scale = np.abs(design[rows]).max(0)
    scale[scale == 0] = 1.0
    weights, _ = nnls(design[rows] / scale / times[rows, None], np.ones(int(rows.sum())))
    return weights / scale
