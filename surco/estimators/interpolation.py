"""Differentiation of blackbox solvers: interpolate the piecewise constant c -> f(x*(c)) with a second oracle call."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from surco.errors import InvalidInputError
from surco.estimators.atoms import (
    check_costs,
    require_gradient,
    rms_or_one,
    solve_atoms,
    values_and_gradients,
    values_at,
)
from surco.protocols import Estimate, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpolation:
    """Gradient of the interpolated loss at the current answer.

        x = x*(c),   g = grad f(x),   x_k = x*(c + lambda_k g),   lambda_k = strength_k |c| / |g|
        dL/dc = mean over k of (x_k - x) / lambda_k

    It is the exact gradient, almost everywhere, of the mean over k of the continuous function

        L_k(c) = g . x_k - [c . x - c . x_k] / lambda_k        (g and lambda_k held fixed)

    which interpolates the linearized loss g . x*(c). lambda is relative, so that ``f * 1000`` and ``c * 1000`` give the
    same vertices; the gradient scales like one of f by c. A positive strength moves toward what f asks for, and a
    negative one away from it: strengths (r, -r) give the central difference.

    The estimate is exact and draws no random number; it uses two oracle calls in a row, of B and B K rows. It is zero
    where no lambda changes the vertex: then take a larger strength or several of them.

    A row without x has gradient zero and loss inf; an x_k without a point is left out.

    Attributes:
        strengths: K relative lambdas, none zero.
        is_target_valued: also value the x_k, in one more objective call of B K rows, so that they can become the
            incumbent; otherwise their values are NaN.

    Source: Vlastelica et al. 2020 (Differentiation of blackbox combinatorial solvers), Algorithm 1 and eq. 3; several
    lambdas and the central difference are ours.

    Note: the paper minimizes too, and its gradient -(x - x_lambda) / lambda is this one.

    Raises:
        InvalidInputError: no strength, or one that is zero or not finite.
    """

    strengths: tuple[float, ...] = (1.0,)
    is_target_valued: bool = True

    def __post_init__(self) -> None:
        strengths = (self.strengths,) if isinstance(self.strengths, int | float) else tuple(self.strengths)
        if not strengths or any(s == 0 or not math.isfinite(s) for s in strengths):
            raise InvalidInputError(f"Expected one or more finite `strengths`, none of them 0, got {self.strengths}.")
        object.__setattr__(self, "strengths", strengths)

    def __call__(self, problem: Problem, costs: Tensor, *, generator: torch.Generator) -> Estimate:
        """Estimate at ``costs`` [B, n]; atoms [B, 1 + K, n], the answer first; ``generator`` is not used.

        Raises:
            InvalidInputError: the objective has no gradient, or a wrong shape.
            CutGradientError: autograd does not reach x.
        """
        costs = check_costs(problem, costs)
        require_gradient(problem, self)
        x, has_point = solve_atoms(problem, costs)
        values, slopes, is_known = values_and_gradients(problem, x, has_point)
        inverse = inverse_lambda(costs, slopes, self.strengths)
        targets, has_target = solve_atoms(problem, toward(costs[:, None], slopes[:, None], inverse))
        counted = has_target & is_known[:, None]
        moved = torch.where(counted[..., None], (targets - x[:, None]) * inverse, 0.0)
        grad = moved.sum(1) / counted.sum(1).clamp(min=1)[:, None]
        target_values = (
            values_at(problem, targets, has_target)
            if self.is_target_valued
            else torch.full_like(inverse[..., 0], torch.nan)
        )
        loss = torch.where(torch.isfinite(values), values, torch.inf)
        atoms = torch.cat([x[:, None], targets], dim=1)
        return Estimate(loss, grad, atoms, torch.cat([values[:, None], target_values], dim=1))


def inverse_lambda(costs: Tensor, slopes: Tensor, strengths: tuple[float, ...]) -> Tensor:
    """1 / lambda_k = |g| / (strength_k |c|) for costs, slopes [..., n], [..., K, 1]; |c| = 0 counts as sqrt(n)."""
    relative = slopes.square().mean(-1, keepdim=True).sqrt() / rms_or_one(costs)
    return (relative / costs.new_tensor(strengths))[..., None]


def toward(costs: Tensor, slopes: Tensor, inverse: Tensor) -> Tensor:
    """Costs c + lambda g, and c itself where g is zero."""
    return costs + torch.where(inverse != 0, slopes / inverse, 0.0)
