"""A plan in words and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from problems.sharding.costs import PHASES
from problems.sharding.tables import GIB_BYTES
from surco.bridge import to_numpy

if TYPE_CHECKING:
    from problems.sharding.problem import ShardingProblem

COLORS = ("#0072B2", "#E69F00", "#CC79A7", "#56B4E9")  # told apart without color vision, and in gray
MAX_DEVICES_IN_WORDS = 32
MAX_NAMES = 6


def describe(problem: ShardingProblem, x: Tensor) -> str:
    """Step time, then one line per device: milliseconds, memory, heaviest tables first."""
    plan = to_numpy(problem.plan(x))
    times = to_numpy(problem.times_ms(x))
    total = times.sum(0)
    memory = problem.table_bytes @ plan
    weight = problem.cost.single_ms().sum(0)
    width = max(len(device.name) for device in problem.devices)
    lines = [
        f"{len(problem.tables)} tables on {len(problem.devices)} devices ({problem.cost_model.name} cost): "
        f"{float(problem.objective(x)):.4f} ms per step, "
        f"slowest device {total.max():.4f} ms, mean {total.mean():.4f} ms"
    ]
    for d in range(min(len(problem.devices), MAX_DEVICES_IN_WORDS)):
        here = np.flatnonzero(plan[:, d] > 0.5)
        here = here[np.argsort(-weight[here, d], kind="stable")]
        names = ", ".join(problem.tables[t].name for t in here[:MAX_NAMES])
        more = f" and {len(here) - MAX_NAMES} more" if len(here) > MAX_NAMES else ""
        noun = "table: " if len(here) == 1 else "tables:"
        lines.append(
            f"  {problem.devices[d].name:<{width}}  {total[d]:9.4f} ms  {memory[d] / GIB_BYTES:7.2f} of "
            f"{problem.capacity_bytes[d] / GIB_BYTES:.2f} GiB  {len(here):3d} {noun} {names}{more}"
        )
    if len(problem.devices) > MAX_DEVICES_IN_WORDS:
        lines.append(f"  and {len(problem.devices) - MAX_DEVICES_IN_WORDS} more devices")
    return "\n".join(lines)


def figures(problem: ShardingProblem, x: Tensor) -> Mapping[str, Any]:
    """Title -> Figure: milliseconds of every device by phase, and memory against capacity."""
    from matplotlib.figure import Figure

    times = to_numpy(problem.times_ms(x))
    memory = problem.table_bytes @ to_numpy(problem.plan(x)) / GIB_BYTES
    capacity = problem.capacity_bytes / GIB_BYTES
    devices = len(problem.devices)
    width = float(np.clip(1.8 + 0.45 * devices, 5.0, 14.0))
    place = np.arange(devices)

    loads = Figure(figsize=(width, 3.4), layout="constrained")
    axes = loads.subplots()
    bottom = np.zeros(devices)
    for phase, color, row in zip(PHASES, COLORS, times, strict=True):
        axes.bar(place, row, bottom=bottom, color=color, label=phase, width=0.78, edgecolor="white", linewidth=0.4)
        bottom += row
    mean = bottom.mean()
    axes.axhline(mean, color="black", linewidth=0.9, linestyle="--", label=f"mean {mean:.3g} ms")
    axes.set_ylabel("ms per step")
    axes.set_ylim(0.0, bottom.max() * 1.08 if bottom.max() > 0 else 1.0)
    _label_devices(axes, problem)
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda k: labels[k].startswith("mean"))  # the phases first
    handles, labels = [handles[k] for k in order], [labels[k] for k in order]
    loads.legend(handles, labels, loc="outside upper center", ncols=3 if width < 7 else 5, frameon=False, fontsize=8)

    room = Figure(figsize=(width, 2.6), layout="constrained")
    axes = room.subplots()
    axes.bar(place, capacity, color="#E5E5E5", width=0.78, label="usable")
    axes.bar(place, memory, color="#009E73", width=0.78, label="used by tables")
    axes.set_ylabel("GiB")
    _label_devices(axes, problem)
    room.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return {"Device loads by phase": loads, "Device memory": room}


def _label_devices(axes: Any, problem: ShardingProblem) -> None:
    devices = len(problem.devices)
    step = max(1, -(-devices // 32))
    names = [device.name for device in problem.devices[::step]]
    is_crowded = max(len(name) for name in names) > 6 or devices > 16
    axes.set_xticks(np.arange(0, devices, step), names, rotation=90 if is_crowded else 0, fontsize=8)
    axes.set_xlim(-0.6, devices - 0.4)
    axes.tick_params(axis="y", labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
