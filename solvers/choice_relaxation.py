"""The linear relaxation of a multiple-choice set, for gradients and bounds at a fraction of the cost."""

from __future__ import annotations

import math

import numpy as np

from solvers.backends.base import BackendName, make_backend
from solvers.choice import MultipleChoiceOracle
from solvers.choice_state import SearchState
from solvers.oracle import Array, OracleBatch, Status
from solvers.points import as_points, settle
from solvers.rows import Answer, solve_one_by_one


class MultipleChoiceRelaxation:
    """The linear relaxation of a `MultipleChoiceOracle`: { x >= 0 } in place of { x in {0,1}^n }."""

    def __init__(self, oracle: MultipleChoiceOracle) -> None:
        self._oracle = oracle

    @property
    def n(self) -> int:
        """Number of options."""
        return self._oracle.n

    def solve(self, costs: Array) -> OracleBatch:
        """Minimize each row of ``costs`` [B, n]; the points are vertices of the linear program."""
        o = self._oracle
        state = SearchState(o, np.zeros((0, o.n)))
        return solve_one_by_one(costs, o.n, lambda row: self._solve_row(row, state))

    def violation(self, x: Array) -> Array:
        """Largest violation of a group's sum, a limit, a forbidden option or a sign; [..., n] -> [...]."""
        points, finite = as_points(x, self.n)
        negative = np.maximum(-points, 0.0).max(axis=-1, initial=0.0)
        return settle(finite, self._oracle._rule_violation(points), np.where(negative <= 1e-9, 0.0, negative))

    def _solve_row(self, costs: Array, state: SearchState) -> Answer:
        from solvers.kernels import choice_lp as kernels

        o = self._oracle
        ordered = costs[o._order]
        key, extra, basic, place, _, y, _, _ = state.basis
        outcome, bound = kernels.INFEASIBLE, -math.inf
        if kernels.reset_basis(ordered, o._group_start, o._sorted_allowed, key, extra, basic, place):
            outcome, bound = kernels.solve_relaxation(
                ordered, o._group_start, o._group_of, *o._columns, o._scaled_limits, o._sorted_allowed,
                *state.basis, np.empty(len(y)), np.inf, 200 + 50 * (len(y) + len(key)),
            )  # fmt: skip
        if outcome == kernels.INFEASIBLE:
            return Answer(Status.INFEASIBLE)
        x = np.zeros(self.n)
        if outcome == kernels.OPTIMAL:
            x[key] = 1.0
            for row in np.flatnonzero(basic < self.n):
                share = min(max(float(y[row]), 0.0), 1.0)
                x[basic[row]] = share
                x[key[o._group_of[basic[row]]]] -= share
            np.maximum(x, 0.0, out=x)
            point = np.zeros(self.n)
            point[o._order] = x
            gap = float(costs @ point) - bound
            if self.violation(point) <= 1e-7 and gap <= 1e-7 * max(1.0, float(np.abs(costs).max())):
                return Answer(Status.OPTIMAL, point)
        return self._hand_over(costs)

    def _hand_over(self, costs: Array) -> Answer:
        """Let GLOP finish a row on which the compiled simplex lost its precision."""
        glop = make_backend(BackendName.GLOP, self._oracle.polyhedron().relaxed())
        return glop.solve(costs, self._oracle._seconds, 0.0)
