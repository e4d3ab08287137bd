"""Three ways to finish the integers of the decomposition, from the same relaxation with the same cuts.

- ``highs``: the engine's own loop, masters solved one after another by HiGHS, each answer separated, repaired, trimmed.
- ``cp-sat``: the same loop, masters solved by CP-SAT.
- ``scip``: one branch-and-bound tree; a constraint handler separates whole points (cutset and metric cuts as lazy
  constraints) and offers the repaired and trimmed plan.

Every arm builds its own engine and solves the same relaxation; what is counted is CPU seconds of the whole run and of
the integer phase alone. Run by ``python -m benchmarks.planning masters``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyscipopt import Conshdlr, Model, quicksum
from pyscipopt.scip import PY_SCIP_RESULT as SCIP_RESULT

from problems.planning import Decomposition, Network
from problems.planning.master import MasterAnswer
from problems.planning.survival import Deadline

Array = NDArray[np.float64]


def finish_by_highs(engine: Decomposition, seconds: float) -> None:
    """The engine as it is."""
    engine.run(seconds, clock=time.process_time)


def finish_by_cp_sat(engine: Decomposition, seconds: float) -> None:
    """The engine with CP-SAT for its masters."""
    engine.master.solve_integer = _cp_sat_of(engine)  # type: ignore[method-assign]
    engine.run(seconds, clock=time.process_time)


def _cp_sat_of(engine: Decomposition) -> Callable[..., MasterAnswer]:
    from ortools.math_opt.python import mathopt

    network, master = engine.network, engine.master

    def solve_integer(*, seconds: float, gap: float, **others: Any) -> MasterAnswer:
        if others:
            raise TypeError(f"Expected no other options, got {sorted(others)}.")
        model = mathopt.Model()
        x = [model.add_integer_variable(lb=0.0, ub=float(upper)) for upper in network.upper]

        def total(row: Array) -> Any:
            return mathopt.LinearSum(float(row[j]) * x[j] for j in np.flatnonzero(row))

        for row, rhs in zip(master.rows, master.rhs, strict=True):
            model.add_linear_constraint(total(row) >= float(rhs) - 1e-9)
        for row, limit in zip(network.rows, network.limits, strict=True):
            model.add_linear_constraint(total(row) <= float(limit))
        model.minimize(total(network.cost))
        hint = None if engine.best is None else dict(zip(x, engine.best.tolist(), strict=True))
        result = mathopt.solve(
            model,
            mathopt.SolverType.CP_SAT,
            params=mathopt.SolveParameters(
                time_limit=timedelta(seconds=max(seconds, 0.05)), relative_gap_tolerance=gap, threads=1
            ),
            model_params=mathopt.ModelSolveParameters(
                solution_hints=[] if hint is None else [mathopt.SolutionHint(variable_values=hint)]
            ),
        )
        if result.termination.reason == mathopt.TerminationReason.INFEASIBLE:
            return MasterAnswer(None, float("inf"), is_infeasible=True)
        point = result.variable_values(x) if result.has_primal_feasible_solution() else None
        return MasterAnswer(None if point is None else np.round(point), float(result.best_objective_bound()))

    return solve_integer


class _Survives(Conshdlr):
    """The rule "survives every scenario" over all master variables, told to SCIP as lazy rows."""

    def __init__(self, engine: Decomposition, x: list[Any], deadline: Deadline) -> None:
        self.engine, self.x, self.deadline = engine, x, deadline

    def _point(self, solution: Any = None) -> Array:
        return np.array([self.model.getSolVal(solution, var) for var in self.x])

    def _cut_off(self, x: Array) -> bool:
        """Add rows that x breaks; whether there are any."""
        engine, first = self.engine, len(self.engine.master.rhs)
        if not engine.add_cutsets(x):
            found, _ = engine.survival.failures(engine.network.capacities(x))
            if not found:
                return False
            engine.add_metric_cuts(found, x)
            if engine.improve(x) and engine.best is not None:
                _offer(self.model, self.x, engine.best)
        for row, rhs in zip(engine.master.rows[first:], engine.master.rhs[first:], strict=True):
            _add_row(self.model, self.x, row, rhs, is_local=False)
        return True

    def conscheck(self, constraints: Any, solution: Any, *others: Any, **named: Any) -> dict[str, Any]:
        x = np.round(self._point(solution))
        cuts = self.engine.master
        if len(cuts.rhs) and (cuts.rows @ x < cuts.rhs - 1e-6).any():
            return {"result": SCIP_RESULT.INFEASIBLE}
        return {"result": SCIP_RESULT.FEASIBLE if self.engine.survives(x) else SCIP_RESULT.INFEASIBLE}

    def consenfolp(self, constraints: Any, *others: Any, **named: Any) -> dict[str, Any]:
        is_cut = self._cut_off(np.round(self._point()))
        return {"result": SCIP_RESULT.CONSADDED if is_cut else SCIP_RESULT.FEASIBLE}

    def consenfops(self, constraints: Any, *others: Any, **named: Any) -> dict[str, Any]:
        return self.consenfolp(constraints)

    def conslock(self, constraint: Any, locktype: Any, nlockspos: int, nlocksneg: int) -> None:
        for var in self.x:  # less capacity may break the rule, more never does
            self.model.addVarLocks(var, nlockspos, nlocksneg)


def _add_row(model: Model, x: list[Any], row: Array, rhs: float, *, is_local: bool) -> None:
    total = quicksum(float(row[j]) * x[j] for j in np.flatnonzero(row))
    model.addCons(total >= float(rhs) - 1e-9, local=is_local)


def _offer(model: Model, x: list[Any], best: Array) -> None:
    solution = model.createSol()
    for var, value in zip(x, best.tolist(), strict=True):
        model.setSolVal(solution, var, value)
    (model.trySol if model.getStageName() == "SOLVING" else model.addSol)(solution)


def finish_by_scip(engine: Decomposition, seconds: float) -> None:
    """One tree; the bound that SCIP proves and the plan that it ends with go to the engine."""
    network = engine.network
    model = Model()
    model.hideOutput()
    model.setParams(
        {
            "timing/clocktype": 1,  # CPU
            "limits/time": max(seconds, 0.05),
            "limits/gap": engine.tolerance,
            "misc/allowstrongdualreds": False,
            "misc/allowweakdualreds": False,
            "misc/usesymmetry": 0,
        }
    )
    x = [model.addVar(vtype="I", lb=0.0, ub=float(upper)) for upper in network.upper]
    model.setObjective(quicksum(float(c) * var for c, var in zip(network.cost, x, strict=True)))
    for row, rhs in zip(engine.master.rows, engine.master.rhs, strict=True):
        _add_row(model, x, row, rhs, is_local=False)
    for row, limit in zip(network.rows, network.limits, strict=True):
        _add_row(model, x, -row, -float(limit), is_local=False)
    handler = _Survives(engine, x, Deadline(seconds, time.process_time))
    model.includeConshdlr(
        handler, "survives", "all scenarios", enfopriority=-10, chckpriority=-10, needscons=False, maxprerounds=0
    )
    if engine.best is not None:
        _offer(model, x, engine.best)
    model.optimize()
    if model.getNSols():
        solution = model.getBestSol()
        engine.offer_checked(np.round([model.getSolVal(solution, var) for var in x]))
    engine.lower = max(engine.lower, min(model.getDualbound(), engine.upper))


ARMS: dict[str, Callable[[Decomposition, float], None]] = {
    "highs": finish_by_highs,
    "cp-sat": finish_by_cp_sat,
    "scip": finish_by_scip,
}


def run_arm(network: Network, arm: str, *, seconds: float, tolerance: float) -> tuple[Decomposition, dict[str, Any]]:
    """Relaxation, then the integers by ``arm``; the engine and its figures."""
    begin = time.process_time()
    engine = Decomposition(network, tolerance=tolerance)
    root = engine.run(seconds, clock=time.process_time, is_root_only=True)
    root_s = time.process_time() - begin
    if engine.bounds.gap > tolerance:
        ARMS[arm](engine, seconds - root_s)
    return engine, {
        "master": arm,
        "root_gap_percent": 100 * root.gap,
        "root_cpu_s": root_s,
        "cpu_s": time.process_time() - begin,
        "cost": engine.upper,
        "bound": engine.lower,
        "gap_percent": 100 * engine.bounds.gap,
        "cuts": len(engine.master.rhs),
    }
