"""Tables of network planning: exact, compact, heuristics, masters, sndlib, nonlinear, evaluator, pool; one a command.

    python -m benchmarks.planning exact --networks polska geant

Every plan in every table was accepted by the independent judge; a plan that it refuses stops the run. CPU seconds are
``time.process_time``. Results go to ``--out`` as JSON with their provenance, and to the terminal as Markdown; a row
that is there already under the same limit is not computed again, so a killed run goes on by the same command.
Networks whose positions are a drawing (``drawn_names``) have nominal lengths: the mean link counts as 100 km.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from problems.planning import Decomposition, Judge, Network, PlanningInstance, compile_instance, from_topohub, plan_of
from problems.planning.topologies import drawn_names, sane_names, topology
from surco import provenance as origin
from surco.bridge import to_torch

Row = dict[str, Any]


def judged(instance: PlanningInstance, network: Network, x: np.ndarray) -> float:
    """Cost by the judge; stops the run if it refuses the plan."""
    verdict = Judge(instance)(plan_of(network, x))
    if not verdict.is_feasible:
        raise SystemExit(f"The judge refuses a plan of {instance.name}: {verdict}")
    return verdict.cost


def load(name: str) -> PlanningInstance:
    """Instance of a network of topohub, kilometers or drawing."""
    return from_topohub(name, allow_drawing_units=name in drawn_names())


def by_size(names: Iterable[str]) -> list[str]:
    """Small networks first, so that a run that is stopped has the most rows."""
    return sorted(names, key=lambda name: len(topology(f"sndlib/{name}")["edges"]))


def exact(names: Iterable[str], *, seconds: float, tolerance: float) -> Iterable[Row]:
    """The decomposition on topohub's networks."""
    for name in names:
        instance = load(name)
        begin = time.process_time()
        network = compile_instance(instance)
        engine = Decomposition(network, tolerance=tolerance)
        bounds = engine.run(seconds, clock=time.process_time)
        used = time.process_time() - begin
        assert engine.best is not None
        yield {
            "network": name,
            "lengths": "drawing" if name in drawn_names() else "km",
            "nodes": len(instance.nodes),
            "links": len(instance.links),
            "failures": len(network.scenarios) - 1,
            "excused": len(network.skipped),
            "demands": len(instance.demands),
            "cost": judged(instance, network, engine.best),
            "bound": bounds.lower,
            "gap_percent": 100 * bounds.gap,
            "cpu_s": used,
            "first_within_1_percent_s": next((b.seconds for b in engine.statistics.trace if b.gap <= 0.01), None),
            "rounds": engine.statistics.rounds,
            "masters": engine.statistics.integer_solves,
            "lps": engine.statistics.lps,
            "cuts": engine.statistics.cuts,
        }


def compact(names: Iterable[str], *, seconds: float, tolerance: float, stretch: float = 1.0) -> Iterable[Row]:
    """The monolithic integer program with the same solver and limit.

    HiGHS limits wall seconds. On a busy machine it is given ``stretch`` times as many, so that it gets at least the CPU
    seconds that the exact engine was allowed; a row that got less says so.
    """
    from problems.planning.compact import solve_compact

    for name in names:
        instance = load(name)
        network = compile_instance(instance)
        answer = solve_compact(network, seconds=stretch * seconds, gap=tolerance)
        is_stopped = "limit" in answer.message.lower()
        cost = None if answer.x is None else judged(instance, network, answer.x)
        yield {
            "network": name,
            "variables": answer.n_variables,
            "rows": answer.n_rows,
            "cost": cost,
            "bound": answer.bound,
            "gap_percent": None if cost is None else 100 * (cost - answer.bound) / cost,
            "cpu_s": answer.cpu_seconds,
            "message": answer.message.split("(")[0].strip(),
            "wall_limit_s": stretch * seconds,
            "is_short_of_cpu": is_stopped and answer.cpu_seconds < 0.95 * seconds,
        }


