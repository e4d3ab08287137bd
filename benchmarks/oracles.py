"""Linear oracles against PyEPO's free backends: CPU-ms for a solve, same cost vectors, one run.

    python -m benchmarks.oracles --out DIR [--pyepo-python PATH]

PyEPO lives in an environment of its own (`pip install torch pyepo ortools pyomo highspy`), whose Python is given by
``--pyepo-python``; each of its backends runs in a process of its own. Without it only this project's rows are measured.
All objective values are compared; one that differs makes the run fail.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import solvers
from solvers import Array

REPEATS = 5
TOLERANCE = 1e-6  # relative; PyEPO hands over float32 points, which are rounded before they are priced
TIMEOUT_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Instance:
    """One feasible set and its cost vectors [B, n], minimized."""

    name: str
    kind: str
    target: float  # how many times fewer CPU-ms than PyEPO's best free backend
    costs: Array
    native: Callable[[], Any]
    milp: Callable[[str], Any]
    own_backends: tuple[str, ...]
    pyepo_backends: tuple[str, ...]
    weights: Array = field(default_factory=lambda: np.zeros(0))
    capacities: Array = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; ``ratio`` is PyEPO's best time over this one."""

    instance: str
    solver: str
    ms: float
    objective: tuple[float, ...]
    error: str = ""
    ratio: float = float("nan")


def grid(size: int) -> Any:
    """Directed grid with arcs to the right and down; nodes are numbered row by row, as PyEPO does."""
    import networkx as nx

    graph = nx.DiGraph()
    for node in range(size * size):
        if (node + 1) % size:
            graph.add_edge(node, node + 1)
        if node + size < size * size:
            graph.add_edge(node, node + size)
    return graph


def path_instance(rows: int, seed: int) -> Instance:
    """The 5x5 grid, 40 arcs, costs U(0.1, 1)."""
    graph = grid(5)
    arcs = list(graph.edges)
    incidence = np.zeros((25, len(arcs)))
    for column, (tail, head) in enumerate(arcs):
        incidence[tail, column], incidence[head, column] = 1.0, -1.0
    balance = np.zeros(25)
    balance[0], balance[-1] = 1.0, -1.0

    return Instance(
        "path 5x5",
        "path",
        50.0,
        np.random.default_rng(seed).uniform(0.1, 1.0, (rows, len(arcs))),
        lambda: solvers.shortest_path(graph, 0, 24),
        lambda backend: solvers.milp(
            matrix=incidence, row_lower=balance, row_upper=balance, upper=1, integrality=False, backend=backend
        ),
        ("glop", "highs"),
        ("ort-glop", "ort-cbc", "ort-scip", "ort-cp-sat", "omo-appsi_highs"),
    )


