"""Anytime table on held-out instances of a family: value relative to the best known after 1, 10, 100 objective calls.

    python -m benchmarks.amortized sharding/dlrm-50t-8d-nonlinear-v0 --prior DIR --prior DIR --out table.json

Every cell is a run of its own under that budget, so that no method looks ahead. The best known value of an instance is
the best of all runs and of a long run of ``auto`` (``--long`` objective calls). The first ``--prior`` folder serves
all rows that need one; the others, of other training seeds, add their one answer to the row ``prior``. A prior of
another family of the same schema gives the tables of shifted distributions. CMA-ES searches the costs, each repaired
into a design by one oracle call (optional package ``cma``).

``--rows`` takes a part of the rows, ``--long 0`` leaves the long run out, and an ``--out`` file of the same command is
continued with the instances that it lacks.
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

import surco
from surco import provenance
from surco.atomic import write_text
from surco.bridge import to_numpy, to_torch
from surco.errors import NoDesignError
from surco.instance_family import Instance, ask, collate
from surco.methods.random_perturbation import cost_scale
from surco.protocols import HasHeuristics, Problem
from surco.training import Prior

CALLS = (1, 10, 100)
PLAIN = ("linear", "random", "local_search", "zero", "auto")
LEARNED = ("prior", "hybrid", "auto+prior")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the table and print it as Markdown."""
    arguments = _parser().parse_args(argv)
    torch.set_num_threads(1)
    family = surco.family(arguments.family)
    priors = [Prior.load(folder) for folder in arguments.prior]
    wanted = arguments.calls
    rows: dict[str, dict[int, list[float]]] = {}
    feasible: dict[str, list[bool]] = {}
    seconds: dict[str, list[float]] = {}
    cpu, wall = time.process_time(), time.perf_counter()
    result: dict[str, Any] = {}
    is_route = family.schema.name.startswith("routes")
    measure_of = "percentage points of on-time probability" if is_route else "percent of the best known value"
    begin, before = _stored(arguments, priors, rows, feasible)
    for done in range(begin, arguments.instances):
        if time.perf_counter() - wall > arguments.seconds:
            break
        instance = family.sample("test", seed=arguments.first + done)
        found = measure(instance, priors, wanted, feasible, seconds, arguments.rows)
        best = min(min(cells.values()) for cells in found.values())
        if arguments.long:
            long = surco.solve(instance.problem, "auto", objective_calls=arguments.long, calls=arguments.long, seed=0)
            best = min(best, long.value)
        for name, cells in found.items():
            for calls, value in cells.items():
                rows.setdefault(name, {}).setdefault(calls, []).append(regret(value, best, is_route=is_route))
        result = {
            "family": family.id,
            "priors": [dict(prior.training) for prior in priors],
            "instances": done + 1,
            "first": arguments.first,
            "regret": measure_of,
            "table": {name: {k: summary(v) for k, v in cells.items()} for name, cells in rows.items()},
            "raw": rows,
            "all_feasible": {name: all(values) for name, values in feasible.items()},
            "feasible": {name: float(np.mean(values)) for name, values in feasible.items()},
            "seconds_per_run": {name: float(np.mean(values)) for name, values in seconds.items()},
            "cpu_seconds": before + time.process_time() - cpu,
            **provenance.origin(argv, "python -m benchmarks.amortized"),
            "command": _command(arguments),
        }
        if arguments.out is not None:  # after every instance: what was measured is not lost
            write_text(arguments.out, json.dumps(result))
        print(f"{done + 1}/{arguments.instances}: {result['cpu_seconds']:.0f} CPU s", file=sys.stderr)
    if not result:
        sys.stderr.write("no instance is left to run\n")
        return 0
    print(markdown(result, wanted))
    return 0


