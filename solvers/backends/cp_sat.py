"""CP-SAT for pure integer sets with integral rows; float costs become integers with a stated error."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

from solvers.oracle import Array, Status
from solvers.polyhedron import Polyhedron
from solvers.rows import Answer
from solvers.statuses import CP_SAT, translate

_BUDGET = 2.0**52
"""Largest total |cost| x range after scaling: exact in a double, and far from CP-SAT's overflow guard."""

_OPTIMAL_TOLERANCE = 1e-9
"""Scaling errors below this, relative to max(1, |objective|), leave an optimum an optimum."""


def scale_costs(costs: Array, largest: Array) -> tuple[np.ndarray, float, float]:
    """Integer costs and the worst error they make.

    With scale s (a power of two) the integer costs are k = round(s c), so for every feasible x
    |k.x / s - c.x| <= sum_j |k_j / s - c_j| largest_j = error.

    Args:
        costs: [n] finite.
        largest: [n], largest |x_j|.

    Returns:
        k [n] int64, s, and the error in the unit of the costs.
    """
    total = float(np.abs(costs) @ largest)
    if total == 0.0:
        return np.zeros(len(costs), np.int64), 1.0, 0.0
    exponent = min(max(math.floor(math.log2(_BUDGET / total)), -1000), 1000)
    scale = 2.0**exponent
    integers = np.rint(costs * scale)
    error = float(np.abs(integers / scale - costs) @ largest)
    return integers.astype(np.int64), scale, error


class CpSatBackend:
    """One CP-SAT model whose objective changes from call to call; one thread, so answers can be repeated."""

    is_stateless = True

    def __init__(self, polyhedron: Polyhedron) -> None:
        self._polyhedron = polyhedron
        self._lower = np.ceil(polyhedron.lower - 1e-9)
        self._upper = np.floor(polyhedron.upper + 1e-9)
        self._largest = np.maximum(np.abs(self._lower), np.abs(self._upper))
        self._is_empty = bool((self._lower > self._upper).any())
        self._model: Any = None
        self._variables: list[Any] = []

    def close(self) -> None:
        """Free the model; the next `solve` builds it anew."""
        self._model, self._variables = None, []

    def _build(self) -> Any:
        from ortools.sat.python import cp_model

        model = cp_model.CpModel()
        p = self._polyhedron
        variables = [
            model.new_int_var(int(low), int(high), "") for low, high in zip(self._lower, self._upper, strict=True)
        ]
        a = p.matrix
        for row in range(p.m):
            part = slice(a.indptr[row], a.indptr[row + 1])
            columns = a.indices[part]
            values = np.rint(a.data[part]).astype(np.int64)
            reach = int(np.abs(values) @ self._largest[columns].astype(np.int64)) + 1
            # An integral activity meets a fractional limit at the next integer inside it.
            low = max(-reach, math.ceil(max(p.row_lower[row], -reach) - 1e-9))
            high = min(reach, math.floor(min(p.row_upper[row], reach) + 1e-9))
            if low > high:
                self._is_empty = True
                continue
            expression = cp_model.LinearExpr.weighted_sum([variables[column] for column in columns], values)
            model.add_linear_constraint(expression, low, high)
        self._model, self._variables = model, variables
        return model

    def solve(self, costs: Array, seconds: float | None, gap: float) -> Answer:
        """Answer finite ``costs`` [n] within ``seconds`` of wall time and a relative ``gap``."""
        from ortools.sat.python import cp_model

        model = self._model or self._build()
        if self._is_empty:
            return Answer(Status.INFEASIBLE)
        integers, scale, error = scale_costs(costs, self._largest)
        model.minimize(cp_model.LinearExpr.weighted_sum(self._variables, integers))
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.relative_gap_limit = gap
        if seconds is not None:
            solver.parameters.max_time_in_seconds = max(float(seconds), 0.0)
        # CP-SAT's own handler would leave Ctrl-C in its default state, which kills the process from then on.
        solver.parameters.catch_sigint_signal = False
        code = solver.status_name(_solve_interruptibly(solver, model))
        has_point = code in ("OPTIMAL", "FEASIBLE")
        status = translate(CP_SAT, code, has_point=has_point)
        bound = solver.best_objective_bound / scale - error
        if not has_point:
            is_error = status is Status.ERROR
            return Answer(status, None, bound if status is Status.LIMIT else -math.inf, code if is_error else "")
        x = np.array([solver.value(variable) for variable in self._variables], dtype=np.float64)
        objective = float(costs @ x)
        message = ""
        if status is Status.OPTIMAL and objective - bound > _OPTIMAL_TOLERANCE * max(1.0, abs(objective)):
            status = Status.FEASIBLE
            message = f"optimal up to a gap limit of {gap:g} and an error of {error:.3g} from integer costs"
        return Answer(status, x, bound, message)


def _solve_interruptibly(solver: Any, model: Any) -> Any:
    """Solve in a thread where this is the main one: Python sees Ctrl-C at once, and the search stops cleanly."""
    if threading.current_thread() is not threading.main_thread():
        return solver.solve(model)
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(solver.solve(model))
        except Exception as error:  # handed over to the main thread
            outcome.append(error)

    thread = threading.Thread(target=run, name="surco-cp-sat")
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        while thread.is_alive():  # a stop that comes before the search has started is lost
            solver.stop_search()
            thread.join(0.05)
        raise
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]