def knapsack_instance(rows: int, seed: int) -> Instance:
    """32 items with two weights each, U{3.00 ... 7.99}, capacities 20: the sizes of PyEPO's generator and examples."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(300, 800, (2, 32)) / 100.0
    capacities = np.array([20.0, 20.0])
    values = rng.uniform(1.0, 10.0, 32) + rng.standard_normal((rows, 32))
    return Instance(
        "knapsack 32x2",
        "knapsack",
        2.0,
        -values,
        lambda: solvers.knapsack(weights, capacities),
        lambda backend: solvers.milp(matrix=weights, row_upper=capacities, upper=1, backend=backend),
        ("choice", "scip", "highs"),
        ("ort-scip", "ort-cbc", "ort-sat", "omo-appsi_highs"),
        weights,
        capacities,
    )


def half_knapsack_instance(rows: int, seed: int) -> Instance:
    """The same items, with room for half of them: many more good subsets."""
    easy = knapsack_instance(rows, seed)
    capacities = np.floor(easy.weights.sum(axis=1) / 2)
    return Instance(
        "knapsack 32x2 half",
        "knapsack",
        2.0,
        easy.costs,
        lambda: solvers.knapsack(easy.weights, capacities),
        lambda backend: solvers.milp(matrix=easy.weights, row_upper=capacities, upper=1, backend=backend),
        easy.own_backends,
        easy.pyepo_backends,
        easy.weights,
        capacities,
    )


def assignment_instance(rows: int, seed: int) -> Instance:
    """50 items of size U{5 ... 25} into 4 bins of 1.1 times the mean load; costs c0 + 0.1 noise."""
    rng = np.random.default_rng(seed)
    items, bins = 50, 4
    sizes = rng.integers(5, 26, items).astype(np.float64)
    capacities = np.full(bins, np.ceil(1.1 * sizes.sum() / bins))
    costs = rng.uniform(0.0, 1.0, items * bins) + 0.1 * rng.standard_normal((rows, items * bins))
    oracle = solvers.generalized_assignment(sizes, capacities)
    return Instance(
        "assignment 50x4",
        "assignment",
        2.0,
        costs,
        lambda: solvers.generalized_assignment(sizes, capacities),
        lambda backend: solvers.MilpOracle(oracle.polyhedron(), backend=backend),
        ("choice", "scip", "scip-reoptimize", "highs", "cp-sat"),
        ("ort-scip", "ort-cbc", "ort-sat", "ort-cp-sat", "omo-appsi_highs"),
        sizes,
        capacities,
    )


def measure(solve: Callable[[Array], Any], costs: Array, *, one_by_one: bool = False) -> float:
    """Least mean CPU seconds of a row over some repetitions."""
    best = np.inf
    for _ in range(REPEATS):
        start, rounds = time.process_time(), 0
        while time.process_time() - start < 0.05 or rounds == 0:  # short rows need many rounds for the clock
            if one_by_one:
                for cost in costs:
                    solve(cost[None])
            else:
                solve(costs)
            rounds += 1
        best = min(best, (time.process_time() - start) / rounds / len(costs))
    return best


def own_rows(instance: Instance) -> list[Row]:
    """The native oracle, in a batch and row by row, and this project's MILP backends."""
    rows = []
    oracles = [("native, batch", instance.native(), False), ("native, row by row", instance.native(), True)]
    oracles += [(f"milp {name}", instance.milp(name), False) for name in instance.own_backends]
    for name, oracle, one_by_one in oracles:
        batch = oracle.solve(instance.costs)
        if set(batch.status) != {solvers.Status.OPTIMAL} or (oracle.violation(batch.x) > 1e-6).any():
            rows.append(Row(instance.name, name, np.inf, (), error=f"not optimal: {set(batch.status)}"))
            continue
        seconds = measure(oracle.solve, instance.costs, one_by_one=one_by_one)
        rows.append(Row(instance.name, name, 1e3 * seconds, tuple(batch.objective.tolist())))
    return rows


def pyepo_rows(instance: Instance, python: str) -> tuple[list[Row], dict[str, str]]:
    """Each PyEPO backend in a process of its own."""
    rows: list[Row] = []
    versions: dict[str, str] = {}
    script = Path(__file__).with_name("oracles_pyepo.py")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "instance.npz"
        np.savez(
            file,
            kind=instance.kind,
            costs=instance.costs,
            weights=instance.weights,
            capacities=instance.capacities,
            arcs=np.array(grid(5).edges),
        )
        for backend in instance.pyepo_backends:
            name = f"PyEPO {backend}"
            try:
                done = subprocess.run(
                    [python, str(script), str(file), backend],
                    capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True, cwd=folder,
                )  # fmt: skip
            except subprocess.SubprocessError as error:
                tail = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
                rows.append(Row(instance.name, name, np.inf, (), error=" ".join(tail)))
                continue
            answer = json.loads(done.stdout.strip().splitlines()[-1])
            rows.append(Row(instance.name, name, 1e3 * answer["seconds"], tuple(answer["objective"])))
            versions |= answer["versions"]
    return rows, versions


