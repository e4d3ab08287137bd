"""If f(x) = g(W x) with few rows in W, search costs c = W' lambda in that small space."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from surco.bridge import to_numpy, to_torch
from surco.counted import CountedProblem
from surco.errors import InvalidInputError
from surco.methods.slp import gradient
from surco.protocols import Estimate, HasAggregates, State


@dataclass(frozen=True, slots=True)
class Aggregates:
    """Weights lambda of the k aggregates: gradients of g at good vertices, weights between two vertices, and noise.

    With two aggregates the weights orthogonal to the segment between two neighboring vertices walk the convex hull of
    the attainable aggregates (Dinkelbach-like); with more, each pair of good vertices is treated alike.

    Attributes:
        batch: oracle rows a step, at most.
        patience: steps without a new aggregate vector after which there is nothing left to do.
        noise: relative size of the random weights around the best.
    """

    batch: int = 8
    patience: int = 6
    noise: float = 0.3
    name: str = field(default="aggregates", init=False)

    def init(self, problem: CountedProblem, *, generator: torch.Generator) -> State:
        """Start at each aggregate alone and at the natural costs.

        Raises:
            InvalidInputError: the problem declares no aggregates.
        """
        if not isinstance(problem.inner, HasAggregates):
            raise InvalidInputError(f"{type(problem.inner).__name__} declares no aggregates. Try `zero` or `auto`.")
        W = problem.inner.aggregates()
        scale = W.abs().mean(-1)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        unit = torch.eye(len(W), dtype=W.dtype) / scale
        weights = torch.cat([unit + 1e-6 / scale, unit.sum(0, keepdim=True)])  # a touch of all breaks ties
        state = {
            "W": W,
            "scale": scale,
            "seen": torch.zeros(0, len(W), dtype=W.dtype),
            "x": torch.zeros(0, W.shape[1], dtype=W.dtype),
            "values": torch.zeros(0, dtype=W.dtype),
            "best_weights": unit.sum(0),
            "tried": torch.zeros(0, len(W), dtype=W.dtype),
            "stale": 0,
        }
        return self._look(problem, state, weights)

    def step(
        self, problem: CountedProblem, state: State, *, generator: torch.Generator
    ) -> tuple[State, Estimate | None]:
        """One batch of weights."""
        if not len(state["seen"]):
            return {**state, "done": True}, None
        seen, values, scale = state["seen"], state["values"], state["scale"]
        order = values.argsort()[: self.batch]
        proposals = []
        if problem.is_differentiable:
            _, grads = gradient(problem, state["x"][order[:2]])
            proposals.append(_weights_of(grads, state["W"]))
        if len(order) > 1:
            proposals.append(_between(seen[order[0]], seen[order[1:]], seen, scale))
        exploring = max(1, self.batch // 4)
        z = torch.randn(exploring, len(scale), generator=generator, dtype=scale.dtype)
        around = state["best_weights"] * torch.exp(self.noise * z) + 0.1 * self.noise * z / scale
        proposals.append(around)
        fresh = _untried(torch.cat(proposals), state["tried"])[: self.batch]
        if not len(fresh):
            stale = state["stale"] + 1
            return {**state, "stale": stale, "done": stale >= self.patience}, None
        state = self._look(problem, state, fresh)
        return {**state, "done": state["stale"] >= self.patience}, None

    def _look(self, problem: CountedProblem, state: State, weights: Tensor) -> State:
        """Solve at W' lambda; remember aggregate vectors that were not seen before."""
        W = state["W"]
        batch = problem.oracle.solve(to_numpy(weights @ W))
        keep = torch.from_numpy(batch.has_point)
        x = to_torch(batch.x)[keep]
        values = problem.objective(x)
        ok = torch.isfinite(values)
        x, values, used = x[ok], values[ok], weights[keep][ok]
        points = x @ W.T
        state = {**state, "tried": torch.cat([state["tried"], _normalized(weights)])}
        is_new = torch.ones(len(points), dtype=torch.bool)
        for row, point in enumerate(points):
            earlier = torch.cat([state["seen"], points[:row]])
            if len(earlier):
                near = ((earlier - point).abs() <= 1e-9 * (1 + point.abs())).all(-1)
                is_new[row] = not bool(near.any())
        if len(values) and (not len(state["values"]) or values.min() < state["values"].min()):
            state["best_weights"] = used[int(values.argmin())]
        state["seen"] = torch.cat([state["seen"], points[is_new]])
        state["x"] = torch.cat([state["x"], x[is_new]])
        state["values"] = torch.cat([state["values"], values[is_new]])
        state["stale"] = 0 if bool(is_new.any()) else state["stale"] + 1
        return state


def _weights_of(grads: Tensor, W: Tensor) -> Tensor:
    """Lambda [R, k] with W' lambda closest to each gradient [R, n]: exact where f = g(W x)."""
    return torch.linalg.lstsq(W.T, grads.T).solution.T


def _between(best: Tensor, others: Tensor, seen: Tensor, scale: Tensor) -> Tensor:
    """Weights under which ``best`` and another vertex cost the same, pointing away from the mean of all."""
    difference = (others - best) / scale  # [P, k], scaled aggregates
    outward = (seen.mean(0) - best) / scale
    along = (difference @ outward) / difference.square().sum(-1).clamp_min(1e-30)
    normal = outward - along[:, None] * difference
    return normal / scale


def _normalized(weights: Tensor) -> Tensor:
    return weights / weights.norm(dim=-1, keepdim=True).clamp_min(1e-30)


def _untried(weights: Tensor, tried: Tensor) -> Tensor:
    """Rows that differ in direction from all that were tried and from each other."""
    kept: list[Tensor] = []
    for row in weights:
        if not bool(torch.isfinite(row).all()) or float(row.norm()) == 0.0:
            continue
        direction = _normalized(row)
        others = torch.cat([tried, *[_normalized(k)[None] for k in kept]])
        if not len(others) or float((others @ direction).max()) < 1 - 1e-12:
            kept.append(row)
    return torch.stack(kept) if kept else weights[:0]