def heuristics(names: Iterable[str], *, seconds: float, tolerance: float) -> Iterable[Row]:
    """All heuristics, each with its limit, against the best bound that the exact engine reaches in the same time."""
    from problems.planning.neighborhoods import heuristic_plans

    for name in names:
        instance = load(name)
        network = compile_instance(instance)
        engine = Decomposition(network, tolerance=tolerance)
        engine.prepare()
        begin = time.process_time()
        plans = heuristic_plans(engine, seconds=seconds, clock=time.process_time)
        used = time.process_time() - begin
        bound = engine.run(2 * seconds, clock=time.process_time).lower
        row: Row = {"network": name, "bound": bound}
        for rule, x in plans.items():
            row[rule + "_percent"] = 100 * (judged(instance, network, x) / bound - 1)
        yield row | {"cpu_s_all": used}


def masters(names: Iterable[str], *, seconds: float, tolerance: float) -> Iterable[Row]:
    """Iterated HiGHS and CP-SAT masters against one SCIP tree with lazy cuts, from the same relaxation."""
    from benchmarks.planning_masters import ARMS, run_arm

    for name in names:
        instance = load(name)
        network = compile_instance(instance)
        for arm in ARMS:
            engine, figures = run_arm(network, arm, seconds=seconds, tolerance=tolerance)
            assert engine.best is not None
            yield {"network": name, **figures, "cost": judged(instance, network, engine.best)}


def sndlib(paths: Iterable[Path], *, seconds: float, tolerance: float) -> Iterable[Row]:
    """Real SNDlib files with their own modules and prices."""
    from problems.planning.formats import read_instance

    for path in paths:
        instance = read_instance(path)
        if instance is None:
            continue
        begin = time.process_time()
        network = compile_instance(instance)
        engine = Decomposition(network, tolerance=tolerance)
        bounds = engine.run(seconds, clock=time.process_time)
        assert engine.best is not None
        yield {
            "network": path.name,
            "links": len(instance.links),
            "variables": network.n,
            "failures": len(network.scenarios) - 1,
            "cost": judged(instance, network, engine.best),
            "bound": bounds.lower,
            "gap_percent": 100 * bounds.gap,
            "cpu_s": time.process_time() - begin,
        }


NONLINEAR_METHODS = ("linear", "random", "local_search", "slp", "zero", "exact", "auto")
OBJECTIVE_NAMES = ("bulk", "delay", "loss", "power")


def nonlinear(
    names: Iterable[str], *, seconds: float, tolerance: float, methods: Iterable[str] = NONLINEAR_METHODS
) -> Iterable[Row]:
    """SurCo and its rivals on costs that are not linear, the same CPU seconds each, one row a cell.

    The clock of the run, of the oracle and of the decomposition is the CPU's, so that a busy machine is no handicap.
    """
    import surco
    from problems.planning.domain import DOMAIN
    from surco.errors import NoDesignError

    for name in names:
        for objective in OBJECTIVE_NAMES:
            for method in methods:
                problem = DOMAIN.make(f"planning/{name}-{objective}-v0", tolerance=tolerance)
                problem.use_clock(time.process_time)
                row: Row = {"problem": f"{name}-{objective}", "method": method, "value": None}
                is_left_out = (method == "exact" and getattr(problem, "exact", None) is None) or (
                    method == "slp" and not problem.is_differentiable
                )
                if not is_left_out:
                    with mock.patch("time.perf_counter", time.process_time):
                        try:
                            result = surco.solve(problem, method, seconds=seconds, seed=0)
                        except NoDesignError:
                            result = None
                    if result is not None:
                        verdict = problem.verdict(to_torch(result.x))
                        if not verdict.is_feasible:
                            raise SystemExit(f"The judge refuses a plan of {name}: {verdict}")
                        row |= {"value": result.value, "bound": result.bound, "cpu_s": result.stats.cpu_seconds}
                yield row


