"""Local search on whole plans: modules are taken away, then exchanged for cheaper ones, while the plan survives.

Moves are searched among the known cuts alone, by matrix products, and the evaluator is asked about the outcome only.
That loses nothing: cuts are valid, and a network that survives with fewer modules survives with more, so if the outcome
survives, so did every plan on the way. A refusal leaves a new cut, and the search is repeated with it.
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
        deadline: stops there, with the plan as it was.

    Returns:
        [M], survivable; free modules stay. The plan is the one that asking the evaluator about every module would give.
    """
    while not deadline.is_over():
        lean = _dropped(topology, units)
        if (lean == units).all() or topology.is_survivable(lean, is_translated=True):
            return lean
    return units.copy()


def exchanged(topology: Topology, units: Array, *, deadline: Deadline, most_refusals: int = 200) -> Array:
    """The plan after exchanges that make it cheaper: one module more, one or several less elsewhere.

    A descent among the known cuts ends in a plan that the evaluator refuses or accepts. What it refuses is mended where
    the new cut wants it and descends again, until the plan survives or costs as much as the best one; then the descent
    starts anew from the best plan, which ends the search if the cuts leave it no exchange.

    Args:
        topology: network, known cuts and evaluator; it learns a cut from every refusal.
        units: [M], survivable.
        deadline: stops there with the best plan so far.
        most_refusals: outcomes that the evaluator may refuse in all.

    Returns:
        [M], survivable, never dearer than ``units``.

    Note:
        Networks with side rules or cover variables keep their plan: there an exchange may break a rule, and prices are
        no sums.
    """
    best = units.copy()
    if topology.has_covers or len(topology.limits):
        return best
    price, refusals, x = topology.cost @ best, 0, best
    while not deadline.is_over():
        x = _descended(topology, x, deadline)
        gain = price - topology.cost @ x
        if gain > 1e-9 * max(price, 1.0):
            if topology.is_survivable(x, is_translated=True):
                best, price = x, topology.cost @ x
                continue
            refusals += 1
            if refusals >= most_refusals:
                return best
            x = _mended(topology, x)
        elif x is best or (x == best).all():
            return best
        else:
            x = best  # the cuts are as dear as the best plan here: look around that one again
            if (_descended(topology, x, deadline) == x).all():
                return best
    return best


# ---------------------------------------------------------------------- among known cuts


def _dropped(topology: Topology, units: Array) -> Array:
    """The plan with one module less wherever all known cuts stay kept, the dearest first."""
    x, rows = units.copy(), topology.rows
    slack = rows @ x - topology.rhs + TOLERANCE
    for j in np.argsort(-topology.cost, kind="stable").tolist():
        if topology.cost[j] <= 0.0 or x[j] < 1.0:
            continue
        weight = rows[:, j]
        heavy = weight > 0.0
        spare = int(np.floor((slack[heavy] / weight[heavy]).min(initial=np.inf))) if heavy.any() else x[j]
        less = float(min(x[j], max(spare, 0)))
        if less:
            x[j] -= less
            slack -= less * weight
    return x


def _descended(topology: Topology, units: Array, deadline: Deadline) -> Array:
    """The plan after the best exchange, again and again, that keeps all known cuts."""
    x = _dropped(topology, units)
    while not deadline.is_over():
        move = _best_exchange(topology, x)
        if move is None:
            return x
        x = _dropped(topology, x + move)
    return x


def _best_exchange(topology: Topology, x: Array) -> Array | None:
    """The change [M] of one module more and one or two less that lowers the price most and keeps all known cuts."""
    cost = topology.cost
    near = topology.rows @ x - topology.rhs + TOLERANCE
    # a cut with more slack than two of its heaviest modules refuses nothing here
    rows = topology.rows[tight := near < 2.0 * topology.rows.max(axis=1)]
    slack = near[tight]
    has, least = x >= 1.0, 1e-9 * float(cost.max())
    best, change = least, None
    dearest = np.sort(cost[has])[::-1][:2].sum()
    for i in np.argsort(cost, kind="stable").tolist():
        if dearest - cost[i] <= best:
            break
        if x[i] + 1.0 > topology.upper[i]:
            continue
        room = slack + rows[:, i]
        free = has & (room[:, None] >= rows).all(axis=0)
        free[i] = False
        mine: NDArray[np.int64] = np.flatnonzero(free)
        if not len(mine):
            continue
        j = mine[np.argmax(cost[mine])]
        if cost[j] - cost[i] > best:
            best, change = float(cost[j] - cost[i]), (i, (int(j),))
        sums = cost[mine][:, None] + cost[mine]
        sums[np.diag_indices(len(mine))] = np.where(x[mine] >= 2.0, 2.0 * cost[mine], -np.inf)
        a, b = np.nonzero(np.triu(sums - cost[i] > best))
        if not len(a):
            continue
        order = np.argsort(-sums[a, b], kind="stable")
        a, b = mine[a[order]], mine[b[order]]
        for first in range(0, len(a), 32):  # by falling gain, so the first pair that fits is the best
            part = slice(first, first + 32)
            fits = (room[:, None] >= rows[:, a[part]] + rows[:, b[part]]).all(axis=0)
            if fits.any():
                k = first + int(fits.argmax())
                best, change = float(cost[a[k]] + cost[b[k]] - cost[i]), (i, (int(a[k]), int(b[k])))
                break
    if change is None:
        return None
    move = np.zeros(len(x))
    move[change[0]] += 1.0
    np.subtract.at(move, list(change[1]), 1.0)
    return move


def _mended(topology: Topology, units: Array) -> Array:
    """The plan with modules added until all known cuts are kept, those that mend most for their price first."""
    x, rows, cost = units.copy(), topology.rows, np.maximum(topology.cost, 1e-9 * float(topology.cost.max()))
    while True:
        short = topology.rhs - TOLERANCE - rows @ x
        missed = np.flatnonzero(short > 0.0)
        can = x + 1.0 <= topology.upper
        if not len(missed) or not can.any():
            return x
        healed = np.minimum(rows[missed], short[missed, None]).sum(axis=0)
        x[int(np.argmax(np.where(can, healed / cost, -1.0)))] += 1.0
