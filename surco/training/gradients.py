"""Gradients d loss / d costs for a padded batch of instances: the estimators of :mod:`surco.estimators`, vectorized.

| name      | oracle rows an instance | gradient                                                                 |
|-----------|-------------------------|--------------------------------------------------------------------------|
| descent   | M                       | of the Fenchel-Young loss towards what single moves make of the own answer |
| local     | M                       | of E f(x*(c + Gumbel)), by exact expectation over one choice at a time   |
| perturbed | M                       | J(c)^T E grad f, leave-one-out; J the Jacobian of E x*(c + normal noise)   |
| score     | M                       | of E f(x*(c + normal noise)), by values alone                            |
| imitation | M                       | of the Fenchel-Young loss towards designs of earlier runs                |
| identity  | 1                       | - grad f(x*(c)), less its part along c                                   |

The loss is f over the family's scale. Padded entries have gradient zero and take no noise.

A gradient is a generator function that yields the costs to be solved, once, and is sent the answer: what lies before
and after the oracle can be recorded as CUDA graphs, the oracle cannot. `taken` drives one from end to end.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from solvers.fanout import MapPool
from surco.errors import InvalidInputError
from surco.instance_family import Batch, Family, Features, Instance

MOVES = 8  # of the descent that teaches
LEAST_GAIN = 1e-6  # relative, of a move


@dataclass(frozen=True, slots=True)
class Step:
    """What a gradient needs.

    Attributes:
        family: of the instances.
        batch: their features, on the device of the costs.
        instances: B of them.
        costs: [B, *design shape], detached.
        generator: on the device of the costs (then nothing has to travel), or on the CPU.
        samples: M.
        sigma: size of the noise.
        pool: for the oracle calls.
        targets: [B, *design shape], designs to imitate; only for ``imitation``.
        is_relaxed: ask the linear relaxations instead of the oracles.
    """

    family: Family
    batch: Batch
    instances: Sequence[Instance]
    costs: Tensor
    generator: torch.Generator
    samples: int
    sigma: float
    pool: MapPool | None
    targets: Tensor | None = None
    is_relaxed: bool = False

    def solve(self, costs: Tensor) -> tuple[Tensor, Tensor]:
        """Vertices of costs [B, M, ...]."""
        return self.family.solve(self.batch, self.instances, costs, pool=self.pool, is_relaxed=self.is_relaxed)

    def values(self, x: Tensor) -> Tensor:
        """F over scale at x [B, M, ...], [B, M]."""
        scale = self.family.scale(self.batch.features)
        return self.family.objective(self.batch.features, x) / scale[:, None]

    def drawn(self, shape: Sequence[int]) -> Tensor:
        """Normal noise, zero where padded."""
        device = self.generator.device
        z = torch.randn(tuple(shape), generator=self.generator, dtype=torch.float64, device=device).to(self.costs)
        return z * self.batch.variables[:, None]


Answer = tuple[Tensor, Tensor]
"""Vertices x [B, M, ...] and has_point [B, M]; or loss [B] and gradient [B, ...]."""

Work = Generator[Tensor, Answer, Answer]
Gradient = Callable[[Step], Work]


def taken(gradient: Gradient, step: Step) -> Answer:
    """Loss [B] and d loss / d costs, the oracle asked by the step."""
    work = gradient(step)
    return ended(work, step.solve(next(work)))


def ended(work: Work, answer: Answer) -> Answer:
    """What a gradient returns once it has the oracle's answer."""
    try:
        work.send(answer)
    except StopIteration as done:
        return done.value
    raise RuntimeError("A gradient asks the oracle once.")