def measure(
    instance: Instance,
    priors: Sequence[Prior],
    wanted: Sequence[int],
    feasible: dict[str, list[bool]],
    seconds: dict[str, list[float]],
    only: Sequence[str] | None = None,
) -> dict[str, dict[int, float]]:
    """Value of every row at every budget on one instance; rows of several priors by ``name@k``."""
    problem = instance.problem
    cells: dict[str, dict[int, float]] = {}

    def run(name: str, calls: int, solve: Callable[[], tuple[float, bool]]) -> None:
        row = name.partition("@")[0]
        if only is not None and row not in only and not ("rules" in only and row.startswith("rule ")):
            return
        clock = time.perf_counter()
        try:
            value, is_feasible = solve()
        except NoDesignError:
            value, is_feasible = math.inf, False
        cells.setdefault(name, {})[calls] = value
        feasible.setdefault(name, []).append(is_feasible)
        seconds.setdefault(f"{name} {calls}", []).append(time.perf_counter() - clock)

    rules = sorted(problem.heuristics()) if isinstance(problem, HasHeuristics) else []
    for name in rules:
        run(f"rule {name}", 1, lambda name=name: _solved(problem, name, 1))
    for calls in wanted:
        for name in PLAIN:
            run(name, calls, lambda name=name, calls=calls: _solved(problem, name, calls))
        for k, prior in enumerate(priors):
            sampling = {"prior": prior, "is_sampling": calls > 1}
            if k > 0 and calls > 1:
                continue  # the other training seeds show how much the one answer varies
            run(f"prior@{k}", calls, lambda calls=calls, s=sampling: _solved(problem, "prior", calls, **s))
            if k > 0:
                continue
            run(f"hybrid@{k}", calls, lambda calls=calls, p=prior: _solved(problem, "hybrid", calls, prior=p))
            run(f"auto+prior@{k}", calls, lambda calls=calls, p=prior: _solved(problem, "auto", calls, prior=p))
        if _has_cma():
            run("cma-es", calls, lambda calls=calls: evolved(problem, calls))
    for k, prior in enumerate(priors):
        run(f"prior, shuffled features@{k}", 1, lambda p=prior: shuffled(p, instance))
    if priors:
        run("no information", 1, lambda: guessed(instance, priors[0]))
    return cells


def _stored(
    arguments: argparse.Namespace,
    priors: Sequence[Prior],
    rows: dict[str, dict[int, list[float]]],
    feasible: dict[str, list[bool]],
) -> tuple[int, float]:
    """Instances and CPU seconds of an earlier, unfinished run of the same command, whose values go into ``rows``.

    Raises:
        SystemExit: the file is of another command or of other priors.
    """
    if arguments.out is None or not arguments.out.is_file():
        return 0, 0.0
    old = json.loads(arguments.out.read_text(encoding="utf-8"))
    weights = [dict(prior.training) for prior in priors]
    if old.get("command") != _command(arguments) or old.get("priors") != json.loads(json.dumps(weights)):
        raise SystemExit(f"{arguments.out} is of another command or other priors. Choose another --out.")
    for name, cells in old["raw"].items():
        rows[name] = {int(calls): list(values) for calls, values in cells.items()}
        feasible[name] = [old["all_feasible"][name]] * int(old["instances"])
    return int(old["instances"]), float(old["cpu_seconds"])


def _command(arguments: argparse.Namespace) -> str:
    """The command in a form that names no folder of this machine."""
    words = ["-m", "benchmarks.amortized", arguments.family, *["--prior", "DIR"] * len(arguments.prior)]
    words += ["--instances", str(arguments.instances), "--calls", *map(str, arguments.calls)]
    words += ["--long", str(arguments.long)]
    words += ["--first", str(arguments.first)] if arguments.first else []
    words += ["--rows", *arguments.rows] if arguments.rows is not None else []
    return provenance.command([*words, "--out", "FILE"], "python")


def _solved(problem: Problem, method: str, calls: int, **options: Any) -> tuple[float, bool]:
    # Without a limit in oracle calls a method that finds nothing new would go on for ever: ten to one is ample.
    result = surco.solve(problem, method, objective_calls=calls, calls=10 * calls + 10, seed=0, **options)
    return result.value, bool(problem.violation(to_torch(result.x)) <= 1e-6)


def shuffled(prior: Prior, instance: Instance) -> tuple[float, bool]:
    """The prior's answer where the features of the items (or edges) belong to others."""
    features = dict(prior.family.features(instance.problem))
    rng = np.random.default_rng(instance.seed)
    along = {"item": 0, "memory": 0, "start": 0, "weights": 1} if "item" in features else {"edge": 0, "weights": 1}
    count = features["variables"].shape[0]
    order = torch.from_numpy(rng.permutation(count))
    for name, axis in along.items():
        features[name] = features[name].index_select(axis, order)
    batch = collate([features])
    with torch.no_grad():
        costs = batch.rows(prior.network(batch.to(dtype=torch.float32).features).double())[0]
    return _asked(prior, instance, to_numpy(costs)[None])


def guessed(instance: Instance, prior: Prior) -> tuple[float, bool]:
    """One oracle call at uniformly random costs: what no information is worth."""
    return _asked(prior, instance, np.random.default_rng(instance.seed).random((1, instance.problem.oracle.n)))


