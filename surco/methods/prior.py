"""SurCo-prior: costs of a new instance from a trained network, then one oracle call."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from surco.bridge import to_numpy, to_torch
from surco.counted import CountedProblem
from surco.errors import InvalidInputError
from surco.methods.random_perturbation import perturbed
from surco.protocols import Estimate, State

if TYPE_CHECKING:
    from surco.training.prior import Prior


@dataclass(frozen=True, slots=True)
class PriorMethod:
    """One forward pass, one oracle call; with ``is_sampling`` more vertices around those costs follow.

    Attributes:
        prior: a :class:`surco.Prior`, or the folder of a saved one.
        is_sampling: go on with perturbed costs of the prior until the budget ends.
        batch: cost rows of a step of sampling.
        noise: least and most relative noise of the sampling.

    Source: Ferber et al., ICML 2023, section 3.2.
    """

    prior: Prior | str | Path | None = None
    is_sampling: bool = False
    batch: int = 16
    noise: tuple[float, float] = (0.01, 1.0)
    name: str = field(default="prior", init=False)

    def init(self, problem: CountedProblem, *, generator: torch.Generator) -> State:
        """The forward pass.

        Raises:
            InvalidInputError: no prior given, or its schema does not describe this problem.
        """
        return {"center": prior_costs(self.prior, problem, self.name), "is_first": True}

    def step(
        self, problem: CountedProblem, state: State, *, generator: torch.Generator
    ) -> tuple[State, Estimate | None]:
        """The one call, or a batch around it."""
        center = state["center"]
        rows = center[None] if state["is_first"] else perturbed(center, self.batch, self.noise, generator)
        batch = problem.oracle.solve(to_numpy(rows))
        problem.objective(to_torch(batch.x))
        return {**state, "is_first": False, "done": not self.is_sampling}, None


def prior_costs(prior: Prior | str | Path | None, problem: CountedProblem, method: str) -> torch.Tensor:
    """Costs [n] of a prior for the problem behind the ledger."""
    from surco.training.prior import as_prior

    if prior is None:
        raise InvalidInputError(
            f"Method `{method}` needs a trained prior. Try `surco train FAMILY --out DIR`, then `prior=DIR`."
        )
    return as_prior(prior).costs(problem.inner)


def check_prior(prior: Prior | str | Path, problem: CountedProblem) -> None:
    """Raise InvalidInputError where the prior's schema does not describe the problem behind the ledger."""
    from surco.training.prior import as_prior

    as_prior(prior).check(problem.inner)
