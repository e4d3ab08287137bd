"""Tables of network planning: exact, compact, heuristics, masters, sndlib, evaluator, pool; one a command.

    python -m benchmarks.planning exact --networks polska geant

Costs that are not linear have ``benchmarks.planning_nonlinear``. Several processes may share the networks, each with
its own ``--out``; ``join --parts FILES --out FILE`` puts their rows into one file.

Every plan in every table was accepted by the independent judge; a plan that it refuses stops the run. CPU seconds are
``time.process_time``. Results go to ``--out`` as JSON with their provenance, and to the terminal as Markdown; a row
that is there already under the same limit is not computed again, so a killed run goes on by the same command.
Networks whose positions are a drawing (``drawn_names``) have nominal lengths: the mean link counts as 100 km.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from problems.planning import Decomposition, Judge, Network, PlanningInstance, compile_instance, from_topohub, plan_of
from problems.planning.topologies import drawn_names, sane_names, topology
from surco import provenance as origin

Row = dict[str, Any]
REFERENCE = Path(__file__).parent / "reference" / "planning.json"
MOST_VARIABLES = 4_000_000  # of a compact model; brain has 2.1 million
KEYS = ("network", "limit_s", "problem", "method", "seed", "master", "case")  # of a row among those of its table
TABLES = ("exact", "compact", "heuristics", "masters", "sndlib", "evaluator", "pool", "join")


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
        answer = solve_compact(network, seconds=stretch * seconds, gap=tolerance, most_variables=MOST_VARIABLES)
        is_stopped = "limit" in answer.message.lower()
        cost = None if answer.x is None else judged(instance, network, answer.x)
        yield {
            "network": name,
            "variables": answer.n_variables,
            "rows": answer.n_rows,
            "cost": cost,
            "bound": answer.bound if np.isfinite(answer.bound) else None,
            "gap_percent": None if cost is None else 100 * (cost - answer.bound) / cost,
            "cpu_s": answer.cpu_seconds,
            "message": answer.message.split("(")[0].strip(),
            "wall_limit_s": stretch * seconds,
            "is_short_of_cpu": is_stopped and answer.cpu_seconds < 0.95 * seconds,
        }


def heuristics(names: Iterable[str], *, seconds: float, tolerance: float) -> Iterable[Row]:
    """All heuristics, each with its limit, against the best bound known: of the stored exact row, or of this engine.

    The rules share one engine and run in the order of the columns: CPU seconds of a rule are what it needed on top of
    those before it (the box and the neighborhoods use the cuts of the relaxation that ``rounding`` solved).
    """
    from problems.planning.neighborhoods import each_heuristic

    proven = {row["network"]: row["bound"] for row in stored(REFERENCE, "exact")}
    for name in names:
        instance = load(name)
        network = compile_instance(instance)
        begin = time.process_time()
        engine = Decomposition(network, tolerance=tolerance)
        engine.prepare()
        row: Row = {"network": name, "prepare_cpu_s": time.process_time() - begin}
        costs: dict[str, float] = {}
        clock = time.process_time()
        for rule, x in each_heuristic(engine, seconds=seconds, clock=time.process_time):
            row[rule + "_cpu_s"] = time.process_time() - clock
            costs[rule] = judged(instance, network, x)
            clock = time.process_time()
        if name not in proven:
            engine.run(2 * seconds, clock=time.process_time)
        bound = max(engine.lower, proven.get(name, 0.0))
        yield row | {"bound": bound} | {rule + "_percent": 100 * (cost / bound - 1) for rule, cost in costs.items()}


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


def table(rows: list[Row]) -> str:
    """Markdown of rows."""
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
    known = {**origin.versions()}
    with contextlib.suppress(PackageNotFoundError):
        known["topohub"] = version("topohub")
    return {
        "command": " ".join(
            [
                f"python -m benchmarks.{Path(sys.argv[0]).stem}",
                *origin.without_paths(sys.argv[1:], {"--out": "FILE", "--folder": "DIR"}),
            ]
        ),
        "date": time.strftime("%Y-%m-%d"),
        "machine": {**origin.machine(), "threads": 1},
        "versions": known,
    }


def main(arguments: list[str] | None = None) -> None:
    """Run one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore[reportOptionalMemberAccess]
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--networks", nargs="*", default=None, help="default: what the table is about")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument(
        "--folder", type=Path, default=Path("benchmarks/reference"), help="of SNDlib files, or of pools"
    )
    parser.add_argument("--stretch", type=float, default=1.0, help="of `compact`: wall seconds per CPU second of limit")
    parser.add_argument("--again", action="store_true", help="compute rows that are stored already, too")
    parser.add_argument("--parts", nargs="*", type=Path, default=(), help="of `join`: files whose rows go into --out")
    parser.add_argument(
        "--commit", default=None, help="of `join`: commit that computed the parts, where git was absent"
    )
    parser.add_argument("--out", type=Path, default=None, help="JSON file to add the rows to")
    chosen = parser.parse_args(arguments)
    if chosen.table == "join":
        join(chosen.parts, chosen.out, commit=chosen.commit)
        return
    options = {"seconds": chosen.seconds, "tolerance": chosen.tolerance}
    evaluated = ("nobel-germany", "janos-us", "germany50")
    everything = by_size([*sane_names(), *drawn_names()])
    defaults: dict[str, Iterable[str]] = {
        "exact": everything,
        "compact": everything,
        "heuristics": everything,
        "masters": ("pdh", "nobel-eu", "di-yuan", "dfn-bwin", "dfn-gwin", "france"),
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
        "evaluator": lambda some: evaluator(some, **options),
        "pool": lambda some: export_pool(some, seconds=chosen.seconds, folder=chosen.folder),
    }
    rows: list[Row] = []
    for name in names:
        done = stored(chosen.out, chosen.table)
        if any(row["network"] == name and row["limit_s"] == chosen.seconds for row in done) and not chosen.again:
            continue
        for found in tables[chosen.table]([name]):
            row = {"network": name, **found, "limit_s": chosen.seconds}
            rows.append(row)
            print(table([row]).splitlines()[-1], flush=True)
            if chosen.out is not None:
                done = replaced(done, [row])
                store(chosen.out, chosen.table, done)
    print("\n" + table(rows))


def key(row: Row) -> tuple[Any, ...]:
    """What makes a row another row than the others of its table."""
    return tuple(row.get(name) for name in KEYS)


def replaced(rows: Iterable[Row], fresh: Iterable[Row]) -> list[Row]:
    """All rows, those of ``fresh`` in place of older ones with their :func:`key`."""
    return list({**{key(row): row for row in rows}, **{key(row): row for row in fresh}}.values())


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


def join(parts: Iterable[Path], out: Path, *, commit: str | None = None) -> None:
    """Put the rows of several files into one; a table's provenance is that of its last part.

    Args:
        parts: files that ``store`` wrote.
        out: file that is made or added to.
        commit: written into every joined row, where the parts were computed outside a checkout.
    """
    whole = json.loads(out.read_text()) if out.is_file() else {}
    for part in parts:
        for name, content in json.loads(part.read_text()).items():
            fresh = [{**row, "commit": commit} if commit else row for row in content["rows"]]
            rows = replaced(whole.get(name, {}).get("rows", []), fresh)
            whole[name] = {"provenance": content["provenance"], "rows": rows}
    out.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
