"""The MILP oracle: one fixed feasible set, a new linear cost at each call, and a choice of backends."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from solvers.backends.base import Backend, BackendName, make_backend
from solvers.backends.trial import Trial, choose_backend
from solvers.oracle import Array, OracleBatch, Status
from solvers.polyhedron import FEASIBILITY_TOLERANCE, Polyhedron
from solvers.readers import read_model
from solvers.rows import Answer, solve_one_by_one


def milp(
    model: object = None,
    *,
    matrix: object = None,
    row_lower: object = -np.inf,
    row_upper: object = np.inf,
    lower: object = 0.0,
    upper: object = np.inf,
    integrality: object = True,
    backend: str = "auto",
    seconds: float | None = None,
    gap: float = 0.0,
) -> MilpOracle:
    """Oracle over { x : row_lower <= A x <= row_upper, lower <= x <= upper, some x integer }.

    Give either ``model`` or ``matrix`` with its limits.

    Args:
        model: path of an MPS or LP file, a `pyscipopt.Model`, or an OR-Tools MathOpt `Model`. Its objective is not
            part of the set; it is kept, turned to minimization, as ``oracle.model_costs``.
        matrix: A, [m, n] dense or scipy sparse.
        row_lower: [m] or a number; -inf where open.
        row_upper: [m] or a number; inf where open.
        lower: [n] or a number.
        upper: [n] or a number.
        integrality: [n] or one truth value; nonzero means integer.
        backend: "auto" (chosen by a short trial on this set, see `MilpOracle.trial`), "scip", "scip-reoptimize",
            "highs", "cp-sat", "choice" (native, for 0/1 choices under few other rows), or, without integer variables,
            "glop", "highs" or "choice-lp".
        seconds: wall seconds allowed for each row.
        gap: relative gap at which a row may stop as ``FEASIBLE``; 0 asks for a proven optimum.

    Raises:
        ValueError: shapes that do not fit, a constraint that is not linear, or a backend that cannot take the set.
        TypeError: a model of unknown kind.

    Examples:
        >>> import numpy as np
        >>> oracle = milp(matrix=[[3, 4, 2]], row_upper=6, upper=1, backend="highs")
        >>> batch = oracle.solve(np.array([[-4.0, -5.0, -3.0]]))
        >>> batch.x.tolist(), batch.objective.tolist(), batch.status[0].value
        ([[0.0, 1.0, 1.0]], [-8.0], 'optimal')
    """
    if (model is None) == (matrix is None):
        raise ValueError("Expected either `model` or `matrix`, got " + ("none." if model is None else "both."))
    polyhedron = (
        read_model(model)
        if matrix is None
        else Polyhedron.from_arrays(matrix, row_lower, row_upper, lower, upper, integrality)
    )
    return MilpOracle(polyhedron, backend=backend, seconds=seconds, gap=gap)


class MilpOracle:
    """Linear oracle over a `Polyhedron`.

    Integer variables come back as exact integers: the backend's point is rounded and checked again, and where rounding
    breaks a row the continuous variables are solved for again. `violation` reads the arrays and nothing else.

    Attributes:
        polyhedron: the feasible set.
        model_costs: [n], the objective that came with the model, turned to minimization; zeros without one.
    """

    def __init__(
        self, polyhedron: Polyhedron, *, backend: str = "auto", seconds: float | None = None, gap: float = 0.0
    ) -> None:
        if seconds is not None and not seconds > 0:
            raise ValueError(f"Expected `seconds` > 0 or None, got {seconds}.")
        if not (math.isfinite(gap) and gap >= 0):
            raise ValueError(f"Expected `gap` >= 0, got {gap}.")
        self.polyhedron = polyhedron
        self.model_costs = polyhedron.costs
        self._tolerant = polyhedron.tolerant()
        self._has_integers = bool(polyhedron.is_integer.any())
        self._seconds = seconds
        self._gap = float(gap)
        self._asked = backend
        self._trial: Trial | None = None
        self._name: BackendName | None = None
        self._backend: Backend | None = None
        if backend != "auto":
            try:
                self._name = BackendName(backend)
            except ValueError:
                known = ", ".join(["auto", *BackendName])
                raise ValueError(f"Unknown backend {backend!r}. Known: {known}.") from None
            self._backend = make_backend(self._name, polyhedron)

    @property
    def n(self) -> int:
        """Number of variables."""
        return self.polyhedron.n

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the variables, where the model had any."""
        return self.polyhedron.names

    @property
    def backend(self) -> str:
        """Name of the backend in use; with "auto" this runs the trial if it has not run yet."""
        if self._name is None:
            self._trial = choose_backend(self.polyhedron, self._seconds)
            self._name = self._trial.choice
        return str(self._name)

    @property
    def trial(self) -> Trial | None:
        """What "auto" measured, backend by backend; None where the backend was named or not needed yet."""
        return self._trial

    takes_seconds = True

    def solve(self, costs: Array, *, seconds: float | None = None) -> OracleBatch:
        """Minimize each row of ``costs`` [B, n]; a row that fails is labelled, never raised.

        Args:
            costs: [B, n] float64.
            seconds: wall seconds for the whole batch, on top of the limit of each row; rows that come too late still
                get a thousandth of a second, so that each ends with a label.
        """
        if seconds is None:
            return solve_one_by_one(costs, self.n, self._solve_row)
        deadline = time.perf_counter() + seconds

        def solve_row(row: Array) -> Answer:
            left = max(deadline - time.perf_counter(), 1e-3)
            return self._solve_row(row, left if self._seconds is None else min(left, self._seconds))

        return solve_one_by_one(costs, self.n, solve_row)

    def violation(self, x: Array) -> Array:
        """Largest violation of a row, a bound or integrality, [..., n] -> [...]."""
        return self.polyhedron.violation(x)

    def relaxation(self, backend: str = "glop") -> MilpOracle:
        """The linear program without integrality; by default warm-started from call to call in GLOP."""
        return MilpOracle(self.polyhedron.relaxed(), backend=backend, seconds=self._seconds)

    def reset(self) -> None:
        """Forget everything learned from earlier rows (bases, trees), so that answers do not depend on them."""
        if self._backend is not None and not self._backend.is_stateless:
            self._backend.close()

    def close(self) -> None:
        """Free what the backend holds; a later `solve` builds it again."""
        if self._backend is not None:
            self._backend.close()

    def __getstate__(self) -> dict[str, Any]:
        """The set and the chosen backend travel to other processes; the backend's own objects do not."""
        name = self.backend  # decide here, so that all processes use the same backend
        return {**self.__dict__, "_backend": None, "_name": BackendName(name)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def _solve_row(self, costs: Array, seconds: float | None = None) -> Answer:
        if self._backend is None:
            self._backend = make_backend(BackendName(self.backend), self.polyhedron)
        answer = self._backend.solve(costs, self._seconds if seconds is None else seconds, self._gap)
        return answer if answer.x is None else self._repair(costs, answer)

    def _repair(self, costs: Array, answer: Answer) -> Answer:
        """Make integers exact and check the point; a point that cannot be made feasible becomes an ``ERROR``."""
        p = self.polyhedron
        assert answer.x is not None
        x = np.array(answer.x)
        if self._has_integers:
            x[p.is_integer] = np.rint(x[p.is_integer])
        np.clip(x, p.lower, p.upper, out=x)
        x += 0.0  # no negative zeros
        if not self._tolerant.holds(x):
            fixed = self._solve_rest(costs, x)
            if fixed is None:
                worst = float(p.violation(x))
                return Answer(
                    Status.ERROR,
                    message=f"{self.backend} returned a point that breaks a rule by {worst:.3g} "
                    f"(tolerance {FEASIBILITY_TOLERANCE:g})",
                )
            x = fixed
        if answer.status is Status.OPTIMAL and self._has_integers and math.isfinite(answer.bound):
            # Rounding may move the objective; the optimum is claimed only where it still meets the proven bound.
            objective = float(costs @ x)
            if objective - answer.bound > 1e-6 * max(1.0, abs(objective)):
                return Answer(Status.FEASIBLE, x, answer.bound, "integers made exact; optimal within tolerance before")
        return Answer(answer.status, x, answer.bound, answer.message)

    def _solve_rest(self, costs: Array, x: Array) -> Array | None:
        """Solve for the continuous variables with the integers of ``x`` fixed; None if that has no answer."""
        p = self.polyhedron
        if p.is_pure_integer or not self._has_integers:
            return None
        lower, upper = p.lower.copy(), p.upper.copy()
        lower[p.is_integer] = upper[p.is_integer] = x[p.is_integer]
        rest = Polyhedron(p.matrix, p.row_lower, p.row_upper, lower, upper, np.zeros(p.n, bool), p.costs, p.names)
        answer = make_backend(BackendName.HIGHS, rest).solve(costs, self._seconds, 0.0)
        if answer.x is None:
            return None
        point = np.clip(answer.x, lower, upper)
        return point if self._tolerant.holds(point) else None
