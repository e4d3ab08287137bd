"""Placements under tight memory: Lagrangian bounds and repaired plans, for a batch of costs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from problems.sharding.symmetry import Index
from solvers.oracle import Array

if TYPE_CHECKING:
    from problems.sharding.oracle import PlacementOracle


def priced_placement(
    oracle: PlacementOracle, costs: Array, *, rounds: int = 60, slack: Array | float = 0.0, deadline: float = np.inf
) -> tuple[Index, Array, Array]:
    """Price memory by subgradient steps: L(p) = min over canonical plans of sum (c + p_d m_g) - sum p_d capacity_d.

    Every L(p) with p >= 0 is a lower bound; every relaxed plan, repaired, is an upper one. Steps follow Polyak's rule
    with a shrinking factor.

    Args:
        oracle: the feasible set.
        costs: [R, G, D], +inf where blocked, with a finite relaxation.
        rounds: subgradient steps.
        slack: [R] or a number; a row stops early once its plan is within so much of its bound.
        deadline: value of ``time.perf_counter()`` at which to stop; one round is always done.

    Returns:
        choice [R, G], its value [R] (inf where no repair succeeded) and the bound [R].
    """
    count, groups, devices = costs.shape
    slack = np.broadcast_to(slack, count)
    scale = max(float(oracle.limit.max(initial=0.0)), 1.0)
    memory, limit = oracle.memory / scale, oracle.limit / scale
    price = np.zeros((count, devices))
    bound, best = np.full(count, -np.inf), np.full(count, np.inf)
    choice = np.zeros((count, groups), dtype=np.int64)
    factor = np.full(count, 1.0)
    stalled = np.zeros(count, dtype=np.int64)
    size = np.abs(np.where(np.isfinite(costs), costs, 0.0)).max(axis=2).sum(axis=1)
    live = np.arange(count)
    for i in range(rounds):
        if i and time.perf_counter() > deadline:
            break
        relaxed, value = oracle.relax(costs[live] + price[live, None, :] * memory[:, None])
        value = value - price[live] @ limit
        better = value > bound[live] + 1e-12 * size[live]
        bound[live] = np.maximum(bound[live], value)
        stalled[live] = np.where(better, 0, stalled[live] + 1)
        shrink = stalled[live] >= 4
        factor[live] = np.where(shrink, factor[live] / 2, factor[live])
        stalled[live] = np.where(shrink, 0, stalled[live])
        for r, plan in zip(live, relaxed, strict=True):
            repaired = repair(oracle, costs[r], plan)
            if repaired is not None:
                cost = float(costs[r][np.arange(len(repaired)), repaired].sum())
                if cost < best[r]:
                    best[r], choice[r] = cost, repaired
        excess = oracle.loads(relaxed) / scale - limit
        norm = (excess**2).sum(axis=1)
        target = np.where(np.isfinite(best[live]), best[live], bound[live] + 0.01 * size[live])
        step = factor[live] * np.maximum(target - value, 1e-12 * size[live]) / np.maximum(norm, 1e-30)
        price[live] = np.maximum(price[live] + step[:, None] * excess, 0.0)
        done = best[live] - bound[live] <= np.maximum(slack[live], 1e-12 * size[live])
        live = live[~done]
        if not len(live):
            break
    for r in np.flatnonzero(np.isfinite(best) & (best - bound > slack)):
        if time.perf_counter() > deadline:
            break
        choice[r] = descend(oracle, costs[r], choice[r])
        best[r] = costs[r][np.arange(groups), choice[r]].sum()
    return choice, best, np.minimum(bound, best)


def repair(oracle: PlacementOracle, costs: Array, choice: Index) -> Index | None:
    """Make one choice [G] fit: move groups off overfull devices, least extra cost per byte of excess first.

    The result is canonical; None where no move is left.
    """
    choice = choice.copy()
    groups = np.arange(len(choice))
    free = oracle.limit - oracle.loads(choice[None])[0]
    for _ in range(len(choice)):
        over = np.flatnonzero(free < 0)
        if not len(over):
            break
        d = int(over[free[over].argmin()])
        on = groups[choice == d]
        extra = costs[on] - costs[on, d][:, None]  # [K, D]
        extra[:, d] = np.inf
        extra[oracle.memory[on][:, None] > free] = np.inf
        relief = np.minimum(oracle.memory[on], -free[d])
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = np.where(relief[:, None] > 0, extra / relief[:, None], np.inf)
        pick = np.unravel_index(rate.argmin(), rate.shape)
        if not np.isfinite(rate[pick]):
            return None
        g, to = int(on[pick[0]]), int(pick[1])
        choice[g] = to
        free[d] += oracle.memory[g]
        free[to] -= oracle.memory[g]
    else:
        return None
    return oracle.canonical(choice[None])[0]


def descend(oracle: PlacementOracle, costs: Array, choice: Index, *, rounds: int = 200) -> Index:
    """Best shift or swap of groups that lowers the cost, fits and stays canonical, until there is none."""
    choice = choice.copy()
    groups = np.arange(len(choice))
    memory = oracle.memory
    for _ in range(rounds):
        free = oracle.limit - oracle.loads(choice[None])[0]
        here = costs[groups, choice]
        shift = here[:, None] - costs
        shift[memory[:, None] > free] = -np.inf
        there = costs[:, choice]  # [G, G], cost of group g on the device of group h
        swap = here[:, None] + here - there - there.T
        change = memory[:, None] - memory  # bytes that the device of h gains
        swap[(change > free[choice]) | (-change > free[choice][:, None])] = -np.inf
        saving = np.concatenate([shift, np.triu(swap, 1)], axis=1)
        for flat in np.argpartition(-saving, 3, axis=None)[:4]:
            g, j = np.unravel_index(flat, saving.shape)
            if not saving[g, j] > 1e-12 * np.abs(here).max():
                continue
            moved = choice.copy()
            if j < costs.shape[1]:
                moved[g] = j
            else:
                moved[g], moved[j - costs.shape[1]] = choice[j - costs.shape[1]], choice[g]
            if (oracle.canonical(moved[None])[0] == moved).all():
                choice = moved
                break
        else:
            return choice
    return choice
