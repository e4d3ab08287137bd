"""Implicit maximum likelihood estimation: interpolation under noise that both oracle calls share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from surco.errors import InvalidInputError
from surco.estimators.atoms import (
    check_costs,
    mean_value,
    require_gradient,
    solve_atoms,
    values_and_gradients,
    values_at,
)
from surco.estimators.interpolation import inverse_lambda, toward
from surco.estimators.noise import Noise
from surco.protocols import Estimate, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class IMLE(Noise):
    """Difference of the perturbed answer and the answer of a target distribution, with the same noise in both.

        x_i = x*(c'_i),   g_i = grad f(x_i),   lambda_i = strength |c| / |g_i|
        dL/dc = mean over i of (x*(c'_i + lambda_i g_i) - x_i) / lambda_i,        c'_i perturbed as in :class:`Noise`

    It is the mean under noise of the :class:`~surco.estimators.interpolation.Interpolation` gradient, and so the
    gradient of its smoothed loss; for linear f it equals (x_bar(c + lambda g) - x_bar(c)) / lambda, a finite difference
    of the mean answer. With sigma -> 0 it becomes Interpolation.

    Samples without both points, or with a gradient of f that is not finite, are left out; a row with none left has
    gradient zero, and loss inf where no value is known.

    Attributes:
        strength: relative lambda, > 0.
        is_target_valued: also value the target vertices (one more objective call of B M rows), else they are NaN.

    Source: Niepert, Minervini, Franceschi 2021 (Implicit MLE), Algorithm 1 with the perturbation-based target.

    Note: the paper maximizes and its noise is a sum of gammas made for sets of k; here the noise is normal or Gumbel,
    and lambda is relative to |c| / |g|.

    Raises:
        InvalidInputError: a strength that is not positive, or multiplicative noise.
    """

    strength: float = 1.0
    is_target_valued: bool = True

    def __post_init__(self) -> None:
        self.check_noise()
        if not (self.strength > 0 and math.isfinite(self.strength)):
            raise InvalidInputError(f"Expected a finite `strength` > 0, got {self.strength}.")
        if self.is_multiplicative:
            raise InvalidInputError(
                "Expected additive noise: the target of I-MLE adds to the costs, as its noise does."
            )

    def __call__(self, problem: Problem, costs: Tensor, *, generator: torch.Generator) -> Estimate:
        """Estimate at ``costs`` [B, n]; atoms [B, 2 M, n], the M answers and then their M targets.

        Raises:
            InvalidInputError: the objective has no gradient, or a wrong shape.
            CutGradientError: autograd does not reach x.
        """
        costs = check_costs(problem, costs)
        require_gradient(problem, self)
        draw = self.draw(costs, generator=generator)
        atoms, has_point = solve_atoms(problem, draw.costs)
        values, slopes, is_known = values_and_gradients(problem, atoms, has_point)
        inverse = inverse_lambda(costs[:, None], slopes, (self.strength,))[:, :, 0]
        targets, has_target = solve_atoms(problem, toward(draw.costs, slopes, inverse))
        counted = has_target & is_known
        moved = torch.where(counted[..., None], (targets - atoms) * inverse, 0.0)
        grad = moved.sum(1) / counted.sum(1).clamp(min=1)[:, None]
        target_values = (
            values_at(problem, targets, has_target) if self.is_target_valued else torch.full_like(values, torch.nan)
        )
        return Estimate(
            mean_value(values), grad, torch.cat([atoms, targets], dim=1), torch.cat([values, target_values], dim=1)
        )
