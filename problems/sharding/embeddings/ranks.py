"""The GaLore rank of each table as a decision of the placement: memory against captured energy, one exact model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from problems.sharding.memory import table_memory_bytes
from problems.sharding.problem import ShardingProblem
from surco.errors import InfeasibleError, InvalidInputError

RESOLUTION = 10**9  # integer units of the latency limit and of the energy


@dataclass(frozen=True, slots=True)
class RankPlan:
    """Where each table goes and with which rank.

    Attributes:
        devices: [T], index of the device of each table.
        ranks: [T].
        captured_energy: mean over tables, weighted by their lookups, of the energy inside the bases.
        bound: no plan within the limits captures more.
        latency_ms: load of the slowest device, additive.
        memory_bytes: [D], of the devices.
    """

    devices: tuple[int, ...]
    ranks: tuple[int, ...]
    captured_energy: float
    bound: float
    latency_ms: float
    memory_bytes: tuple[int, ...]


def choose_ranks(
    problem: ShardingProblem,
    exported: Sequence[Mapping[str, Any]],
    *,
    latency_ms: float,
    is_8bit: bool = False,
    start: Sequence[int] | None = None,
    seconds: float = 10.0,
    workers: int = 1,
) -> RankPlan:
    """Maximize the captured energy over placements and ranks.

    Binary y[t, d, k] puts table t with its k-th rank on device d:

        max sum w_t e[t, k] y[t, d, k]   such that   one (d, k) for each t,
        memory[t, k] within the capacity of each device,   load[t, d] of each device at most ``latency_ms``.

    Args:
        problem: of additive cost; its tables are those of ``exported``, in the same order; its rules hold (pinned,
            forbidden and colocated tables).
        exported: from ``tables_from_model(..., energy=True)``, which prices the ranks for the optimizer it was given.
        latency_ms: largest load of a device; the optimum without ranks, times 1.01 say.
        is_8bit: whether the states have one byte a moment.
        start: [T], device of each table in a known plan; the search begins there, with ranks filled in greedily.
        seconds: of CP-SAT.
        workers: its threads.

    Returns:
        The best plan found, with a bound.

    Raises:
        InvalidInputError: the tables differ, or no spectrum was measured.
        InfeasibleError: no placement fits the limits at any rank (or none was found in time).
    """
    from ortools.sat.python import cp_model

    if [table.name for table in problem.tables] != [entry["name"] for entry in exported]:
        raise InvalidInputError("Expected the tables of `problem` and `exported` to be the same, in the same order.")
    if not all(entry.get("ranks") for entry in exported):
        raise InvalidInputError("Expected measured spectra; export with tables_from_model(..., energy=True).")
    key = "state_bytes_8bit" if is_8bit else "state_bytes"
    choices = [entry["ranks"] for entry in exported]
    weights = np.array([entry["lookups_per_batch"] for entry in exported], dtype=float)
    weights = weights / max(weights.sum(), 1e-300)
    group = problem.placement.group
    load = problem.cost.single_ms().sum(axis=0)  # [T, D]
    unit = latency_ms / RESOLUTION
    count, devices = len(choices), len(problem.devices)

    model = cp_model.CpModel()
    use: dict[tuple[int, int, int], Any] = {}
    place = {}
    for t, d in itertools.product(range(count), range(devices)):
        place[t, d] = model.new_bool_var(f"place_{t}_{d}")
        if not problem.placement.allowed[group[t], d]:
            model.add(place[t, d] == 0)
        for k in range(len(choices[t])):
            use[t, d, k] = model.new_bool_var(f"use_{t}_{d}_{k}")
        model.add(sum(use[t, d, k] for k in range(len(choices[t]))) == place[t, d])
    memory = [[_memory(problem, t, int(choice[key])) for choice in choices[t]] for t in range(count)]
    first_of_group: dict[int, int] = {}
    for t in range(count):
        model.add_exactly_one(place[t, d] for d in range(devices))
        first = first_of_group.setdefault(int(group[t]), t)
        if first != t:  # colocated
            for d in range(devices):
                model.add(place[t, d] == place[first, d])
    for d in range(devices):
        model.add(sum(memory[t][k] * y for (t, e, k), y in use.items() if e == d) <= int(problem.capacity_bytes[d]))
        # Loads are rounded up: what is accepted keeps the limit.
        model.add(sum(math.ceil(load[t, d] / unit) * place[t, d] for t in range(count)) <= RESOLUTION)
    gain = {
        (t, k): math.floor(weights[t] * choices[t][k]["captured_energy"] * RESOLUTION)
        for t in range(count)
        for k in range(len(choices[t]))
    }
    model.maximize(sum(gain[t, k] * y for (t, _, k), y in use.items()))
    if start is not None:
        energy = [[weights[t] * choice["captured_energy"] for choice in choices[t]] for t in range(count)]
        ranks = _greedy_ranks(start, memory, energy, problem.capacity_bytes.tolist())
        for (t, d, k), y in use.items():
            model.add_hint(y, int(start[t] == d and ranks[t] == k))
        for (t, d), y in place.items():
            model.add_hint(y, int(start[t] == d))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = workers
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        what = "exists" if status == cp_model.INFEASIBLE else f"was found in {seconds} s"
        raise InfeasibleError(f"No placement within {latency_ms:.4g} ms and the memory {what}. Allow more of either.")
    chosen = {t: (d, k) for (t, d, k), y in use.items() if solver.value(y)}
    used = [sum(memory[t][chosen[t][1]] for t in range(count) if chosen[t][0] == d) for d in range(devices)]
    loads = [sum(load[t, d] for t in range(count) if chosen[t][0] == d) for d in range(devices)]
    return RankPlan(
        devices=tuple(chosen[t][0] for t in range(count)),
        ranks=tuple(int(choices[t][chosen[t][1]]["rank"]) for t in range(count)),
        captured_energy=float(sum(weights[t] * choices[t][chosen[t][1]]["captured_energy"] for t in range(count))),
        bound=(solver.best_objective_bound + count) / RESOLUTION,  # a unit for each gain that was rounded down
        latency_ms=float(max(loads)),
        memory_bytes=tuple(used),
    )


def _memory(problem: ShardingProblem, table: int, state_bytes: int) -> int:
    entry = replace(problem.tables[table], state_bytes=state_bytes)
    return table_memory_bytes(entry, problem.workload, len(problem.devices))


def _greedy_ranks(
    start: Sequence[int], memory: list[list[int]], energy: list[list[float]], capacity: list[float]
) -> list[int]:
    """Ranks for a given placement: again and again the step up with the most energy a byte that still fits."""
    ranks = [0] * len(start)
    free = list(capacity)
    for t, d in enumerate(start):
        free[d] -= memory[t][0]
    while True:
        steps = [
            ((energy[t][k] - energy[t][ranks[t]]) / (memory[t][k] - memory[t][ranks[t]]), t, k)
            for t, d in enumerate(start)
            for k in range(ranks[t] + 1, len(memory[t]))
            if memory[t][k] - memory[t][ranks[t]] <= free[d]
        ]
        if not steps:
            return ranks
        _, t, k = max(steps)
        free[start[t]] -= memory[t][k] - memory[t][ranks[t]]
        ranks[t] = k