def _asked(prior: Prior, instance: Instance, costs: np.ndarray) -> tuple[float, bool]:
    x, has_point = ask(prior.family, instance.problem, costs)
    point = to_torch(x[0])
    return (
        float(instance.problem.objective(point)) if has_point[0] else math.inf,
        bool(has_point[0] and float(instance.problem.violation(point)) <= 1e-6),
    )


def _has_cma() -> bool:
    try:
        import cma  # noqa: F401
    except ImportError:
        return False
    return True


def evolved(problem: Problem, calls: int) -> tuple[float, bool]:
    """CMA-ES (diagonal above 200 variables) over costs around the natural ones, a design by the oracle for each."""
    import cma

    center = problem.initial_costs().detach()
    scale = float(cost_scale(center))
    start = to_numpy(center) / scale
    options = {"seed": 1, "verbose": -9, "maxfevals": calls, "CMA_diagonal": len(start) > 200}
    search = cma.CMAEvolutionStrategy(start, 0.3, options)
    best, is_feasible, used, first = math.inf, False, 0, True
    clip = bool(getattr(problem.oracle, "needs_nonnegative_costs", False))
    while used < calls:
        asked = search.ask()
        rows = np.array(asked)
        if first:
            rows[0], first = start, False
        solved = problem.oracle.solve(np.maximum(rows, 0.0) if clip else rows)
        x = to_torch(np.nan_to_num(solved.x))[: calls - used]
        values = to_numpy(problem.objective(x))
        values = np.where(solved.has_point[: len(values)], values, np.inf)
        used += len(values)
        k = int(values.argmin())
        if values[k] < best:
            best, is_feasible = float(values[k]), float(problem.violation(x[k])) <= 1e-6
        if len(values) == len(asked):
            worst = values[np.isfinite(values)].max(initial=0.0)
            search.tell(list(rows), np.where(np.isfinite(values), values, worst).tolist())
    return best, is_feasible


def regret(value: float, best: float, *, is_route: bool) -> float:
    """(value - best) / |best| in percent; for routes, whose f may be 0, percentage points of on-time probability."""
    if is_route:
        return 100.0 * (_on_time(best) - _on_time(value))
    return 100.0 * (value - best) / max(abs(best), 1e-9)


def _on_time(value: float) -> float:
    """Phi(-f), the probability of a route of objective f."""
    return 0.5 * math.erfc(value / math.sqrt(2.0))


def summary(values: Sequence[float]) -> dict[str, float]:
    """Mean and its standard error."""
    array = np.array(values)
    error = float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else math.nan
    return {"mean": float(array.mean()), "error": error, "worst": float(array.max()), "instances": len(array)}


def markdown(result: dict[str, Any], wanted: Sequence[int]) -> str:
    """The table; priors of several training seeds as mean of their means, with the least and the greatest."""
    table = result["table"]
    groups: dict[str, list[str]] = {}
    for name in table:
        groups.setdefault(name.partition("@")[0], []).append(name)
    lines = [
        f"{result['family']}, {result['instances']} test instances, regret in {result['regret']}",
        "",
        "| method | " + " | ".join(f"{calls} calls" for calls in wanted) + " |",
        "|---|" + "---|" * len(wanted),
    ]
    for group, members in groups.items():
        cells = []
        for calls in wanted:
            means = [table[name][calls]["mean"] for name in members if calls in table[name]]
            errors = [table[name][calls]["error"] for name in members if calls in table[name]]
            if not means:
                cells.append("")
                continue
            count = min(
                table[name][calls].get("instances", result["instances"]) for name in members if calls in table[name]
            )
            fewer = f" [{count}]" if count < result["instances"] else ""
            if len(means) == 1:
                cells.append(f"{means[0]:.3f} ± {errors[0]:.3f}{fewer}")
            else:
                spread = f"{min(means):.3f} to {max(means):.3f}; ± {np.mean(errors):.3f}"
                cells.append(f"{np.mean(means):.3f} ({spread}){fewer}")
        lines.append(f"| {group} | " + " | ".join(cells) + " |")
    share = min(result["feasible"].values(), default=1.0)
    lines += ["", f"feasible: {share:.0%} in the worst row; {result['cpu_seconds']:.0f} CPU s"]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.amortized", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("family")
    parser.add_argument("--prior", type=Path, action="append", default=[], metavar="DIR", help="one a training seed")
    parser.add_argument("--instances", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="seed of the first instance: to run a table in parts")
    parser.add_argument("--calls", type=int, nargs="+", default=list(CALLS))
    parser.add_argument("--long", type=int, default=2000, help="objective calls of the run that sets the best known")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="only these; `rules` stands for all greedy rules")
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no instance after this")
    parser.add_argument("--out", type=Path)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
