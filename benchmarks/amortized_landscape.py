"""The learned landscape against score function and local search, on an objective that hides its gradient.

    python -m benchmarks.amortized_landscape --out FILE

Tables on devices; the objective is a simulated measurement: each phase of each device takes the time that stands in a
latency table at the nearest of ``KNOTS`` loads a decade, so f is piecewise constant and a method sees one number a
call. Every row has the same start, the linear costs of the problem, and the same limit in objective calls. Reported
are the value relative to the best of all rows, and the calls until a row reaches what the score function has at the end
of its budget. Local search is shown with the domain's own moves and with generic ones.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import surco
from problems.sharding.fused import FusedCost
from problems.sharding.makers import dlrm
from surco import provenance
from surco.atomic import write_text
from surco.bridge import to_torch
from surco.estimators import Landscape

KNOTS = 64  # of the latency table, a decade of load
SIZES = ((30, 8), (50, 8))
MARKS = (10, 30, 100, 300, 1000)
ROWS: dict[str, Callable[[], tuple[str, dict[str, Any]]]] = {
    "random": lambda: ("random", {}),
    "local search, own moves": lambda: ("local_search", {}),
    "local search, generic moves": lambda: ("local_search", {}),
    "score function": lambda: ("zero", {"estimator": "score-function"}),
    "landscape, quadratic": lambda: ("zero", {"estimator": Landscape(shape="quadratic")}),  # type: ignore[arg-type]
    "landscape, network": lambda: ("zero", {"estimator": Landscape(shape="costs")}),  # type: ignore[arg-type]
}
REFERENCE = "score function"


class Measured:
    """A sharding problem whose step time comes from a latency table, one design at a time.

    Args:
        tables: number of tables.
        devices: number of devices.
        seed: of the tables.
    """

    is_differentiable = False
    is_rowwise = True
    is_convex = False

    def __init__(self, tables: int, devices: int, seed: int) -> None:
        self.inner = dlrm(tables, devices, f"measured/{tables}t-{devices}d", FusedCost(), seed=seed)
        self.oracle, self.id = self.inner.oracle, self.inner.id

    def objective(self, x: Tensor) -> Tensor:
        """Milliseconds of designs [..., n]; the slowest device of every phase counts."""
        times = self.inner.times_ms(x).detach()
        knots = (times.clamp(min=1e-6).log10() * KNOTS).round() / KNOTS
        return (10.0**knots).amax(-1).sum(-1)

    def violation(self, x: Tensor) -> Tensor:
        """Of the sharding problem."""
        return self.inner.violation(x)

    def initial_costs(self) -> Tensor:
        """Of the sharding problem."""
        return self.inner.initial_costs()


class MeasuredWithMoves(Measured):
    """The same with the domain's moves, which know the busy devices."""

    def moves(self, x: Tensor, *, count: int, generator: torch.Generator) -> Tensor:
        """Shifts and swaps of tables."""
        return self.inner.moves(x, count=count, generator=generator)


def curve(row: str, size: tuple[int, int], seed: int, calls: int) -> tuple[list[tuple[int, float]], float]:
    """Improvements (objective calls, value) of one run, and its CPU seconds."""
    problem = (MeasuredWithMoves if row.endswith("own moves") else Measured)(*size, seed)
    method, options = ROWS[row]()
    begun = time.process_time()
    result = surco.solve(problem, method, objective_calls=calls, calls=10 * calls, seed=seed, **options)
    if not float(problem.violation(to_torch(result.x))) <= 1e-6:
        raise RuntimeError(f"{row} returned a plan that breaks a rule")
    return [(point.objective_calls, point.value) for point in result.trace], time.process_time() - begun


def at(trace: Sequence[tuple[int, float]], calls: int) -> float:
    """Best value after so many calls."""
    return min((value for spent, value in trace if spent <= calls), default=math.inf)


def reached(trace: Sequence[tuple[int, float]], value: float) -> float:
    """Calls until a value, inf where it was not reached."""
    return min((spent for spent, found in trace if found <= value * (1 + 1e-9)), default=math.inf)


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.amortized_landscape", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--instances", type=int, default=10)
    parser.add_argument("--objective-calls", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    limit = arguments.objective_calls
    marks = [mark for mark in MARKS if mark <= limit]
    tables: dict[str, Any] = {}
    begun = time.process_time()
    for size in SIZES:
        name = f"{size[0]} tables on {size[1]} devices"
        runs = {row: [curve(row, size, seed, limit) for seed in range(arguments.instances)] for row in ROWS}
        best = [min(at(runs[row][k][0], limit) for row in ROWS) for k in range(arguments.instances)]
        goals = [at(runs[REFERENCE][k][0], limit) for k in range(arguments.instances)]
        lines = [f"{name}: mean percent above the best known after n objective calls", ""]
        head = [f"{mark} calls" for mark in marks]
        lines += ["| method | " + " | ".join(head) + " | reaches the score function's last | median calls |"]
        lines += ["|---" * (len(marks) + 3) + "|"]
        tables[name] = {}
        for row, found in runs.items():
            regrets = {m: [100 * (at(t, m) / b - 1) for (t, _), b in zip(found, best, strict=True)] for m in marks}
            calls = [reached(trace, goal) for (trace, _), goal in zip(found, goals, strict=True)]
            share = float(np.mean(np.isfinite(calls)))
            median = float(np.median(calls))
            tables[name][row] = {
                "regret_percent": {m: float(np.mean(v)) for m, v in regrets.items()},
                "regret_error": {m: float(np.std(v, ddof=1) / math.sqrt(len(v))) for m, v in regrets.items()},
                "calls_to_reference": [c if math.isfinite(c) else None for c in calls],
                "share_reached": share,
                "cpu_seconds_per_run": float(np.mean([seconds for _, seconds in found])),
            }
            cells = [f"{np.mean(v):.2f}" for v in regrets.values()]
            told = f"{median:.0f}" if math.isfinite(median) else "not reached"
            lines.append(f"| {row} | " + " | ".join(cells) + f" | {share:.0%} | {told} |")
        sys.stdout.write("\n".join(lines) + "\n\n")
        sys.stdout.flush()
        if arguments.out is not None:
            result = {
                "instances": arguments.instances,
                "objective_calls": limit,
                "knots_per_decade": KNOTS,
                "tables": tables,
                "cpu_seconds": time.process_time() - begun,
                **provenance.origin(argv, "python -m benchmarks.amortized_landscape"),
                "command": f"python -m benchmarks.amortized_landscape --instances {arguments.instances} "
                f"--objective-calls {limit} --out FILE",
            }
            write_text(arguments.out, json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
