"""One PyEPO backend on one set of cost vectors, in a process of its own. Needs PyEPO and NumPy, not this project.

    python oracles_pyepo.py INSTANCE.npz BACKEND

prints one JSON object: CPU seconds for a solve, the objective values, and versions. A process holds one backend because
highspy and OR-Tools cannot live together. Every model object is built once and its objective is changed at each solve,
as PyEPO does in training; multi-threaded backends get one thread.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# This script runs in the comparator's own environment.

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from typing import Any

import numpy as np

REPEATS = 5


def make_path(backend: str) -> Any:
    """PyEPO's own 5x5 grid."""
    if backend == "ort-cp-sat":
        from pyepo.model.ort.shortestpath import shortestPathCpModel

        return shortestPathCpModel((5, 5))
    if backend.startswith("ort-"):
        from pyepo.model.ort.shortestpath import shortestPathModel

        return shortestPathModel((5, 5), solver=backend.removeprefix("ort-"))
    from pyepo.model.omo.shortestpath import shortestPathModel

    return shortestPathModel((5, 5), solver="appsi_highs")


def make_knapsack(backend: str, weights: np.ndarray, capacities: np.ndarray) -> Any:
    """PyEPO's own knapsack; it maximizes."""
    if backend.startswith("ort-"):
        from pyepo.model.ort.knapsack import knapsackModel

        return knapsackModel(weights, capacities, solver=backend.removeprefix("ort-"))
    from pyepo.model.omo.knapsack import knapsackModel

    return knapsackModel(weights, capacities, solver="appsi_highs")


def make_assignment(backend: str, sizes: np.ndarray, capacities: np.ndarray) -> Any:
    """Generalized assignment, written as PyEPO's documentation asks for a model of one's own."""
    items, bins = len(sizes), len(capacities)
    pairs = [(i, k) for i in range(items) for k in range(bins)]
    if backend == "ort-cp-sat":
        from ortools.sat.python import cp_model
        from pyepo.model.ort.ortcpmodel import optOrtCpModel

        class AssignmentCp(optOrtCpModel):
            def _getModel(self) -> tuple:  # noqa: N802
                model = cp_model.CpModel()
                x = {pair: model.NewBoolVar("") for pair in pairs}
                for i in range(items):
                    model.AddExactlyOne(x[i, k] for k in range(bins))
                for k in range(bins):
                    model.Add(sum(int(sizes[i]) * x[i, k] for i in range(items)) <= int(capacities[k]))
                return model, x

        return AssignmentCp()
    if backend.startswith("ort-"):
        from ortools.linear_solver import pywraplp
        from pyepo.model.ort.ortmodel import optOrtModel

        class AssignmentOrt(optOrtModel):
            def _getModel(self) -> tuple:  # noqa: N802
                model = pywraplp.Solver.CreateSolver(self.solver.upper())
                if model is None:
                    raise RuntimeError(f"no solver {self.solver}")
                x = {pair: model.BoolVar("") for pair in pairs}
                for i in range(items):
                    model.Add(sum(x[i, k] for k in range(bins)) == 1)
                for k in range(bins):
                    model.Add(sum(float(sizes[i]) * x[i, k] for i in range(items)) <= float(capacities[k]))
                return model, x

        return AssignmentOrt(solver=backend.removeprefix("ort-"))
    from pyepo.model.omo.omomodel import optOmoModel
    from pyomo import environ as pe

    class AssignmentOmo(optOmoModel):
        def _getModel(self) -> tuple:  # noqa: N802
            model = pe.ConcreteModel()
            model.x = pe.Var(pairs, domain=pe.Binary)
            model.cons = pe.ConstraintList()
            for i in range(items):
                model.cons.add(sum(model.x[i, k] for k in range(bins)) == 1)
            for k in range(bins):
                model.cons.add(sum(float(sizes[i]) * model.x[i, k] for i in range(items)) <= float(capacities[k]))
            return model, model.x

    return AssignmentOmo(solver="appsi_highs")


def use_one_thread(model: Any, backend: str) -> None:
    """Give a backend that would use all cores one thread: CPU seconds are compared."""
    if backend == "ort-cp-sat":
        from ortools.sat.python import cp_model

        make = cp_model.CpSolver

        def make_single() -> Any:
            solver = make()
            solver.parameters.num_workers = 1
            return solver

        cp_model.CpSolver = make_single
    elif backend.startswith("ort-"):
        model._model.SetNumThreads(1)


def main() -> None:
    """Time one backend; the last line of stdout is the result."""
    instance, backend = np.load(sys.argv[1]), sys.argv[2]
    if backend == "omo-appsi_highs":
        sys.modules["ortools"] = None  # type: ignore[assignment]  # or highspy would refuse to load
    kind = str(instance["kind"])
    if kind == "path":
        model = make_path(backend)
    elif kind == "knapsack":
        model = make_knapsack(backend, instance["weights"], instance["capacities"])
    else:
        model = make_assignment(backend, instance["weights"], instance["capacities"])
    use_one_thread(model, backend)
    costs = instance["costs"]
    given = -costs if kind == "knapsack" else costs
    if kind == "path":  # the same arcs in another order
        place = {tuple(arc): column for column, arc in enumerate(instance["arcs"].tolist())}
        costs = given = np.ascontiguousarray(costs[:, [place[tuple(map(int, arc))] for arc in model.arcs]])
    points = []
    for cost in given:  # warm-up, and the answers
        model.setObj(cost)
        points.append(np.asarray(model.solve()[0], dtype=np.float64))
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        for cost in given:
            model.setObj(cost)
            model.solve()
        times.append((time.process_time() - start) / len(given))
    versions = {}
    for package in ("pyepo", "ortools", "pyomo", "highspy", "torch", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    objective = [float(cost @ np.rint(point)) for cost, point in zip(costs, points, strict=True)]
    print(json.dumps({"seconds": min(times), "all": times, "objective": objective, "versions": versions}))


if __name__ == "__main__":
    main()
