"""Why no joint plan exists: the blocking table or rule, and the smallest relaxation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from problems.sharding.joint.plan import ShardingType
from problems.sharding.tables import GIB_BYTES

if TYPE_CHECKING:
    from problems.sharding.joint.problem import JointProblem

SECONDS = 8.0


def explain(problem: JointProblem) -> str:
    """One paragraph for the user."""
    for unit, members in enumerate(problem.space.units):
        if problem.space.unit_start[unit] == problem.space.unit_start[unit + 1]:
            return _no_place(problem, unit, members)
    return _memory(problem)


def _names(problem: JointProblem, members: tuple[int, ...]) -> str:
    return " and ".join(repr(problem.joint_spec.tables[t].name) for t in members)


def _no_place(problem: JointProblem, unit: int, members: tuple[int, ...]) -> str:
    """A table without any mode: by its rules, or because no shard of it fits."""
    spec, builder = problem.joint_spec, problem.builder
    rules = spec.constraints
    names = _names(problem, members)
    pins = {spec.tables[t].name: rules.pin[spec.tables[t].name] for t in members if spec.tables[t].name in rules.pin}
    if len(set(pins.values())) > 1:
        told = ", ".join(f"{table!r} on {device!r}" for table, device in pins.items())
        return f"Tables {names} are colocated but pinned to different devices ({told}). Drop one of these rules."
    if not builder.places[unit].any():
        banned = [f"({table!r}, {device!r})" for table, device in rules.forbid if _is_member(problem, table, members)]
        told = f"pinned to {next(iter(pins.values()))!r} and " if pins else ""
        return (
            f"Table {names} is {told}forbidden there or everywhere: {', '.join(banned[:6])}. Drop one of these rules."
        )
    small = _smallest_shard(problem, unit)
    reasons = "; ".join(f"{what}: {why}" for what, why in builder.reasons.get(unit, [("types", "none is allowed")]))
    if small is None:
        return f"Table {names} has no sharding type left ({reasons}). Allow another type, or drop a rule."
    kind, need = small
    room = float(problem.space.capacity.max())
    return (
        f"Table {names} fits nowhere ({reasons}). Its smallest shard is that of {kind} with {_gib(need)}; the most "
        f"that a device has is {_gib(room)}. Smallest relaxation: {_bytes(need - room)} more usable memory on a "
        f"device, or a type that cuts it more finely."
    )


def _is_member(problem: JointProblem, table: str, members: tuple[int, ...]) -> bool:
    return any(problem.joint_spec.tables[t].name == table for t in members)


def _smallest_shard(problem: JointProblem, unit: int) -> tuple[ShardingType, float] | None:
    """Type whose largest shard is smallest, among those that the rules leave and that only memory rules out."""
    builder = problem.builder
    tables = [problem.joint_spec.tables[t] for t in builder.units[unit]]
    every = bool(builder.places[unit].all()) and unit not in builder.spread_units
    best: tuple[ShardingType, float] | None = None
    for kind in ShardingType:
        if not all(kind in builder.types_of(t) for t in builder.units[unit]):
            continue
        if kind in (ShardingType.ROW_WISE, ShardingType.DATA_PARALLEL) and not every:
            continue
        for width in builder.widths(kind, builder.units[unit][0]):
            sizes = sum(builder.prices.shard_bytes(table, kind, width or None) for table in tables)
            need = float(np.max(sizes))
            if need > float(builder.capacity.min()) and (best is None or need < best[1]):
                best = (kind, need)
    return best


def _memory(problem: JointProblem) -> str:
    """Every table fits alone, but they do not fit together."""
    space, model = problem.space, problem.model
    assert model is not None
    least = space.least_bytes()
    total, room = float(least.sum()), float(space.capacity.sum())
    largest = _names(problem, space.units[int(np.argmax(least))])
    from problems.sharding.joint.cpsat import CpSatProgram, is_small

    groups = f" with {len(space.groups)} `spread` rules" if space.groups else ""
    if is_small(model):
        answer = CpSatProgram(model, upper=math.inf, lower=0.0, extra_bytes=True).solve(SECONDS, gap=1e-3)
        if answer.is_infeasible:
            told = "; ".join(", ".join(_names(problem, space.units[unit]) for unit in group) for group in space.groups)
            return f"The `spread` rules cannot all hold on {space.ranks} devices: {told}. Drop one of them."
        if answer.choice is not None:
            _, used, _ = model.state(answer.choice)
            over = used - space.capacity
            extra = float(over.max())
            if extra <= 0.0:
                return "A plan exists; the search had too little time to find it. Try more seconds."
            proof = "" if answer.bound * _scale(space.capacity) >= 0.999 * extra else " (at least; best found)"
            return (
                f"The tables do not fit into the memory of the devices together{groups}: they need at least "
                f"{_gib(total)} and the devices have {_gib(room)} after the reserve. The largest is {largest} with "
                f"{_gib(float(least.max()))}. Smallest relaxation: {_bytes(extra)} more usable memory on every "
                f"device{proof}{_reserve_hint(problem, extra)}."
            )
    missing = max(total - room, 0.0) / space.ranks
    return (
        f"No plan that fits was found{groups}: the tables need at least {_gib(total)}, the devices have {_gib(room)} "
        f"after the reserve. The largest is {largest} with {_gib(float(least.max()))}. Smallest relaxation: at least "
        f"{_bytes(missing)} more usable memory on every device{_reserve_hint(problem, missing)}."
    )


def _scale(capacity: np.ndarray) -> float:
    from problems.sharding.joint.cpsat import BYTE_UNITS

    return max(float(capacity.max(initial=1.0)) / BYTE_UNITS, 1.0)


def _reserve_hint(problem: JointProblem, extra: float) -> str:
    """' (for example a reserve of 12 % instead of 15 %)' where lowering the reserve is enough."""
    spec = problem.joint_spec
    reserve = min(spec.workload.reserve - extra / max(device.memory_bytes, 1) for device in spec.devices)
    shown = np.floor(reserve * 1000.0) / 1000.0
    return f" (for example a reserve of {shown:.1%})" if shown >= 0.0 else ""


def _gib(value: float) -> str:
    return f"{value / GIB_BYTES:.2f} GiB" if value >= GIB_BYTES / 100 else f"{value:.0f} bytes"


def _bytes(value: float) -> str:
    return f"{value:.0f} bytes" + (f" ({value / GIB_BYTES:.2f} GiB)" if value >= GIB_BYTES / 100 else "")
