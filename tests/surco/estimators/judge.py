"""The independent judge of the estimators: polytopes small enough to enumerate, probabilities by quadrature.

Nothing here uses the code under test. With independent noise on each cost, the probability that a set of k is the
cheapest one is a one-dimensional integral, and autograd through the integral gives exact gradients of smoothed losses.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from solvers.oracle import OracleBatch, Status


class Enumerated:
    """Oracle over the listed vertices; rows of NaN costs, and rows whose answer is in ``mute``, have no point."""

    def __init__(self, vertices: np.ndarray, mute: tuple[int, ...] = ()) -> None:
        self.vertices = np.asarray(vertices, dtype=np.float64)
        self.mute = mute
        self.calls: list[int] = []

    @property
    def n(self) -> int:
        return self.vertices.shape[1]

    def solve(self, costs: np.ndarray) -> OracleBatch:
        self.calls.append(len(costs))
        table = costs @ self.vertices.T
        best = np.argmin(np.nan_to_num(table, nan=np.inf), axis=1)
        bad = np.isnan(costs).any(1) | np.isin(best, self.mute)
        x = np.where(bad[:, None], np.nan, self.vertices[best])
        value = np.einsum("bn,bn->b", costs, x)
        status = tuple(Status.ERROR if b else Status.OPTIMAL for b in bad)
        return OracleBatch(x, value, np.where(bad, -np.inf, value), status, np.zeros(len(costs)), ("",) * len(costs))

    def violation(self, x: np.ndarray) -> np.ndarray:
        return np.abs(x[..., None, :] - self.vertices).max(-1).min(-1)


class Tiny:
    """A problem on an enumerated set."""

    def __init__(self, oracle: Enumerated, f: Callable[[Tensor], Tensor], *, is_differentiable: bool = True) -> None:
        self.oracle = oracle
        self.f = f
        self.is_differentiable = is_differentiable
        self.calls: list[int] = []

    def objective(self, x: Tensor) -> Tensor:
        self.calls.append(x.shape[:-1].numel())
        return self.f(x)

    def violation(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.oracle.violation(x.detach().double().numpy())).to(x)

    def initial_costs(self) -> Tensor:
        return torch.linspace(0.5, 1.5, self.oracle.n, dtype=torch.float64)


def subsets(n: int, k: int) -> np.ndarray:
    """Indicator vectors of all sets of k of n, [C(n, k), n]."""
    return np.array([[float(i in chosen) for i in range(n)] for chosen in itertools.combinations(range(n), k)])


def probabilities(costs: Tensor, scale: Tensor | float, k: int) -> Tensor:
    """P(each set of ``subsets(n, k)`` is the cheapest) for costs + scale * standard normal noise; [C(n, k)].

    The set S wins where its largest cost t is below all others: the integral over t of
    sum over i in S of density_i(t) prod of cdf_j(t) over S without i, prod of 1 - cdf_l(t) outside S.
    """
    scale = torch.as_tensor(scale, dtype=torch.float64)
    with torch.no_grad():
        t = torch.linspace(float(costs.min() - 9 * scale), float(costs.max() + 9 * scale), 4001, dtype=torch.float64)
    u = (t[:, None] - costs) / scale
    density = torch.exp(-0.5 * u**2) / (scale * (2 * torch.pi) ** 0.5)
    below = torch.special.ndtr(u)
    above = torch.special.ndtr(-u)
    n, found = len(costs), []
    for chosen in itertools.combinations(range(n), k):
        outside = torch.stack([above[:, j] for j in range(n) if j not in chosen]).prod(0)
        parts = []
        for i in chosen:
            inside = [below[:, j] for j in chosen if j != i]
            parts.append(density[:, i] * (torch.stack(inside).prod(0) if inside else 1.0))
        found.append(torch.trapezoid(torch.stack(parts).sum(0) * outside, t))
    return torch.stack(found)


def rms(costs: Tensor) -> Tensor:
    return costs.square().mean().sqrt()


def gradient(loss: Callable[[Tensor], Tensor], costs: Tensor) -> Tensor:
    """Gradient of a scalar loss by autograd."""
    leaf = costs.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(leaf), leaf)
    return found


def finite_differences(loss: Callable[[Tensor], Tensor], costs: Tensor, step: float = 1e-5) -> Tensor:
    """Central differences of a scalar loss."""
    eye = torch.eye(len(costs), dtype=torch.float64) * step
    return torch.stack([(loss(costs + d) - loss(costs - d)) / (2 * step) for d in eye])


def assert_mean(samples: Tensor, expected: Tensor, *, power: float = 0.16) -> None:
    """The mean of independent ``samples`` [R, n] is ``expected`` [n] within 4.5 standard errors.

    ``power`` guards the test itself: the allowance must be under that fraction of the largest expected component.
    """
    error = samples.std(0) / len(samples) ** 0.5
    allowance = 4.5 * error + 1e-9
    assert float(allowance.max()) < power * float(expected.abs().max()), "too few replicates to tell"
    difference = (samples.mean(0) - expected).abs()
    assert bool((difference <= allowance).all()), f"{samples.mean(0)} is not {expected}, errors {error}"


QUADRATIC_A = torch.tensor(
    [[2.0, 0.5, 0.0, -1.0], [0.5, 1.0, 1.5, 0.0], [0.0, 1.5, -2.0, 0.5], [-1.0, 0.0, 0.5, 3.0]]
).double()
QUADRATIC_B = torch.tensor([1.0, -2.0, 3.0, 0.5]).double()


def quadratic(x: Tensor) -> Tensor:
    """An indefinite quadratic in the first variables of 4."""
    n = x.shape[-1]
    a, b = QUADRATIC_A[:n, :n].to(x), QUADRATIC_B[:n].to(x)
    return ((x @ a) * x).sum(-1) + x @ b


def nonlinear(x: Tensor) -> Tensor:
    """Smooth and neither convex nor concave."""
    n = x.shape[-1]
    b = QUADRATIC_B[:n].to(x)
    return torch.sin(2.0 * (x * b).sum(-1)) + torch.exp(0.7 * x[..., 0] - x[..., -1]) + 5.0
