"""Checks of a problem's optional talents: each is found by its protocol, and skipped where it is absent."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from surco.checks.aggregates import check_aggregates
from surco.checks.oracle import TOLERANCE
from surco.checks.report import Checker, Finding, Skipped, expect
from surco.protocols import (
    Exact,
    HasAggregates,
    HasDescription,
    HasExact,
    HasHeuristics,
    HasLowerBound,
    HasMetrics,
    HasMoves,
    HasSpec,
    Problem,
)

EXACT_SECONDS = 2.0
MOVES = 16


@dataclass(slots=True)
class Seen:
    """What the earlier checks saw: feasible vertices x [V, n] and their values [V]; ``rng`` draws more."""

    x: Tensor
    values: Tensor
    rng: np.random.Generator

    @property
    def least(self) -> float:
        """Least finite value."""
        return float(self.values[torch.isfinite(self.values)].min())

    def add(self, x: Tensor, values: Tensor) -> None:
        """Remember more feasible designs [K, n] and their values [K]."""
        self.x, self.values = torch.cat([self.x, x]), torch.cat([self.values, values])


def run_talent_checks(checker: Checker, problem: Problem, seen: Seen) -> None:
    """Check every talent; designs that one of them finds judge the bounds of the later ones."""
    talents: list[tuple[str, type, Callable[..., str]]] = [
        ("moves", HasMoves, check_moves),
        ("heuristics", HasHeuristics, check_heuristics),
        ("aggregates", HasAggregates, lambda p, s: check_aggregates(p, s.x, s.values, s.rng)),
        ("lower bound", HasLowerBound, check_lower_bound),
        ("exact", HasExact, check_exact),
        ("metrics", HasMetrics, check_metrics),
        ("description", HasDescription, check_description),
        ("spec", HasSpec, check_spec),
    ]
    for name, protocol, check in talents:
        checker.run(name, lambda p=protocol, c=check: c(problem, seen) if isinstance(problem, p) else _absent())


def check_moves(problem: HasMoves, seen: Seen) -> str:
    """Neighbors are feasible, new, at most ``count``, and the same for the same generator."""
    found = 0
    for x in seen.x[:4].clone():
        before = x.clone()
        near = problem.moves(x, count=MOVES, generator=torch.Generator().manual_seed(1))
        again = problem.moves(x, count=MOVES, generator=torch.Generator().manual_seed(1))
        expect(torch.equal(before, x), "expected `moves` to leave x alone, it changed x in place.")
        expect(
            isinstance(near, Tensor) and near.ndim == 2 and near.shape[1] == len(x) and len(near) <= MOVES,
            f"expected at most {MOVES} neighbors as a tensor [K, {len(x)}], got {_shape(near)}.",
        )
        expect(near.shape == again.shape and torch.equal(near, again), "expected equal moves for equal generators.")
        if len(near):
            _expect_feasible(problem, near, "`moves`")
            expect(bool((near != x).any(-1).all()), "expected neighbors that differ from x, got x itself.")
            seen.add(near, _values(problem, near))
        found += len(near)
    return f"{found} neighbors of {min(4, len(seen.x))} vertices"


def check_heuristics(problem: HasHeuristics, seen: Seen) -> str:
    """Every rule gives a feasible design."""
    rules = problem.heuristics()
    expect(isinstance(rules, Mapping), f"expected a mapping of name to design, got {type(rules).__name__}.")
    parts = []
    for name, x in rules.items():
        expect(isinstance(name, str), f"expected names of heuristics as text, got {name!r}.")
        expect(_shape(x) == _shape(seen.x[0]), f"expected `{name}` as a tensor {_shape(seen.x[0])}, got {_shape(x)}.")
        x = x.to(seen.x)
        _expect_feasible(problem, x[None], f"heuristic `{name}`")
        value = _values(problem, x[None])
        seen.add(x[None], value)
        parts.append(f"{name} {float(value):.6g}")
    return ", ".join(parts) or "none found anything"


def check_lower_bound(problem: HasLowerBound, seen: Seen) -> str:
    """The bound is a number at most every value seen."""
    bound = problem.lower_bound()
    expect(isinstance(bound, int | float) and not np.isnan(bound), f"expected a float that is not NaN, got {bound!r}.")
    _expect_bound(bound, seen, "`lower_bound`")
    return f"{bound:.6g} <= {seen.least:.6g}, the least of {len(seen.values)} values"


def check_exact(problem: HasExact, seen: Seen) -> str:
    """The exact method's bound is at most every value seen, its point feasible and no better than its bound."""
    best = int(torch.where(torch.isfinite(seen.values), seen.values, torch.inf).argmin())
    parts = []
    for start in (None, seen.x[best].clone()):
        found = problem.exact(seconds=EXACT_SECONDS, start=start)
        expect(isinstance(found, Exact), f"expected a surco.Exact, got {type(found).__name__}.")
        expect(not np.isnan(found.bound), "expected a bound that is a number or -inf, got NaN.")
        _expect_bound(found.bound, seen, "the bound of `exact`")
        if found.x is None:
            expect(not found.is_optimal, "expected a point where `is_optimal` is True, got None.")
            parts.append(f"no point, bound {found.bound:.6g}")
            continue
        expect(
            _shape(found.x) == _shape(seen.x[0]), f"expected x as a tensor {_shape(seen.x[0])}, got {_shape(found.x)}."
        )
        x = found.x.to(seen.x)[None]
        _expect_feasible(problem, x, "`exact`")
        value = float(_values(problem, x))
        slack = _slack(value)
        expect(
            value >= found.bound - slack,
            f"the exact point has value {value:.9g}, below its own bound {found.bound:.9g}.",
        )
        is_best = value <= seen.least + slack
        expect(
            is_best or not found.is_optimal,
            f"`exact` calls {value:.9g} optimal, but a design of value {seen.least:.9g} is known.",
        )
        seen.add(x, torch.tensor([value], dtype=torch.float64))
        parts.append(f"{'optimal' if found.is_optimal else 'value'} {value:.6g}, bound {found.bound:.6g}")
    return "; with a start: ".join(parts)


