"""Noise on the costs, and the score that turns values of perturbed answers into a gradient.

Formulas, for costs c [n], noise z [n] with independent components of density p, and a value h of the answer:

    additive:        c' = c + s z,                            s = sigma rms(c)   (or sigma itself)
    multiplicative:  c'_i = c_i exp(sigma z_i - sigma^2 / 2)  (mean c_i; never changes a sign)
    score:           u(z) = -(log p)'(z);  u(z) = z for the normal law

    d/dc_i E h(c') = E[h u(z_i)] / s             additive
    d/dc_i E h(c') = E[h u(z_i)] / (sigma c_i)   multiplicative

h needs no derivative. Where the answers depend on the direction of c alone, as with ``s = sigma rms(c)`` and with
multiplicative noise, E h is constant along c; so its exact gradient is the one at fixed s with the part along c
taken off, because rms grows along c only. That projection also takes noise off.

Source: Berthet et al. 2020 (Learning with differentiable perturbed optimizers), Prop. 3.1, for additive noise; Dalle et
al. 2022 (Learning with combinatorial optimization layers), sec. 3, for multiplicative noise, whose mean is c only with
the factor 1/2 in ``sigma^2 / 2``.

Note: costs are minimized here and the papers maximize; h is any value of the answer, so no sign changes.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from surco.errors import InvalidInputError
from surco.estimators.atoms import rms_or_one

EULER_GAMMA = 0.5772156649015329  # mean of the standard Gumbel law


class Distribution(enum.StrEnum):
    """Law of the noise, mean 0."""

    NORMAL = "normal"
    GUMBEL = "gumbel"  # z = gamma - G with G standard Gumbel: on a simplex the answer is softmin(c / s)


@dataclass(frozen=True, slots=True)
class Draw:
    """One draw of noise for a batch.

    Attributes:
        costs: [B, M, n], perturbed costs.
        z: [B or 1, M, n]; samples 2k and 2k + 1 are a pair where antithetic.
        scale: [B, 1], s of the additive law, or sigma.
    """

    costs: Tensor
    z: Tensor
    scale: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How costs are perturbed; the base of all estimators that sample.

    Attributes:
        sigma: strength; relative to rms(c) where ``is_relative``, always relative where ``is_multiplicative``.
        samples: M, draws a row.
        distribution: law of z; multiplicative noise is normal.
        is_multiplicative: multiply the costs instead of adding to them. Keeps every sign, so that a shortest-path
            oracle sees positive costs; a cost of zero stays zero and gets a zero gradient.
        is_relative: scale additive noise by rms(c); costs of all zeros count as rms 1.
        is_antithetic: draw M / 2 pairs of opposite quantiles (z and -z for the normal law).
        noise_seed: common random numbers: every call and every row uses the same z [M, n] of this seed, and the
            generator of the call is left alone. None draws afresh.

    Raises:
        InvalidInputError: values that do not fit together.
    """

    sigma: float = 0.3
    samples: int = 8
    distribution: Distribution = Distribution.NORMAL
    is_multiplicative: bool = False
    is_relative: bool = True
    is_antithetic: bool = True
    noise_seed: int | None = None

    def __post_init__(self) -> None:
        self.check_noise()

    def check_noise(self) -> None:
        """Check the fields; names of enums are taken as text too."""
        try:
            object.__setattr__(self, "distribution", Distribution(self.distribution))
        except ValueError as error:
            names = [d.value for d in Distribution]
            raise InvalidInputError(
                f"Expected `distribution` to be one of {names}, got {self.distribution!r}."
            ) from error
        if not (self.sigma > 0 and math.isfinite(self.sigma)):
            raise InvalidInputError(f"Expected a finite `sigma` > 0, got {self.sigma}.")
        if self.samples < 1:
            raise InvalidInputError(f"Expected `samples` >= 1, got {self.samples}.")
        if self.is_antithetic and self.samples % 2:
            raise InvalidInputError(
                f"Expected an even number of `samples`, because antithetic draws come in pairs, got {self.samples}. "
                "Try `is_antithetic=False`."
            )
        if self.is_multiplicative and self.distribution is not Distribution.NORMAL:
            raise InvalidInputError(f"Expected normal noise where it is multiplicative, got {self.distribution.value}.")

    @property
    def group(self) -> int:
        """Samples that share one random number: 2 where antithetic, else 1. Groups are independent of each other."""
        return 2 if self.is_antithetic else 1

    @property
    def is_odd(self) -> bool:
        """Whether the scores of a group add up to zero, so that no baseline is needed."""
        return self.is_antithetic and self.distribution is Distribution.NORMAL

    def draw(self, costs: Tensor, *, generator: torch.Generator) -> Draw:
        """Perturb ``costs`` [B, n]. The numbers do not depend on the dtype or device of the costs."""
        if self.noise_seed is None:
            batch = len(costs)
        else:
            generator, batch = torch.Generator().manual_seed(self.noise_seed), 1
        half = self.samples // self.group
        shape = (batch, half, costs.shape[-1])
        z = self._opposites(shape, generator).reshape(batch, self.samples, -1).to(costs)
        if self.is_multiplicative:
            scale = costs.new_full((len(costs), 1), self.sigma)
            return Draw(costs[:, None] * self.factor(z), z, scale)
        scale = self.sigma * (rms_or_one(costs) if self.is_relative else torch.ones_like(costs[:, :1]))
        return Draw(costs[:, None] + scale[:, None] * z, z, scale)

    def factor(self, z: Tensor) -> Tensor:
        """D c'_i / d c_i of the multiplicative law."""
        return torch.exp(self.sigma * z - 0.5 * self.sigma**2)

    def gradient(self, draw: Draw, costs: Tensor, advantages: Tensor, count: Tensor) -> Tensor:
        """Mean of ``advantages * score``: d/dc of E h.

        Args:
            draw: of :meth:`draw`.
            costs: [B, n], unperturbed.
            advantages: [B, M], h less a baseline that is independent of the sample's group; 0 for excluded samples.
            count: [B], samples that were counted; a row of 0 has gradient zero.

        Returns:
            [B, n].
        """
        score = draw.z if self.distribution is Distribution.NORMAL else torch.expm1(draw.z - EULER_GAMMA)
        total = torch.einsum("bm,bmn->bn", advantages, score.expand(len(costs), -1, -1))
        step = draw.scale * costs if self.is_multiplicative else draw.scale.expand_as(costs)
        mean = total / count.clamp(min=1)[:, None]
        gradient = torch.where(step != 0, mean / step, 0.0)
        if self.is_multiplicative or self.is_relative:
            square = costs.square().sum(-1, keepdim=True)
            along = (gradient * costs).sum(-1, keepdim=True)
            gradient = gradient - torch.where(square > 0, along / square, 0.0) * costs
        return torch.where(count[:, None] > 0, gradient, 0.0)

    def _opposites(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """Z [B, M / group, group, n], float64."""
        options = {"generator": generator, "dtype": torch.float64, "device": generator.device}
        if self.distribution is Distribution.NORMAL:
            z = torch.randn(shape, **options)
            return torch.stack([z, -z][: self.group], dim=2)
        u = torch.rand(shape, **options).clamp(1e-12, 1 - 1e-12)
        return torch.stack([self._gumbel(u), self._gumbel(1 - u)][: self.group], dim=2)

    @staticmethod
    def _gumbel(u: Tensor) -> Tensor:
        return torch.log(-torch.log(u)) + EULER_GAMMA


def leave_group_out(total_of: Tensor, counted: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Mean over the counted samples of all *other* groups.

    The factor M / (M - 1) on a plain mean does the same for independent samples only; with antithetic pairs it would
    scale the gradient wrongly, by 4/3 at M = 4. Leaving the whole pair out is exact.

    Args:
        total_of: [B, M, ...], what to average.
        counted: [B, M] bool.
        group: samples in a group; M is a multiple of it.

    Returns:
        [B, M, ...] the means, zero where there is no other group; [B, M] bool, where there is one.
    """
    batch, samples = counted.shape
    weight = counted.reshape(batch, samples, *[1] * (total_of.ndim - 2))
    kept = torch.where(weight, total_of, 0.0)
    by_group = kept.reshape(batch, samples // group, group, *total_of.shape[2:]).sum(2)
    count = weight.to(total_of).reshape(batch, samples // group, group, *[1] * (total_of.ndim - 2)).sum(2)
    other_total = by_group.sum(1, keepdim=True) - by_group
    other_count = count.sum(1, keepdim=True) - count
    mean = torch.where(other_count > 0, other_total / other_count.clamp(min=1), 0.0)
    has_other = (other_count > 0).reshape(batch, -1)
    return mean.repeat_interleave(group, dim=1), has_other.repeat_interleave(group, dim=1)


def whole_groups(counted: Tensor, group: int) -> Tensor:
    """``counted`` [B, M] without the samples whose partner is missing: half a pair would have no baseline."""
    if group == 1:
        return counted
    batch, samples = counted.shape
    whole = counted.reshape(batch, samples // group, group).all(-1)
    return whole.repeat_interleave(group, dim=1)
