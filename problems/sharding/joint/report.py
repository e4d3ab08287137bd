"""A joint plan in words, numbers and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from problems.sharding.joint.costs import PHASES
from problems.sharding.joint.plan import ShardingType
from problems.sharding.joint.space import EVERYWHERE, KINDS
from problems.sharding.joint.spec import Objective
from problems.sharding.tables import GIB_BYTES
from surco.bridge import to_numpy

if TYPE_CHECKING:
    from problems.sharding.joint.problem import JointProblem

COLORS = ("#0072B2", "#E69F00", "#CC79A7", "#56B4E9")  # told apart without color vision, and in gray
SHOWN_RANKS = 16
SHOWN_TABLES = 12


@dataclass(frozen=True, slots=True)
class Alternative:
    """Why a unit is as it is.

    Attributes:
        names: tables of the unit.
        chosen: its mode and places in words.
        runner_up: the best other mode, all else fixed; empty where there is none that fits.
        extra_ms: value of the plan with the runner-up, less the value of the plan; it may be 0 or less.
        weight_ms: largest load that the unit puts on a rank.
    """

    names: tuple[str, ...]
    chosen: str
    runner_up: str
    extra_ms: float
    weight_ms: float


def alternatives(problem: JointProblem, x: Tensor) -> list[Alternative]:
    """One per unit: the chosen mode, the best change to another mode with every other unit fixed, and its price."""
    model, space = problem.model, problem.space
    assert model is not None
    choice = model.choice(np.flatnonzero(to_numpy(x) > 0.5))
    loads, used, counts = model.state(choice)
    value = float(loads.max(axis=1).sum())
    found = []
    for unit, members in enumerate(space.units):
        mine = choice.atoms[space.mode_start[choice.modes[unit]] : space.mode_start[choice.modes[unit] + 1]]
        base, room, taken = loads.copy(), used.copy(), counts.copy()
        for atom in mine:
            _add(problem, int(atom), -1.0, base, room, taken)
        best: tuple[float, str] | None = None
        for mode in range(space.unit_start[unit], space.unit_start[unit + 1]):
            if model.mode_key[mode] == model.mode_key[choice.modes[unit]]:
                continue
            trial = _cheapest(problem, mode, base, room, taken)
            if trial is not None and (best is None or trial[0] < best[0]):
                best = (trial[0], _words(problem, mode, trial[1]))
        weight = max(float(model.atom_top[atom]) for atom in mine)
        names = tuple(space.spec.tables[t].name for t in members)
        words = _words(problem, int(choice.modes[unit]), [int(a) for a in mine])
        extra = best[0] - value if best is not None else float("inf")
        found.append(Alternative(names, words, best[1] if best is not None else "", extra, weight))
    return found


def _add(problem: JointProblem, atom: int, sign: float, loads: Any, used: Any, counts: Any) -> None:
    model, space = problem.model, problem.space
    assert model is not None
    entries = slice(space.atom_start[atom], space.atom_start[atom + 1])
    ranks = space.entry_rank[entries]
    for k in range(model.weights.shape[1]):
        loads[model.feature[atom, k], ranks] += sign * model.weights[entries, k]
    used[ranks] += sign * space.entry_bytes[entries]
    for g, group in enumerate(space.groups):
        if model.atom_unit[atom] in group:
            counts[g, ranks] += int(sign)


def _cheapest(
    problem: JointProblem, mode: int, base: np.ndarray, room: np.ndarray, taken: np.ndarray
) -> tuple[float, list[int]] | None:
    """Value with a mode's pieces each at its best place, one after the other; None where one fits nowhere."""
    space = problem.space
    loads, used, counts = base.copy(), room.copy(), taken.copy()
    atoms = []
    for piece in range(space.mode_start[mode], space.mode_start[mode + 1]):
        best: tuple[float, float, int] | None = None
        for atom in range(space.piece_start[piece], space.piece_start[piece + 1]):
            trial, filled, held = loads.copy(), used.copy(), counts.copy()
            _add(problem, atom, 1.0, trial, filled, held)
            if np.all(filled <= space.capacity) and np.all(held <= 1):
                ranks = space.entry_rank[space.atom_start[atom] : space.atom_start[atom + 1]]
                key = (float(trial.max(axis=1).sum()), float(trial[:, ranks].sum()), atom)
                best = key if best is None or key < best else best
        if best is None:
            return None
        atoms.append(best[2])
        _add(problem, best[2], 1.0, loads, used, counts)
    return float(loads.max(axis=1).sum()), atoms


def _words(problem: JointProblem, mode: int, atoms: list[int]) -> str:
    space = problem.space
    kind = KINDS[space.mode_kind[mode]]
    places = [int(space.atom_place[atom]) for atom in atoms]
    if places[0] == EVERYWHERE:
        return f"{kind}"
    what = "host" if kind in (ShardingType.TABLE_ROW_WISE, ShardingType.GRID_SHARD) else "rank"
    width = f", width {space.mode_width[mode]}" if kind.cuts_columns else ""
    return f"{kind} on {what} {', '.join(map(str, places))}{width}"