def evaluator(names: Iterable[str], *, seconds: float, tolerance: float, episodes: int = 8) -> Iterable[Row]:
    """Work of add-one-unit episodes, against cold linear programs of the same states."""
    from problems.planning.evaluator import Evaluator, random_episodes

    for name in names:
        network = compile_instance(from_topohub(name))
        judge = Evaluator(network)
        first = random_episodes(judge, 1, rng=np.random.default_rng(0))
        begin = time.process_time()
        later = random_episodes(judge, episodes, rng=np.random.default_rng(1))
        used = time.process_time() - begin
        steps = sum(later.steps) + episodes
        cold_rate, cold_checks = _cold_rate(network, seconds)
        _, rhs = judge.pool
        plans = network.offset + network.gbps * np.random.default_rng(2).integers(0, 12, (4096, network.n_links))
        begin_batch, repeats = time.process_time(), 20
        for _ in range(repeats):
            judge.screen(_tensor(plans))
        yield {
            "network": name,
            "steps_per_episode": steps / episodes,
            "lps_first_episode": first.lps[0],
            "lps_per_episode": float(np.mean(later.lps)),
            "refused_without_lp_percent": 100 * float(np.mean(later.refused_without_lp)),
            "checks_per_cpu_s": steps / used,
            "cold_checks_per_cpu_s": cold_rate,
            "cold_checks_timed": cold_checks,
            "speedup": steps / used / cold_rate,
            "pool": len(rhs),
            "pool_us_per_plan": 1e6 * (time.process_time() - begin_batch) / repeats / len(plans),
        }


