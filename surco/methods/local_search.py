"""Iterated local search: the problem's own moves, or generic flips repaired through the oracle."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from surco.bridge import to_numpy, to_torch
from surco.counted import CountedProblem
from surco.methods.random_perturbation import perturbed
from surco.protocols import Estimate, HasMoves, State


@dataclass(frozen=True, slots=True)
class LocalSearch:
    """Best of a batch of neighbors; after ``patience`` batches without gain, kick the best design and go on.

    Attributes:
        batch: neighbors a step.
        patience: batches without gain that make a local optimum.
        kick: random moves in a row that leave a local optimum; grows while the kicks lead nowhere.
        kicks: kicks without gain after which there is nothing left to do: a small set of designs is then all known.
    """

    batch: int = 64
    patience: int = 4
    kick: int = 3
    kicks: int = 100
    name: str = field(default="local_search", init=False)

    def init(self, problem: CountedProblem, *, generator: torch.Generator) -> State:
        """Start at the incumbent, else at the vertex of the natural costs."""
        if problem.ledger.x is None:
            batch = problem.oracle.solve(to_numpy(problem.initial_costs())[None])
            problem.objective(to_torch(batch.x))
        return {"x": None, "value": float("inf"), "stale": 0, "kicks": 0}

    def step(
        self, problem: CountedProblem, state: State, *, generator: torch.Generator
    ) -> tuple[State, Estimate | None]:
        """One batch of neighbors."""
        best = problem.ledger
        if best.x is None:  # nothing to start from yet: the natural vertex failed
            costs = perturbed(problem.initial_costs(), self.batch // 4, (0.03, 3.0), generator)
            batch = problem.oracle.solve(to_numpy(costs))
            problem.objective(to_torch(batch.x))
            return state, None
        x, value, stale, kicks = state["x"], state["value"], state["stale"], state["kicks"]
        if x is None or (stale == 0 and kicks == 0 and best.value < value):
            x, value = to_torch(best.x), best.value  # another method found a better design: go on from there
        if stale >= self.patience:
            x, value = self._kicked(problem, generator, self.kick * (1 + kicks % 6))
            stale, kicks = 0, kicks + 1
        before = best.value
        neighbors = neighborhood(problem, x, self.batch, generator)
        if not len(neighbors):
            return {"x": x, "value": value, "stale": self.patience, "kicks": kicks + 1, "done": kicks > 20}, None
        values = problem.objective(neighbors)
        found = torch.where(torch.isnan(values), torch.inf, values)
        row = int(found.argmin())
        if float(found[row]) < value:
            x, value, stale = neighbors[row].clone(), float(found[row]), 0
        else:
            stale += 1
        if best.value < before:
            kicks = 0
        return {"x": x, "value": value, "stale": stale, "kicks": kicks, "done": kicks > self.kicks}, None

    def _kicked(self, problem: CountedProblem, generator: torch.Generator, length: int) -> tuple[Tensor, float]:
        """The incumbent after a few random moves; its value is not asked for."""
        x = to_torch(problem.ledger.x)
        for _ in range(length):
            neighbors = neighborhood(problem, x, 1, generator)
            if len(neighbors):
                x = neighbors[0].clone()
        return x, float("inf")


def neighborhood(problem: CountedProblem, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """At most ``count`` feasible neighbors [K, n] of x [n].

    Without moves of the problem, half of the neighbors are steps along one or two coordinates that both the problem's
    check and the oracle's find feasible. The rest are vertices: the one nearest to x with one to three coordinates
    flipped, where the oracle minimizes the distance to that target, sum_i (1 - 2 target_i) x_i for 0/1 variables.
    """
    if isinstance(problem.inner, HasMoves):
        return problem.inner.moves(x, count=count, generator=generator)
    stepped = _steps(problem, x, count // 2, generator) if count > 1 else x[None][:0]
    return torch.cat([stepped, _repaired_flips(problem, x, count - len(stepped), generator)])


def _steps(problem: CountedProblem, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Feasible points one step away from x along one or two coordinates, in sizes from 1 down to 0.01; at most count.

    The way to designs that are no vertices: general integers, and continuous variables.
    """
    rows = 4 * count
    index = torch.randint(len(x), (rows, 2), generator=generator)
    sizes = torch.tensor([1.0, 1.0, 1.0, 0.3, 0.1, 0.01], dtype=x.dtype)
    size = sizes[torch.randint(len(sizes), (rows, 1), generator=generator)]
    sign = torch.randint(2, (rows, 2), generator=generator).to(x.dtype) * 2 - 1
    sign[: rows // 2, 1] = 0.0  # half of them along one coordinate only
    moved = x.repeat(rows, 1).scatter_add(1, index, sign * size)
    moved = moved[(moved != x).any(-1)]
    if not len(moved):
        return moved
    moved = torch.unique(moved, dim=0)
    moved = moved[torch.randperm(len(moved), generator=generator)]
    moved = moved[problem.violation(moved) <= 1e-9]
    # No oracle made these points, so its check counts too: a problem's own often trusts that x is 0/1.
    return moved[torch.from_numpy(np.asarray(problem.oracle.violation(to_numpy(moved))) <= 1e-6)][:count]


def _repaired_flips(problem: CountedProblem, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The vertices nearest to x with a few coordinates flipped, [K, n]."""
    flips = 1 + torch.randint(3, (count,), generator=generator)
    order = torch.rand(count, len(x), generator=generator, dtype=x.dtype).argsort(-1)
    is_flipped = torch.zeros(count, len(x), dtype=torch.bool).scatter(
        1, order[:, :3], torch.arange(3)[None] < flips[:, None]
    )
    low, high = x.amin(), x.amax()
    target = torch.where(is_flipped, low + high - x, x)
    noise = 0.1 * torch.rand(count, len(x), generator=generator, dtype=x.dtype)  # breaks ties among nearest points
    costs = (low + high - 2 * target) * (1 + len(x) * is_flipped.to(x.dtype)) + noise
    if problem.oracle.needs_nonnegative_costs:
        costs = costs - costs.amin(-1, keepdim=True)
    batch = problem.oracle.solve(to_numpy(costs))
    return to_torch(batch.x[batch.has_point])
