"""Perturbed optimizers: the gradient of f carried through the mean answer x_bar(c) = E x*(c + noise).

Two losses go by the name of perturbed gradient, and they differ where f is not linear:

* :class:`~surco.estimators.score_function.ScoreFunction` smooths f itself: L(c) = E f(x*(c')). Its minimum over c is
  the best design. It needs values of f.
* :class:`Perturbed` smooths the answer: J(c) = d x_bar / dc is the Jacobian of the mean, and the gradient is
  J(c)^T g with a gradient g of f. It needs grad f; its variance is lower where f is nearly linear between vertices,
  and it is blind to what f does between a vertex and its linearization.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch
from torch import Tensor

from surco.errors import InvalidInputError
from surco.estimators.atoms import check_costs, mean_value, require_gradient, solve_atoms, values_and_gradients
from surco.estimators.noise import Draw, Noise, leave_group_out, whole_groups
from surco.protocols import Estimate, Problem


class At(enum.StrEnum):
    """Where the gradient g of f is taken."""

    MEAN = "mean"  # g = grad f(x_bar): the gradient of f(E x*), f must make sense between vertices
    ATOMS = "atoms"  # g = E grad f(x*): f is asked at vertices only


@dataclass(frozen=True, slots=True, kw_only=True)
class Perturbed(Noise):
    """Gradient J(c)^T g with g = grad f(E x*) or g = E grad f(x*).

        J(c)^T g = E[(x*(c') . g) score(z)],        score and c' as in :class:`Noise`

    With ``at="mean"`` that is the gradient of f(x_bar(c)), and the loss reported is f at the mean of the atoms. With
    ``at="atoms"`` it is the gradient of c -> g . x_bar(c) at fixed g, and the loss is the mean of f over the atoms.
    For quadratic f the two gradients are equal.

    With ``is_leave_one_out`` the gradient that multiplies a sample comes from the other samples (the other pairs), and
    so does the baseline x_bar . g. Then the estimate is unbiased for ``at="atoms"`` with any f, and for ``at="mean"``
    with quadratic f (else grad f is averaged over means of M - 1 samples: bias O(1/M)). Without it this is the
    textbook estimator, with a bias O(1/M) from using one sample twice.

    Samples without a point or with a gradient that is not finite are left out with their antithetic partner; rows with
    nothing left have gradient zero, and loss inf where no value is known.

    Attributes:
        at: where grad f is taken.
        is_leave_one_out: take g and the baseline from the other samples.

    Source: Berthet et al. 2020, Prop. 3.1 (additive); Dalle et al. 2022, sec. 3 (multiplicative).

    Raises:
        InvalidInputError: leave-one-out with one independent sample.
    """

    at: At = At.ATOMS
    is_leave_one_out: bool = True

    def __post_init__(self) -> None:
        self.check_noise()
        try:
            object.__setattr__(self, "at", At(self.at))
        except ValueError as error:
            raise InvalidInputError(f"Expected `at` to be one of {[a.value for a in At]}, got {self.at!r}.") from error
        if self.is_leave_one_out and self.samples // self.group < 2:
            raise InvalidInputError(
                f"Expected at least {2 * self.group} `samples` to leave one out, got {self.samples}. "
                "Try `is_leave_one_out=False`."
            )

    def __call__(self, problem: Problem, costs: Tensor, *, generator: torch.Generator) -> Estimate:
        """Estimate at ``costs`` [B, n]; atoms [B, M, n].

        Raises:
            InvalidInputError: the objective has no gradient, or a wrong shape.
            CutGradientError: autograd does not reach x.
        """
        costs = check_costs(problem, costs)
        require_gradient(problem, self)
        draw = self.draw(costs, generator=generator)
        atoms, has_point = solve_atoms(problem, draw.costs)
        at = self._at_mean if self.at is At.MEAN else self._at_atoms
        loss, values, slopes, counted = at(problem, atoms, whole_groups(has_point, self.group))
        return Estimate(loss, self._pulled_back(draw, costs, atoms, slopes, counted), atoms, values)

    def _at_atoms(self, problem: Problem, atoms: Tensor, whole: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Loss [B], values [B, M], g for each sample [B, M, n], and which samples count [B, M]."""
        values, gradients, is_known = values_and_gradients(problem, atoms, torch.isfinite(atoms).all(-1))
        counted = whole_groups(is_known & whole, self.group)
        if self.is_leave_one_out:
            slopes, has_other = leave_group_out(gradients, counted, self.group)
            counted = counted & has_other
        else:
            slopes = _mean(gradients, counted).expand_as(gradients)
        return mean_value(values), values, slopes, counted

    def _at_mean(self, problem: Problem, atoms: Tensor, whole: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As :meth:`_at_atoms`; f is asked at atoms and means in one call."""
        samples = self.samples
        has_point = torch.isfinite(atoms).all(-1)
        center = _mean(atoms, whole)
        has_center = whole.any(-1, keepdim=True)
        if self.is_leave_one_out:
            others, has_other = leave_group_out(atoms, whole, self.group)
            others, has_other = others[:, :: self.group], has_other[:, :: self.group]
        else:
            others, has_other = center, has_center
        points = torch.cat([atoms, others, center], dim=1)
        asked = torch.cat([has_point, has_other, has_center], dim=1)
        wanted = torch.zeros_like(asked)
        wanted[:, samples:-1] = True
        values, gradients, is_known = values_and_gradients(problem, points, asked, has_gradient=wanted)
        slopes, known = gradients[:, samples:-1], is_known[:, samples:-1]
        if self.is_leave_one_out:
            slopes, known = (t.repeat_interleave(self.group, dim=1) for t in (slopes, known))
        loss = torch.where(torch.isfinite(values[:, -1]), values[:, -1], torch.inf)
        return loss, values[:, :samples], slopes.expand_as(atoms), whole & known

    def _pulled_back(self, draw: Draw, costs: Tensor, atoms: Tensor, slopes: Tensor, counted: Tensor) -> Tensor:
        """[B, n], mean of ((x_i - baseline_i) . g_i) score_i over the counted samples."""
        shifts = torch.where(counted[..., None], atoms, 0.0)
        if self.is_leave_one_out:
            others, _ = leave_group_out(shifts, counted, self.group)
            shifts = shifts - others
        advantages = torch.where(counted, (shifts * slopes).sum(-1), 0.0)
        return self.gradient(draw, costs, advantages, counted.sum(-1))


@dataclass(frozen=True, slots=True, kw_only=True)
class PerturbedMultiplicative(Perturbed):
    """:class:`Perturbed` with multiplicative noise: costs keep their signs, sigma needs no scale."""

    is_multiplicative: bool = True


def _mean(x: Tensor, counted: Tensor) -> Tensor:
    """Mean of x [B, M, n] over the counted samples, [B, 1, n]; zero where none counts."""
    total = torch.where(counted[..., None], x, 0.0).sum(1, keepdim=True)
    return total / counted.sum(-1).clamp(min=1)[:, None, None]
