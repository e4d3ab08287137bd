"""Sequential linear programming over the oracle: Frank-Wolfe, its vertices, and its lower bound."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from surco.bridge import to_numpy, to_torch
from surco.counted import CountedProblem
from surco.errors import CutGradientError, InvalidInputError
from surco.protocols import Estimate, State, is_convex


@dataclass(frozen=True, slots=True)
class SequentialLinearization:
    """Costs c = grad f at two points: the last vertex, and the Frank-Wolfe average of all vertices.

    The vertex sequence is the plain heuristic (it soon cycles); the average converges to a stationary point of the
    relaxation, whose gradient is a good linear surrogate. If f is convex every call proves
    min f >= f(y) + min_x grad f(y).(x - y).

    Attributes:
        patience: steps without a new vertex after which there is nothing left to do.

    Source: Frank and Wolfe (1956); Jaggi (2013) for the step 2/(k+2).
    """

    patience: int = 30
    name: str = field(default="slp", init=False)

    def init(self, problem: CountedProblem, *, generator: torch.Generator) -> State:
        """Start at the vertex of the natural costs.

        Raises:
            InvalidInputError: the objective has no gradient.
        """
        if not problem.is_differentiable:
            raise InvalidInputError("Method `slp` needs a differentiable objective. Try `zero` or `local_search`.")
        batch = problem.oracle.solve(to_numpy(problem.initial_costs())[None])
        if not batch.has_point[0]:
            return {"done": True}
        x = to_torch(batch.x[0])
        return {"vertex": x, "average": x.clone(), "k": 0, "stale": 0}

    def step(
        self, problem: CountedProblem, state: State, *, generator: torch.Generator
    ) -> tuple[State, Estimate | None]:
        """Two gradients, two vertices."""
        vertex, average, k = state["vertex"], state["average"], state["k"]
        points = torch.stack([vertex, average]) if k else average[None]
        values, costs = gradient(problem, points)
        batch = problem.oracle.solve(to_numpy(costs))
        is_new = bool(problem.ledger.pending)
        if is_convex(problem.inner) and math.isfinite(batch.bound[-1]) and math.isfinite(float(values[-1])):
            problem.ledger.offer_bound(float(values[-1] - costs[-1] @ average) + float(batch.bound[-1]))
        if not batch.has_point[-1]:
            return {**state, "done": True}, None
        problem.objective(to_torch(batch.x))
        fresh = to_torch(batch.x[-1])
        step = 2.0 / (k + 2)
        stale = 0 if is_new else state["stale"] + 1
        return {
            "vertex": to_torch(batch.x[0]) if batch.has_point[0] else vertex,
            "average": (1 - step) * average + step * fresh if k else (average + fresh) / 2,
            "k": k + 1,
            "stale": stale,
            "done": stale >= self.patience,
        }, None


def gradient(problem: CountedProblem, points: Tensor) -> tuple[Tensor, Tensor]:
    """F [R] and grad f [R, n] at points [R, n] that need not be feasible; no incumbent is taken from them."""
    x = points.detach().clone().requires_grad_(True)
    values = problem.relaxed_objective(x)
    finite = values[torch.isfinite(values)]
    if not len(finite):
        return values.detach(), torch.zeros_like(points)
    if not finite.requires_grad:
        raise CutGradientError(
            "Expected `objective` to pass gradients to x, but its values carry none (an argmax, a round trip through "
            "NumPy?). Mend it, or set `is_differentiable = False` on the problem."
        )
    (grad,) = torch.autograd.grad(finite.sum(), x)
    return values.detach(), torch.nan_to_num(grad)
