"""Neighborhood of a plan: shift one group, or swap two groups of different devices."""

from __future__ import annotations

import numpy as np

from problems.sharding.oracle import PlacementOracle
from problems.sharding.symmetry import Index
from solvers.oracle import Array


def neighbors(oracle: PlacementOracle, choice: Index, busy: Array, *, count: int, rng: np.random.Generator) -> Index:
    """Up to ``count`` distinct, feasible, canonical neighbors of a choice [G], as [K, G].

    Half of the moves start on a busy device (drawn by the rank of its time), where an improvement of a step time has
    to begin, half anywhere. All shifts and swaps are drawn from at once; those that break a rule are dropped.

    Args:
        oracle: knows what is feasible and canonical.
        choice: [G] device of each group.
        busy: [D] time of each device.
        count: how many at most.
        rng: source of randomness.
    """
    groups, devices = oracle.placement.allowed.shape
    if groups == 0 or devices < 2 or count < 1:
        return np.zeros((0, groups), dtype=np.int64)
    draws = 4 * count + 16
    first = _draw_groups(choice, busy, draws, rng)
    is_swap = (rng.random(draws) < 0.5) & (groups > 1)
    second = rng.integers(0, groups, draws)
    target = np.where(is_swap, choice[second], rng.integers(0, devices, draws))
    moved = np.tile(choice, (draws, 1))
    rows = np.arange(draws)
    source = choice[first]
    moved[rows, first] = target
    moved[rows[is_swap], second[is_swap]] = source[is_swap]
    keep = (source != target) & oracle.allows(moved) & oracle.fits(moved)
    found = oracle.canonical(moved[keep])
    found = found[(found != oracle.canonical(choice[None])).any(axis=1)]
    _, index = np.unique(found, axis=0, return_index=True)
    return found[np.sort(index)[:count]]


def _draw_groups(choice: Index, busy: Array, draws: int, rng: np.random.Generator) -> Index:
    """Groups to move: every other one from a device drawn with weight 2^-rank, the busiest first."""
    groups, devices = len(choice), len(busy)
    first = rng.integers(0, groups, draws)
    rank = np.minimum(rng.geometric(0.5, draws) - 1, devices - 1)
    device = np.argsort(-busy, kind="stable")[rank]
    order = np.argsort(choice, kind="stable")
    start = np.searchsorted(choice[order], np.arange(devices))
    size = np.bincount(choice, minlength=devices)
    on_busy = (np.arange(draws) % 2 == 0) & (size[device] > 0)
    pick = start[device] + np.floor(rng.random(draws) * size[device]).astype(np.int64)
    first[on_busy] = order[pick[on_busy]]
    return first