def local(step: Step) -> Work:
    """Local expectation gradient for designs that are one choice in each of T rows (memory aside).

        p_td = softmax(-c_t / sigma)_d,   dE f / dc_td = -p_td (E f|t->d - sum_d' p_td' E f|t->d') / sigma

    Gumbel noise of scale sigma makes the choices independent with probabilities p; the inner expectation is over
    sampled choices of the other rows, the outer one over a row's own choices is exact. Unbiased where the oracle
    decomposes; it sees every single move from every sample, so it needs few samples.

    Source: Titsias and Lazaro-Gredilla (2015), "Local expectation gradients", for the estimator.
    """
    costs = step.costs
    shape = (len(costs), step.samples, *costs.shape[1:])
    u = torch.rand(shape, generator=step.generator, dtype=torch.float64, device=step.generator.device)
    u = u.clamp(1e-12, 1 - 1e-12).to(costs)
    gumbel = -torch.log(-torch.log(u))
    x, has_point = yield costs[:, None] - step.sigma * gumbel
    scale = step.family.scale(step.batch.features)[:, None, None]
    allowed = step.batch.variables & (step.batch.features.get("allowed", step.batch.variables) > 0)
    p = (-costs / step.sigma).masked_fill(~allowed, torch.finfo(costs.dtype).min).softmax(-1) * allowed
    grad = torch.zeros_like(costs)
    for m in range(step.samples):
        v = step.family.local_values(step.batch.features, x[:, m]) / scale
        v = torch.where(allowed & has_point[:, m, None, None], v, 0.0)
        grad -= p * (v - (p * v).sum(-1, keepdim=True)) / step.sigma
    return _mean(step.values(x), has_point), grad / step.samples


def descent(step: Step) -> Work:
    """Fenchel-Young gradient towards what descent makes of the network's own answer.

        x = x*(c + Gumbel),   y = x after the best single moves, one after the other,   dL/dc = (y - p) / sigma

    with p = E x*(c + Gumbel) = softmax(-c / sigma): the costs learn the moves that they should have meant. Unlike
    ``local`` it does not vanish where p is nearly certain. The first sample is without noise.
    """
    costs = step.costs
    shape = (len(costs), step.samples, *costs.shape[1:])
    u = torch.rand(shape, generator=step.generator, dtype=torch.float64, device=step.generator.device)
    u = u.clamp(1e-12, 1 - 1e-12).to(costs)
    gumbel = -torch.log(-torch.log(u))
    gumbel[:, 0] = 0.0
    x, has_point = yield costs[:, None] - step.sigma * gumbel
    allowed = step.batch.variables & (step.batch.features.get("allowed", step.batch.variables) > 0)
    p = (-costs / step.sigma).masked_fill(~allowed, torch.finfo(costs.dtype).min).softmax(-1) * allowed
    grad = torch.zeros_like(costs)
    for m in range(step.samples):
        y = descended(step.family, step.batch.features, x[:, m], allowed)
        grad += torch.where(has_point[:, m, None, None], y - p, 0.0)
    return _mean(step.values(x[:, :1]), has_point[:, :1]), grad / (step.sigma * step.samples)


def descended(family: Family, features: Features, x: Tensor, allowed: Tensor, moves: int = MOVES) -> Tensor:
    """Designs x [B, T, D] after at most ``moves`` best single moves; a design without a better move stays.

    Moves that overfill a bin are not made: ``memory`` and ``capacity``, where the family has them.
    """
    items, bins = (torch.arange(count, device=x.device)[None] for count in x.shape[1:])
    for _ in range(moves):
        values = family.local_values(features, x)
        here = (values * x).sum((1, 2)) / x.sum((1, 2)).clamp(min=1.0)
        if "memory" in features:
            memory, capacity = features["memory"], features["capacity"]
            used = torch.einsum("btd,bt->bd", x, memory)
            fits = used[:, None] + memory[..., None] * (1.0 - x) <= capacity[:, None]
            values = values.masked_fill(~fits, torch.inf)
        flat = values.masked_fill(~allowed, torch.inf).flatten(1)
        best, place = flat.min(1)
        is_better = best < here * (1.0 - LEAST_GAIN)
        if not _is_recorded(x) and not bool(is_better.any()):
            break
        t, d = place // x.shape[2], place % x.shape[2]
        is_moved = (items == t[:, None]) & is_better[:, None]
        x = torch.where(is_moved[..., None], (bins == d[:, None]).to(x)[:, None], x)
    return x


def perturbed(step: Step) -> Work:
    """J(c)^T g with g = E grad f over the other samples; antithetic normal noise, see :class:`surco.Perturbed`."""
    costs, noise, scale, x, has_point = yield from _sampled(step)
    points = x.detach().requires_grad_()
    with torch.enable_grad():
        values = step.values(points)
        (slopes,) = torch.autograd.grad(torch.where(has_point, values, 0.0).sum(), points)
    used = has_point[(..., *[None] * (costs.ndim - 1))]
    slopes = torch.where(used, slopes, 0.0)
    others, shifts = _others(slopes), x - _others(x)
    along = torch.where(has_point, (others * shifts).flatten(2).sum(-1), 0.0)
    return _mean(values.detach(), has_point), _scored(along, noise, scale)


