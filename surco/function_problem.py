"""A problem from functions: the shortest way to bring a design question of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from solvers.oracle import Array, LinearOracle
from surco.bridge import to_numpy, to_torch
from surco.errors import InvalidInputError


class FunctionProblem:
    """A problem made of an oracle and functions; built by :func:`problem`."""

    def __init__(
        self,
        oracle: LinearOracle,
        objective: Callable[[Any], Any],
        *,
        is_differentiable: bool,
        is_convex: bool,
        initial_costs: Array | Tensor | None,
        violation: Callable[[Array], Array] | None,
        lower_bound: float | None,
        id: str,
        spec: Mapping[str, Any] | None,
    ) -> None:
        if not callable(objective):
            raise InvalidInputError(f"Expected `objective` to be a function of a design, got {objective!r}.")
        self.oracle = oracle
        self.is_differentiable = is_differentiable
        self.is_rowwise = not is_differentiable  # a callable may hang or raise: let each value count at once
        self.is_convex = is_convex
        self.id = id
        self.spec = dict(spec or {})
        try:
            json.dumps(self.spec, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"Expected `spec` to be what JSON can hold, got {error}.") from error
        self._objective = objective
        self._violation = violation or oracle.violation
        self._bound = -np.inf if lower_bound is None else float(lower_bound)
        costs = _guess(oracle) if initial_costs is None else initial_costs
        try:
            self._costs = costs.detach().double() if isinstance(costs, Tensor) else to_torch(costs)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"Expected `initial_costs` of {oracle.n} numbers, got {costs!r}.") from error
        if self._costs.shape != (oracle.n,):
            raise InvalidInputError(f"Expected `initial_costs` of shape [{oracle.n}], got {list(self._costs.shape)}.")
        if not bool(self._costs.isfinite().all()):
            raise InvalidInputError("Expected finite `initial_costs`, got NaN or infinity in them.")

    def objective(self, x: Tensor) -> Tensor:
        """f, [..., n] -> [...]: the torch function itself, or the black box row by row."""
        if self.is_differentiable:
            return self._objective(x)
        rows = to_numpy(x).reshape(-1, x.shape[-1])
        values = [float(self._objective(row.copy())) for row in rows]
        return to_torch(np.array(values), like=x).reshape(x.shape[:-1])

    def violation(self, x: Tensor) -> Tensor:
        """The given check, else the oracle's own."""
        return to_torch(self._violation(to_numpy(x)), like=x).reshape(x.shape[:-1])

    def initial_costs(self) -> Tensor:
        """The given costs, else all ones."""
        return self._costs

    def lower_bound(self) -> float:
        """The given bound, else -inf."""
        return self._bound


def _guess(oracle: LinearOracle) -> Array:
    """The objective that came with the oracle's model, else all ones."""
    costs = np.asarray(getattr(oracle, "model_costs", np.zeros(oracle.n)), dtype=np.float64)
    return costs if costs.any() else np.ones(oracle.n)


def problem(
    oracle: LinearOracle | Any,
    objective: Callable[[Any], Any],
    *,
    is_differentiable: bool = False,
    is_convex: bool = False,
    initial_costs: Array | Tensor | None = None,
    violation: Callable[[Array], Array] | None = None,
    lower_bound: float | None = None,
    id: str = "",
    spec: Mapping[str, Any] | None = None,
) -> FunctionProblem:
    """Build a problem: minimize ``objective`` over the feasible set of ``oracle``.

    Args:
        oracle: a linear oracle (``solvers.function(call, n)`` makes one of a function), or what :func:`solvers.milp`
            takes: a MathOpt model, a ``pyscipopt.Model``, or a path to an MPS or LP file.
        objective: if ``is_differentiable``, a torch function [..., n] -> [...]; otherwise any Python callable that
            takes one design as float64 array [n] and returns a number (a measurement, a simulation).
        is_differentiable: whether autograd may be used on ``objective``.
        is_convex: whether f is convex on the relaxation: then lower bounds are proven.
        initial_costs: [n], a linear guess of f; where there is none, the objective of the model, else all ones.
        violation: independent check, array [..., n] -> [...], 0 if feasible; the oracle's own where there is none.
        lower_bound: a proven lower bound on min f.
        id: name in reports.
        spec: JSON-able description for reports.

    Raises:
        InvalidInputError: a model, file, cost vector or spec is not what it should be.

    Example:
        >>> import solvers, surco
        >>> two_of_four = surco.problem(solvers.cardinality(4, 2), lambda x: (x @ [3, 1, 2, 5] - 4) ** 2)
        >>> surco.solve(two_of_four, calls=50).x.tolist()
        [1.0, 1.0, 0.0, 0.0]
    """
    if not isinstance(oracle, LinearOracle):
        import solvers

        if callable(oracle):
            raise InvalidInputError(
                "Expected an oracle or a model, got a function. Try `solvers.function(call, n)` for a function from "
                "costs [n] to a design [n]."
            )

        try:
            oracle = solvers.milp(oracle)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(str(error)) from error
    return FunctionProblem(
        oracle,
        objective,
        is_differentiable=is_differentiable,
        is_convex=is_convex,
        initial_costs=initial_costs,
        violation=violation,
        lower_bound=lower_bound,
        id=id,
        spec=spec,
    )
