"""Score-function gradient of the smoothed loss E f(x*(c + noise)): needs values of f only, so f may be a black box."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch
from torch import Tensor

from surco.errors import InvalidInputError
from surco.estimators.atoms import check_costs, mean_value, solve_atoms, values_at
from surco.estimators.noise import Noise, leave_group_out, whole_groups
from surco.protocols import Estimate, Problem


class Baseline(enum.StrEnum):
    """What is subtracted from f before it is weighted by the score; none of them biases the gradient."""

    NONE = "none"
    LEAVE_ONE_OUT = "leave-one-out"  # mean over the other samples; with antithetic pairs, over the other pairs
    CENTER = "center"  # f(x*(c)) without noise: one more oracle row and one more value; works for one sample


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreFunction(Noise):
    """Gradient of the loss L(c) = E f(x*(c')), c' = c perturbed.

        dL/dc = E[(f(x*(c')) - b) score(z)],        score and c' as in :class:`Noise`

    Unbiased for every M and every baseline, for any f: nonconvex, discontinuous, a simulator without gradient. Its
    price is variance, about n / (sigma^2 M) times the variance of f; antithetic pairs, the baseline and more samples
    lower it.

    With normal antithetic pairs every baseline cancels, so none is computed.

    Samples without a point or with a value that is not finite are left out (with their antithetic partner), which
    makes the result the gradient given that the sample counts, approximately. A row with nothing to compare, because
    fewer than two independent samples are left, has gradient zero; a row without any value has loss inf.

    Attributes:
        baseline: control variate.

    Source: Williams 1992 (REINFORCE); Kool et al. 2019 (leave-one-out baseline); Berthet et al. 2020 for the law.

    Raises:
        InvalidInputError: leave-one-out with one independent sample.
    """

    baseline: Baseline = Baseline.LEAVE_ONE_OUT

    def __post_init__(self) -> None:
        self.check_noise()
        try:
            object.__setattr__(self, "baseline", Baseline(self.baseline))
        except ValueError as error:
            names = [b.value for b in Baseline]
            raise InvalidInputError(f"Expected `baseline` to be one of {names}, got {self.baseline!r}.") from error
        if self.baseline is Baseline.LEAVE_ONE_OUT and self.samples // self.group < 2 and not self.is_odd:
            raise InvalidInputError(
                f"Expected at least {2 * self.group} `samples` for the leave-one-out baseline, got {self.samples}: "
                'with one independent sample nothing is left. Try `baseline="center"`.'
            )

    def __call__(self, problem: Problem, costs: Tensor, *, generator: torch.Generator) -> Estimate:
        """Estimate at ``costs`` [B, n]; atoms [B, M, n], or [B, M + 1, n] with the center last.

        Raises:
            InvalidInputError: wrong shape of ``costs`` or of the objective's answer.
        """
        costs = check_costs(problem, costs)
        draw = self.draw(costs, generator=generator)
        has_center = self.baseline is Baseline.CENTER
        asked = torch.cat([draw.costs, costs[:, None]], dim=1) if has_center else draw.costs
        atoms, has_point = solve_atoms(problem, asked)
        values = values_at(problem, atoms, has_point)
        sampled = values[:, : self.samples]
        center = values[:, self.samples :] if has_center else None
        advantages, count = self.advantages(sampled, center)
        return Estimate(mean_value(sampled), self.gradient(draw, costs, advantages, count), atoms, values)

    def advantages(self, values: Tensor, center: Tensor | None) -> tuple[Tensor, Tensor]:
        """Values less their baseline [B, M], zero where excluded, and the samples that count [B]."""
        counted = whole_groups(torch.isfinite(values), self.group)
        kept = torch.where(counted, values, 0.0)
        if self.is_odd:
            pairs = kept.reshape(len(values), -1, 2)
            baseline = pairs.mean(-1, keepdim=True).expand_as(pairs).reshape(kept.shape)
        elif self.baseline is Baseline.LEAVE_ONE_OUT:
            baseline, has_other = leave_group_out(kept, counted, self.group)
            counted = counted & has_other
        elif center is not None:
            counted = counted & torch.isfinite(center)
            baseline = center.expand_as(kept)
        else:
            baseline = torch.zeros_like(kept)
        return torch.where(counted, kept - baseline, 0.0), counted.sum(-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreFunctionMultiplicative(ScoreFunction):
    """:class:`ScoreFunction` with multiplicative noise: costs keep their signs, sigma needs no scale."""

    is_multiplicative: bool = True
