"""What a solve returns: the design, what is proven about it, and what it cost."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solvers.oracle import Array
from surco.atomic import write_text

if TYPE_CHECKING:
    from surco.protocols import Problem


class SolveStatus(enum.StrEnum):
    """Why a solve ended. Never ``OPTIMAL`` without a bound."""

    OPTIMAL = "optimal"
    CONVERGED = "converged"
    BUDGET = "budget"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"

    @property
    def remedy(self) -> str:
        """What a user can do about it."""
        return _REMEDIES[self]


_REMEDIES = {
    SolveStatus.OPTIMAL: "Nothing to do: the value meets a proven lower bound.",
    SolveStatus.CONVERGED: "The method has nothing left to try; another method or seed may find more.",
    SolveStatus.BUDGET: "The budget ended; raise `seconds` or `calls`, or resume from the checkpoint if one was kept.",
    SolveStatus.STOPPED: "The callback asked to stop.",
    SolveStatus.INTERRUPTED: "Interrupted by the user; resume from the checkpoint to go on.",
}


@dataclass(frozen=True, slots=True)
class Stats:
    """Costs of a run. ``cpu_seconds`` is process CPU time, all threads, without child processes.

    ``rejected`` counts oracle answers that the independent check found infeasible; ``oracle_failures`` and
    ``objective_failures`` count rows that raised, hung or came back as no number.
    """

    oracle_calls: int = 0
    objective_calls: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    oracle_failures: int = 0
    objective_failures: int = 0
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class Point:
    """One improvement of the value or of the bound, for anytime curves."""

    oracle_calls: int
    objective_calls: int
    seconds: float
    cpu_seconds: float
    value: float | None
    bound: float | None
    source: str


@dataclass(frozen=True, slots=True)
class Result:
    """A feasible design and what is known about it.

    Attributes:
        x: [n] float64, the best design seen.
        value: f(x).
        bound: proven lower bound on min f, None where there is none.
        is_feasible: verdict of the problem's own independent check, not of the oracle.
        status: why the run ended.
        method: name of the method that was asked for; ``source`` names the one that found x.
        seed: seed of the run.
        stats: calls and seconds.
        trace: improvements in order.
        id: registered id of the problem, empty for a problem of the user's own.
        spec: JSON-able description that rebuilds the problem, empty where it offers none.
        metrics: reported quantities of the design.
        notes: failures that were survived, in words.
    """

    x: Array
    value: float
    bound: float | None
    is_feasible: bool
    status: SolveStatus
    method: str
    source: str
    seed: int
    stats: Stats
    trace: tuple[Point, ...] = ()
    id: str = ""
    spec: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problem: Problem | None = field(default=None, repr=False, compare=False)

    @property
    def gap(self) -> float | None:
        """(value - bound) / |value|, None without a bound; the absolute difference where the value is 0."""
        return relative_gap(self.value, self.bound)

    @property
    def remedy(self) -> str:
        """What to do about the status."""
        return self.status.remedy

    def to_json(self) -> dict[str, Any]:
        """Everything but the problem object, as plain JSON data; a missing bound or metric is null, never infinity."""
        stats = self.stats
        return {
            "id": self.id,
            "method": self.method,
            "source": self.source,
            "value": self.value,
            "bound": self.bound,
            "gap": self.gap,
            "is_feasible": self.is_feasible,
            "status": self.status.value,
            "remedy": self.remedy,
            "oracle_calls": stats.oracle_calls,
            "objective_calls": stats.objective_calls,
            "seconds": stats.seconds,
            "cpu_seconds": stats.cpu_seconds,
            "oracle_failures": stats.oracle_failures,
            "objective_failures": stats.objective_failures,
            "rejected": stats.rejected,
            "seed": self.seed,
            "metrics": {name: value if math.isfinite(value) else None for name, value in self.metrics.items()},
            "notes": list(self.notes),
            "x": self.x.tolist(),
            "trace": [[getattr(p, name) for name in Point.__slots__] for p in self.trace],
            "trace_columns": list(Point.__slots__),
            "spec": dict(self.spec),
        }

    def save(self, folder: str | Path) -> Path:
        """Write ``result.json`` into ``folder`` (made if missing), atomically; returns the file."""
        path = Path(folder) / "result.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(self.to_json(), allow_nan=False))
        return path

    def report(self, path: str | Path) -> Path:
        """Write a self-contained HTML report with plots."""
        from surco.report import write_report

        return write_report(self, path)

    def describe(self) -> str:
        """The design in words, by the problem itself where it can."""
        from surco.bridge import to_torch
        from surco.protocols import HasDescription

        if isinstance(self.problem, HasDescription):
            return self.problem.describe(to_torch(self.x))
        return f"x = {self.x.tolist()}"

    def __str__(self) -> str:
        bound = "no bound" if self.bound is None else f"bound {self.bound:.6g}, gap {100 * (self.gap or 0.0):.3g} %"
        stats = self.stats
        return (
            f"{self.id or 'problem'}: value {self.value:.6g} ({bound}), {self.status.value}, by {self.source} in "
            f"{stats.oracle_calls} oracle calls, {stats.objective_calls} objective calls, {stats.seconds:.2f} s"
        )


def relative_gap(value: float, bound: float | None) -> float | None:
    """(value - bound) / |value|; None without a finite bound; the difference itself where value is 0."""
    if bound is None or not math.isfinite(bound):
        return None
    difference = max(value - bound, 0.0)
    return difference / abs(value) if value else difference
