"""From rows to tables: means with 95 % intervals, and paired differences to the best method."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.suite import Suite
from surco.result import relative_gap

LEVEL = 0.95
ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean of n independent numbers and the half width of its 95 % interval (Student's t; None for n = 1)."""

    value: float
    half_width: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Line:
    """One method in one group of instances.

    Attributes:
        label: of the method.
        n: cells with a design.
        failed: status -> number of cells without a design.
        value: mean value.
        regret: mean regret to the best known value of each instance; see :func:`regret`.
        worst: largest regret.
        best_share: share of all cells, failed ones too, whose regret is within the suite's tolerance.
        gap: mean distance of the value from the best bound known for the instance, relative to the value or absolute
            as the suite says; None where no bound is known.
        proven_share: share of all cells that proved their own design optimal.
        behind: mean paired difference of regret to the group's best method; None for that method itself.
        oracle_calls, objective_calls, cpu_seconds: mean costs.
        metrics: name -> mean of a metric of the problem.
    """

    label: str
    n: int
    failed: Mapping[str, int]
    value: Mean | None = None
    regret: Mean | None = None
    worst: float | None = None
    best_share: float = 0.0
    gap: Mean | None = None
    proven_share: float = 0.0
    behind: Mean | None = None
    oracle_calls: float | None = None
    objective_calls: float | None = None
    cpu_seconds: float | None = None
    metrics: Mapping[str, Mean] | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """The best value and the best bound known for one instance, from the rows and from reference values."""

    value: float = math.inf
    bound: float = -math.inf

    def with_row(self, value: float | None, bound: float | None) -> Known:
        """Take one more finding."""
        return Known(
            self.value if value is None else min(self.value, value),
            self.bound if bound is None else max(self.bound, bound),
        )


def best_known(
    rows: Iterable[Mapping[str, Any]], reference: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Known]:
    """Instance -> best value and bound known."""
    known: dict[str, Known] = defaultdict(Known)
    for instance, entry in (reference or {}).items():
        known[instance] = known[instance].with_row(entry.get("value"), entry.get("bound"))
    for row in rows:
        if row["status"] == "ok":
            known[row["instance"]] = known[row["instance"]].with_row(row["value"], row["bound"])
    return dict(known)


def regret(value: float, best: float, kind: str) -> float:
    """Difference to the best known value, never negative; divided by its size where ``kind`` is ``relative``.

    A difference that rounding alone explains is none.
    """
    difference = value - best
    if difference <= ROUNDING * max(1.0, abs(best)):
        return 0.0
    return difference / abs(best) if kind == "relative" and best else difference


def mean(values: Sequence[float]) -> Mean:
    """Mean and interval of independent numbers."""
    array = np.asarray(values, dtype=float)
    n = len(array)
    if n < 2:
        return Mean(float(array.mean()), None, n)
    error = float(array.std(ddof=1)) / math.sqrt(n)
    return Mean(float(array.mean()), float(stats.t.ppf(0.5 + LEVEL / 2, n - 1)) * error, n)


def clustered(pairs: Iterable[tuple[str, float]]) -> Mean:
    """Mean over instances of the mean over seeds: seeds of one instance are no independent sample of instances.

    With one instance the seeds are the sample.
    """
    by_instance: dict[str, list[float]] = defaultdict(list)
    for instance, value in pairs:
        by_instance[instance].append(value)
    if len(by_instance) == 1:
        return mean(next(iter(by_instance.values())))
    return mean([float(np.mean(values)) for values in by_instance.values()])


def tables(
    plan: Suite, rows: Sequence[Mapping[str, Any]], reference: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, list[Line]]:
    """Group -> one line a method, best mean regret first; methods without any design come last."""
    keys = {cell.key for cell in plan.cells()}
    rows = [row for row in rows if row["cell"] in keys]
    known = best_known(rows, reference)
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["group"]].append(row)
    order = list(dict.fromkeys(instance.group for instance in plan.instances))
    return {group: _lines(plan, groups[group], known) for group in order if group in groups}


def _lines(plan: Suite, rows: Sequence[Mapping[str, Any]], known: Mapping[str, Known]) -> list[Line]:
    regrets: dict[str, dict[tuple[str, int], float]] = {}
    lines: list[Line] = []
    for row in plan.methods:
        mine = [r for r in rows if r["label"] == row.label]
        if mine:
            good = [r for r in mine if r["status"] == "ok"]
            regrets[row.label] = {
                (r["instance"], r["seed"]): regret(r["value"], known[r["instance"]].value, plan.regret) for r in good
            }
            lines.append(_line(plan, row.label, mine, good, regrets[row.label], known))
    lines.sort(
        key=lambda line: (line.regret is None, sum(line.failed.values()), line.regret.value if line.regret else 0)
    )
    if not lines or lines[0].regret is None:
        return lines
    best = regrets[lines[0].label]
    return [lines[0], *(_behind(line, regrets[line.label], best) for line in lines[1:])]


def _line(
    plan: Suite,
    label: str,
    mine: Sequence[Mapping[str, Any]],
    good: Sequence[Mapping[str, Any]],
    regrets: Mapping[tuple[str, int], float],
    known: Mapping[str, Known],
) -> Line:
    failed: dict[str, int] = defaultdict(int)
    for row in mine:
        if row["status"] != "ok":
            failed[row["status"]] += 1
    if not good:
        return Line(label, 0, dict(failed))
    gaps = [(r["instance"], _gap(r["value"], known[r["instance"]].bound, plan.regret)) for r in good]
    metrics = {
        name: clustered((r["instance"], r["metrics"][name]) for r in good)
        for name in plan.metrics
        if all(r["metrics"].get(name) is not None for r in good)
    }
    return Line(
        label,
        n=len(good),
        failed=dict(failed),
        value=clustered((r["instance"], r["value"]) for r in good),
        regret=clustered((instance, value) for (instance, _), value in regrets.items()),
        worst=max(regrets.values()),
        best_share=sum(value <= plan.tolerance for value in regrets.values()) / len(mine),
        gap=clustered([(i, g) for i, g in gaps if g is not None]) if all(g is not None for _, g in gaps) else None,
        proven_share=sum(r["end"] == "optimal" for r in good) / len(mine),
        oracle_calls=float(np.mean([r["oracle_calls"] for r in good])),
        objective_calls=float(np.mean([r["objective_calls"] for r in good])),
        cpu_seconds=float(np.mean([r["cpu_seconds"] for r in good])),
        metrics=metrics,
    )


def _gap(value: float, bound: float, kind: str) -> float | None:
    if kind == "relative" or not math.isfinite(bound):
        return relative_gap(value, bound)
    return regret(value, bound, kind)


def _behind(line: Line, mine: Mapping[tuple[str, int], float], best: Mapping[tuple[str, int], float]) -> Line:
    shared = [(key[0], mine[key] - best[key]) for key in mine if key in best]
    return replace(line, behind=clustered(shared)) if shared else line
