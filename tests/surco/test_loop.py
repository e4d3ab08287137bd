"""The one loop: budgets, incumbents, bounds, statuses, failures that are survived."""

from __future__ import annotations

import math
import re
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import solvers
import surco
import surco.errors
from solvers.oracle import Array, OracleBatch
from surco.errors import InvalidInputError
from surco.result import SolveStatus
from tests.surco.toys import BlackBox, Broken, ChooseK, QuadraticChoice

METHODS = ["linear", "random", "local_search", "slp", "zero", "auto"]
BLACK_BOX_METHODS = ["linear", "random", "local_search", "zero", "auto"]


@pytest.mark.parametrize("method", METHODS)
def test_result_is_feasible_and_its_value_is_the_objective(method: str) -> None:
    problem = QuadraticChoice()
    result = surco.solve(problem, method, calls=60, seed=1)
    x = torch.from_numpy(result.x)
    assert result.is_feasible
    assert float(problem.violation(x)) == 0
    assert result.value == pytest.approx(float(problem.objective(x)), rel=1e-12)
    assert result.value >= problem.optimum() - 1e-9
    assert result.stats.oracle_calls <= 60


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_and_calls_give_the_same_run(method: str) -> None:
    runs = [surco.solve(QuadraticChoice(n=16, k=5), method, calls=80, seed=3) for _ in range(2)]
    assert (runs[0].x == runs[1].x).all()
    assert runs[0].stats.objective_calls == runs[1].stats.objective_calls
    assert [p.value for p in runs[0].trace] == [p.value for p in runs[1].trace]


@pytest.mark.parametrize("seed", range(5))
def test_auto_finds_the_enumerated_optimum(seed: int) -> None:
    problem = QuadraticChoice(seed=seed)
    assert surco.solve(problem, calls=400, seed=seed).value == pytest.approx(problem.optimum(), abs=1e-9)


@pytest.mark.parametrize("method", BLACK_BOX_METHODS)
def test_black_box_needs_no_gradient(method: str) -> None:
    problem = BlackBox()
    result = surco.solve(problem, method, calls=100, seed=0)
    assert result.bound is None
    assert result.status is not SolveStatus.OPTIMAL
    assert result.gap is None


@pytest.mark.parametrize("method", BLACK_BOX_METHODS)
def test_black_box_is_asked_once_for_a_design(method: str) -> None:
    asked: list[bytes] = []

    def value(x: torch.Tensor) -> float:
        asked.append(x.numpy().tobytes())
        return float(x @ torch.arange(10.0, dtype=torch.float64)) ** 2

    result = surco.solve(BlackBox(value), method, calls=150, seed=0)
    assert len(asked) == len(set(asked)) == result.stats.objective_calls


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("calls", [1, 7, 33])
def test_budget_in_oracle_calls_is_never_exceeded(method: str, calls: int) -> None:
    assert surco.solve(QuadraticChoice(n=20, k=6), method, calls=calls).stats.oracle_calls <= calls


@pytest.mark.parametrize("method", METHODS[1:])
def test_budget_in_objective_calls_is_never_exceeded(method: str) -> None:
    problem = QuadraticChoice(n=20, k=6)
    result = surco.solve(problem, method, objective_calls=25)
    assert result.stats.objective_calls <= 25
    assert problem.evaluations == result.stats.objective_calls


@pytest.mark.parametrize("method", ["random", "local_search", "zero", "auto"])
def test_budget_in_seconds_is_kept(method: str) -> None:
    began = time.perf_counter()
    result = surco.solve(QuadraticChoice(n=60, k=20), method, seconds=1.0)
    assert time.perf_counter() - began < 1.1 + 0.2  # a loaded machine may be late by a time slice
    assert result.stats.seconds >= 0.9 or result.status is SolveStatus.CONVERGED


def test_convex_bound_is_below_the_optimum_and_status_needs_it() -> None:
    problem = QuadraticChoice()
    result = surco.solve(problem, "slp", calls=200)
    assert result.bound is not None
    assert result.bound <= problem.optimum() + 1e-9
    assert (result.status is SolveStatus.OPTIMAL) == (result.gap is not None and result.gap <= 1e-6)