def metrics(problem: JointProblem, x: Tensor) -> dict[str, float]:
    """Both scores, balance, fullest device, number of tables of each type."""
    totals = problem.phases_ms(x).sum(0)
    share = problem.used_bytes(x) / np.maximum(problem.space.capacity, 1.0)
    kinds = [placement.sharding_type for placement in problem.plan(x).placements]
    values = {
        "rating_ms": problem.score(x, Objective.RATING),
        "critical_path_ms": problem.score(x, Objective.CRITICAL_PATH),
        "mean_rank_ms": float(totals.mean()),
        "imbalance": float(totals.max() / totals.mean()) if float(totals.mean()) > 0 else 1.0,
        "memory_share_max": float(share.max()),
    }
    return values | {f"{kind.value}_tables": float(kinds.count(kind)) for kind in ShardingType}


def describe(problem: JointProblem, x: Tensor) -> str:
    """Scores, types, the busiest ranks, and the heaviest tables with type, place, runner-up and cost difference."""
    spec, numbers = problem.joint_spec, metrics(problem, x)
    kinds = [p.sharding_type for p in problem.plan(x).placements]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ShardingType if kind in kinds)
    totals, used = problem.phases_ms(x).sum(0), problem.used_bytes(x) / GIB_BYTES
    lines = [
        f"{len(spec.tables)} tables on {spec.world_size} ranks ({spec.local_world_size} in each host): rating "
        f"{numbers['rating_ms']:.4f} ms, critical path {numbers['critical_path_ms']:.4f} ms, mean rank "
        f"{numbers['mean_rank_ms']:.4f} ms",
        f"  types: {counts}",
    ]
    order = np.argsort(-totals, kind="stable")
    width = max(len(device.name) for device in spec.devices)
    for r in order[:SHOWN_RANKS]:
        room = problem.space.capacity[r] / GIB_BYTES
        lines.append(f"  {spec.devices[r].name:<{width}}  {totals[r]:9.4f} ms  {used[r]:7.2f} of {room:.2f} GiB")
    if len(order) > SHOWN_RANKS:
        lines.append(f"  and {len(order) - SHOWN_RANKS} less busy ranks, the idlest at {totals.min():.4f} ms")
    if problem.oracle.n <= 20_000:
        for item in sorted(alternatives(problem, x), key=lambda item: -item.weight_ms)[:SHOWN_TABLES]:
            other = f"; next {item.runner_up}, {item.extra_ms:+.4f} ms" if item.runner_up else "; no other type fits"
            lines.append(f"  {' + '.join(item.names)}: {item.chosen} ({item.weight_ms:.4f} ms){other}")
    return "\n".join(lines)


def figures(problem: JointProblem, x: Tensor) -> Mapping[str, Any]:
    """Title -> Figure: milliseconds of every rank by phase, and memory against capacity."""
    from matplotlib.figure import Figure

    phases, names = problem.phases_ms(x), [device.name for device in problem.joint_spec.devices]
    place = np.arange(len(names))
    size = float(np.clip(1.8 + 0.45 * len(names), 5.0, 14.0))
    loads = Figure(figsize=(size, 3.4), layout="constrained")
    axes = loads.subplots()
    bottom = np.zeros(len(names))
    for phase, color, row in zip(PHASES, COLORS, phases, strict=True):
        axes.bar(place, row, bottom=bottom, color=color, label=phase, width=0.8)
        bottom += row
    axes.axhline(bottom.mean(), color="black", linewidth=0.9, linestyle="--", label=f"mean {bottom.mean():.3g} ms")
    axes.set_ylabel("ms per step")
    axes.set_ylim(0.0, bottom.max() * 1.08 if bottom.max() > 0 else 1.0)
    loads.legend(loc="outside upper center", ncols=3 if size < 7 else 5, frameon=False, fontsize=8)

    room = Figure(figsize=(size, 2.6), layout="constrained")
    other = room.subplots()
    other.bar(place, problem.space.capacity / GIB_BYTES, color="#E5E5E5", width=0.8, label="usable")
    other.bar(place, problem.used_bytes(x) / GIB_BYTES, color="#009E73", width=0.8, label="used by tables")
    other.set_ylabel("GiB")
    room.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    step = max(1, -(-len(names) // 32))
    is_crowded = max(map(len, names)) > 6 or len(names) > 16
    for drawn in (axes, other):
        drawn.set_xticks(place[::step], names[::step], rotation=90 if is_crowded else 0, fontsize=8)
        drawn.set_xlim(-0.6, len(names) - 0.4)
        drawn.spines[["top", "right"]].set_visible(False)
    return {"Load of each rank by phase": loads, "Device memory": room}
