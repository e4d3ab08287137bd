"""Greedy rules of the field: sort the tables by a score, put each where the running total is smallest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from problems.sharding.costs import features_of
from problems.sharding.symmetry import Index
from solvers.oracle import Array

if TYPE_CHECKING:
    from problems.sharding.problem import ShardingProblem


def greedy_choices(problem: ShardingProblem) -> dict[str, Index]:
    """Name of the rule -> choice [G] of a device per group; rules that run out of memory are left out.

    lpt: longest processing time first, by the milliseconds that a group has alone, to the device that ends first.
    by_size, by_dim, by_lookups, by_size_lookups: the published expert rules; the score is rows * dim, dim,
    dim * pooling, or the product of the last with the first; each device's total is divided by its memory bandwidth.
    marginal: in the order of lpt, to the device where the true step time grows least.
    best_fit: largest memory first, to the fullest device that has room; the rule that survives full devices.
    """
    placement = problem.placement
    rows = np.array([table.rows for table in problem.tables], dtype=float)
    dim = np.array([table.dim for table in problem.tables], dtype=float)
    lookups = np.array([table.dim * table.pooling_factor for table in problem.tables])
    speed = np.array([device.hbm_gib_per_s for device in problem.devices])
    single = problem.single_ms.sum(0)
    scores = {"by_size": rows * dim, "by_dim": dim, "by_lookups": lookups, "by_size_lookups": lookups * rows * dim}

    # The most promising first: a budget of one objective call buys the first.
    choices = {"marginal": marginal(problem, np.argsort(-single.min(axis=1), kind="stable"))}
    choices["lpt"] = balance(problem, single)
    for name, score in scores.items():
        choices[name] = balance(problem, placement.sum_groups(score[:, None] / speed))
    choices["best_fit"] = best_fit(problem)
    return {name: choice for name, choice in choices.items() if choice is not None}


def balance(problem: ShardingProblem, weight: Array) -> Index | None:
    """Sort groups by weight [G, D] (largest first), put each where the total ends smallest; None if one has no room."""
    oracle = problem.oracle
    devices = weight.shape[1]
    total, used = np.zeros(devices), np.zeros(devices)
    choice = np.zeros(len(weight), dtype=np.int64)
    for g in np.argsort(-weight.min(axis=1), kind="stable"):
        room = np.isfinite(oracle.blocked[g]) & (used + oracle.memory[g] <= oracle.limit)
        if not room.any():
            return None
        d = int(np.where(room, total + weight[g], np.inf).argmin())
        choice[g] = d
        total[d] += weight[g, d]
        used[d] += oracle.memory[g]
    return choice


def marginal(problem: ShardingProblem, order: Index) -> Index | None:
    """Put each group of ``order`` where the step time of the tables placed so far is smallest; None without room.

    Equal step times (the slowest device is elsewhere) are decided by the device's own time.
    """
    oracle, cost = problem.oracle, problem.cost
    devices = len(problem.devices)
    features = torch.zeros(problem.group_weights.shape[0], devices, dtype=torch.float64)
    used = np.zeros(devices)
    choice = np.zeros(len(order), dtype=np.int64)
    diagonal = torch.eye(devices, dtype=torch.float64)
    for g in order:
        room = np.isfinite(oracle.blocked[g]) & (used + oracle.memory[g] <= oracle.limit)
        if not room.any():
            return None
        added = problem.group_weights[:, g]  # [F, D]
        times = cost.times_ms(cost.loads_ms(features + diagonal[:, None, :] * added))  # [D candidates, 4, D]
        value = cost.value_ms(times).numpy()
        own = times.sum(1).diagonal().numpy()
        d = int(np.where(room, value + 1e-6 * own, np.inf).argmin())
        choice[g] = d
        features[:, d] += added[:, d]
        used[d] += oracle.memory[g]
    return choice


def best_fit(problem: ShardingProblem) -> Index | None:
    """Best fit decreasing by memory; None where it finds no packing."""
    oracle = problem.oracle
    free = oracle.limit.copy()
    choice = np.zeros(len(oracle.memory), dtype=np.int64)
    for g in np.argsort(-oracle.memory, kind="stable"):
        room = np.isfinite(oracle.blocked[g]) & (oracle.memory[g] <= free)
        if not room.any():
            return None
        d = int(np.where(room, free, np.inf).argmin())
        choice[g] = d
        free[d] -= oracle.memory[g]
    return choice


def features_of_choice(problem: ShardingProblem, choice: Index) -> torch.Tensor:
    """Features [B, F, D] of choices [B, G]."""
    plan = torch.from_numpy(np.eye(len(problem.devices))[choice])
    return features_of(problem.group_weights, plan)