def test_a_linear_objective_is_proven_optimal() -> None:
    problem = QuadraticChoice()
    problem.Q = torch.zeros_like(problem.Q)
    result = surco.solve(problem, calls=50)
    assert result.status is SolveStatus.OPTIMAL
    assert result.value == pytest.approx(problem.optimum())
    assert result.gap == pytest.approx(0.0, abs=1e-9)


def test_without_bound_never_optimal() -> None:
    problem = QuadraticChoice()
    problem.is_convex = False
    result = surco.solve(problem, calls=300)
    assert result.bound is None
    assert result.status is SolveStatus.BUDGET


@pytest.mark.parametrize("how", ["raise", "lie", "error", "limit", "infeasible"])
def test_a_broken_oracle_is_survived_and_counted(how: str) -> None:
    problem = QuadraticChoice(oracle=Broken(how))
    problem.b += 100  # so that choosing nothing, the lie, would be best
    result = surco.solve(problem, "random", calls=64, seed=0)
    assert float(problem.violation(torch.from_numpy(result.x))) == 0
    stats = result.stats
    assert {"raise": stats.oracle_failures, "error": stats.oracle_failures, "limit": stats.oracle_failures}.get(how, 1)
    assert how != "lie" or (stats.rejected > 0 and any("infeasible answer" in note for note in result.notes))


def test_objectives_that_raise_or_are_not_numbers_are_survived() -> None:
    count = 0

    def value(x: torch.Tensor) -> float:
        nonlocal count
        count += 1
        if count % 3 == 0:
            raise ZeroDivisionError("no such corner")
        return math.nan if count % 3 == 1 else float(x @ torch.arange(10.0, dtype=torch.float64))

    result = surco.solve(BlackBox(value), "local_search", objective_calls=90)
    assert math.isfinite(result.value)
    assert result.stats.objective_failures >= 40
    assert any("no such corner" in note for note in result.notes)


def test_an_objective_that_hangs_is_left_behind_with_the_incumbent() -> None:
    release = threading.Event()
    count = 0

    def value(x: torch.Tensor) -> float:
        nonlocal count
        count += 1
        if count > 5:
            release.wait(60)
        return float(x @ torch.arange(10.0, dtype=torch.float64))

    began = time.perf_counter()
    result = surco.solve(BlackBox(value), "random", seconds=0.5)
    elapsed = time.perf_counter() - began
    release.set()
    assert elapsed < 1.0
    assert result.is_feasible
    assert any("hangs" in note for note in result.notes)


def test_ctrl_c_returns_the_incumbent() -> None:
    timer = threading.Timer(0.4, lambda: signal.raise_signal(signal.SIGINT))
    timer.start()
    result = surco.solve(QuadraticChoice(n=60, k=20), "random", seconds=30)
    timer.join()
    assert result.status is SolveStatus.INTERRUPTED
    assert result.stats.seconds < 5


def test_callback_sees_improvements_and_may_stop() -> None:
    seen: list[float] = []

    def watch(run: object) -> bool:
        seen.append(run.value)  # type: ignore[attr-defined]
        return len(seen) == 3

    result = surco.solve(QuadraticChoice(n=60, k=20), "random", calls=10_000, callback=watch)
    assert result.status is SolveStatus.STOPPED
    assert len(seen) == 3
    assert result.value == seen[-1]


def test_an_empty_feasible_set_is_an_error_that_explains_itself() -> None:
    problem = QuadraticChoice(oracle=Broken("infeasible", period=1))
    problem.explain_infeasibility = lambda: "Choose fewer."  # type: ignore[attr-defined]
    with pytest.raises(surco.InfeasibleError, match=r"Choose fewer\."):
        surco.solve(problem, calls=5)


