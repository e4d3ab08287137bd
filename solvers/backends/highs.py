"""HiGHS through `scipy.optimize.milp`: measured faster than the HiGHS of MathOpt, which is rebuilt at each call too."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from solvers.oracle import Array, Status
from solvers.polyhedron import Polyhedron
from solvers.rows import Answer
from solvers.statuses import HIGHS, translate


class HighsBackend:
    """HiGHS for mixed-integer and linear programs; stateless, so an answer never depends on the calls before it."""

    is_stateless = True

    def __init__(self, polyhedron: Polyhedron) -> None:
        self._polyhedron = polyhedron
        lower: Any = polyhedron.lower  # scipy's annotations know numbers only
        upper: Any = polyhedron.upper
        self._bounds = Bounds(lower, upper)
        row_lower: Any = polyhedron.row_lower
        row_upper: Any = polyhedron.row_upper
        self._rows = LinearConstraint(polyhedron.matrix.tocsc(), row_lower, row_upper) if polyhedron.m else None
        self._integrality = polyhedron.is_integer.astype(np.int64)

    def close(self) -> None:
        """Nothing is held between calls."""

    def solve(self, costs: Array, seconds: float | None, gap: float) -> Answer:
        """Answer finite ``costs`` [n] within ``seconds`` of wall time and a relative ``gap``."""
        options: dict[str, float] = {"mip_rel_gap": gap}
        if seconds is not None:
            options["time_limit"] = max(float(seconds), 0.0)
        result = milp(
            costs, integrality=self._integrality, bounds=self._bounds, constraints=self._rows, options=options
        )
        x = result.x
        has_point = x is not None
        if result.status == 4 and not has_point:
            return self._tell_apart(costs, seconds, str(result.message))
        status = translate(HIGHS, result.status, has_point=has_point)
        bound = result.mip_dual_bound if self._polyhedron.is_integer.any() else None
        if bound is None or not np.isfinite(bound):
            bound = -np.inf
        message = str(result.message) if status in (Status.ERROR, Status.FEASIBLE, Status.LIMIT) else ""
        if status is Status.OPTIMAL and gap > 0 and np.isfinite(bound):
            objective = float(costs @ x)
            if objective - bound > 1e-9 * max(1.0, abs(objective)):
                status, message = Status.FEASIBLE, f"stopped at a relative gap of {gap:g}"
        return Answer(status, x if status.has_point else None, float(bound), message)

    def _tell_apart(self, costs: Array, seconds: float | None, message: str) -> Answer:
        """HiGHS says "infeasible or unbounded" or nothing clear: a solve without costs decides."""
        if not costs.any():
            return Answer(Status.ERROR, message=message)
        probe = self.solve(np.zeros_like(costs), seconds, 0.0)
        if not probe.status.has_point:
            return Answer(probe.status, message=probe.message)
        if "nbounded" in message:
            return Answer(Status.UNBOUNDED)
        return Answer(Status.ERROR, message=message)
