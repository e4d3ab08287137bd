"""SCIP through pyscipopt: one model whose objective changes from call to call."""

from __future__ import annotations

from typing import Any

import numpy as np

from solvers.oracle import Array, Status
from solvers.polyhedron import Polyhedron
from solvers.rows import Answer
from solvers.statuses import SCIP, translate


class ScipBackend:
    """One SCIP model; each call frees the transformed problem and sets new objective coefficients.

    Solutions of earlier calls are not kept, so an answer does not depend on the calls before it.
    """

    is_stateless = True
    _is_reoptimizing = False

    def __init__(self, polyhedron: Polyhedron) -> None:
        self._polyhedron = polyhedron
        self._model: Any = None
        self._variables: list[Any] = []
        self._is_solved = False

    def close(self) -> None:
        """Free the model; the next `solve` builds it anew."""
        self._model, self._variables, self._is_solved = None, [], False

    def solve(self, costs: Array, seconds: float | None, gap: float) -> Answer:
        """Answer finite ``costs`` [n] within ``seconds`` of wall time and a relative ``gap``."""
        if self._model is None:
            self._build()
        try:
            return self._solve(costs, seconds, gap)
        except BaseException:
            self.close()  # a model that raised is in an unknown stage
            raise

    def _build(self) -> None:
        from pyscipopt import Model, quicksum

        p = self._polyhedron
        model = Model()
        model.hideOutput()
        model.setParam("timing/clocktype", 2)  # limits are wall seconds
        model.setParam("limits/maxorigsol", 0)
        model.setParam("misc/catchctrlc", True)
        self._variables = [
            model.addVar(
                vtype="C" if not integer else ("B" if low >= 0 and high <= 1 else "I"),
                lb=None if np.isneginf(low) else float(low),
                ub=None if np.isposinf(high) else float(high),
            )
            for integer, low, high in zip(p.is_integer, p.lower, p.upper, strict=True)
        ]
        a = p.matrix
        for row in range(p.m):
            part = slice(a.indptr[row], a.indptr[row + 1])
            low, high = p.row_lower[row], p.row_upper[row]
            if a.indptr[row] == a.indptr[row + 1]:
                # pyscipopt folds an empty sum to a number, so an unsatisfiable empty row needs a carrier.
                if low > 0 or high < 0:
                    carrier = model.addVar(lb=0.0, ub=0.0)
                    model.addCons(carrier >= 1)
                continue
            terms = quicksum(
                float(value) * self._variables[column]
                for column, value in zip(a.indices[part], a.data[part], strict=True)
            )
            if low == high:
                model.addCons(terms == float(low))
            elif np.isfinite(low) and np.isfinite(high):
                model.addCons((terms <= float(high)) >= float(low))
            elif np.isfinite(high):
                model.addCons(terms <= float(high))
            elif np.isfinite(low):
                model.addCons(terms >= float(low))
        if self._is_reoptimizing:
            model.enableReoptimization()
        self._model = model

    def _set_objective(self, costs: Array) -> None:
        from pyscipopt import Expr

        expression = _linear_expression(Expr, self._variables, costs)
        if self._is_solved:
            self._model.freeTransform()
        self._model.setObjective(expression, "minimize")

    def _solve(self, costs: Array, seconds: float | None, gap: float) -> Answer:
        model = self._model
        self._set_objective(costs)
        model.setParam("limits/time", 1e20 if seconds is None else max(float(seconds), 0.0))
        model.setParam("limits/gap", gap)
        model.optimizeNogil()  # other threads go on
        self._is_solved = True
        code = model.getStatus()
        if code == "userinterrupt":
            raise KeyboardInterrupt
        has_point = model.getNSols() > 0
        if code == "inforunbd":
            return self._tell_apart(seconds)
        status = translate(SCIP, code, has_point=has_point)
        if not has_point or not status.has_point:
            bound = model.getDualbound() if status is Status.LIMIT else -np.inf
            return Answer(status, None, _finite(bound), "" if status is not Status.ERROR else f"SCIP stopped: {code}")
        solution = model.getBestSol()
        x = np.array([solution[variable] for variable in self._variables])
        return Answer(status, x, _finite(model.getDualbound()), "" if status is Status.OPTIMAL else f"SCIP: {code}")

    def _tell_apart(self, seconds: float | None) -> Answer:
        """SCIP says "infeasible or unbounded": a solve without costs decides."""
        probe = type(self)(self._polyhedron) if not self._is_reoptimizing else ScipBackend(self._polyhedron)
        answer = probe.solve(np.zeros(self._polyhedron.n), seconds, 0.0)
        if answer.status.has_point:
            return Answer(Status.UNBOUNDED)
        return Answer(answer.status, message=answer.message)


class ReoptimizingScipBackend(ScipBackend):
    """SCIP that keeps its search tree from call to call: faster where costs change little, 0/1 variables only.

    Among equally good vertices, the one returned may depend on the calls before.
    """

    is_stateless = False
    _is_reoptimizing = True

    def _set_objective(self, costs: Array) -> None:
        from pyscipopt import Expr

        expression = _linear_expression(Expr, self._variables, costs)
        if self._is_solved:
            self._model.freeReoptSolve()
            self._model.chgReoptObjective(expression, "minimize")
        else:
            self._model.setObjective(expression, "minimize")


def _linear_expression(make: Any, variables: list[Any], costs: Array) -> Any:
    """The expression costs.x, built from its table of terms: adding terms one by one would be quadratic."""
    from pyscipopt.scip import Term

    return make({Term(variable): float(cost) for variable, cost in zip(variables, costs, strict=True)})


def _finite(bound: float) -> float:
    """SCIP's infinity is 1e20."""
    return bound if abs(bound) < 1e20 else (-np.inf if bound < 0 else np.inf)
