"""Anytime curves: value and bound of runs against oracle calls, objective calls and CPU seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from surco.result import Result

AXES = (("oracle_calls", "oracle calls"), ("objective_calls", "objective calls"), ("cpu_seconds", "CPU seconds"))
THEMES = {
    "light": {"ink": "#1c2330", "soft": "#5b6472", "line": "#d9dee6"},
    "dark": {"ink": "#e6e9ee", "soft": "#a2abb8", "line": "#343b47"},
}
# Told apart by people who see fewer colors, and visible on white and on near-black.
COLORS = ("#3b82d6", "#e07b1f", "#2a9d6f", "#c2509f", "#8a6fd1", "#b5962a", "#d1495b", "#4aa3b5", "#7d8794", "#9c6b4a")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))
FRAME = 12.0  # early values farther away than this many times the typical distance to the best are cut off


def anytime(results: Mapping[str, Result]) -> dict[str, Figure]:
    """Curves of one or more runs on one problem, drawn for light and for dark paper.

    Args:
        results: label of the curve -> run.

    Returns:
        Theme -> figure with one panel for each measure of cost; solid lines are values, dashed ones bounds.
    """
    return {theme: _draw(results, theme) for theme in THEMES}


def _draw(results: Mapping[str, Result], theme: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 3.7), layout="constrained")
    figure.patch.set_alpha(0.0)
    panels = figure.subplots(1, len(AXES), sharey=True)
    limits, cut = _frame(list(results.values()))
    for axis, (name, label) in zip(panels, AXES, strict=True):
        style_axes(axis, theme)
        axis.set_xlabel(label)
        axis.set_xscale("log" if name == "cpu_seconds" else _scale([_cost(r, name) for r in results.values()]))
        for k, (title, result) in enumerate(results.items()):
            _curve(axis, result, name, title, color_of(k), DASHES[k // len(COLORS) % len(DASHES)])
        _bound(axis, list(results.values()), name, THEMES[theme]["soft"])
        axis.set_ylim(*limits)
        plain_ticks(axis)
    panels[0].set_ylabel("value")
    handles, labels = panels[0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 8), frameon=False)
    for text in legend.get_texts():
        text.set_color(THEMES[theme]["ink"])
    if cut:
        panels[0].annotate(
            f"first values up to {cut:.3g} lie above the frame", (0.98, 0.97), xycoords="axes fraction",
            ha="right", va="top", fontsize=8, color=THEMES[theme]["soft"],
        )  # fmt: skip
    return figure


def color_of(k: int) -> str:
    """Color of the k-th curve."""
    return COLORS[k % len(COLORS)]


def style_axes(axis: Axes, theme: str) -> None:
    """Quiet axes in the theme's ink on a transparent ground."""
    colors = THEMES[theme]
    axis.patch.set_alpha(0.0)
    axis.grid(visible=True, color=colors["line"], linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(colors=colors["soft"], labelsize=8, which="both")
    for side, spine in axis.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(colors["line"])
    axis.xaxis.label.set_color(colors["ink"])
    axis.yaxis.label.set_color(colors["ink"])
    axis.title.set_color(colors["ink"])


def plain_ticks(axis: Axes) -> None:
    """Write 0.01, 0.02 and 1000 on a logarithmic axis, not powers of ten; for an axis that has its curves."""
    from matplotlib.ticker import LogLocator, NullFormatter

    if axis.get_xscale() == "log":
        low, high = axis.get_xlim()
        subs = (1.0, 2.0, 5.0) if high <= 1e3 * low else (1.0,)  # 10, 20, 50 ... over many decades would overlap
        axis.xaxis.set_major_locator(LogLocator(subs=subs, numticks=9))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())


def _curve(axis: Axes, result: Result, name: str, title: str, color: str, dashes: Any) -> None:
    points = [(getattr(p, name), p.value) for p in result.trace if p.value is not None]
    end = max(_cost(result, name), points[-1][0] if points else 0)
    points.append((end, result.value))
    xs, ys = _positive([x for x, _ in points], axis), [y for _, y in points]
    axis.step(xs, ys, where="post", color=color, linestyle=dashes, linewidth=1.7, label=title)
    axis.plot(xs[-1:], ys[-1:], marker="o", markersize=4.5, color=color, linestyle="none")


def _bound(axis: Axes, results: Sequence[Result], name: str, color: str) -> None:
    """The best bound proven by any of the runs, as it rose."""
    points = sorted((getattr(p, name), p.bound) for r in results for p in r.trace if p.bound is not None)
    finals = [r.bound for r in results if r.bound is not None]
    if not finals:
        return
    points.append((max(_cost(r, name) for r in results), max(finals)))
    best, xs, ys = -math.inf, [], []
    for x, bound in points:
        best = max(best, bound)
        xs.append(x)
        ys.append(best)
    axis.step(_positive(xs, axis), ys, where="post", color=color, linestyle="--", linewidth=1.3, label="proven bound")


def _frame(results: Sequence[Result]) -> tuple[tuple[float, float], float | None]:
    """Limits of the value axis, and the largest value that they cut off."""
    values = [p.value for r in results for p in r.trace if p.value is not None] + [r.value for r in results]
    best = min(values)
    distances = sorted(v - best for v in values)
    typical = distances[len(distances) // 2] or distances[-1]
    final = max(r.value for r in results) - best
    span = max(min(distances[-1], FRAME * typical), 1.2 * final) or 0.05 * abs(best) or 1.0
    bounds = [r.bound for r in results if r.bound is not None]
    low = min(best, max(bounds)) if bounds and best - max(bounds) <= 3.0 * span else best
    pad = 0.06 * (best + span - low)
    return (low - pad, best + span + pad), (max(values) if max(values) > best + span + pad else None)


def _scale(costs: Sequence[float]) -> str:
    return "log" if max(costs) > 50 else "linear"


def _cost(result: Result, name: str) -> float:
    return float(getattr(result.stats, name))


def _positive(xs: Sequence[float], axis: Axes) -> list[float]:
    """Costs that a logarithmic axis can show."""
    least = (1e-3 if axis.get_xlabel() == "CPU seconds" else 1.0) if axis.get_xscale() == "log" else 0.0
    return [max(float(x), least) for x in xs]
