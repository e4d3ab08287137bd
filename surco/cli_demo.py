"""``surco demo``: the engine's first real jobs, against every baseline, in less than a minute."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import surco
from surco import provenance
from surco.cli_solve import interruptible
from surco.errors import NoDesignError
from surco.protocols import HasHeuristics, Problem
from surco.report import COMPARISON_HEADERS, best_bound, certificate, comparison_rows, write_comparisons
from surco.result import Result, SolveStatus

METHODS = ("auto", "linear", "random", "local_search", "zero")  # and every heuristic that the problem knows


@dataclass(frozen=True, slots=True)
class Job:
    """One real input of the demo: every method gets the same ``seconds``."""

    title: str
    id: str
    seconds: float
    overrides: Mapping[str, Any] = field(default_factory=dict)


_MLPERF = "the 26 embedding tables of MLPerf DLRM-DCNv2 over 8 devices"
JOBS = (
    Job(f"Sharding {_MLPERF}, TorchRec's additive estimate", "sharding/mlperf-dlrm-v2-8gpu-v0", 4.0),
    Job(f"Sharding {_MLPERF}, nonlinear fused kernels", "sharding/mlperf-dlrm-v2-8gpu-nonlinear-v0", 5.0),
    Job("Routing UUNET (Topology Zoo) to a tight deadline", "paths/topozoo-uunet-v0", 2.0, {"deadline": "tight"}),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="default runs/demo")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice (default 0)")
    parser.add_argument("--scale", type=float, default=1.0, help="times the seconds of every run (default 1)")


def run(arguments: argparse.Namespace) -> int:
    """Run every method on every job, print the tables, write the report and the results."""
    parts: dict[str, dict[str, Result]] = {}
    with interruptible():
        for job in JOBS:
            sys.stdout.write(f"\n{job.title}\n")
            results = compare(job, arguments.seed, arguments.scale)
            parts[job.title] = results
            sys.stdout.write(text(results))
            for name, result in results.items():
                result.save(arguments.out / job.id.replace("/", "-") / name)
            if any(result.status is SolveStatus.INTERRUPTED for result in results.values()):
                break
    origin = {"command": provenance.command(arguments.argv, "surco")}
    title = "surco demo: our design against every baseline"
    report = write_comparisons(parts, arguments.out / "report.html", title=title, origin=origin)
    sys.stdout.write(f"\nReport with plots: {report}\n")
    return 0 if all(result.is_feasible for results in parts.values() for result in results.values()) else 4


def compare(job: Job, seed: int, scale: float = 1.0) -> dict[str, Result]:
    """Run every method on one job under the same budget; a method without a design says so and has no row."""
    results: dict[str, Result] = {}
    for method in methods(surco.make(job.id, **job.overrides)):
        sys.stderr.write(f"  {method} ...\n")
        problem = surco.make(job.id, **job.overrides)  # afresh, so that no method profits from another's work
        try:
            results[method] = surco.solve(problem, method, seconds=scale * job.seconds, seed=seed)
        except NoDesignError as error:
            sys.stdout.write(f"  {method}: {error}\n")
            continue
        if results[method].status is SolveStatus.INTERRUPTED:
            break
    return results


def methods(problem: Problem) -> list[str]:
    """Our method first, then the baselines, the field's own rules among them."""
    rules = sorted(problem.heuristics()) if isinstance(problem, HasHeuristics) else []
    return [*METHODS[:2], *rules, *METHODS[2:]]


def text(results: Mapping[str, Result]) -> str:
    """The comparison for a terminal: table, bound, and our design in words."""
    lines = aligned([COMPARISON_HEADERS, *comparison_rows(results)])
    bound = best_bound(results.values())
    first = next(iter(results.values()))
    lines.append(f"proven lower bound: {'none' if bound is None else f'{bound:.6g}'}")
    lines.append(f"auto: {certificate(first)}")
    lines += first.describe().splitlines()
    return "".join(f"  {line}".rstrip() + "\n" for line in lines)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(row[k].rjust(widths[k]) for k in range(1, len(row)))]) for row in rows
    ]
