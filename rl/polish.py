"""Local search on whole plans: modules are taken away, then exchanged for cheaper ones, while the plan survives.

Every refusal leaves a cut in the topology's pool, and one matrix product over the pool refuses most later moves, so
linear programs are solved only for moves that no known cut speaks against.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from problems.planning.network import Array
from problems.planning.survival import Deadline
from rl.topology import TOLERANCE, Topology


def without_spare(topology: Topology, units: Array, deadline: Deadline) -> Array:
    """The plan with one module less wherever the network survives that, the dearest first.

    Args:
        topology: network, known cuts and evaluator; it learns a cut from every refusal.
        units: [M], survivable.
        deadline: stops there with the plan so far.

    Returns:
        [M], survivable; free modules stay.
    """
    x = units.copy()
    slack = topology.rows @ x - topology.rhs
    for j in [j for j in np.argsort(-topology.cost, kind="stable").tolist() if topology.cost[j] > 0.0]:
        while x[j] >= 1.0 and not deadline.is_over():
            if (slack < topology.rows[:, j] - TOLERANCE).any():
                break
            x[j] -= 1.0
            is_kept = topology.is_survivable(x)
            x[j] += 0.0 if is_kept else 1.0
            slack = topology.rows @ x - topology.rhs  # a refusal brought new cuts
            if not is_kept:
                break
    return x


def exchanged(topology: Topology, units: Array, *, deadline: Deadline, most_refusals: int = 200) -> Array:
    """The plan after exchanges that make it cheaper: one or two modules less and one more elsewhere, best gain first.

    After every exchange spare modules are taken away again.

    Args:
        topology: network, known cuts and evaluator; it learns a cut from every refusal.
        units: [M], survivable.
        deadline: stops there with the plan so far.
        most_refusals: exchanges that the evaluator may refuse in all.

    Returns:
        [M], survivable, never dearer than ``units``.

    Note:
        Networks with side rules or cover variables keep their plan: there an exchange may break a rule, and prices are
        no sums.
    """
    x = units.copy()
    if topology.has_covers or len(topology.limits):
        return x
    refusals, moved = 0, True
    while moved and not deadline.is_over():
        moved = False
        for change in _exchanges(topology, x):
            if deadline.is_over() or refusals >= most_refusals:
                return x
            if not _kept(topology, x + change):
                continue  # a cut that came after the moves were listed
            if topology.is_survivable(x + change):
                x, moved = without_spare(topology, x + change, deadline), True
                break
            refusals += 1
    return x


def _kept(topology: Topology, units: Array) -> bool:
    """Whether ``units`` [M] keep all known cuts."""
    return bool((topology.rows @ units >= topology.rhs - TOLERANCE).all())


def _exchanges(topology: Topology, x: Array) -> list[Array]:
    """Changes [M] that lower the price and keep all known cuts, by falling gain."""
    cost, rows = topology.cost, topology.rows
    slack = rows @ x - topology.rhs + TOLERANCE
    more: NDArray[np.int64] = np.flatnonzero(x + 1.0 <= topology.upper)
    less = np.flatnonzero(x >= 1.0)
    pairs = [(j, k) for a, j in enumerate(less.tolist()) for k in less[a:].tolist() if j != k or x[j] >= 2.0]
    found: list[tuple[float, tuple[int, ...], int]] = []
    for taken in [*((j,) for j in less.tolist()), *pairs]:
        left = slack - rows[:, list(taken)].sum(axis=1)
        short = np.flatnonzero(left < 0.0)
        gain = cost[list(taken)].sum() - cost[more]
        fits = gain > 1e-9 * cost.max()
        if not fits.any():
            continue
        healed = (left[short, None] + rows[np.ix_(short, more)] >= 0.0).all(axis=0)
        found += [
            (float(gain[i]), taken, int(more[i]))
            for i in np.flatnonzero(fits & healed).tolist()
            if int(more[i]) not in taken
        ]
    found.sort(key=lambda move: -move[0])
    result = []
    for _, taken, i in found:
        change = np.zeros(len(x))
        np.subtract.at(change, list(taken), 1.0)
        change[i] += 1.0
        result.append(change)
    return result
