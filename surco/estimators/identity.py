"""Identity (straight-through): treat the oracle as minus the identity on projected costs."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch
from torch import Tensor

from surco.errors import InvalidInputError
from surco.estimators.atoms import check_costs, require_gradient, rms_or_one, solve_atoms, values_and_gradients
from surco.protocols import Estimate, Problem


class Projection(enum.StrEnum):
    """Takes off the part of the costs that the answer does not depend on."""

    NONE = "none"
    NORM = "norm"  # c / rms(c): right for every feasible set, because a positive factor changes no answer
    MEAN = "mean"  # c - mean(c): right where all feasible x have the same sum
    STANDARD = "standard"  # mean, then norm


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Straight-through gradient with d x* / dc replaced by minus the identity.

        x = x*(P(c)),   g = grad f(x),   dL/dc = -P'(c)^T g

    A larger cost makes the oracle use a variable less, hence the sign. P is the projection; its Jacobian removes the
    directions in which the answer cannot change, without which the costs only grow. Exact for no f; cheap: one oracle
    row, no noise, never stuck at a zero gradient unless g is one of those directions.

    A row without a point or a finite gradient has gradient zero, and loss inf without a value.

    Attributes:
        projection: P.

    Source: Sahoo et al. 2023 (Backpropagation through combinatorial algorithms: identity with projection works).

    Raises:
        InvalidInputError: no such projection.
    """

    projection: Projection = Projection.NORM

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "projection", Projection(self.projection))
        except ValueError as error:
            names = [p.value for p in Projection]
            raise InvalidInputError(f"Expected `projection` to be one of {names}, got {self.projection!r}.") from error

    def __call__(self, problem: Problem, costs: Tensor, *, generator: torch.Generator) -> Estimate:
        """Estimate at ``costs`` [B, n]; atoms [B, 1, n]; ``generator`` is not used.

        Raises:
            InvalidInputError: the objective has no gradient, or a wrong shape.
            CutGradientError: autograd does not reach x.
        """
        costs = check_costs(problem, costs)
        require_gradient(problem, self)
        projected = self.project(costs)
        x, has_point = solve_atoms(problem, projected)
        values, slopes, is_known = values_and_gradients(problem, x, has_point)
        loss = torch.where(torch.isfinite(values), values, torch.inf)
        grad = torch.where(is_known[:, None], -self._pulled_back(costs, slopes), 0.0)
        return Estimate(loss, grad, x[:, None], values[:, None])

    def project(self, costs: Tensor) -> Tensor:
        """P(c), [B, n]."""
        if self.projection in (Projection.MEAN, Projection.STANDARD):
            costs = costs - costs.mean(-1, keepdim=True)
        if self.projection in (Projection.NORM, Projection.STANDARD):
            costs = costs / rms_or_one(costs)
        return costs

    def _pulled_back(self, costs: Tensor, slopes: Tensor) -> Tensor:
        """P'(c)^T g, [B, n]."""
        has_mean = self.projection in (Projection.MEAN, Projection.STANDARD)
        if self.projection in (Projection.NORM, Projection.STANDARD):
            shifted = costs - costs.mean(-1, keepdim=True) if has_mean else costs
            rms = rms_or_one(shifted)
            unit = shifted / rms
            slopes = (slopes - unit * (unit * slopes).mean(-1, keepdim=True)) / rms
        return slopes - slopes.mean(-1, keepdim=True) if has_mean else slopes