def check_metrics(problem: HasMetrics, seen: Seen) -> str:
    """Metrics are numbers by name."""
    metrics = problem.metrics(seen.x[0].clone())
    expect(isinstance(metrics, Mapping) and metrics, f"expected a mapping of name to number, got {metrics!r}.")
    for name, value in metrics.items():
        is_number = isinstance(name, str) and isinstance(value, int | float) and not isinstance(value, bool)
        expect(is_number, f"expected Python floats by name, got {name!r}: {value!r}. Try `.item()`.")
    return ", ".join(metrics)


def check_description(problem: HasDescription, seen: Seen) -> str:
    """A design can be told in words and pictures."""
    text = problem.describe(seen.x[0].clone())
    expect(isinstance(text, str) and text.strip(), f"expected a few lines of text, got {text!r}.")
    figures = problem.figures(seen.x[0].clone())
    expect(isinstance(figures, Mapping), f"expected figures by title, got {type(figures).__name__}.")
    for title, figure in figures.items():
        expect(hasattr(figure, "savefig"), f"expected a matplotlib Figure for `{title}`, got {type(figure).__name__}.")
    return f"{len(text.splitlines())} lines, {len(figures)} figures"


def check_spec(problem: HasSpec, seen: Seen) -> str:
    """The spec survives JSON, and what is rebuilt from it is the same problem."""
    expect(isinstance(problem.id, str), f"expected `id` to be text, got {problem.id!r}.")
    spec = problem.spec
    expect(isinstance(spec, Mapping), f"expected `spec` to be a mapping, got {type(spec).__name__}.")
    try:
        text = json.dumps(spec, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Finding(f"expected a spec that JSON can hold, but: {error}.") from error
    back = json.loads(text)
    expect(
        back == spec,
        "expected a spec that JSON gives back unchanged. Tuples and keys that are not text do not survive.",
    )
    from surco.registry import domain_names, from_spec

    domain = back.get("domain")
    if domain is None:
        return f"survives JSON ({len(text)} characters), names no domain to rebuild it"
    expect(
        domain in domain_names(), f"the spec names the domain {domain!r}, which is not registered: {domain_names()}."
    )
    again = from_spec(back)
    expect(again.oracle.n == seen.x.shape[1], f"rebuilt with {again.oracle.n} variables instead of {seen.x.shape[1]}.")
    values = _values(again, seen.x)
    equal = torch.isclose(values, seen.values, rtol=1e-9, atol=1e-12, equal_nan=True)
    expect(bool(equal.all()), "the problem rebuilt from its spec has other values of f.")
    _expect_feasible(again, seen.x, "the problem rebuilt from its spec")
    return f"survives JSON ({len(text)} characters) and rebuilds the same values"


# ------------------------------------------------------------------ parts of the checks


def _absent() -> str:
    raise Skipped("not offered")


def _shape(x: object) -> list[int] | str:
    return list(x.shape) if isinstance(x, Tensor) else type(x).__name__


def _values(problem: object, x: Tensor) -> Tensor:
    with torch.no_grad():
        return problem.objective(x).double()  # type: ignore[attr-defined]


def _expect_feasible(problem: object, x: Tensor, source: str) -> None:
    worst = float(problem.violation(x).max())  # type: ignore[attr-defined]
    expect(worst <= TOLERANCE, f"expected feasible designs of {source}, but `violation` is {worst:.3g}.")


def _slack(value: float) -> float:
    return 1e-6 * (1.0 + abs(value))


def _expect_bound(bound: float, seen: Seen, source: str) -> None:
    expect(
        bound <= seen.least + _slack(seen.least),
        f"{source} is {bound:.9g}, but a feasible design of value {seen.least:.9g} is known: it is no lower bound.",
    )
