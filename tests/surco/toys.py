"""Small problems with answers that enumeration can judge, and oracles that misbehave on purpose."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from solvers.oracle import Array, OracleBatch, Status, as_costs


class ChooseK:
    """Exactly k of n: the oracle is a sort."""

    def __init__(self, n: int, k: int) -> None:
        self.n, self.k = n, k

    def solve(self, costs: Array) -> OracleBatch:
        costs = as_costs(costs, self.n)
        x = np.zeros_like(costs)
        np.put_along_axis(x, np.argsort(costs, axis=1, kind="stable")[:, : self.k], 1.0, axis=1)
        return OracleBatch.exact(x, costs)

    def violation(self, x: Array) -> Array:
        x = np.asarray(x)
        return np.abs(x.sum(-1) - self.k) + np.abs(x - np.round(x)).max(-1) + np.maximum(-x, x - 1).max(-1).clip(0)


class QuadraticChoice:
    """min x'Qx + b.x over k of n; convex if Q is positive semidefinite."""

    is_convex = True

    def __init__(
        self, n: int = 10, k: int = 4, seed: int = 0, scale: float = 1.0, oracle: object | None = None
    ) -> None:
        rng = np.random.default_rng(seed)
        root = rng.normal(size=(n, n))
        self.Q = torch.from_numpy(scale * root @ root.T)
        self.b = torch.from_numpy(scale * rng.normal(size=n) * 4)
        self.n, self.k = n, k
        self.oracle = oracle or ChooseK(n, k)
        self.evaluations = 0

    def objective(self, x: Tensor) -> Tensor:
        self.evaluations += x[..., 0].numel()
        return ((x @ self.Q) * x).sum(-1) + x @ self.b

    def violation(self, x: Tensor) -> Tensor:
        return (x.sum(-1) - self.k).abs() + (x * (1 - x)).abs().amax(-1)

    def initial_costs(self) -> Tensor:
        return self.Q.diagonal() + self.b

    def optimum(self) -> float:
        best = np.inf
        for chosen in itertools.combinations(range(self.n), self.k):
            x = torch.zeros(self.n, dtype=torch.float64)
            x[list(chosen)] = 1
            best = min(best, float(self.objective(x)))
        return best


class BlackBox(QuadraticChoice):
    """The same without a gradient, valued by ``function`` of one design."""

    is_convex = False
    is_differentiable = False

    def __init__(self, function: Callable[[Tensor], float] | None = None, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.function = function
        self.is_rowwise = function is not None

    def objective(self, x: Tensor) -> Tensor:
        if self.function is None:
            return super().objective(x)
        self.evaluations += len(x)
        return torch.tensor([self.function(row) for row in x], dtype=torch.float64)


class Broken:
    """An oracle that fails every ``period``-th row in a chosen way."""

    def __init__(self, how: str, n: int = 10, k: int = 4, period: int = 2) -> None:
        self.inner, self.how, self.period, self.n, self.count = ChooseK(n, k), how, period, n, 0

    def solve(self, costs: Array) -> OracleBatch:
        batch = self.inner.solve(costs)
        x = batch.x.copy()
        status = list(batch.status)
        for row in range(len(batch)):
            self.count += 1
            if self.count % self.period:
                continue
            if self.how == "raise":
                raise RuntimeError("license lost")
            if self.how == "lie":
                x[row] = 0.0  # chooses none: cheapest of all if costs are positive, and not feasible
            if self.how in ("error", "infeasible", "limit"):
                x[row], status[row] = np.nan, Status(self.how)
        return OracleBatch(x, batch.objective, batch.bound, tuple(status), batch.seconds, batch.message)

    def violation(self, x: Array) -> Array:
        return self.inner.violation(x)
