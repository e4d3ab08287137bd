"""The learned landscape (LANCER): a smooth model of c -> f(x*(c)), trained while it is used.

For objectives without gradients, and for oracles that take seconds: every oracle answer and every value is kept, and
the gradient comes from the model instead of from more calls.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from surco.errors import InvalidInputError
from surco.estimators.atoms import check_costs, solve_atoms, values_at
from surco.protocols import Estimate, Problem


class Shape(enum.StrEnum):
    """What the model sees."""

    COSTS = "costs"  # M(c): a network of the normalized costs
    QUADRATIC = (
        "quadratic"  # b + sum_i a_i^2 (c_i - t_i)^2 + the slope: the parametric loss of the paper, few parameters
    )


@dataclass(kw_only=True)
class Landscape:
    """Gradient of a model M of the loss c -> f(x*(c)), with M refitted at every call.

        1. M asks: the rows of ``costs`` and ``explored`` perturbed rows around them are solved and valued.
        2. M learns: all pairs (c / rms(c), f) in the buffer, standardized values, ``fits`` steps of Adam.
        3. M answers: loss M(c), gradient dM/dc, which crosses the rms as well.

    No gradient of f is taken and the oracle is never differentiated. The estimator has a memory: use one object for
    one run, on one problem: ``surco.solve(problem, "zero", estimator=Landscape())``. A run that is resumed starts
    with an empty buffer.

    Attributes:
        shape: of M.
        explored: perturbed rows for each row of costs.
        sigma: relative size of the perturbation.
        hidden: width of the network of shape ``costs``.
        fits: Adam steps on M in each call.
        step_size: of Adam.
        capacity: pairs in the buffer; the oldest go first.

    Source: Zharmagambetov et al., "Landscape Surrogate: Learning Decision Losses for Mathematical Optimization Under
        Partial Information" (NeurIPS 2023), algorithm 1 and section 3 (LANCER-zero); the quadratic shape follows its
        parametric losses.

    Note: M sees costs of norm one, because a positive factor changes no answer of the oracle.
    """

    shape: Shape = Shape.QUADRATIC
    explored: int = 3
    sigma: float = 0.3
    hidden: int = 64
    fits: int = 30
    step_size: float = 1e-2
    capacity: int = 2048
    _model: nn.Module | None = field(default=None, init=False, repr=False)
    _moments: list[tuple[Tensor, Tensor]] = field(default_factory=list, init=False, repr=False)
    _steps: int = field(default=0, init=False, repr=False)
    _costs: Tensor | None = field(default=None, init=False, repr=False)
    _values: Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            self.shape = Shape(self.shape)
        except ValueError as error:
            raise InvalidInputError(f"Expected `shape` in {[s.value for s in Shape]}, got {self.shape!r}.") from error
        if self.explored < 0 or self.fits < 1 or self.capacity < 2 or not self.sigma > 0:
            raise InvalidInputError(
                f"Expected explored >= 0, fits >= 1, capacity >= 2 and sigma > 0, got {self.explored}, {self.fits}, "
                f"{self.capacity}, {self.sigma}."
            )

    def __call__(self, problem: Problem, costs: Tensor, *, generator: torch.Generator) -> Estimate:
        """Estimate at ``costs`` [B, n]; atoms [B, 1 + explored, n]."""
        costs = check_costs(problem, costs)
        batch, n = costs.shape
        unit = _normalized(costs)
        z = torch.randn(batch, self.explored, n, generator=generator, dtype=torch.float64).to(costs)
        asked = torch.cat([unit[:, None], unit[:, None] + self.sigma * z], dim=1)
        atoms, has_point = solve_atoms(problem, asked)
        values = values_at(problem, atoms, has_point)
        is_known = torch.isfinite(values)
        self._remember(_normalized(asked)[is_known], values[is_known])
        if self._costs is None or self._values is None or len(self._values) < 2:
            loss = torch.where(is_known[:, 0], values[:, 0], torch.inf)
            return Estimate(loss, torch.zeros_like(costs), atoms, values)
        mean, deviation = self._values.mean(), self._values.std().clamp(min=1e-12)
        model = self._fitted(generator, (self._values - mean) / deviation)
        leaf = costs.clone().requires_grad_()
        with torch.enable_grad():
            predicted = model(_normalized(leaf)) * deviation + mean
            (grad,) = torch.autograd.grad(predicted.sum(), leaf)
        return Estimate(predicted.detach(), torch.nan_to_num(grad), atoms, values)

    def _remember(self, costs: Tensor, values: Tensor) -> None:
        if self._costs is not None and self._costs.shape[-1] != costs.shape[-1]:
            raise InvalidInputError(
                f"Expected costs of {self._costs.shape[-1]} variables, got {costs.shape[-1]}: a Landscape remembers "
                "one problem. Build a new one."
            )
        self._costs = costs if self._costs is None else torch.cat([self._costs, costs])[-self.capacity :]
        self._values = values if self._values is None else torch.cat([self._values, values])[-self.capacity :]

    def _fitted(self, generator: torch.Generator, targets: Tensor) -> nn.Module:
        """M after a few steps of regression on the buffer."""
        assert self._costs is not None
        if self._model is None:
            seed = int(torch.randint(2**31, (1,), generator=generator))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                n = self._costs.shape[-1]
                model = (
                    _Quadratic(n, self._costs[int(targets.argmin())])
                    if self.shape is Shape.QUADRATIC
                    else _Net(n, self.hidden)
                )
            self._model = model.to(self._costs)
            self._moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in model.parameters()]
        model = self._model
        parameters = list(model.parameters())
        with torch.enable_grad():
            for _ in range(self.fits):
                loss = (model(self._costs) - targets).square().mean() + 1e-4 * sum(
                    p.square().mean() for p in parameters
                )
                gradients = torch.autograd.grad(loss, parameters)
                self._descend(parameters, gradients)
        return model

    @torch.no_grad()
    def _descend(self, parameters: Sequence[Tensor], gradients: tuple[Tensor, ...]) -> None:
        self._steps += 1
        for p, g, (m, v) in zip(parameters, gradients, self._moments, strict=True):
            m.mul_(0.9).add_(g, alpha=0.1)
            v.mul_(0.999).addcmul_(g, g, value=0.001)
            scale = (v / (1 - 0.999**self._steps)).sqrt().add_(1e-8)
            p.addcdiv_(m, scale, value=-self.step_size / (1 - 0.9**self._steps))


class _Quadratic(nn.Module):
    """b + s . c + sum a_i^2 (c_i - t_i)^2, t started at the best costs known."""

    def __init__(self, n: int, best: Tensor) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(()))
        self.slope = nn.Parameter(torch.zeros(n))
        self.width = nn.Parameter(torch.full((n,), 0.5 / math.sqrt(n)))
        self.target = nn.Parameter(best.detach().clone().float())

    def forward(self, costs: Tensor) -> Tensor:
        shift = costs - self.target
        return self.offset + costs @ self.slope + (self.width.square() * shift.square()).sum(-1)


class _Net(nn.Module):
    """A perceptron of the costs."""

    def __init__(self, n: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1)
        )

    def forward(self, costs: Tensor) -> Tensor:
        return self.layers(costs).squeeze(-1)


def _normalized(costs: Tensor) -> Tensor:
    """Costs over their root mean square."""
    return costs / costs.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-12)