def with_ratios(rows: list[Row]) -> list[Row]:
    """Add PyEPO's best time over each time, and mark objective values that differ from the first row's."""
    best = min((row.ms for row in rows if row.solver.startswith("PyEPO") and not row.error), default=float("nan"))
    wanted = np.array(rows[0].objective)
    checked = []
    for row in rows:
        error = row.error
        if not error:
            off = np.abs(np.array(row.objective) - wanted) / np.maximum(1.0, np.abs(wanted))
            if off.max() > TOLERANCE:
                error = f"WRONG VALUE: differs by {off.max():.2g} on {int((off > TOLERANCE).sum())} rows"
        checked.append(Row(row.instance, row.solver, row.ms, row.objective, error, best / row.ms))
    return checked


def table(rows: list[Row]) -> str:
    """The rows in words, for a terminal."""
    lines = [f"{'instance':<20}{'solver':<26}{'CPU-ms a solve':>15}{'x PyEPO best':>14}  mean objective"]
    for row in rows:
        if row.error and not row.objective:
            lines.append(f"{row.instance:<20}{row.solver:<26}{'-':>15}{'-':>14}  {row.error}")
            continue
        lines.append(
            f"{row.instance:<20}{row.solver:<26}{row.ms:>15.5f}{row.ratio:>14.1f}  "
            f"{np.mean(row.objective):.6f} {row.error}"
        )
    return "\n".join(lines)


def record(row: Row) -> dict[str, Any]:
    """One row for the JSON file: the mean of the objective values in place of all of them."""
    data = asdict(row)
    values = data.pop("objective")
    finite = {
        key: None if isinstance(value, float) and not np.isfinite(value) else value for key, value in data.items()
    }
    return {**finite, "solves": len(values), "mean_objective": float(np.mean(values)) if values else None}


def provenance(seed: int, rows: int, versions: dict[str, str]) -> dict[str, Any]:
    """What is needed to repeat the run; no paths of this machine."""
    own = ("numpy", "scipy", "numba", "ortools", "pyscipopt", "networkx")
    return {
        "command": f"python -m benchmarks.oracles --seed {seed} --rows {rows} --out DIR --pyepo-python PATH",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {platform.processor() or 'unknown processor'}, {platform.system()}",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in own},
        "pyepo_versions": versions,
        "seed": seed,
        "clock": "process CPU time, least mean of 5 repetitions",
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison; 0 where all values agree and every target is met (or PyEPO was not given)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.oracles", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for oracles.json and oracles.txt")
    parser.add_argument("--pyepo-python", help="Python of an environment with PyEPO")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--rows", type=int, default=64, help="cost vectors of an instance (the path has five times as many)"
    )
    options = parser.parse_args(arguments)
    makers = (path_instance, knapsack_instance, half_knapsack_instance, assignment_instance)
    rows: list[Row] = []
    verdicts: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    for make in makers:
        instance = make(options.rows * (5 if make is path_instance else 1), options.seed)
        found = own_rows(instance)
        if options.pyepo_python:
            others, seen = pyepo_rows(instance, options.pyepo_python)
            found += others
            versions |= seen
        found = with_ratios(found)
        rows += found
        is_right = not any(row.error.startswith("WRONG") for row in found)
        is_fast = not options.pyepo_python or bool(found[0].ratio >= instance.target)
        verdicts.append(
            {"instance": instance.name, "target": instance.target,
             "ratio": found[0].ratio if options.pyepo_python else None,
             "is_right": is_right, "is_fast": is_fast}
        )  # fmt: skip
        print(table(found), "\n", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    report = {
        "provenance": provenance(options.seed, options.rows, versions),
        "verdicts": verdicts,
        "rows": [record(row) for row in rows],
    }
    (options.out / "oracles.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.out / "oracles.txt").write_text(table(rows) + "\n")
    for verdict in verdicts:
        word = "met" if verdict["is_right"] and verdict["is_fast"] else "MISSED"
        ratio = "not compared" if verdict["ratio"] is None else f"{verdict['ratio']:.1f} x"
        print(f"{verdict['instance']}: {ratio} (target {verdict['target']:g} x) {word}")
    return 0 if all(v["is_right"] and v["is_fast"] for v in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
