"""Certified lower bounds on joint plans that take milliseconds.

Every plan of value V uses atoms whose own value is at most V. For any weights w_r >= 0 of sum 1 on the ranks,

    V >= sum over features of max_r load >= sum_r w_r load_r >= L(V),
    L(V) = sum over units of min over modes of sum over pieces of min over atoms of own value <= V of sum_r w_r cost.

L does not increase in V, so the least V with L(V) <= V is a lower bound; bisection finds it. Equal weights are best
where ranks are alike (averaging over their names); else the weights follow a subgradient.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from problems.sharding.joint.model import Model
from solvers.oracle import Array

BISECTIONS = 60
ROUNDS = 150


def level_bound(model: Model) -> float:
    """Lower bound on the value, ms; 0 where there is nothing to place."""
    space = model.space
    if space.n == 0:
        return 0.0
    weights = np.full(space.ranks, 1.0 / space.ranks)
    best = _bisect(model, weights)
    if len({device.speed for device in space.spec.devices}) > 1:
        hbm = np.array([device.hbm_gib_per_s for device in space.spec.devices])
        for start in (weights, hbm / hbm.sum()):
            best = max(best, _ascend(model, start, best))
    return best


def _atom_costs(model: Model, weights: Array) -> Array:
    """[A], weighted milliseconds of each atom."""
    return np.add.reduceat(model.totals * weights[model.space.entry_rank], model.space.atom_start[:-1])


def _least(model: Model, costs: Array, level: float) -> tuple[float, NDArray[np.bool_]]:
    """L(level), and the [A] mask of the atoms that reach it."""
    space = model.space
    open_costs = np.where(model.atom_top <= level, costs, np.inf)
    pieces = np.minimum.reduceat(open_costs, space.piece_start[:-1])
    modes = np.add.reduceat(pieces, space.mode_start[:-1])
    units = np.minimum.reduceat(modes, space.unit_start[:-1])
    total = float(units.sum())
    used_mode = modes == np.repeat(units, np.diff(space.unit_start))
    used = (open_costs == pieces[space.atom_piece()]) & used_mode[space.piece_mode()[space.atom_piece()]]
    return total, used


def _bisect(model: Model, weights: Array) -> float:
    costs = _atom_costs(model, weights)
    low, high = 0.0, float(model.atom_top.max())
    least = _least(model, costs, high)[0]
    if least >= high:
        return least
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        if _least(model, costs, middle)[0] <= middle:
            high = middle
        else:
            low = middle
    return low


def _ascend(model: Model, weights: Array, level: float) -> float:
    """Subgradient steps on the weights, multiplicative; the best bound seen."""
    best = _bisect(model, weights)
    space = model.space
    for k in range(ROUNDS):
        costs = _atom_costs(model, weights)
        _, used = _least(model, costs, max(best, level))
        first = np.zeros(space.n, dtype=bool)
        pieces = space.atom_piece()
        first[np.flatnonzero(used)[np.unique(pieces[used], return_index=True)[1]]] = True
        loads = np.zeros(space.ranks)
        on = np.repeat(first, np.diff(space.atom_start))
        np.add.at(loads, space.entry_rank[on], model.totals[on])
        scale = max(float(loads.max()), 1e-300)
        weights = weights * np.exp(0.5 / np.sqrt(k + 1.0) * (loads / scale))
        weights = weights / weights.sum()
        if k % 10 == 9:
            best = max(best, _bisect(model, weights))
    return best
