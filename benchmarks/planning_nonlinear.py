"""Nonlinear planning costs: SurCo and the portfolio against linearization, search and the exact program.

    python -m benchmarks.planning_nonlinear run --seconds 10 --seeds 0 1 2 3 4 --out FILE
    python -m benchmarks.planning_nonlinear show FILE

Every cell has the same CPU seconds: the clock of the run, of the oracle and of the decomposition is the CPU's, so that
a busy machine is no handicap. Every plan was accepted by the independent judge; one that it refuses stops the run.
Rows that a file holds already are not computed again. Several processes may share the cells: each writes its own
file, and ``join`` puts them into one.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import planning
from problems.planning.domain import DOMAIN
from problems.planning.objectives import OBJECTIVES
from problems.planning.topologies import topology
from surco.bridge import to_torch

Row = dict[str, Any]
METHODS = ("linear", "random", "local_search", "slp", "zero", "exact", "auto")
NETWORKS = ("polska", "nobel-us", "nobel-germany")
TIE = 1e-3  # relative difference of mean values that counts as even


def cell(network: str, objective: str, method: str, seed: int, *, seconds: float, tolerance: float = 1e-3) -> Row:
    """One run; ``value`` is None where the method does not apply or found no plan in time."""
    import surco
    from surco.errors import NoDesignError

    problem = DOMAIN.make(f"planning/{network}-{objective}-v0", tolerance=tolerance)
    problem.use_clock(time.process_time)
    row: Row = {"problem": f"{network}-{objective}", "method": method, "seed": seed, "value": None}
    if (method == "exact" and getattr(problem, "exact", None) is None) or (
        method == "slp" and not problem.is_differentiable
    ):
        return row | {"why": "does not apply"}
    with mock.patch("time.perf_counter", time.process_time):
        try:
            result = surco.solve(problem, method, seconds=seconds, seed=seed)
        except NoDesignError:
            return row | {"why": "no plan in time"}
    verdict = problem.verdict(to_torch(result.x))
    if not verdict.is_feasible:
        raise SystemExit(f"The judge refuses a plan of {row['problem']}: {verdict}")
    return row | {
        "value": result.value,
        "bound": result.bound,
        "source": result.source,
        "found_after_s": next(point.seconds for point in result.trace if point.value == result.value),
        "cpu_s": result.stats.cpu_seconds,
        "oracle_calls": result.stats.oracle_calls,
        "objective_calls": result.stats.objective_calls,
    }


def summary(rows: Iterable[Row]) -> list[Row]:
    """One line a problem: mean value of each method over its seeds, and where ``auto`` stands.

    ``behind_percent`` is the mean of ``auto`` over that of the best other method, minus 1 (negative: ``auto`` is
    better); ``noise_percent`` the half width of the 95 % interval of ``auto``'s own mean (normal, over seeds);
    ``bound`` the best that any run proved.
    """
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    bounds: dict[str, float] = defaultdict(lambda: -np.inf)
    for row in rows:
        if row["value"] is not None:
            values[row["problem"]][row["method"]].append(row["value"])
            bounds[row["problem"]] = max(bounds[row["problem"]], row.get("bound") or -np.inf)
    lines: list[Row] = []
    for problem, found in values.items():
        means = {name: float(np.mean(found[name])) for name in METHODS if name in found}
        line: Row = {"problem": problem, "seeds": max(map(len, found.values())), "bound": bounds[problem], **means}
        others = {name: mean for name, mean in means.items() if name != "auto"}
        if "auto" in means and others:
            best = min(others, key=lambda name: others[name])
            own = np.array(found["auto"])
            spread = 1.96 * own.std(ddof=1) / np.sqrt(len(own)) if len(own) > 1 else np.nan
            line |= {
                "best_other": best,
                "behind_percent": 100 * (means["auto"] / others[best] - 1),
                "noise_percent": 100 * float(spread) / means["auto"],
            }
        lines.append(line)
    return lines


def standing(line: Row) -> str:
    """``better``, ``even`` or ``behind``: of ``auto`` in a line of :func:`summary`."""
    behind = line["behind_percent"] / 100
    return "even" if abs(behind) <= TIE else "behind" if behind > 0 else "better"


def run(chosen: argparse.Namespace) -> None:
    """Compute the missing cells, cheap networks first."""
    names = sorted(chosen.networks, key=lambda name: len(topology(f"sndlib/{name}")["edges"]))
    done = {planning.key(row) for row in planning.stored(chosen.out, "nonlinear")}
    for seed in chosen.seeds:  # whole tables first: a run that is stopped has all cells of the first seeds
        for name in names:
            for objective in chosen.objectives:
                for method in chosen.methods:
                    blank = {
                        "network": name,
                        "limit_s": chosen.seconds,
                        "problem": f"{name}-{objective}",
                        "method": method,
                        "seed": seed,
                    }
                    if planning.key(blank) in done:
                        continue
                    row = blank | cell(name, objective, method, seed, seconds=chosen.seconds)
                    print(planning.table([row]).splitlines()[-1], flush=True)
                    if chosen.out is not None:
                        planning.store(chosen.out, "nonlinear", [*planning.stored(chosen.out, "nonlinear"), row])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, or show."""
    parser = argparse.ArgumentParser(description="Nonlinear planning costs, equal CPU seconds.")
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="compute cells")
    runs.add_argument("--networks", nargs="*", default=NETWORKS)
    runs.add_argument("--objectives", nargs="*", default=tuple(OBJECTIVES))
    runs.add_argument("--methods", nargs="*", default=METHODS)
    runs.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3, 4])
    runs.add_argument("--seconds", type=float, default=10.0)
    runs.add_argument("--out", type=Path, default=None)
    shows = commands.add_parser("show", help="the table of a file")
    shows.add_argument("file", type=Path)
    chosen = parser.parse_args(arguments)
    if chosen.command == "run":
        run(chosen)
        return
    lines = summary(planning.stored(chosen.file, "nonlinear"))
    print(planning.table(lines))
    counts = [standing(line) for line in lines if "behind_percent" in line]
    print(", ".join(f"{name}: {counts.count(name)}" for name in ("better", "even", "behind")))


if __name__ == "__main__":
    main()
