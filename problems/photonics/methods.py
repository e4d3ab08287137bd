"""Pass-through and SurCo-zero on filtered latent variables: one loop, two estimators.

latent -> mean under the brush -> tanh -> rewards -> oracle. The estimator gives d loss / d costs at the answer,
autograd carries it on to the latent, Adam steps. With the identity estimator this is the straight-through generator of
Schubert et al. (2022); with interpolation (two oracle calls a step) it is SurCo-zero of Ferber et al. (2023).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from surco.counted import CountedProblem
from surco.errors import InvalidInputError
from surco.estimators import Identity, Interpolation, Projection
from surco.protocols import Estimate, GradientEstimator, State


@runtime_checkable
class HasLatent(Protocol):
    """A problem that offers a smooth map from latent variables to costs."""

    def latent_costs(self, latent: Tensor, *, sharpness: float) -> Tensor:
        """[R, m] -> costs [R, n], differentiable."""
        ...

    def initial_latent(self, rows: int, *, generator: torch.Generator) -> Tensor:
        """[R, m] starts."""
        ...

    def metric(self, x: Tensor) -> float:
        """> 0 when design x [n] is good enough to stop."""
        ...


@dataclass(frozen=True, slots=True)
class LatentDescent:
    """Adam on latent variables through an oracle.

    Attributes:
        estimator: d loss / d costs.
        restarts: rows that learn side by side.
        step_size: Adam's step.
        betas: Adam's decay rates.
        sharpness: slope of the tanh.
        patience: steps without a better value after which a row starts again.
        stops_at_spec: end the run when the incumbent's metric is positive.
        name: for tables.
    """

    estimator: GradientEstimator = field(default_factory=lambda: Identity(projection=Projection.NONE))
    restarts: int = 1
    step_size: float = 0.05
    betas: tuple[float, float] = (0.667, 0.9)
    sharpness: float = 8.0
    patience: int = 200
    stops_at_spec: bool = True
    name: str = "latent"

    needs: ClassVar[type] = HasLatent

    def init(self, problem: CountedProblem, *, generator: torch.Generator) -> State:
        """Random latents around the solid design."""
        inner = problem.inner
        if not isinstance(inner, HasLatent):
            raise InvalidInputError(f"Method `{self.name}` needs a problem with latent variables (photonics has them).")
        latent = inner.initial_latent(self.restarts, generator=generator)
        return {"step": 0, **_fresh(latent)}

    def step(
        self, problem: CountedProblem, state: State, *, generator: torch.Generator
    ) -> tuple[State, Estimate | None]:
        """One estimate and one Adam step."""
        inner = problem.inner
        assert isinstance(inner, HasLatent)
        latent = state["latent"].clone().requires_grad_()
        costs = inner.latent_costs(latent, sharpness=self.sharpness)
        estimate = self.estimator(problem, costs.detach(), generator=generator)
        ledger = problem.ledger
        if self.stops_at_spec and ledger.x is not None and inner.metric(torch.from_numpy(ledger.x)) > 0:
            return {**state, "done": True}, estimate
        (gradient,) = torch.autograd.grad(costs, latent, estimate.grad)
        first, second = self.betas
        t = state["t"] + 1
        m = first * state["m"] + (1 - first) * gradient
        v = second * state["v"] + (1 - second) * gradient.square()
        scale = gradient.abs().amax(-1, keepdim=True)
        move = (m / (1 - first**t)) / ((v / (1 - second**t)).sqrt() + 1e-8 * scale + 1e-300)
        values = torch.where(torch.isnan(estimate.values), torch.inf, estimate.values).amin(-1)
        is_better = values < state["row_best"]
        new = {
            "step": state["step"] + 1,
            "latent": state["latent"] - self.step_size * move,
            "m": m,
            "v": v,
            "t": t,
            "stale": torch.where(is_better, torch.zeros_like(state["stale"]), state["stale"] + 1),
            "row_best": torch.minimum(values, state["row_best"]),
        }
        stalled = new["stale"] >= self.patience
        if bool(stalled.any()):
            fresh = _fresh(inner.initial_latent(int(stalled.sum()), generator=generator))
            for key, value in fresh.items():
                column = new[key].clone()
                column[stalled] = value
                new[key] = column
        return new, estimate


def _fresh(latent: Tensor) -> State:
    rows = len(latent)
    return {
        "latent": latent,
        "m": torch.zeros_like(latent),
        "v": torch.zeros_like(latent),
        "t": torch.zeros(rows, 1, dtype=latent.dtype),
        "stale": torch.zeros(rows, dtype=torch.int64),
        "row_best": torch.full((rows,), torch.inf, dtype=latent.dtype),
    }


def pass_through(**options: object) -> LatentDescent:
    """The straight-through generator: Adam with the literature's decay rates.

    Note: the literature's step of 0.01 also works; 0.05 reaches the spec in a third of the calls on all devices.
    """
    return LatentDescent(**({"name": "pass_through"} | options))  # type: ignore[arg-type]


def latent_zero(strength: float = 1.0, **options: object) -> LatentDescent:
    """SurCo-zero: interpolated gradients of the painter, two oracle calls a step."""
    estimator = Interpolation(strengths=(strength,), is_target_valued=False)
    return LatentDescent(**({"name": "latent_zero", "estimator": estimator} | options))  # type: ignore[arg-type]
