"""Tables of network planning: exact, compact, heuristics, sndlib, nonlinear, evaluator, pool; one a command.

    python -m benchmarks.planning exact --networks polska geant

Every plan in every table was accepted by the independent judge; a plan that it refuses stops the run. CPU seconds are
``time.process_time``. Results go to ``--out`` as JSON with their provenance, and to the terminal as Markdown.
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

import numpy as np

from problems.planning import Decomposition, Judge, Network, PlanningInstance, compile_instance, from_topohub, plan_of
from problems.planning.topologies import drawn_names, sane_names

EASY = (
    "abilene",
    "polska",
    "nobel-us",
    "dfn-bwin",
    "dfn-gwin",
    "pdh",
    "nobel-germany",
    "geant",
    "janos-us",
    "nobel-eu",
)
Row = dict[str, Any]


def judged(instance: PlanningInstance, network: Network, x: np.ndarray) -> float:
    """Cost by the judge; stops the run if it refuses the plan."""
    verdict = Judge(instance)(plan_of(network, x))
    if not verdict.is_feasible:
        raise SystemExit(f"The judge refuses a plan of {instance.name}: {verdict}")
    return verdict.cost


def exact(names: Iterable[str], *, seconds: float, tolerance: float) -> Iterable[Row]:
    """The decomposition on topohub's networks."""
    for name in names:
        instance = from_topohub(name)
        begin = time.process_time()
        network = compile_instance(instance)
        engine = Decomposition(network, tolerance=tolerance)
        bounds = engine.run(seconds, clock=time.process_time)
        used = time.process_time() - begin
        assert engine.best is not None
        yield {
            "network": name,
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


def compact(names: Iterable[str], *, seconds: float, tolerance: float) -> Iterable[Row]:
    """The monolithic integer program with the same solver and limit."""
    from problems.planning.compact import solve_compact

    for name in names:
        instance = from_topohub(name)
        network = compile_instance(instance)
        answer = solve_compact(network, seconds=seconds, gap=tolerance)
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
        }


def heuristics(names: Iterable[str], *, seconds: float, tolerance: float) -> Iterable[Row]:
    """All heuristics, each with its limit, against the best bound that the exact engine reaches in the same time."""
    from problems.planning.neighborhoods import heuristic_plans

    for name in names:
        instance = from_topohub(name)
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


def sndlib(folder: Path, *, seconds: float, tolerance: float) -> Iterable[Row]:
    """Real SNDlib files with their own modules and prices."""
    from problems.planning.formats import read_instance

    for path in sorted(folder.glob("*.txt")):
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


def nonlinear(names: Iterable[str], *, seconds: float, tolerance: float) -> Iterable[Row]:
    """SurCo and its rivals on costs that are not linear, the same wall seconds each; CPU seconds are reported."""
    import surco
    from problems.planning.domain import DOMAIN
    from surco.errors import NoDesignError

    for name in names:
        for objective in ("bulk", "delay", "loss", "power"):
            row: Row = {"problem": f"{name}-{objective}"}
            bound = -np.inf
            for method in ("linear", "local_search", "slp", "random", "zero", "exact", "auto"):
                problem = DOMAIN.make(f"planning/{name}-{objective}-v0", tolerance=tolerance)
                if method == "exact" and getattr(problem, "exact", None) is None:
                    row[method] = None
                    continue
                if method == "slp" and not problem.is_differentiable:
                    row[method] = None
                    continue
                try:
                    result = surco.solve(problem, method, seconds=seconds, seed=0)
                except NoDesignError:
                    row[method] = None
                    continue
                row[method], row[method + "_cpu_s"] = result.value, result.stats.cpu_seconds
                if result.bound is not None:
                    bound = max(bound, result.bound)
            yield row | {"bound": bound}


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
        "command": " ".join(["python -m benchmarks.planning", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {platform.system()}, 2 shared CPU cores, one thread",
        "versions": {name: version(name) for name in ("scipy", "ortools", "numpy", "torch", "topohub")},
        "drawing_units_left_out": list(drawn_names()),
    }


def main(arguments: list[str] | None = None) -> None:
    """Run one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore[reportOptionalMemberAccess]
    parser.add_argument("table", choices=("exact", "compact", "heuristics", "sndlib", "nonlinear", "evaluator", "pool"))
    parser.add_argument("--networks", nargs="*", default=None, help="default: what the table is about")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument(
        "--folder", type=Path, default=Path("benchmarks/reference"), help="of SNDlib files, or of pools"
    )
    parser.add_argument("--out", type=Path, default=None, help="JSON file to add the rows to")
    chosen = parser.parse_args(arguments)
    options = {"seconds": chosen.seconds, "tolerance": chosen.tolerance}
    tables: dict[str, Callable[[], Iterable[Row]]] = {
        "exact": lambda: exact(chosen.networks or sane_names(), **options),
        "compact": lambda: compact(chosen.networks or EASY, **options),
        "heuristics": lambda: heuristics(chosen.networks or EASY, **options),
        "sndlib": lambda: sndlib(chosen.folder, **options),
        "nonlinear": lambda: nonlinear(chosen.networks or ("polska", "nobel-us", "nobel-germany"), **options),
        "evaluator": lambda: evaluator(chosen.networks or ("nobel-germany", "janos-us", "germany50"), **options),
        "pool": lambda: export_pool(
            chosen.networks or ("nobel-germany", "janos-us", "germany50"), seconds=chosen.seconds, folder=chosen.folder
        ),
    }
    rows: list[Row] = []
    for row in tables[chosen.table]():
        rows.append(row)
        print(_table([row]).splitlines()[-1], flush=True)
        if chosen.out is not None:
            old = json.loads(chosen.out.read_text()) if chosen.out.is_file() else {}
            key = "problem" if "problem" in row else "network"
            kept = [r for r in old.get(chosen.table, {}).get("rows", []) if r[key] not in {n[key] for n in rows}]
            old[chosen.table] = {"provenance": provenance(), "rows": kept + rows}
            chosen.out.write_text(json.dumps(old, indent=1) + "\n")
    print("\n" + _table(rows))


if __name__ == "__main__":
    main()