def test_no_design_within_the_budget_is_an_error() -> None:
    with pytest.raises(surco.NoDesignError, match="limit"):
        surco.solve(QuadraticChoice(oracle=Broken("limit", period=1)), "random", calls=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "zeroo"}, "Did you mean `zero`"),
        ({"method": "zero", "step_sise": 0.1}, "Did you mean `step_size`"),
        ({"method": "zero", "step_size": "abc"}, "`step_size` to be a number of at least 0, got 'abc'"),
        ({"method": "zero", "step_size": -1}, "`step_size` to be a number of at least 0"),
        ({"method": "zero", "restarts": 0}, "`restarts` to be an integer of at least 1"),
        ({"seconds": -1.0}, "`seconds` > 0"),
        ({"calls": 0}, "`calls` > 0"),
        ({"method": "exact"}, "no exact method"),
        ({"method": "aggregates"}, "no aggregates"),
        ({"resume": True}, "`checkpoint`"),
    ],
)
def test_bad_arguments_say_what_to_try(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(surco.InvalidInputError, match=message):
        surco.solve(QuadraticChoice(), **{"calls": 5, **arguments})  # type: ignore[arg-type]


def test_a_check_that_raises_rejects_and_says_so() -> None:
    def violation(x: Array) -> Array:
        raise ZeroDivisionError("no judge today")

    problem = surco.problem(solvers.cardinality(4, 2), lambda x: x.sum(), violation=violation)
    with pytest.raises(surco.NoDesignError, match=r"no judge today.*disagree about the rules.*check_problem"):
        surco.solve(problem, calls=5)


def test_an_objective_that_never_works_is_not_a_matter_of_budget() -> None:
    def objective(x: Array) -> float:
        raise ZeroDivisionError("no cost today")

    problem = surco.problem(solvers.cardinality(4, 2), objective)
    with pytest.raises(surco.NoDesignError, match=r"no cost today.*larger budget will not help"):
        surco.solve(problem, calls=5)


def test_a_callback_that_raises_costs_no_run() -> None:
    calls: list[float] = []

    def callback(ledger: object) -> None:
        calls.append(1.0)
        raise RuntimeError("full disk")

    result = surco.solve(QuadraticChoice(), "random", calls=40, callback=callback)
    assert result.value == surco.solve(QuadraticChoice(), "random", calls=40).value
    assert len(calls) == 1
    assert any("full disk" in note for note in result.notes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial_costs": "cheap"}, "`initial_costs` of 4 numbers, got 'cheap'"),
        ({"spec": {"when": object()}}, "`spec` to be what JSON can hold"),
        ({"spec": {"price": math.nan}}, "`spec` to be what JSON can hold"),
    ],
)
def test_a_problem_of_nonsense_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(surco.InvalidInputError, match=message):
        surco.problem(solvers.cardinality(4, 2), lambda x: x.sum(), **arguments)  # type: ignore[arg-type]


def test_a_model_that_is_no_model_is_refused() -> None:
    with pytest.raises(surco.InvalidInputError, match="MathOpt Model, got object"):
        surco.problem(object(), lambda x: x.sum())


def test_something_that_is_no_problem_is_refused() -> None:
    with pytest.raises(surco.InvalidInputError, match=r"solvers\.function"):
        surco.problem(lambda costs: costs < 0, lambda x: x.sum())
    with pytest.raises(surco.InvalidInputError, match="lacks objective, violation, initial_costs"):
        surco.solve(type("Half", (), {"oracle": ChooseK(3, 1)})())  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["linear", "local_search", "slp", "zero"])
def test_scaling_the_objective_changes_no_design(method: str) -> None:
    designs = [surco.solve(QuadraticChoice(n=14, scale=s), method, calls=60).x for s in (1.0, 1024.0)]
    assert (designs[0] == designs[1]).all()


class _Cut(QuadraticChoice):
    def objective(self, x: torch.Tensor) -> torch.Tensor:
        return super().objective(x.detach())


@pytest.mark.parametrize("method", ["slp", "zero"])
def test_a_cut_gradient_is_an_error(method: str) -> None:
    with pytest.raises(surco.errors.CutGradientError, match="is_differentiable = False"):
        surco.solve(_Cut(), method, calls=50)


def test_auto_goes_on_without_a_cut_gradient() -> None:
    result = surco.solve(_Cut(), calls=300)
    assert result.value == pytest.approx(QuadraticChoice().optimum())
    assert any("is_differentiable" in note for note in result.notes)


def test_the_deadline_reaches_an_oracle_that_takes_seconds() -> None:
    class Patient(ChooseK):
        takes_seconds = True
        limits: ClassVar[list[float]] = []

        def solve(self, costs: Array, *, seconds: float | None = None) -> OracleBatch:
            assert seconds is not None
            self.limits.append(seconds)
            return super().solve(costs)

    surco.solve(QuadraticChoice(oracle=Patient(10, 4)), "random", seconds=0.2)
    assert 0 < min(Patient.limits) <= max(Patient.limits) <= 0.2


