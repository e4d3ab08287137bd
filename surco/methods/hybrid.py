"""SurCo-hybrid: start from the costs of a trained network, then learn on the instance as ``zero`` does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from surco.counted import CountedProblem
from surco.methods.prior import prior_costs
from surco.methods.random_perturbation import cost_scale
from surco.methods.zero import Zero
from surco.protocols import Estimate, GradientEstimator, State

if TYPE_CHECKING:
    from surco.training.prior import Prior


@dataclass(frozen=True, slots=True)
class Hybrid:
    """``zero`` whose rows start half at the costs of a prior and half where ``zero`` starts.

    Row 0 starts at the prior's costs, row 2 at perturbed ones; the other rows, and what they do later, are those of
    :class:`Zero`, so that a prior that is wrong costs half of the rows and no more.

    Attributes:
        prior: a :class:`surco.Prior`, or the folder of a saved one.
        estimator: as in :class:`Zero`, as are the others.
        restarts: rows.
        step_size: Adam's step, relative to mean |c|.
        patience: steps without a better vertex after which a row starts again.
        noise: relative noise of a new start.

    Source: Ferber et al., ICML 2023, section 3.3.
    """

    prior: Prior | str | Path | None = None
    estimator: str | GradientEstimator | None = None
    restarts: int = 4
    step_size: float = 0.02
    patience: int = 8
    noise: float = 0.5
    name: str = field(default="hybrid", init=False)

    def _zero(self) -> Zero:
        return Zero(self.estimator, self.restarts, self.step_size, self.patience, self.noise)

    def init(self, problem: CountedProblem, *, generator: torch.Generator) -> State:
        """Rows of ``zero``, some replaced by the prior's.

        Raises:
            InvalidInputError: no prior given, or its schema does not describe this problem.
        """
        center = prior_costs(self.prior, problem, self.name)
        state = self._zero().init(problem, generator=generator)
        costs = state["costs"].clone()
        natural = costs[0].clone()
        z = torch.randn(len(center), generator=generator, dtype=center.dtype)
        costs[0] = center
        if len(costs) > 2:
            costs[2] = center + self.noise / 3 * (center.abs() + 1e-3 * cost_scale(center)) * z
        if len(costs) > 3:
            costs[3] = natural
        return {**state, "costs": costs, "best_costs": center}

    def step(
        self, problem: CountedProblem, state: State, *, generator: torch.Generator
    ) -> tuple[State, Estimate | None]:
        """A step of ``zero``."""
        return self._zero().step(problem, state, generator=generator)