def _tensor(values: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(values)


def _cold_rate(network: Network, seconds: float) -> tuple[float, int]:
    """Checks per CPU second of stateful checking with cold source-aggregated LPs (as published), on one episode."""
    from problems.planning.cold import ColdChecker

    checker, rng = ColdChecker(network), np.random.default_rng(1)
    capacity, count = network.offset.copy(), 0
    begin = time.process_time()
    while time.process_time() - begin < seconds:
        count += 1
        if checker.is_survivable(capacity):
            capacity = network.offset.copy()
            checker.reset()
        else:
            j = int(rng.integers(network.n))
            capacity[network.variable_link[j]] += network.gbps[j]
    return count / (time.process_time() - begin), count


def export_pool(names: Iterable[str], *, seconds: float, folder: Path) -> Iterable[Row]:
    """Cut pools for ``gpu_planning_evaluator.py``: metric cuts of an exact run and the cutset cuts, as npz."""
    from problems.planning.cuts import cutset_pool

    for name in names:
        network = compile_instance(from_topohub(name))
        engine = Decomposition(network)
        engine.run(seconds, clock=time.process_time)
        sets = cutset_pool(network, largest=3, most=400)
        rows = np.vstack([[c.weights for c in engine.metric_cuts], sets.link_rows]).astype(np.float32)
        rhs = np.r_[[c.rhs for c in engine.metric_cuts], sets.link_rhs]
        assert engine.best is not None
        best = network.capacities(engine.best)
        np.savez_compressed(folder / f"planning_pool_{name}.npz", rows=rows, rhs=rhs, best=best, unit=network.gbps[:1])
        yield {"network": name, "cuts": len(rhs), "links": network.n_links}


def _table(rows: list[Row]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(key)) for key in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return str(value)


def provenance() -> Row:
    """Versions and machine of a run."""
    from importlib.metadata import version

    return {
        "command": " ".join(
            ["python -m benchmarks.planning", *origin.without_paths(sys.argv[1:], {"--out": "FILE", "--folder": "DIR"})]
        ),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {platform.system()}, 2 shared CPU cores, one thread",
        "versions": {name: version(name) for name in ("scipy", "ortools", "numpy", "torch", "topohub")},
    }


def main(arguments: list[str] | None = None) -> None:
    """Run one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore[reportOptionalMemberAccess]
    parser.add_argument(
        "table", choices=("exact", "compact", "heuristics", "masters", "sndlib", "nonlinear", "evaluator", "pool")
    )
    parser.add_argument("--networks", nargs="*", default=None, help="default: what the table is about")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument(
        "--folder", type=Path, default=Path("benchmarks/reference"), help="of SNDlib files, or of pools"
    )
    parser.add_argument("--methods", nargs="*", default=NONLINEAR_METHODS, help="of `nonlinear`; others stay as stored")
    parser.add_argument("--stretch", type=float, default=1.0, help="of `compact`: wall seconds per CPU second of limit")
    parser.add_argument("--again", action="store_true", help="compute rows that are stored already, too")
    parser.add_argument("--out", type=Path, default=None, help="JSON file to add the rows to")
    chosen = parser.parse_args(arguments)
    options = {"seconds": chosen.seconds, "tolerance": chosen.tolerance}
    evaluated = ("nobel-germany", "janos-us", "germany50")
    defaults: dict[str, Iterable[str]] = {
        "exact": by_size(sane_names()),
        "compact": by_size(sane_names()),
        "heuristics": by_size(sane_names()),
        "masters": ("pdh", "nobel-eu", "di-yuan", "dfn-bwin", "dfn-gwin", "france"),
        "nonlinear": ("polska", "nobel-us", "nobel-germany"),
        "evaluator": evaluated,
        "pool": evaluated,
        "sndlib": [path.name for path in sorted(chosen.folder.glob("*.txt"))],
    }
    names = chosen.networks or defaults[chosen.table]
    tables: dict[str, Callable[[list[str]], Iterable[Row]]] = {
        "exact": lambda some: exact(some, **options),
        "compact": lambda some: compact(some, **options, stretch=chosen.stretch),
        "heuristics": lambda some: heuristics(some, **options),
        "masters": lambda some: masters(some, **options),
        "sndlib": lambda some: sndlib([chosen.folder / name for name in some], **options),
        "nonlinear": lambda some: nonlinear(some, **options, methods=chosen.methods),
        "evaluator": lambda some: evaluator(some, **options),
        "pool": lambda some: export_pool(some, seconds=chosen.seconds, folder=chosen.folder),
    }
    done = stored(chosen.out, chosen.table)
    rows: list[Row] = []
    for name in names:
        if any(row["network"] == name and row["limit_s"] == chosen.seconds for row in done) and not chosen.again:
            continue
        for row in tables[chosen.table]([name]):
            row = {"network": name, **row, "limit_s": chosen.seconds}
            rows.append(row)
            print(_table([row]).splitlines()[-1], flush=True)
        if chosen.out is not None:
            fresh = [row for row in rows if row["network"] == name]
            cells = {(row["network"], row.get("problem"), row.get("method")) for row in fresh}
            if chosen.table != "nonlinear":
                done = [row for row in done if row["network"] != name]
            kept = [row for row in done if (row["network"], row.get("problem"), row.get("method")) not in cells]
            done = kept + fresh
            store(chosen.out, chosen.table, done)
    print("\n" + _table(rows))


def stored(path: Path | None, table: str) -> list[Row]:
    """Rows of a table on disk."""
    if path is None or not path.is_file():
        return []
    rows = json.loads(path.read_text()).get(table, {}).get("rows", [])
    return [{"network": row.get("problem", "").rpartition("-")[0], "limit_s": None, **row} for row in rows]


def store(path: Path, table: str, rows: list[Row]) -> None:
    """Replace a table on disk; each row keeps the commit under which it was computed."""
    old = json.loads(path.read_text()) if path.is_file() else {}
    commit = origin.commit()
    rows = [{"commit": commit, **row} for row in rows]
    old[table] = {"provenance": provenance(), "rows": rows}
    path.write_text(json.dumps(old, indent=1) + "\n")


if __name__ == "__main__":
    main()
