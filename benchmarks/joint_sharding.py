"""Joint sharding plans against TorchRec's planner: ``python -m benchmarks.joint_sharding --out DIR``.

Drawn tables 50x4, 50x8, 200x8 under TorchRec's rating, one row a planner, each in this process on one thread:

    default          EmbeddingShardingPlanner, untouched but for the stated ``timeout_seconds``; all its proposers,
                     all sharding types and kernels
    perf             the same with the partitioner that sorts by performance, table-wise and row-wise, fused kernel
    memory_balanced  the same space with MemoryBalancedPartitioner
    dynamic          the same space with DynamicProgrammingProposer, partitioner sorted by performance
    sweep            row-wise for the first k tables by (row-wise total) / (table-wise), the rest by weight to the
                     least loaded rank, best k
    ours             surco.solve with the stated seconds, all sharding types

and at scale (856x64, 856x128) ``table_wise`` (TorchRec, table-wise only, sorted by performance) and ours. Values are
the rating that TorchRec's own objects give each plan (``problems.sharding.joint.judge``), never our own number; the
gap of ours is to our certified bound. Finished cells are kept in DIR and not run again.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import surco
from benchmarks.resumed import rows_of_cells
from problems.sharding.joint import JointConstraints, JointSpec, ShardingType
from problems.sharding.joint.judge import TorchRecJudge, quiet
from problems.sharding.joint.problem import JointProblem
from problems.sharding.makers import devices
from surco import provenance

PEERS = ("default", "perf", "memory_balanced", "dynamic")
PLANNERS = (*PEERS, "table_wise", "sweep", "ours")
CASES = ("50x4", "50x8", "200x8")
SCALE = {"856x64": 60.0, "856x128": 10.0}  # seconds of ours


@dataclass(frozen=True, slots=True)
class Row:
    """One plan.

    Attributes:
        case, seed, planner: the cell.
        rating, critical_path: of the plan, by TorchRec's objects, ms; None without a plan.
        own_value: what our own code says of it; None for TorchRec's planners.
        bound: proven by this run; None for the others.
        is_feasible: memory, by TorchRec's objects.
        types: sharding type -> number of tables.
        cpu_seconds, seconds: of planning alone.
        note: why there is no plan, or what was cut short.
    """

    case: str
    seed: int
    planner: str
    rating: float | None
    critical_path: float | None
    own_value: float | None
    bound: float | None
    is_feasible: bool
    types: Mapping[str, int]
    cpu_seconds: float
    seconds: float
    note: str = ""


def problem_of(case: str, seed: int) -> JointProblem:
    """The registered instance."""
    tables, ranks = case.split("x")
    problem = surco.make(f"sharding/dlrm-{tables}t-{ranks}d-joint-v0", seed=seed)
    assert isinstance(problem, JointProblem)
    return problem


def peer(case: str, seed: int, planner: str, timeout: int) -> Row:
    """Plan with TorchRec."""
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.planner import EmbeddingShardingPlanner
    from torchrec.distributed.planner.partitioners import GreedyPerfPartitioner, MemoryBalancedPartitioner, SortBy
    from torchrec.distributed.planner.proposers import DynamicProgrammingProposer
    from torchrec.distributed.planner.types import PlannerError

    judge = TorchRecJudge(problem_of(case, seed).joint_spec)
    names = [table.name for table in judge.spec.tables]
    options: dict[str, Any] = {"timeout_seconds": timeout}
    types = None if planner == "default" else ["table_wise"] if planner == "table_wise" else ["table_wise", "row_wise"]
    match planner:
        case "perf" | "table_wise":
            options["partitioner"] = GreedyPerfPartitioner(sort_by=SortBy.PERF)
        case "memory_balanced":
            options["partitioner"] = MemoryBalancedPartitioner()
        case "dynamic":
            options["partitioner"] = GreedyPerfPartitioner(sort_by=SortBy.PERF)
            options["proposer"] = DynamicProgrammingProposer()
    with quiet():
        agent = EmbeddingShardingPlanner(
            topology=judge.topology,
            batch_size=judge.spec.workload.batch_size,
            constraints=judge.constraints(dict.fromkeys(names, types) if types else None, fused=types is not None),
            stats=[],
            **options,
        )
        wall, cpu = time.perf_counter(), time.process_time()
        note = ""
        try:
            agent.plan(judge.module, [EmbeddingBagCollectionSharder()])  # pyright: ignore
        except PlannerError as error:
            note = str(error).strip().splitlines()[0]
        spent = (time.process_time() - cpu, time.perf_counter() - wall)
    if agent._best_plan is None:
        return Row(case, seed, planner, None, None, None, None, False, {}, *spent, note)
    verdict = judge.rate(agent._best_plan)
    kinds = [option.sharding_type for option in agent._best_plan]
    if spent[1] > timeout:
        note = f"stopped by timeout_seconds={timeout}"
    return Row(
        case, seed, planner, verdict.rating, verdict.critical_path, None, None, verdict.is_feasible,
        {kind: kinds.count(kind) for kind in sorted(set(kinds))}, *spent, note,
    )  # fmt: skip


def own(case: str, seed: int, planner: str, seconds: float) -> Row:
    """Plan with the sweep, or with the engine."""
    problem = problem_of(case, seed)
    bound = None
    wall, cpu = time.perf_counter(), time.process_time()
    if planner == "sweep":
        types = (ShardingType.TABLE_WISE, ShardingType.ROW_WISE)
        old = problem.joint_spec
        spec = JointSpec(old.tables, devices(old.world_size, 80.0), old.workload, JointConstraints(default_types=types))
        problem = JointProblem(spec)
        wall, cpu = time.perf_counter(), time.process_time()
        x = problem.heuristics()["sweep"]
        value = float(problem.objective(x))
    else:
        result = surco.solve(problem, seconds=seconds)
        x, value, bound = torch.from_numpy(result.x), result.value, result.bound
    spent = (time.process_time() - cpu, time.perf_counter() - wall)
    plan = problem.plan(x)
    verdict = TorchRecJudge(problem.joint_spec).judge(plan)
    kinds = [placement.sharding_type.value for placement in plan.placements]
    return Row(
        case, seed, planner, verdict.rating, verdict.critical_path, value, bound, verdict.is_feasible,
        {kind: kinds.count(kind) for kind in sorted(set(kinds))}, *spent,
    )  # fmt: skip


def _row(arguments: argparse.Namespace, cell: tuple[str, int, str]) -> Row:
    case, seed, planner = cell
    if planner in ("sweep", "ours"):
        return own(case, seed, planner, SCALE.get(case, float(arguments.seconds)))
    return peer(case, seed, planner, arguments.timeout)


def _line(row: Row) -> str:
    value = "none" if row.rating is None else f"{row.rating:.5f}"
    return f"{row.case} seed {row.seed} {row.planner}: {value} ms, {row.cpu_seconds:.2f} CPU s {row.note}"


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers."""
    return math.exp(statistics.fmean(map(math.log, values)))


