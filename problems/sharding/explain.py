"""Why there is no plan: the blocking table or rules, and the smallest relaxation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from problems.sharding.tables import GIB_BYTES

if TYPE_CHECKING:
    from problems.sharding.problem import ShardingProblem

SEARCH_SECONDS = 10.0
SHOWN = 3  # tables that are explained one by one


def explain(problem: ShardingProblem) -> str:
    """A few lines: conflicting rules, a table larger than its devices, too little memory in all, or no packing."""
    if not problem.placement.allowed.any(axis=1).all():
        return _explain_rules(problem)
    if not np.isfinite(problem.oracle.blocked).any(axis=1).all():
        return _explain_large(problem)
    needed, capacity = problem.oracle.memory.sum(), problem.capacity_bytes.sum()
    if needed > problem.oracle.limit.sum():
        return (
            f"The tables need {_gib(needed)} and all {len(problem.devices)} devices together offer {_gib(capacity)} "
            f"after the reserve of {problem.workload.reserve:.0%}. {_explain_packing(problem)}"
        )
    return _explain_packing(problem)


def _explain_rules(problem: ShardingProblem) -> str:
    """Groups that pin, forbid and colocate leave without a device."""
    lines = []
    pin, forbid = problem.constraints.pin, problem.constraints.forbid
    for g in np.flatnonzero(~problem.placement.allowed.any(axis=1)):
        names = [problem.tables[t].name for t in problem.placement.members[g]]
        rules = [f"pin {name!r} to {pin[name]!r}" for name in names if name in pin]
        rules += [f"forbid {table!r} on {device!r}" for table, device in forbid if table in names]
        if len(names) > 1:
            rules.append("colocate " + ", ".join(repr(name) for name in names))
        what = f"table {names[0]!r}" if len(names) == 1 else "the colocated tables " + ", ".join(map(repr, names))
        lines.append(f"The rules leave {what} without a device: {'; '.join(rules)}. Drop one of them.")
    return "\n".join(lines)


def _explain_large(problem: ShardingProblem) -> str:
    """Groups that are larger than every device they may be on, the one that lacks most first; the rest by name."""
    found: list[tuple[float, str, str]] = []
    for g in np.flatnonzero(~np.isfinite(problem.oracle.blocked).any(axis=1)):
        names = [problem.tables[t].name for t in problem.placement.members[g]]
        allowed = np.flatnonzero(problem.placement.allowed[g])
        best = int(allowed[problem.capacity_bytes[allowed].argmax()])
        need, have = problem.oracle.memory[g], problem.capacity_bytes[best]
        what = f"Table {names[0]!r} needs" if len(names) == 1 else f"The colocated tables {names} need together"
        which = "any device" if len(allowed) == len(problem.devices) else "the devices it may be on"
        line = (
            f"{what} {_gib(need)}, more than {which} can hold: the largest, {problem.devices[best].name!r}, offers "
            f"{_gib(have)} after the reserve of {problem.workload.reserve:.0%}. Smallest relaxation: "
            f"{_bytes(need - have)} more usable memory there{_reserve_hint(problem, need - have, best)}, "
            f"a smaller dtype, optimizer state or batch, or a table split by rows or columns."
        )
        found.append((float(need - have), names[0], line))
    found.sort(key=lambda item: -item[0])
    lines = [line for _, _, line in found[:SHOWN]]
    if len(found) > SHOWN:
        rest = ", ".join(repr(name) for _, name, _ in found[SHOWN:])
        lines.append(f"So it is with {len(found) - SHOWN} more, which lack less: {rest}.")
    return "\n".join(lines)


def _explain_packing(problem: ShardingProblem) -> str:
    """The sum fits; whether the tables do is a packing problem, solved with one extra byte count for all devices."""
    from ortools.sat.python import cp_model

    oracle = problem.oracle
    groups, devices = problem.placement.allowed.shape
    unit = max(1, int(np.ceil(max(oracle.capacity.max(), oracle.memory.sum()) / 2**50)))
    model = cp_model.CpModel()
    on = {(int(g), int(d)): model.new_bool_var("") for g, d in np.argwhere(np.isfinite(oracle.blocked))}
    extra = model.new_int_var(0, int(np.ceil(oracle.memory.sum() / unit)), "")
    for g in range(groups):
        model.add_exactly_one(on[g, d] for d in range(devices) if (g, d) in on)
    for d in range(devices):
        used = sum(int(np.ceil(oracle.memory[g] / unit)) * on[g, d] for g in range(groups) if (g, d) in on)
        model.add(used <= int(oracle.capacity[d] // unit) + extra)
    model.minimize(extra)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = SEARCH_SECONDS
    solver.parameters.num_workers = 1
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return f"Whether the tables fit is open: no packing was found, and none was refuted, in {SEARCH_SECONDS:g} s."
    value = int(solver.objective_value) * unit
    if value == 0:
        return "There is a feasible plan: the rules and the memory leave room."
    least = int(np.ceil(solver.best_objective_bound)) * unit
    if least == 0:
        return (
            f"Whether the tables fit is open after {SEARCH_SECONDS:g} s. With {_bytes(value)} more usable memory "
            f"on every device they do."
        )
    chosen = {d: [g for g in range(groups) if (g, d) in on and solver.boolean_value(on[g, d])] for d in range(devices)}
    worst = max(chosen, key=lambda d: oracle.memory[chosen[d]].sum() - oracle.capacity[d])
    blocking = max(chosen[worst], key=lambda g: oracle.memory[g])
    names = [problem.tables[t].name for t in problem.placement.members[blocking]]
    proof = "" if status == cp_model.OPTIMAL else f" (at least {_bytes(least)} is proven)"
    return (
        f"The tables fill {oracle.memory.sum() / oracle.capacity.sum():.1%} of the usable memory, and no packing "
        f"fits them onto the devices. In the closest one {problem.devices[worst].name!r} is over by {_bytes(value)}; "
        f"its largest table is {', '.join(map(repr, names))} ({_gib(oracle.memory[blocking])}). Smallest relaxation: "
        f"{_bytes(value)} more usable memory on every device{proof}{_reserve_hint(problem, value, worst)}."
    )


def _reserve_hint(problem: ShardingProblem, extra: float, device: int | None = None) -> str:
    """' (for example a reserve of 12 % instead of 15 %)' where lowering the reserve is enough."""
    chosen = problem.devices if device is None else [problem.devices[device]]
    reserve = min((problem.workload.reserve - extra / max(d.memory_bytes, 1) for d in chosen), default=-1.0)
    shown = np.floor(reserve * 1000.0) / 1000.0
    return f" (for example a reserve of {shown:.1%})" if shown >= 0.0 else ""


def _gib(value: float) -> str:
    return f"{value / GIB_BYTES:.2f} GiB" if value >= GIB_BYTES / 100 else f"{value:.0f} bytes"


def _bytes(value: float) -> str:
    return f"{value:.0f} bytes" + (f" ({value / GIB_BYTES:.2f} GiB)" if value >= GIB_BYTES / 100 else "")
