"""Expert placement on drawn routing traces: ours against EPLB's greedy in both variants and LPT.

    python -m benchmarks.moe --out benchmarks/reference/moe

Ten traces (seeds) of 256 experts on 64 GPUs in 8 nodes with 64 redundant slots, group-limited routing. Each method
plans on window 0. The plan is judged on that window, and on window 1, whose loads have drifted and whose tokens nobody
has seen. Then the trace goes on: from our plan of window 0, windows 1 to ``--windows`` are re-planned with at most
``--cap`` copies sent each; staying, re-planning and a fresh EPLB plan are judged on the window's own numbers.

The judge (`problems.moe.judge`) shares no code with the objective and the search: NumPy on counts of copies, its own
check of the rules, and the traffic by drawing copies for recorded tokens as well as by their chances. EPLB is judged
on its own physical map, where two copies of an expert on one GPU take two shares. Seconds are CPU seconds, one thread,
after compilation.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from problems.moe import ExpertPlacement
from problems.moe.eplb import eplb_global, eplb_hierarchical, lpt
from problems.moe.instance import Routing
from problems.moe.judge import judge
from surco import make, provenance
from surco.atomic import write_text

ID = "moe/256e-64g-8n-v0"
Row = dict[str, Any]
BOUND_CYCLES = 4
COLUMNS = ("largest / mean load", "balance", "further nodes", "value")


def judged(counts: np.ndarray, routing: Routing, problem: ExpertPlacement, *, seed: int) -> Row:
    """Load and traffic of counts [E, G] on a routing of one layer; stops the run on a broken rule or a wrong number."""
    verdict = judge(counts, routing.loads[0], routing.tokens[0], problem.cluster, seed=seed)
    if verdict.problem:
        raise SystemExit(f"The judge refuses a plan of {problem.id}: {verdict.problem}.")
    return {
        "largest / mean load": verdict.largest_over_mean,
        "balance": 1.0 / verdict.largest_over_mean,
        "further nodes": verdict.further_nodes,
        "value": verdict.largest_over_mean + problem.traffic_weight * verdict.further_nodes,
    }


def methods(problem: ExpertPlacement) -> dict[str, Callable[[], np.ndarray]]:
    """Name -> plan as counts [E, G]; every one starts from the loads and tokens alone."""
    loads, cluster, groups = problem.routing.loads[0], problem.cluster, problem.routing.groups

    def found(counts: np.ndarray | None) -> np.ndarray:
        if counts is None:
            raise SystemExit("A rule found no plan.")
        return counts

    def ours(moves: int) -> np.ndarray:
        fresh = ExpertPlacement(problem.routing, cluster, traffic_weight=problem.traffic_weight)
        return fresh.replan(moves=moves)[0].astype(np.int64)

    def load_only() -> np.ndarray:
        fresh = ExpertPlacement(problem.routing, cluster, traffic_weight=0.0)
        return fresh.replan()[0].astype(np.int64)

    return {
        "EPLB, hierarchical": lambda: found(eplb_hierarchical(loads, cluster, groups)),
        "EPLB, global": lambda: eplb_global(loads, cluster),
        "LPT with copies": lambda: found(lpt(loads, cluster)),
        "LPT without copies": lambda: found(lpt(loads, cluster, has_copies=False)),
        "ours, load alone": load_only,
        "ours": lambda: ours(300_000),
        "ours, 10 times the moves": lambda: ours(3_000_000),
    }


def value_bound(problem: ExpertPlacement) -> tuple[float, float]:
    """Certified bound of the value after `BOUND_CYCLES`, and its CPU seconds."""
    begin = time.process_time()
    for _ in range(BOUND_CYCLES):
        problem.cost_bound.run()
    return problem.cost_bound.value, time.process_time() - begin


def with_bounds(path: Path) -> None:
    """Give the rows of a stored run their value bounds, and write its table anew."""
    data = json.loads(path.with_suffix(".json").read_text("utf-8"))
    for seed in sorted({row["seed"] for row in data["rows"]}):
        problem = make(ID, seed=seed)
        assert isinstance(problem, ExpertPlacement)
        proven, seconds = value_bound(problem)
        print(f"seed {seed}: {proven:.4f} in {seconds:.1f} CPU s", flush=True)
        for row in data["rows"]:
            if row["seed"] == seed:
                row |= {"value bound": proven, "bound cpu_s": seconds, "gap": 1.0 - proven / row["value"]}
    data["provenance of bounds"] = {
        "command": "python -m benchmarks.moe --out PATH --bounds",
        "date": provenance.now(),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
    }
    text = table(data["rows"], data["replanned"], cap=32)
    write_text(path.with_suffix(".json"), json.dumps(data, indent=1) + "\n")
    write_text(path.with_suffix(".md"), text)
    print(text)


def trace(seed: int, *, windows: int, cap: int) -> tuple[list[Row], list[Row]]:
    """Rows of the methods on window 0, and of the windows re-planned under a cap."""
    problem = make(ID, seed=seed)
    assert isinstance(problem, ExpertPlacement)
    following = make(ID, seed=seed, window=1)
    assert isinstance(following, ExpertPlacement)
    bound = problem.load_bounds()[0]
    proven, bound_seconds = value_bound(problem)
    rows: list[Row] = []
    plan = None
    for name, method in methods(problem).items():
        begin = time.process_time()
        counts = method()
        seconds = time.process_time() - begin
        here = judged(counts, problem.routing, problem, seed=seed)
        after = judged(counts, following.routing, problem, seed=seed)
        rows.append(
            {"seed": seed, "method": name, **here, "load bound": bound, "value bound": proven}
            | {"bound cpu_s": bound_seconds, "gap": 1.0 - proven / here["value"]}
            | {f"{key}, next window": after[key] for key in COLUMNS}
            | {"cpu_s": seconds}
        )
        if name == "ours":
            plan = counts
    assert plan is not None
    later: list[Row] = []
    running = plan.astype(bool)
    for window in range(1, windows + 1):
        lists = [[np.flatnonzero(running[:, g]).tolist() for g in range(problem.cluster.gpus)]]
        now = make(ID, seed=seed, window=window, current=lists, migration_cap=cap)
        assert isinstance(now, ExpertPlacement)
        stays = judged(running.astype(np.int64), now.routing, problem, seed=seed)
        begin = time.process_time()
        fresh = now.replan()[0]
        seconds = time.process_time() - begin
        moved = int((fresh & ~running).sum())
        if moved > cap:
            raise SystemExit(f"A re-plan sends {moved} copies, the cap is {cap}.")
        changed = judged(fresh.astype(np.int64), now.routing, problem, seed=seed)
        counts = eplb_global(now.routing.loads[0], now.cluster)
        greedy = judged(counts, now.routing, problem, seed=seed)
        later.append(
            {"seed": seed, "window": window, "moved": moved, "cpu_s": seconds}
            | {f"{key}, stay": stays[key] for key in COLUMNS}
            | {f"{key}, re-planned": changed[key] for key in COLUMNS}
            | {f"{key}, EPLB global": greedy[key] for key in COLUMNS}
            | {"moved, EPLB global": int(((counts > 0) & ~running).sum())}
        )
        running = fresh
    return rows, later


def table(rows: list[Row], later: list[Row], *, cap: int) -> str:
    """Markdown: means over traces, and the worst seconds."""
    lines = [
        "# Expert placement",
        "",
        f"`{ID}`, {len({row['seed'] for row in rows})} traces; means, in brackets the worst. Value = largest / "
        "mean load + 0.25 x further nodes per token. Bounds are certified: no plan has a smaller load or value.",
        "",
        "| method | largest / mean load | balance | further nodes per token | value | gap to the bound | value, next "
        "window | largest / mean load, next window | CPU s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == name]
        cells = [name]
        for key, worst in (
            ("largest / mean load", max), ("balance", min), ("further nodes", max), ("value", max),
            ("gap", max), ("value, next window", max), ("largest / mean load, next window", max), ("cpu_s", max),
        ):  # fmt: skip
            values = [row[key] for row in mine]
            cells.append(f"{np.mean(values):.4g} ({worst(values):.4g})")
        lines.append("| " + " | ".join(cells) + " |")
    bounds = [row["load bound"] for row in rows]
    proven, cheap = [row["value bound"] for row in rows], [row["bound cpu_s"] for row in rows]
    lines += ["", f"Load bound: mean {np.mean(bounds):.4f}, largest {max(bounds):.4f}."]
    lines += [f"Value bound: {min(proven):.4f} to {max(proven):.4f}, in {np.mean(cheap):.1f} CPU s ({max(cheap):.1f})."]
    if later:
        lines += [
            "",
            f"Re-planning window after window, at most {cap} copies sent each time ({len(later)} re-plans):",
            "",
            "| plan | largest / mean load | further nodes per token | value | copies sent | CPU s |",
            "|---|---|---|---|---|---|",
        ]
        for what, moved, seconds in (
            ("stay", None, None), ("re-planned", "moved", "cpu_s"), ("EPLB global", "moved, EPLB global", None),
        ):  # fmt: skip
            cells = [what]
            for key in ("largest / mean load", "further nodes", "value"):
                values = [row[f"{key}, {what}"] for row in later]
                cells.append(f"{np.mean(values):.4g} ({max(values):.4g})")
            cells.append("0" if moved is None else f"{np.mean([row[moved] for row in later]):.1f}")
            values = [row[seconds] for row in later] if seconds is not None else []
            cells.append(f"{np.mean(values):.3f} ({max(values):.3f})" if values else "-")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Run all traces; print the table, and with ``--out`` write it with all rows and their provenance."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--traces", type=int, default=10)
    parser.add_argument("--windows", type=int, default=3, help="windows that are re-planned")
    parser.add_argument("--cap", type=int, default=32, help="copies that a re-plan may send, of 320")
    parser.add_argument("--out", type=Path, default=None, help="path without suffix for .md and .json")
    parser.add_argument("--bounds", action="store_true", help="only bound the values of the run stored at --out")
    chosen = parser.parse_args(arguments)
    warm = make("moe/8e-4g-2n-v0")
    assert isinstance(warm, ExpertPlacement)
    warm.replan(moves=1)  # compile before the clock runs
    warm.cost_bound.run(seconds=1.0)
    if chosen.bounds:
        if chosen.out is None:
            parser.error("--bounds needs --out")
        with_bounds(chosen.out)
        return
    rows: list[Row] = []
    later: list[Row] = []
    for seed in range(chosen.traces):
        found, more = trace(seed, windows=chosen.windows, cap=chosen.cap)
        rows += found
        later += more
    text = table(rows, later, cap=chosen.cap)
    print(text)
    if chosen.out is not None:
        data = {
            "provenance": provenance.origin(arguments, "python -m benchmarks.moe"),
            "rows": rows,
            "replanned": later,
        }
        write_text(chosen.out.with_suffix(".json"), json.dumps(data, indent=1) + "\n")
        write_text(chosen.out.with_suffix(".md"), text)


if __name__ == "__main__":
    main()
