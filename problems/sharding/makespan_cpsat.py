"""Min-max placement of additive loads by CP-SAT, with a bound that survives the rounding to integers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from problems.sharding.symmetry import Index
from solvers.oracle import Array

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

    from problems.sharding.oracle import PlacementOracle

RESOLUTION = 10**7  # integer units of the incumbent's value; one unit per group is lost to rounding at most
LARGEST_BYTES = 2**40


@dataclass(frozen=True, slots=True)
class MakespanAnswer:
    """Best choice found (None: none within the time), proven lower bound, and whether the set is empty."""

    choice: Index | None
    bound: float
    is_infeasible: bool = False
    branches: int = 0


def add_placement(
    model: cp_model.CpModel, oracle: PlacementOracle
) -> tuple[NDArray[np.bool_], dict[tuple[int, int], Any]]:
    """Add one literal for each group and device that may meet, alike devices in canonical order; one device a group.

    Returns:
        [G, D], which may meet, and (g, d) -> literal.
    """
    may = np.isfinite(oracle.blocked)
    groups, devices = may.shape
    position = np.empty(groups, dtype=np.int64)
    position[oracle.order] = np.arange(groups)
    for members in oracle.classes:
        for k, d in enumerate(members):
            may[:, d] &= position >= k
    on = {(int(g), int(d)): model.new_bool_var("") for g, d in np.argwhere(may)}
    for g in range(groups):
        model.add_exactly_one(on[g, d] for d in range(devices) if may[g, d])
    return may, on


def solve_makespan(
    oracle: PlacementOracle,
    loads: Array,
    *,
    seconds: float,
    start: Index | None,
    upper: float,
    lower: float = 0.0,
    gap: float = 1e-5,
    workers: int = 1,
) -> MakespanAnswer:
    """Minimize the largest device load over feasible placements.

    Loads are rounded down to whole units, so that the integer optimum is never above the true one and the bound is
    valid. Of alike devices, the k-th group in the canonical order is kept to the first k: this removes most
    relabellings and costs no plan.

    Args:
        oracle: feasible set.
        loads: [G, D] non-negative.
        seconds: wall seconds.
        start: [G] canonical feasible choice as a hint.
        upper: value of a known plan, or an upper bound on any; inf where there is none.
        lower: known bound.
        gap: relative gap at which to stop.
        workers: threads of CP-SAT.
    """
    from ortools.sat.python import cp_model

    groups, devices = loads.shape
    top = upper if math.isfinite(upper) else float(loads.max(axis=1).sum())
    unit = max(top, 1e-300) / RESOLUTION
    whole = np.floor(loads / unit).astype(np.int64)
    byte_unit = max(1, math.ceil(max(oracle.capacity.max(), oracle.memory.max(initial=0.0)) / LARGEST_BYTES))
    used = np.ceil(oracle.memory / byte_unit).astype(np.int64)

    model = cp_model.CpModel()
    may, on = add_placement(model, oracle)
    slowest = model.new_int_var(max(0, math.floor(lower / unit) - groups), RESOLUTION + 1, "")
    for d in range(devices):
        here = [g for g in range(groups) if may[g, d]]
        model.add(sum(int(whole[g, d]) * on[g, d] for g in here) <= slowest)
        if oracle.memory[here].sum() > oracle.capacity[d]:
            room = math.floor(oracle.capacity[d] / byte_unit)
            model.add(sum(int(used[g]) * on[g, d] for g in here) <= room)
    model.minimize(slowest)
    if start is not None:
        for (g, d), variable in on.items():
            model.add_hint(variable, bool(start[g] == d))

    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = max(seconds, 0.01)
    solver.parameters.num_workers = workers
    solver.parameters.random_seed = 0
    solver.parameters.relative_gap_limit = gap
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        # Values above ``upper`` were cut off: empty means that no plan is better, or none at all without one.
        return MakespanAnswer(None, upper, is_infeasible=not math.isfinite(upper), branches=solver.num_branches)
    bound = max(lower, solver.best_objective_bound * unit)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return MakespanAnswer(None, bound, branches=solver.num_branches)
    choice = np.zeros(groups, dtype=np.int64)
    for (g, d), variable in on.items():
        if solver.boolean_value(variable):
            choice[g] = d
    return MakespanAnswer(choice, bound, branches=solver.num_branches)
