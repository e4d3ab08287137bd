"""SurCo-zero: learn the linear costs of one instance by gradients through the oracle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from surco.counted import CountedProblem
from surco.methods.random_perturbation import cost_scale, perturbed
from surco.methods.slp import gradient
from surco.protocols import Estimate, GradientEstimator, State


@dataclass(frozen=True, slots=True)
class Zero:
    """Adam on the costs of several restarts at once, d loss / d costs from a gradient estimator.

    Row 0 starts at the natural costs, row 1 at grad f of the best design known, the others at perturbed natural costs;
    a row that stalls starts again around the best costs so far. Steps are relative to mean |c|, so that scaling f or c
    changes nothing.

    Attributes:
        estimator: name in :data:`surco.estimators.ESTIMATORS`, an estimator, or None: ``"identity"`` for a
            differentiable objective, ``"score-function"`` for a black box.
        restarts: rows R that learn side by side; their oracle calls form one batch.
        step_size: Adam's step, relative to mean |c|; the rows take steps between a third and three times of it.
        patience: steps without a better vertex after which a row starts again.
        noise: relative noise of a new start.

    Source: Ferber et al., "SurCo: Learning Linear Surrogates for Combinatorial Nonlinear Optimization Problems",
        ICML 2023, section 3.1.
    """

    estimator: str | GradientEstimator | None = None
    restarts: int = 4
    step_size: float = 0.02
    patience: int = 8
    noise: float = 0.5
    name: str = field(default="zero", init=False)

    def init(self, problem: CountedProblem, *, generator: torch.Generator) -> State:
        """Starting costs of every row."""
        center = problem.initial_costs().detach().clone()
        costs = perturbed(center, self.restarts, (self.noise / 3, self.noise), generator)
        costs[0] = center
        return {**_fresh_rows(costs), "best_costs": center, "best_value": float("inf"), "seeded": False}

    def step(
        self, problem: CountedProblem, state: State, *, generator: torch.Generator
    ) -> tuple[State, Estimate | None]:
        """One estimate, one Adam step, new starts for stalled rows."""
        costs = state["costs"]
        if not state["seeded"] and problem.is_differentiable and problem.ledger.x is not None and len(costs) > 1:
            _, grads = gradient(problem, torch.from_numpy(problem.ledger.x)[None])
            if float(grads.abs().sum()) > 0:
                costs = torch.cat([costs[:1], grads * cost_scale(costs[:1]) / cost_scale(grads), costs[2:]])
            state = {**state, "seeded": True}
        estimate = self._estimator(problem)(problem, costs, generator=generator)
        values = torch.where(torch.isnan(estimate.values), torch.inf, estimate.values).amin(-1)  # [R]
        state = dict(state)
        row = int(values.argmin())
        if float(values[row]) < state["best_value"]:
            state["best_value"], state["best_costs"] = float(values[row]), costs[row].clone()
        better = values < state["row_best"]
        stale = torch.where(better, torch.zeros_like(state["stale"]), state["stale"] + 1)
        # Relative steps: Adam's direction has entries of about 1, so they are scaled by mean |c|.
        t = state["t"] + 1
        m = 0.9 * state["m"] + 0.1 * estimate.grad
        v = 0.999 * state["v"] + 0.001 * estimate.grad.square()
        direction = (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8 * cost_scale(estimate.grad))
        spread = torch.logspace(-0.5, 0.5, len(costs), base=10.0, dtype=costs.dtype)[:, None]
        moved = costs - self.step_size * spread * cost_scale(costs) * direction
        if problem.oracle.needs_nonnegative_costs:
            moved = moved.clamp_min(0.0)
        state.update(costs=moved, m=m, v=v, t=t, stale=stale, row_best=torch.minimum(values, state["row_best"]))
        stalled = stale >= self.patience
        if bool(stalled.any()):
            state = self._restarted(state, stalled, generator)
        return state, estimate

    def _estimator(self, problem: CountedProblem) -> GradientEstimator:
        from surco.estimators import build_estimator

        chosen = self.estimator
        if chosen is None:
            chosen = "identity" if problem.is_differentiable else "score-function"
        return build_estimator(chosen) if isinstance(chosen, str) else chosen

    def _restarted(self, state: State, stalled: Tensor, generator: torch.Generator) -> State:
        """New costs around the best so far for the rows that stalled."""
        rows = int(stalled.sum())
        fresh = _fresh_rows(perturbed(state["best_costs"], rows, (self.noise / 10, 2 * self.noise), generator))
        out: dict[str, Any] = dict(state)
        for name, value in fresh.items():
            column = state[name].clone()
            column[stalled] = value
            out[name] = column
        return out


def _fresh_rows(costs: Tensor) -> State:
    rows = len(costs)
    return {
        "costs": costs,
        "m": torch.zeros_like(costs),
        "v": torch.zeros_like(costs),
        "t": torch.zeros(rows, 1, dtype=costs.dtype),
        "stale": torch.zeros(rows, dtype=torch.int64),
        "row_best": torch.full((rows,), torch.inf, dtype=costs.dtype),
    }
