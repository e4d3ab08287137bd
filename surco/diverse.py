"""Several good designs that differ: each at least a distance from the others, each checked by itself.

The first design is an ordinary solve. Each further one searches the same feasible set with the objective

    f(x) + weight * max over chosen y of (d - |x - y|_1)_+ / d,

and natural costs that make the chosen designs dear; only designs that keep the distance count. Every vertex that any of
the runs has seen is a candidate for every place.

Source: in the spirit of GenCO (Ferber et al., 2024), by the solver alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from solvers.oracle import Array, LinearOracle
from surco.bridge import to_numpy, to_torch
from surco.errors import InvalidInputError, NoDesignError
from surco.ledger import FEASIBILITY_TOLERANCE, Ledger
from surco.protocols import HasMetrics, Problem, is_differentiable, is_rowwise
from surco.result import Result, SolveStatus

DISTANCE_TOLERANCE = 1e-6
Solve = Callable[..., Result]


class DistantProblem:
    """A problem whose designs must keep away from some chosen ones.

    Args:
        inner: the problem.
        chosen: [K, n] designs.
        min_distance: d, least sum of |x_i - y_i|.
        weight: of the penalty, in the unit of f.
    """

    def __init__(self, inner: Problem, chosen: Tensor, min_distance: float, weight: float) -> None:
        self.inner, self.chosen, self.min_distance, self.weight = inner, chosen, min_distance, weight
        self.is_differentiable = is_differentiable(inner)
        self.is_rowwise = is_rowwise(inner)
        self.id = str(getattr(inner, "id", ""))

    @property
    def oracle(self) -> LinearOracle:
        """The same feasible set."""
        return self.inner.oracle

    @property
    def spec(self) -> Mapping[str, Any]:
        """Of the inner problem."""
        return getattr(self.inner, "spec", {})

    def shortfall(self, x: Tensor) -> Tensor:
        """Largest d - |x - y|_1 over the chosen y, at least 0; [..., n] -> [...]."""
        distance = (x[..., None, :] - self.chosen.to(x)).abs().sum(-1)
        return (self.min_distance - distance).clamp(min=0.0).amax(-1)

    def objective(self, x: Tensor) -> Tensor:
        """F with the penalty; f itself where the distance is kept."""
        return self.inner.objective(x) + self.weight * self.shortfall(x) / self.min_distance

    def violation(self, x: Tensor) -> Tensor:
        """Of the inner rules or of the distance."""
        return torch.maximum(self.inner.violation(x), self.shortfall(x))

    def initial_costs(self) -> Tensor:
        """The natural costs, with what the chosen designs use made dearer."""
        costs = self.inner.initial_costs()
        return costs + costs.abs().mean().clamp(min=1e-12) * self.chosen.to(costs).mean(0)

    def heuristics(self) -> Mapping[str, Tensor]:
        """Vertices under ever greater penalties on the chosen designs."""
        costs = self.inner.initial_costs()
        scale = costs.abs().mean().clamp(min=1e-12)
        used = self.chosen.to(costs)
        push = torch.cat([used.mean(0, keepdim=True), used[-1:]])
        rows = torch.cat([costs + factor * scale * push for factor in (0.3, 1.0, 3.0, 10.0, 100.0)])
        found = self.oracle.solve(to_numpy(rows))
        return {f"penalty {k}": to_torch(x) for k, x in enumerate(found.x) if found.has_point[k]}


def solve_diverse(
    solve: Solve,
    problem: Problem,
    method: Any,
    *,
    designs: int,
    min_distance: float,
    limits: Mapping[str, float | None],
    callback: Callable[[Ledger], bool | None] | None,
    **options: Any,
) -> tuple[Result, ...]:
    """At most ``designs`` results, sorted by value; each place gets an equal share of the limits.

    Raises:
        InvalidInputError: ``designs`` < 1 or ``min_distance`` <= 0.
    """
    if isinstance(designs, bool) or not isinstance(designs, int) or designs < 1:
        raise InvalidInputError(f"Expected `designs` to be an integer of at least 1, got {designs!r}.")
    if not (min_distance > 0 and math.isfinite(min_distance)):
        raise InvalidInputError(
            f"Expected `min_distance` > 0 and finite, got {min_distance!r}. For 0/1 designs it counts the entries that "
            "differ; 2 asks for one table on another device."
        )
    shares = {
        name: None if limit is None else (limit / designs if name == "seconds" else max(1, int(limit // designs)))
        for name, limit in limits.items()
    }
    ledgers: list[Ledger] = []

    def watch(ledger: Ledger) -> bool | None:
        if not ledgers or ledgers[-1] is not ledger:
            ledgers.append(ledger)
        return callback(ledger) if callback is not None else None

    first = solve(problem, method, **shares, callback=watch, **options)
    results = [first]
    runner = method if isinstance(method, str) and method not in ("exact", "aggregates") else "auto"
    if method == "prior":  # one answer is one design: the others are searched for from there
        runner, options = "hybrid", {"prior": options.get("prior")}
    while len(results) < designs:
        chosen = to_torch(np.stack([result.x for result in results]))
        distant = DistantProblem(problem, chosen, min_distance, max(abs(first.value), 1e-9))
        found: Result | None = None
        try:
            found = solve(distant, runner, **shares, callback=watch, **options)
        except NoDesignError:
            found = None  # a candidate of an earlier run may still serve
        best = _candidate(distant, ledgers, found)
        if best is None:
            break
        x, value = best
        metrics = dict(problem.metrics(to_torch(x))) if isinstance(problem, HasMetrics) else {}
        base = found if found is not None else dataclasses.replace(first, status=SolveStatus.BUDGET)
        results.append(dataclasses.replace(base, x=x, value=value, bound=first.bound, metrics=metrics, problem=problem))
    results.sort(key=lambda result: result.value)
    certify(problem, results, min_distance)
    if len(results) < designs:
        note = f"found {len(results)} of {designs} designs at distance {min_distance:g}; raise the budget or lower it"
        results = [dataclasses.replace(result, notes=(*result.notes, note)) for result in results]
    return tuple(results)


def certify(problem: Problem, results: list[Result], min_distance: float) -> None:
    """Judge what is about to be returned by the problem's own check and by plain arithmetic.

    Raises:
        AssertionError: a design is infeasible, misvalued, or too near to another one: a bug of this module.
    """
    for k, result in enumerate(results):
        x = to_torch(result.x)
        if not float(problem.violation(x)) <= FEASIBILITY_TOLERANCE:
            raise AssertionError(f"Design {k} is not feasible.")
        for other in results[:k]:
            distance = float(np.abs(result.x - other.x).sum())
            if distance < min_distance - DISTANCE_TOLERANCE:
                raise AssertionError(f"Two designs are {distance:g} apart, expected at least {min_distance:g}.")


def _candidate(distant: DistantProblem, ledgers: list[Ledger], found: Result | None) -> tuple[Array, float] | None:
    """The best design of any run that keeps all rules and the distance."""
    best: tuple[Array, float] | None = None if found is None else (found.x, found.value)
    for ledger in ledgers:
        for key, value in sorted(ledger.values.items(), key=lambda item: item[1]):
            if best is not None and not value < best[1]:
                break  # a value with a penalty belongs to a design that is too near now as well
            x = np.frombuffer(key).copy()
            point = to_torch(x)
            if float(distant.shortfall(point)) > 0.0 or not float(distant.violation(point)) <= FEASIBILITY_TOLERANCE:
                continue
            true = float(distant.inner.objective(point[None])[0])
            if math.isfinite(true) and (best is None or true < best[1]):
                best = (x, true)
    return best