@pytest.mark.parametrize("method", ["local_search", "slp", "auto"])
def test_a_wrong_bound_is_withdrawn(method: str) -> None:
    problem = QuadraticChoice()
    problem.lower_bound = lambda: problem.optimum() + 5.0  # type: ignore[attr-defined]
    result = surco.solve(problem, method, calls=400)
    assert result.value == pytest.approx(problem.optimum())
    assert result.bound is None
    assert result.status is not SolveStatus.OPTIMAL
    assert any("wrong" in note for note in result.notes)


def test_a_false_claim_of_convexity_is_found_out() -> None:
    problem = QuadraticChoice(n=12, k=5)
    problem.Q = -problem.Q  # concave: the linearization lies above f
    result = surco.solve(problem, calls=400)
    assert result.value == pytest.approx(problem.optimum())
    assert result.bound is None or result.bound <= problem.optimum() + 1e-6


class Moving(QuadraticChoice):
    """Has moves of its own, so that local search never asks the oracle; few designs, so that all are soon known."""

    def __init__(self) -> None:
        super().__init__(n=4, k=2)

    def moves(self, x: torch.Tensor, *, count: int, generator: torch.Generator) -> torch.Tensor:
        order = torch.rand(count, self.n, generator=generator).argsort(-1)[:, : self.k]
        return torch.zeros(count, self.n, dtype=x.dtype).scatter(1, order, 1.0)


@pytest.mark.parametrize("method", ["local_search", "auto"])
def test_a_method_that_never_asks_the_oracle_ends_under_a_budget_in_calls(method: str) -> None:
    problem = Moving()
    result = surco.solve(problem, method, calls=30)
    assert result.value == pytest.approx(problem.optimum())
    assert result.stats.objective_calls <= 20 * 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": 10**30}, "`seed`"),
        ({"seed": 1.5}, "`seed`"),
        ({"calls": "5"}, "`calls` to be a number"),
        ({"calls": 2.5}, "`calls` to be a whole number"),
        ({"calls": float("inf")}, "`calls` > 0 and finite"),
        ({"objective_calls": float("nan")}, "`objective_calls` > 0 and finite"),
    ],
)
def test_odd_types_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(surco.InvalidInputError, match=message):
        surco.solve(QuadraticChoice(), **arguments)  # type: ignore[arg-type]


def test_an_objective_of_the_wrong_shape_is_named() -> None:
    problem = QuadraticChoice()
    problem.objective = lambda x: x  # type: ignore[method-assign]
    with pytest.raises(surco.InvalidInputError, match=r"to a tensor of shape \[1\], got \[1, 10\]"):
        surco.solve(problem, "linear", calls=5)


def test_general_integers_off_the_vertices_are_found() -> None:
    box = solvers.milp(matrix=[[1.0, 1.0, 1.0]], row_lower=-4, row_upper=6, lower=-3, upper=7, backend="highs")
    best = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    inside = surco.problem(box, lambda x: ((x - best) ** 2).sum(-1) + 0.25, is_differentiable=True)
    assert surco.solve(inside, calls=300, seed=0).value == pytest.approx(0.25)


class TrustsBounds(QuadraticChoice):
    """Its check counts what is chosen and forgets that an entry is 0 or 1."""

    is_convex = False

    def violation(self, x: torch.Tensor) -> torch.Tensor:
        return (x.sum(-1) - self.k).abs() + (x - x.round()).abs().amax(-1)


@pytest.mark.parametrize("method", ["local_search", "auto"])
def test_a_check_that_forgets_the_bounds_lets_no_search_leave_them(method: str) -> None:
    result = surco.solve(TrustsBounds(), method, calls=200, seed=0)
    assert set(result.x.tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        (lambda self: np.ones(self.oracle.n), "shape [10], got ndarray"),
        (lambda self: torch.ones(3, dtype=torch.float64), "shape [10], got [3]"),
        (lambda self: torch.full((self.oracle.n,), torch.nan, dtype=torch.float64), "finite numbers"),
    ],
)
def test_initial_costs_of_nonsense_are_named(costs: Callable[..., Any], message: str) -> None:
    problem = type("Odd", (QuadraticChoice,), {"initial_costs": costs})()
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        surco.solve(problem, calls=10)


def test_an_objective_that_exits_is_survived() -> None:
    def value(x: torch.Tensor) -> float:
        if x[0] > 0:
            raise SystemExit(7)
        return float(x.sum())

    assert surco.solve(BlackBox(value), "random", calls=30).stats.objective_failures > 0
