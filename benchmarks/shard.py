"""Table-wise sharding, every method against a certified bound: ``python -m benchmarks.shard --out DIR``.

The MLPerf DLRM-DCNv2 tables on 8 and 16 devices, and drawn tables 50x4, 50x8, 200x8, each under TorchRec's additive
estimate and under the nonlinear fused model; drawn ones for several seeds. Every method gets the same wall seconds on
one thread; CPU seconds are reported. Gaps are to the best bound that any run proved, a longer exact run (the
judge) among them. Finished cells are kept in DIR and not run again.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import surco
from benchmarks.resumed import rows_of_cells
from problems.sharding import ShardingProblem
from surco import provenance
from surco.errors import NoDesignError

METHODS = (
    "linear", "random", "local_search", "slp", "zero", "lpt", "by_size", "by_dim", "by_lookups", "by_size_lookups",
    "marginal", "exact", "auto",
)  # fmt: skip
JUDGE = "judge"
INSTANCES = ("mlperf-dlrm-v2-8gpu", "mlperf-dlrm-v2-16gpu", "dlrm-50t-4d", "dlrm-50t-8d", "dlrm-200t-8d")
MODELS = {"additive": "", "nonlinear": "-nonlinear"}
Cell = tuple[str, int | None, str]  # id, draw, method


@dataclass(frozen=True, slots=True)
class Case:
    """One instance: its id, and the seed of a drawn one (None otherwise)."""

    name: str
    model: str
    draw: int | None

    @property
    def id(self) -> str:
        """Registered id."""
        return f"sharding/{self.name}{MODELS[self.model]}-v0"

    def problem(self) -> ShardingProblem:
        """Build it afresh."""
        problem = surco.make(self.id, **({} if self.draw is None else {"seed": self.draw}))
        assert isinstance(problem, ShardingProblem)
        return problem


@dataclass(frozen=True, slots=True)
class Row:
    """One solve.

    Attributes:
        id, draw: the instance.
        method: row of the table.
        value: ms per step; None without a design.
        bound: proven by this run, or None.
        is_feasible: by `check`, which knows nothing of the problem's own code.
        source: the method that found the design.
        oracle_calls, objective_calls: as counted by the run.
        cpu_seconds, seconds: of the whole solve.
    """

    id: str
    draw: int | None
    method: str
    value: float | None
    bound: float | None
    is_feasible: bool
    source: str
    oracle_calls: int
    objective_calls: int
    cpu_seconds: float
    seconds: float


def check(spec: Mapping[str, Any], x: Sequence[float], value: float) -> bool:
    """Judge a plan from its JSON spec alone, in plain Python: one device each, memory, and the additive value.

    The formulas of memory and time are written here a second time, from TorchRec's description.
    """
    tables, devices, work = spec["tables"], spec["devices"], spec["workload"]
    world, batch = len(devices), work["batch_size"]
    used, ms = [0] * world, [0.0] * world
    links = {d["host"] for d in devices}
    for t, table in enumerate(tables):
        row = list(x[t * world : (t + 1) * world])
        if sorted(row) != [0.0] * (world - 1) + [1.0]:
            return False
        d = row.index(1.0)
        element = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}[table["dtype"]]
        dim, pooling = table["dim"], table["pooling_factor"]
        weights = table["rows"] * dim * element
        state = {"sgd": 0.0, "rowwise_adagrad": 1 / dim, "adagrad": 1.0, "adam": 2.0}[work["optimizer"]]
        indices = math.ceil(pooling * batch * world * 8)
        outputs = min(1.0, pooling) * batch * world * dim * element
        used[d] += weights + math.ceil(weights * state)
        if work["has_io_buffers"]:
            used[d] += indices + math.ceil(outputs)
        penalty = 1.0 if dim >= 128 else 1.15 if dim >= 64 else 1.75
        moved = (indices + pooling * batch * world * max(dim, 32) * element + outputs) * penalty
        link = devices[d]["intra_host_gib_per_s" if len(links) == 1 else "inter_host_gib_per_s"]
        ms[d] += (3.0 * moved / devices[d]["hbm_gib_per_s"] + 2.0 * outputs / link) * 1000.0 / 2**30
    fits = all(u <= d["memory_bytes"] * (1.0 - work["reserve"]) + 1e-6 for u, d in zip(used, devices, strict=True))
    is_value = spec["cost_model"]["name"] != "additive" or math.isclose(max(ms), value, rel_tol=1e-9)
    return fits and is_value


def solve(case: Case, method: str, seconds: float, seed: int) -> Row:
    """Run one cell."""
    problem = case.problem()
    limit = None if method in problem.heuristics() or method == "linear" else seconds
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        result = surco.solve(problem, "exact" if method == JUDGE else method, seed=seed, seconds=limit)
    except NoDesignError:
        spent = (time.process_time() - cpu, time.perf_counter() - wall)
        return Row(case.id, case.draw, method, None, None, False, "", 0, 0, *spent)
    spent = (time.process_time() - cpu, time.perf_counter() - wall)
    is_feasible = check(problem.spec, result.x.tolist(), result.value)
    stats = result.stats
    counts = (stats.oracle_calls, stats.objective_calls)
    return Row(case.id, case.draw, method, result.value, result.bound, is_feasible, result.source, *counts, *spent)


def table(rows: Sequence[Row]) -> str:
    """Markdown: a block an instance, a line a method; means over draws, gaps to the best bound of any run."""
    lines = [
        "| instance | method | value, ms | gap, % (worst) | CPU s | oracle calls | objective calls | feasible |",
        "|---|---|---|---|---|---|---|---|",
    ]
    bounds: dict[tuple[str, int | None], float] = {}
    for row in rows:
        key = (row.id, row.draw)
        bounds[key] = max(bounds.get(key, -math.inf), -math.inf if row.bound is None else row.bound)
    for id in dict.fromkeys(row.id for row in rows):
        for method in (*METHODS, JUDGE):
            part = [row for row in rows if (row.id, row.method) == (id, method)]
            if not part:
                continue
            found = [row for row in part if row.value is not None]
            gaps = [100.0 * ((row.value or 0.0) / bounds[row.id, row.draw] - 1.0) for row in found]
            value = f"{_mean(row.value for row in found):.5f}" if found else "-"
            gap = f"{_mean(gaps):.3f} ({max(gaps):.3f})" if gaps else "-"
            lines.append(
                f"| {id} | {method} | {value} | {gap} | {_mean(row.cpu_seconds for row in part):.2f} "
                f"| {_mean(row.oracle_calls for row in part):.0f} | {_mean(row.objective_calls for row in part):.0f} "
                f"| {sum(row.is_feasible for row in part)}/{len(part)} |"
            )
    return "\n".join(lines)


def losses(rows: Sequence[Row], *, tolerance: float = 1e-4) -> list[str]:
    """Where a baseline of the table is better than `auto` by more than ``tolerance`` (relative)."""
    lines = []
    for id, draw in dict.fromkeys((row.id, row.draw) for row in rows):
        part = {row.method: row.value for row in rows if (row.id, row.draw) == (id, draw) and row.method != JUDGE}
        auto = part.pop("auto", None)
        if auto is None:
            continue
        for method, value in part.items():
            if value is not None and value < auto * (1.0 - tolerance):
                lines.append(f"{id}, draw {draw}: {method} {value:.6f} against auto {auto:.6f} ms")
    return lines


NOTES = """\
- gap: to the best lower bound that any run on the instance proved; the judge is `exact` with more time.
- feasible: judged from the JSON spec alone by plain Python of this script, which also recomputes additive values.
- random, local_search, slp, zero, exact and auto get the same wall seconds on one thread; the others look once.
- SurCo's small space of aggregates is not offered here: balanced plans are no vertices of it.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shard", description="Sharding against certified bounds."
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="rows, table and provenance go here")
    parser.add_argument("--seconds", type=float, default=10.0, help="wall seconds a method (default 10)")
    parser.add_argument("--judge-seconds", type=float, default=30.0, help="wall seconds of the judge (default 30)")
    parser.add_argument("--draws", type=int, default=3, help="seeds 0, 1, ... of the drawn instances (default 3)")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--instances", nargs="+", choices=INSTANCES, default=list(INSTANCES))
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, JUDGE], default=[*METHODS, JUDGE])
    parser.add_argument("--seed", type=int, default=0, help="seed of the methods")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = rows_of_cells(
        arguments.out / "shard.jsonl",
        _cells(arguments),
        load=Row,
        cell_of=lambda row: (row.id, row.draw, row.method),
        make=functools.partial(_row, arguments),
        line_of=_line,
    )
    origin = {
        **provenance.origin(argv, "python -m benchmarks.shard"),
        "seconds": arguments.seconds,
        "judge_seconds": arguments.judge_seconds,
        "seed": arguments.seed,
    }
    (arguments.out / "provenance.json").write_text(json.dumps(origin, indent=2), encoding="utf-8")
    worse = losses(rows)
    summary = "\n".join(f"- {line}" for line in worse) or "- none by more than 0.01 %"
    text = f"# Table-wise sharding\n\n{table(rows)}\n\n{NOTES}\n## Where a baseline beats auto\n\n{summary}\n"
    (arguments.out / "shard.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _cases(arguments: argparse.Namespace) -> dict[tuple[str, int | None], Case]:
    """Instances by what a row says of them."""
    cases = (
        Case(name, model, draw)
        for model in arguments.models
        for name in arguments.instances
        for draw in (range(arguments.draws) if name.startswith("dlrm") else (None,))
    )
    return {(case.id, case.draw): case for case in cases}


def _cells(arguments: argparse.Namespace) -> Iterator[Cell]:
    for id, draw in _cases(arguments):
        for method in arguments.methods:
            yield id, draw, method


def _row(arguments: argparse.Namespace, cell: Cell) -> Row:
    id, draw, method = cell
    seconds = arguments.judge_seconds if method == JUDGE else arguments.seconds
    return solve(_cases(arguments)[id, draw], method, seconds, arguments.seed)


def _line(row: Row) -> str:
    value = "none" if row.value is None else f"{row.value:.6f}"
    return f"{row.id} draw {row.draw} {row.method}: {value} ms, {row.cpu_seconds:.2f} CPU s"


def _mean(numbers: Any) -> float:
    numbers = list(numbers)
    return sum(numbers) / len(numbers)


if __name__ == "__main__":
    sys.exit(main())