def score(step: Step) -> Work:
    """(f - mean of the others) score; antithetic normal noise, see :class:`surco.ScoreFunction`."""
    _, noise, scale, x, has_point = yield from _sampled(step)
    values = torch.where(has_point, step.values(x), 0.0)
    return _mean(values, has_point), _scored(torch.where(has_point, values - _others(values), 0.0), noise, scale)


def identity(step: Step) -> Work:
    """Minus the gradient of f at the vertex, projected on the costs of equal norm."""
    costs = step.costs
    x, has_point = yield costs[:, None]
    points = x.detach().requires_grad_()
    with torch.enable_grad():
        values = step.values(points)
        (slopes,) = torch.autograd.grad(torch.where(has_point, values, 0.0).sum(), points)
    flat = costs.flatten(1)
    slope = torch.where(has_point, slopes[:, 0].flatten(1), 0.0)
    norm = flat.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    unit = flat / norm
    slope = (slope - unit * (unit * slope).sum(-1, keepdim=True)) / norm
    return _mean(values.detach(), has_point), -slope.reshape(costs.shape)


def imitation(step: Step) -> Work:
    """Fenchel-Young gradient y - E x*(c + noise) towards the targets y, see :class:`surco.estimators.FenchelYoung`."""
    if step.targets is None:
        raise InvalidInputError("Expected `runs`, whose designs are to be imitated, together with `imitation`.")
    costs, _, _, x, has_point = yield from _sampled(step)
    count = has_point.sum(-1).clamp(min=1)
    mean = x.sum(1) / count.reshape(-1, *[1] * (costs.ndim - 1))  # x is zero without a point
    is_known = has_point.any(-1).reshape(-1, *[1] * (costs.ndim - 1))
    return _mean(step.values(x), has_point), torch.where(is_known, step.targets - mean, 0.0)


GRADIENTS: Mapping[str, Gradient] = MappingProxyType(
    {
        "descent": descent,
        "local": local,
        "perturbed": perturbed,
        "score": score,
        "identity": identity,
        "imitation": imitation,
    }
)

RELAXABLE = ("perturbed", "score", "identity", "imitation")
"""Gradients whose points may be fractional; the others are made of single changes of whole designs."""


def _sampled(step: Step) -> Generator[Tensor, Answer, tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """Costs, noise z [B, M, ...] in antithetic pairs, its scale [B], vertices and has_point."""
    costs = step.costs
    half = max(2, step.samples // 2)
    z = step.drawn((len(costs), half, *costs.shape[1:]))
    z = torch.stack([z, -z], dim=2).flatten(1, 2)
    count = step.batch.variables.flatten(1).sum(-1).clamp(min=1)
    scale = step.sigma * (costs.flatten(1).square().sum(-1) / count).sqrt().clamp(min=1e-12)
    x, has_point = yield costs[:, None] + scale.reshape(-1, *[1] * costs.ndim) * z
    return costs, z, scale, x, has_point


def _is_recorded(x: Tensor) -> bool:
    """Whether a CUDA graph is being recorded, in which the host cannot look at values."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def _others(values: Tensor) -> Tensor:
    """Mean over the samples [B, M, ...] of all other antithetic pairs, at every sample."""
    pairs = values.unflatten(1, (-1, 2)).sum(2)
    count = values.shape[1] - 2
    return ((pairs.sum(1, keepdim=True) - pairs) / count).repeat_interleave(2, dim=1)


def _scored(advantages: Tensor, noise: Tensor, scale: Tensor) -> Tensor:
    """Mean of advantage [B, M] times score z / scale."""
    grad = torch.einsum("bm,bm...->b...", advantages, noise) / advantages.shape[1]
    return grad / scale.reshape(-1, *[1] * (grad.ndim - 1))


def _mean(values: Tensor, has_point: Tensor) -> Tensor:
    """[B], over the samples with a point; inf without."""
    count = has_point.sum(-1)
    total = torch.where(has_point, values, 0.0).sum(-1)
    return torch.where(count > 0, total / count.clamp(min=1), torch.inf)
