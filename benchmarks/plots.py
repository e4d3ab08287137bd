"""Anytime plots of a suite: mean regret against oracle calls and against CPU seconds, one line a method."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.statistics import Known, clustered, regret
from benchmarks.suite import Suite
from solvers.oracle import Array
from surco.report_curves import DASHES, THEMES, color_of, plain_ticks, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = (("oracle_calls", "oracle calls", 0), ("cpu_seconds", "CPU seconds", 3))  # column of the trace
STEPS = 160


def anytime(
    plan: Suite, group: str, rows: Sequence[Mapping[str, Any]], known: Mapping[str, Known]
) -> dict[str, Figure]:
    """Theme -> figure of one group."""
    runs: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["status"] == "ok" and row["group"] == group:
            runs[row["label"]].append(row)
    labels = [row.label for row in plan.methods if row.label in runs]
    return {theme: _draw(plan, {label: runs[label] for label in labels}, known, theme) for theme in THEMES}


def curve(
    plan: Suite, rows: Sequence[Mapping[str, Any]], known: Mapping[str, Known], column: int, grid: Array
) -> tuple[Array, Array, Array]:
    """Mean regret of the runs at each cost in ``grid``, and the ends of its 95 % interval.

    Args:
        plan: says how regret is measured.
        rows: finished runs of one method.
        known: best value of each instance.
        column: of the trace: 0 oracle calls, 3 CPU seconds.
        grid: [G] costs, rising.

    Returns:
        Three arrays [G]; NaN before every run has a design.
    """
    table = np.stack([_regrets(plan, row, known[row["instance"]].value, column, grid) for row in rows])
    middle, low, high = (np.full(len(grid), np.nan) for _ in range(3))
    for k in np.flatnonzero(~np.isnan(table).any(0)):
        found = clustered((row["instance"], float(value)) for row, value in zip(rows, table[:, k], strict=True))
        middle[k] = found.value
        low[k], high[k] = found.value - (found.half_width or 0.0), found.value + (found.half_width or 0.0)
    return middle, low, high


def _regrets(plan: Suite, row: Mapping[str, Any], best: float, column: int, grid: Array) -> Array:
    points = [(point[column], point[4]) for point in row["trace"] if point[4] is not None]
    costs = np.array([cost for cost, _ in points])
    values = np.array([regret(value, best, plan.regret) for _, value in points])
    index = np.searchsorted(costs, grid, side="right") - 1
    return np.where(index >= 0, values[np.maximum(index, 0)], np.nan)


def _draw(
    plan: Suite, runs: Mapping[str, Sequence[Mapping[str, Any]]], known: Mapping[str, Known], theme: str
) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 4.2), layout="constrained")
    figure.patch.set_alpha(0.0)
    panels: Sequence[Axes] = figure.subplots(1, len(PANELS), sharey=True)
    floor, least = plan.tolerance, float("inf")
    for axis, (name, words, column) in zip(panels, PANELS, strict=True):
        style_axes(axis, theme)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel(words)
        ends = [row[name] for rows in runs.values() for row in rows]
        first = [point[column] for rows in runs.values() for row in rows for point in row["trace"]]
        grid = np.geomspace(max(min(first, default=1.0), 1.0 if column == 0 else 1e-4), max(ends) * 1.02, STEPS)
        if column == 0:
            grid = np.unique(np.concatenate([np.floor(grid), [max(ends)]]))
        for k, (label, rows) in enumerate(runs.items()):
            middle, low, high = (np.maximum(part, floor) for part in curve(plan, rows, known, column, grid))
            least = min(least, float(np.nanmin(middle))) if not np.isnan(middle).all() else least
            style = {"color": color_of(k), "linestyle": DASHES[k // 10 % len(DASHES)]}
            axis.step(grid, middle, where="post", linewidth=1.7, label=label, **style)
            axis.fill_between(grid, low, high, step="post", color=color_of(k), alpha=0.08, linewidth=0.0)
        plain_ticks(axis)
    kind = "relative" if plan.regret == "relative" else "absolute"
    panels[0].set_ylabel(f"mean {kind} distance to best known\n(floor {floor:g})")
    panels[0].set_ylim(bottom=0.5 * min(least, 1.0))
    handles, labels = panels[0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 8), frameon=False)
    for text in legend.get_texts():
        text.set_color(THEMES[theme]["ink"])
    return figure
