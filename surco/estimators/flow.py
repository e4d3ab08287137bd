"""Does the gradient reach the costs? A cut graph is silent: backward succeeds, and nothing is ever learned."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch

from surco.protocols import Estimate, State


class Flow(enum.StrEnum):
    """What one estimate tells about the way from f back to the costs."""

    FLOWING = "flowing"  # at least one row has a gradient
    FLAT = "flat"  # all gradients are zero and f took one value a row: nothing to learn here, costs may be converged
    BLOCKED = "blocked"  # all gradients are zero although f differs between the vertices of a row
    EMPTY = "empty"  # no finite value at all: the oracle or the objective failed everywhere

    @property
    def remedy(self) -> str:
        """What to try where it persists; empty while the gradient flows."""
        return _REMEDIES[self]


_REMEDIES = {
    Flow.FLOWING: "",
    Flow.FLAT: "every perturbed answer has the same value: use a larger sigma or strength, or restart elsewhere",
    Flow.BLOCKED: (
        "values differ but their gradient is zero: the objective is piecewise constant for autograd (round, argmax, "
        "one_hot, comparison), or the strength is too small; take the loss at x itself, or use ScoreFunction()"
    ),
    Flow.EMPTY: "no vertex has a finite value: look at the oracle's statuses and the objective's domain",
}


def gradient_flow(estimate: Estimate) -> Flow:
    """Classify one estimate.

    A graph that autograd finds cut raises :class:`~surco.errors.CutGradientError` in the estimator already; this finds
    gradients that exist and are zero.
    """
    if bool((estimate.grad != 0).any()):
        return Flow.FLOWING
    is_finite = torch.isfinite(estimate.values)
    if not bool(is_finite.any()):
        return Flow.EMPTY
    low = torch.where(is_finite, estimate.values, torch.inf).amin(-1)
    high = torch.where(is_finite, estimate.values, -torch.inf).amax(-1)
    return Flow.BLOCKED if bool((high > low).any()) else Flow.FLAT


@dataclass(slots=True)
class GradientWatch:
    """Counts steps in a row without any gradient, and says when to react.

    One zero gradient means little: an interpolation whose vertex did not change has one. Several in a row mean that the
    method does not learn, and it should enlarge sigma, restart, or change the estimator.

    Attributes:
        patience: steps in a row that are borne.
        steps: steps in a row so far.

    Example:
        >>> watch = GradientWatch(patience=3)
        >>> nothing = torch.zeros(1, 2)
        >>> estimate = Estimate(torch.zeros(1), nothing, torch.zeros(1, 2, 2), torch.tensor([[1.0, 2.0]]))
        >>> [watch.observe(estimate) for _ in range(3)][-1].value, watch.is_stuck
        ('blocked', True)
    """

    patience: int = 5
    steps: int = 0

    def observe(self, estimate: Estimate) -> Flow:
        """Count one step."""
        flow = gradient_flow(estimate)
        self.steps = 0 if flow is Flow.FLOWING else self.steps + 1
        return flow

    @property
    def is_stuck(self) -> bool:
        """Whether ``patience`` steps in a row had no gradient."""
        return self.steps >= self.patience

    def state(self) -> State:
        """Plain data, for a method's state."""
        return {"patience": self.patience, "steps": self.steps}

    @classmethod
    def from_state(cls, state: State) -> GradientWatch:
        """The watch of a saved state."""
        return cls(patience=int(state["patience"]), steps=int(state["steps"]))