def table(rows: Sequence[Row]) -> str:
    """Markdown: a block a case, a line a planner; ratios over the seeds that both have."""
    lines = [
        "| case | planner | seeds | rating / ours (geomean) | least ratio | gap, % mean (worst) | CPU s | wall s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in dict.fromkeys(row.case for row in rows):
        ours = {row.seed: row for row in rows if (row.case, row.planner) == (case, "ours") and row.rating}
        for planner in PLANNERS:
            part = [row for row in rows if (row.case, row.planner) == (case, planner)]
            pairs = [(row.rating, ours[row.seed].rating) for row in part if row.rating and row.seed in ours]
            ratios = [theirs / mine for theirs, mine in pairs if theirs and mine]
            if not part:
                continue
            gaps = [100.0 * (row.rating / row.bound - 1.0) for row in part if row.rating and row.bound]
            shown = f"{geometric_mean(ratios):.4f}" if ratios else "-"
            least = f"{min(ratios):.4f}" if ratios else "-"
            gap = f"{statistics.fmean(gaps):.3f} ({max(gaps):.3f})" if gaps else "-"
            cpu = statistics.fmean(row.cpu_seconds for row in part)
            wall = statistics.fmean(row.seconds for row in part)
            cut = sum(bool(row.note) for row in part)
            name = planner + (f" ({cut} cut short)" if cut else "")
            lines.append(f"| {case} | {name} | {len(ratios)} | {shown} | {least} | {gap} | {cpu:.2f} | {wall:.1f} |")
    lines += ["", "| case | seed | " + " | ".join(PLANNERS) + " | bound |", "|---|---|" + "---|" * (len(PLANNERS) + 1)]
    for case, seed in dict.fromkeys((row.case, row.seed) for row in rows):
        found = {row.planner: row for row in rows if (row.case, row.seed) == (case, seed)}
        cells = [f"{found[p].rating:.4f}" if p in found and found[p].rating else "-" for p in PLANNERS]
        bound = found["ours"].bound if "ours" in found else None
        lines.append(f"| {case} | {seed} | " + " | ".join([*cells, f"{bound:.4f}" if bound else "-"]) + " |")
    return "\n".join(lines)


def losses(rows: Sequence[Row], *, tolerance: float = 1e-3) -> list[str]:
    """Where another planner is better than ours by more than ``tolerance`` (relative)."""
    found = []
    for case, seed in dict.fromkeys((row.case, row.seed) for row in rows):
        part = {row.planner: row.rating for row in rows if (row.case, row.seed) == (case, seed)}
        mine = part.pop("ours", None)
        for planner, value in part.items():
            if mine is not None and value is not None and value < mine * (1.0 - tolerance):
                found.append(f"{case}, seed {seed}: {planner} {value:.5f} against ours {mine:.5f} ms")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.joint_sharding", description="Joint plans against TorchRec's planner."
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="rows, table and provenance go here")
    parser.add_argument("--cases", nargs="*", default=list(CASES), help="TABLESxRANKS (default: 50x4 50x8 200x8)")
    parser.add_argument("--scale", nargs="*", default=list(SCALE), choices=list(SCALE), help="cases at scale")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10, 20)))
    parser.add_argument("--scale-seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--planners", nargs="+", choices=PLANNERS, default=[*PEERS, "sweep", "ours"])
    parser.add_argument("--seconds", type=float, default=30.0, help="wall seconds of ours (default 30)")
    parser.add_argument("--timeout", type=int, default=180, help="timeout_seconds of TorchRec's planner (default 180)")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    cells = [(case, seed, p) for p in arguments.planners for seed in arguments.seeds for case in arguments.cases]
    cells += [
        (case, seed, p) for case in arguments.scale for seed in arguments.scale_seeds for p in ("table_wise", "ours")
    ]
    torch.set_num_threads(1)
    rows = rows_of_cells(
        arguments.out / "joint_sharding.jsonl",
        cells,
        load=Row,
        cell_of=lambda row: (row.case, row.seed, row.planner),
        make=functools.partial(_row, arguments),
        line_of=_line,
    )
    origin = {
        **provenance.origin(argv, "python -m benchmarks.joint_sharding"),
        "seconds": arguments.seconds,
        "scale_seconds": SCALE,
        "timeout_seconds": arguments.timeout,
    }
    document = {"provenance": origin, "rows": [asdict(row) for row in rows]}
    (arguments.out / "joint_sharding.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = table(rows)
    worse = losses(rows)
    text += "\n\nBetter than ours by more than 0.1 %: " + ("; ".join(worse) if worse else "none") + ".\n"
    (arguments.out / "joint_sharding.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
