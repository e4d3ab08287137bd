"""Perturbed Fenchel-Young loss: imitate target designs, for example the incumbents of earlier runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surco.errors import InvalidInputError
from surco.estimators.atoms import as_solved, check_costs, solve_atoms, values_at
from surco.estimators.noise import Noise
from surco.protocols import Estimate, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class FenchelYoung(Noise):
    """Loss of costs c against a target design y, convex in c at a fixed noise scale.

        L(c; y) = c . y - E min_x c' . x,        dL/dc = y - E x*(c')          (additive noise)
                                                 dL/dc = y - E[m(z) x*(c')]    (multiplicative, c' = c m(z))

    L >= 0, because E min c'.x <= min E c'.x <= c . y for feasible y. It never differentiates the oracle, needs no
    gradient of f and no value of f: the teacher of a surrogate network (hybrid training).

    It is not a :class:`~surco.protocols.GradientEstimator`, because it needs targets. The noise scale is held constant
    in the gradient: with a relative scale the loss would be smallest at c = 0.

    Samples without a point are left out; a row with none left, or with a target that is not finite, has gradient zero
    and loss inf.

    Attributes:
        is_valued: also value f at the atoms in one objective call; otherwise ``values`` is NaN.

    Source: Berthet et al. 2020, sec. 4 (perturbed Fenchel-Young losses); Dalle et al. 2022, sec. 4.2 (multiplicative).

    Note: for an oracle with ``needs_nonnegative_costs`` additive costs are clipped at zero, and the clipped components
    have derivative zero in E min c' . x; L may then be negative, by what clipping adds to the mean cost.
    """

    is_valued: bool = False

    def __call__(self, problem: Problem, costs: Tensor, *, targets: Tensor, generator: torch.Generator) -> Estimate:
        """Loss and gradient at ``costs`` [B, n] for ``targets`` [B, n]; atoms [B, M, n].

        Raises:
            InvalidInputError: wrong shape.
        """
        costs = check_costs(problem, costs)
        if targets.shape != costs.shape:
            hint = " Try `targets.expand_as(costs)`." if targets.shape == costs.shape[1:] else ""
            raise InvalidInputError(
                f"Expected `targets` of shape {list(costs.shape)}, got {list(targets.shape)}.{hint}"
            )
        targets = targets.detach().to(costs)
        draw = self.draw(costs, generator=generator)
        atoms, has_point = solve_atoms(problem, draw.costs)
        asked = as_solved(problem, draw.costs)
        slope = (self.factor(draw.z) if self.is_multiplicative else torch.ones_like(draw.z)) * (asked == draw.costs)
        count = has_point.sum(-1)
        kept = torch.where(has_point[..., None], atoms, 0.0)
        mean = (slope * kept).sum(1) / count.clamp(min=1)[:, None]
        least = (asked * kept).sum((1, 2)) / count.clamp(min=1)
        is_known = ((count > 0) & torch.isfinite(targets).all(-1))[:, None]
        loss = torch.where(is_known[:, 0], (costs * targets).sum(-1) - least, torch.inf)
        values = values_at(problem, atoms, has_point) if self.is_valued else torch.full_like(atoms[..., 0], torch.nan)
        return Estimate(loss, torch.where(is_known, targets - mean, 0.0), atoms, values)
