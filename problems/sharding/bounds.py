"""Valid lower bounds on the step time, from additive loads.

Write a(g, d) for the load that group g has alone on device d in some phase, or summed over phases. A device's load is
never less than the sum of its groups' single loads, so every bound on additive scheduling carries over through the
monotone maps from loads to times and from times to the value.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch
from scipy.optimize import linprog

from problems.sharding.costs import Combine
from solvers.oracle import Array

if TYPE_CHECKING:
    from problems.sharding.problem import ShardingProblem

MAX_LP_VARIABLES = 20_000


def quick_bound(problem: ShardingProblem) -> float:
    """Bound of one problem in ms; inf where a group fits on no device.

    A sum over phases takes the bound of each phase alone.
    """
    blocked = problem.oracle.blocked
    if not np.isfinite(blocked).any(axis=1).all():
        return math.inf
    if problem.cost.combine is Combine.SLOWEST_DEVICE:
        return makespan_bound(problem.single_ms.sum(0) + blocked)
    return float(phase_bounds(problem).sum())


def phase_bounds(problem: ShardingProblem) -> Array:
    """[4], lower bound on the smooth max over devices of each phase alone.

    Some device has at least the load M of `makespan_bound`; the loads of the others add up to at least the least total
    S minus M. As exp(time) is convex in the load, the smooth max is smallest with the others alike:
    temperature * log(exp(time(M)) + (D - 1) exp(time((S - M) / (D - 1)))), times in units of the temperature.

    On alike devices tables also count: the k largest groups have at least the load L of the k-th, and k equal groups
    are spread best in numbers that differ by one at most; every k gives a bound.
    """
    blocked = problem.oracle.blocked
    devices = len(problem.devices)
    one, others = np.zeros((2, 4, 1))
    for phase in range(4):
        loads = problem.single_ms[phase] + blocked
        total = loads.min(axis=1).sum()
        one[phase] = max(makespan_bound(loads), total / devices)
        others[phase] = (total - one[phase]) / max(devices - 1, 1)
    times = problem.cost.times_ms(torch.from_numpy(np.stack([one, np.maximum(others, 0.0)]))).numpy()[..., 0]  # [2, 4]
    temperature = problem.cost.temperature_ms
    if temperature == 0.0 or devices == 1:
        return times[0]
    bound = times[0] + temperature * np.log1p((devices - 1) * np.exp((times[1] - times[0]) / temperature))
    if (problem.single_ms == problem.single_ms[:, :, :1]).all() and np.isfinite(blocked).all():
        bound = np.maximum(bound, _counting_bounds(problem))
    return bound


def _counting_bounds(problem: ShardingProblem) -> Array:
    """[4], smooth max of the k largest groups spread evenly in number, the best of all k."""
    devices = len(problem.devices)
    temperature = problem.cost.temperature_ms
    ranked = -np.sort(-problem.single_ms[:, :, 0], axis=1)  # [4, G]
    few, more = np.divmod(np.arange(1, ranked.shape[1] + 1), devices)  # few each, and one more on so many devices
    loads = torch.from_numpy(np.stack([ranked * few, ranked * (few + 1)]))  # [2, 4, G]
    low, high = problem.cost.times_ms(loads).numpy()
    high = np.where(more > 0, high, low)
    on_high = np.where(more > 0, more, devices)
    smooth = high + temperature * np.log(on_high + (devices - on_high) * np.exp((low - high) / temperature))
    return smooth.max(axis=1)


def makespan_bound(loads: Array) -> float:
    """Lower bound on max over devices of the sum of loads [G, D] (+inf where not allowed) of the groups on it.

    The largest group; on alike devices the mean, and by the pigeonhole principle, for k = 1, 2, ..., the k + 1 smallest
    of the k D + 1 largest groups share a device; on devices that differ the linear relaxation, whose value is at least
    the mean weighted by speed (used alone where the relaxation is too large to solve).
    """
    devices = loads.shape[1]
    least = loads.min(axis=1)
    bound = float(least.max(initial=0.0))
    if (loads == least[:, None]).all():
        bound = max(bound, float(least.sum()) / devices)
        ranked = np.sort(least)[::-1]
        for k in range(1, (len(ranked) - 1) // devices + 1):
            bound = max(bound, float(ranked[k * devices - k : k * devices + 1].sum()))
        return bound
    finite = np.isfinite(loads).all(axis=1)
    if finite.any():
        total = loads[finite].sum(axis=0)
        speed = np.where(total > 0, 1.0 / np.maximum(total, 1e-300), 1.0)
        weight = speed / speed.sum()  # any weights of sum 1 give a valid bound
    else:
        weight = np.full(devices, 1.0 / devices)
    bound = max(bound, _weighted(loads, weight))
    return max(bound, _relaxed_makespan(loads, bound)) if loads.size <= MAX_LP_VARIABLES else bound


def _relaxed_makespan(loads: Array, bound: float) -> float:
    """Linear relaxation: min z with fractional groups, loads within z. Its dual solution is checked, so it is valid."""
    groups, devices = loads.shape
    g, d = np.nonzero(np.isfinite(loads))
    count = len(g)
    one = sp.csr_array((np.ones(count), (g, np.arange(count))), shape=(groups, count + 1))
    load = sp.csr_array(
        (np.concatenate([loads[g, d], -np.ones(devices)]),
         (np.concatenate([d, np.arange(devices)]), np.concatenate([np.arange(count), np.full(devices, count)]))),
        shape=(devices, count + 1),
    )  # fmt: skip
    costs = np.zeros(count + 1)
    costs[-1] = 1.0
    answer = linprog(costs, A_ub=load, b_ub=np.zeros(devices), A_eq=one, b_eq=np.ones(groups), method="highs")
    if answer.status != 0:
        return bound
    weight = np.maximum(-answer.ineqlin.marginals, 0.0)  # the dual prices of the devices, made a convex combination
    if weight.sum() <= 0:
        return bound
    return _weighted(loads, weight / weight.sum())


def _weighted(loads: Array, weight: Array) -> float:
    """The slowest device is at least as slow as any weighted mean of them (weights of sum 1)."""
    with np.errstate(invalid="ignore"):
        weighted = np.where(np.isfinite(loads), loads * weight, np.inf)
    return float(weighted.min(axis=1).sum())
