"""GLOP through MathOpt's incremental solver: a linear program that starts from the last basis."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np

from solvers.oracle import Array, Status
from solvers.polyhedron import Polyhedron
from solvers.rows import Answer
from solvers.statuses import MATH_OPT, translate


class GlopBackend:
    """One linear program held by GLOP; only the objective travels at each call, and the last basis is the start.

    Where several vertices are optimal, the one returned may depend on the calls before; `close` forgets them.
    """

    is_stateless = False

    def __init__(self, polyhedron: Polyhedron) -> None:
        self._polyhedron = polyhedron
        self._ids = list(range(polyhedron.n))
        self._solver: Any = None

    def close(self) -> None:
        """Free the solver and its basis; the next `solve` builds it anew."""
        self._solver = None

    def _build(self) -> Any:
        from ortools.math_opt import model_pb2, parameters_pb2
        from ortools.math_opt.core.python import solver
        from ortools.math_opt.python import mathopt

        p = self._polyhedron
        proto = model_pb2.ModelProto()
        proto.variables.ids.extend(self._ids)
        proto.variables.lower_bounds.extend(p.lower)
        proto.variables.upper_bounds.extend(p.upper)
        proto.variables.integers.extend([False] * p.n)
        proto.linear_constraints.ids.extend(range(p.m))
        proto.linear_constraints.lower_bounds.extend(p.row_lower)
        proto.linear_constraints.upper_bounds.extend(p.row_upper)
        entries = p.matrix.tocsr(copy=True)
        entries.sort_indices()  # MathOpt wants the entries in row-major order
        proto.linear_constraint_matrix.row_ids.extend(np.repeat(np.arange(p.m), np.diff(entries.indptr)))
        proto.linear_constraint_matrix.column_ids.extend(entries.indices)
        proto.linear_constraint_matrix.coefficients.extend(entries.data)
        self._solver = solver.new(mathopt.SolverType.GLOP.value, proto, parameters_pb2.SolverInitializerProto())
        return self._solver

    def solve(self, costs: Array, seconds: float | None, gap: float) -> Answer:
        """Answer finite ``costs`` [n] within ``seconds`` of wall time; ``gap`` has no meaning for a linear program."""
        try:
            return self._solve(costs, seconds)
        except BaseException:
            self.close()
            raise

    def _solve(self, costs: Array, seconds: float | None) -> Answer:
        from ortools.math_opt import callback_pb2, model_parameters_pb2, model_update_pb2
        from ortools.math_opt.python import mathopt

        solver = self._solver or self._build()
        update = model_update_pb2.ModelUpdateProto()
        update.objective_updates.linear_coefficients.ids.extend(self._ids)
        update.objective_updates.linear_coefficients.values.extend(costs)
        if not solver.update(update):
            raise RuntimeError("GLOP refused a change of the objective")
        limit = None if seconds is None else datetime.timedelta(seconds=max(float(seconds), 0.0))
        parameters = mathopt.SolveParameters(presolve=mathopt.Emphasis.OFF, time_limit=limit).to_proto()
        result = solver.solve(
            parameters,
            model_parameters_pb2.ModelSolveParametersProto(),
            None,
            callback_pb2.CallbackRegistrationProto(),
            None,
            None,
        )
        reason = result.termination.reason
        point = None
        for solution in result.solutions:
            if solution.HasField("primal_solution"):
                values = solution.primal_solution.variable_values
                point = np.zeros(self._polyhedron.n)
                point[np.fromiter(values.ids, np.int64, len(values.ids))] = values.values
                break
        status = translate(MATH_OPT, reason, has_point=point is not None)
        if reason == mathopt.TerminationReason.INFEASIBLE_OR_UNBOUNDED.value:
            probe = GlopBackend(self._polyhedron).solve(np.zeros_like(costs), seconds, 0.0)
            status = Status.UNBOUNDED if probe.status.has_point else probe.status
            point = None
        bound = result.termination.objective_bounds.dual_bound
        message = result.termination.detail if status in (Status.ERROR, Status.LIMIT, Status.FEASIBLE) else ""
        return Answer(status, point if status.has_point else None, bound if np.isfinite(bound) else -np.inf, message)
