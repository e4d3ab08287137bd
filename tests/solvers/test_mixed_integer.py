"""The MILP oracle: models from everywhere, backends that agree, honest statuses."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

import solvers
from solvers import Status

ALL = ("scip", "highs", "cp-sat")


def draw_set(seed: int, *, is_mixed: bool = False) -> dict:
    """A bounded set that holds a known point, with ranges, equations, >= rows and negative bounds."""
    rng = np.random.default_rng(seed)
    n, m = 12, 7
    matrix = rng.integers(-5, 6, (m, n)).astype(float) * (rng.random((m, n)) < 0.6)
    lower, upper = rng.integers(-2, 1, n).astype(float), rng.integers(1, 4, n).astype(float)
    inside = matrix @ rng.integers(lower, upper + 1)
    row_lower, row_upper = inside - rng.integers(0, 4, m), inside + rng.integers(0, 4, m)
    row_lower[0], row_upper[1] = -np.inf, np.inf
    row_lower[2] = row_upper[2] = inside[2]
    integrality = np.ones(n)
    if is_mixed:
        integrality[::3] = 0
        matrix[:, 1] *= 0.37
    return {
        "matrix": matrix,
        "row_lower": row_lower,
        "row_upper": row_upper,
        "lower": lower,
        "upper": upper,
        "integrality": integrality,
    }


def hard_set() -> tuple[dict, np.ndarray]:
    """Generalized assignment with sizes and costs at odds: seconds to prove, milliseconds to find a point."""
    rng = np.random.default_rng(0)
    items, bins = 40, 8
    size = rng.integers(1, 101, (items, bins)).astype(float)
    cost = 111 - size + rng.integers(-10, 11, (items, bins))
    matrix = np.vstack([np.kron(np.eye(items), np.ones(bins)), np.zeros((bins, items * bins))])
    for k in range(bins):
        matrix[items + k, k::bins] = size[:, k]
    limits = np.floor(0.8 * size.sum(axis=0) / bins)
    rows = {
        "row_lower": np.concatenate([np.ones(items), np.full(bins, -np.inf)]),
        "row_upper": np.concatenate([np.ones(items), limits]),
    }
    return {"matrix": matrix, **rows, "upper": 1}, cost.reshape(1, -1)


def market_split() -> tuple[dict, np.ndarray]:
    """0/1 equations without structure (Cornuejols and Dawande): no point is found for a long time."""
    rng = np.random.default_rng(1)
    matrix = rng.integers(0, 100, (5, 40)).astype(float)
    half = np.floor(matrix.sum(axis=1) / 2)
    return {"matrix": matrix, "row_lower": half, "row_upper": half, "upper": 1}, rng.standard_normal((1, 40))


@pytest.mark.parametrize("seed", range(6))
def test_backends_agree(seed: int) -> None:
    arrays = draw_set(seed)
    costs = np.random.default_rng(seed).standard_normal((6, 12))
    found = {name: solvers.milp(**arrays, backend=name).solve(costs) for name in ALL}
    judge = solvers.milp(**arrays, backend="highs")
    for name, batch in found.items():
        assert set(batch.status) == {Status.OPTIMAL}, (name, batch.message)
        np.testing.assert_allclose(batch.objective, found["scip"].objective, rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(batch.x, np.rint(batch.x))
        assert not np.signbit(batch.x[batch.x == 0]).any()
        assert (judge.violation(batch.x) == 0).all()


@pytest.mark.parametrize("seed", range(6))
def test_mixed_sets_have_exact_integers(seed: int) -> None:
    arrays = draw_set(seed, is_mixed=True)
    costs = np.random.default_rng(seed).standard_normal((6, 12))
    found = {name: solvers.milp(**arrays, backend=name).solve(costs) for name in ("scip", "highs")}
    whole = arrays["integrality"] > 0
    for batch in found.values():
        assert set(batch.status) == {Status.OPTIMAL}
        np.testing.assert_allclose(batch.objective, found["scip"].objective, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(batch.x[:, whole], np.rint(batch.x[:, whole]))
        assert (solvers.milp(**arrays, backend="scip").violation(batch.x) <= 1e-6).all()


def test_dense_and_sparse_and_scalars_are_the_same() -> None:
    arrays = draw_set(3)
    costs = np.random.default_rng(0).standard_normal((3, 12))
    dense = solvers.milp(**arrays, backend="scip").solve(costs)
    for convert in (sp.coo_array, sp.csc_matrix, sp.csr_array):
        sparse = solvers.milp(**{**arrays, "matrix": convert(arrays["matrix"])}, backend="scip").solve(costs)
        np.testing.assert_array_equal(sparse.x, dense.x)
    scalar = solvers.milp(matrix=np.ones((1, 3)), row_upper=2, upper=1, backend="highs").solve(-np.eye(3))
    assert scalar.objective.tolist() == [-1.0] * 3


def write_files(folder: Path, arrays: dict, costs: np.ndarray) -> list[Path]:
    """The same model as MPS and LP, written by SCIP."""
    model = scip_model(arrays, costs)
    paths = [folder / "model.mps", folder / "model.lp"]
    for path in paths:
        model.writeProblem(str(path), verbose=False)
    return paths


def scip_model(arrays: dict, costs: np.ndarray, sense: str = "minimize") -> object:
    from pyscipopt import Model, quicksum

    model = Model()
    model.hideOutput()
    x = [
        model.addVar(name=f"x{j}", vtype="I" if arrays["integrality"][j] else "C", lb=low, ub=high)
        for j, (low, high) in enumerate(zip(arrays["lower"], arrays["upper"], strict=True))
    ]
    for row, low, high in zip(arrays["matrix"], arrays["row_lower"], arrays["row_upper"], strict=True):
        expression = quicksum(a * v for a, v in zip(row, x, strict=True) if a)
        if np.isfinite(low) and np.isfinite(high):
            model.addCons((expression <= high) >= low)
        else:
            model.addCons(expression <= high if np.isfinite(high) else expression >= low)
    sign = 1.0 if sense == "minimize" else -1.0
    model.setObjective(quicksum(sign * c * v for c, v in zip(costs, x, strict=True)), sense)
    return model


def math_opt_model(arrays: dict, costs: np.ndarray, *, is_max: bool = False) -> object:
    from ortools.math_opt.python import mathopt

    model = mathopt.Model()
    gone = model.add_variable(name="gone")  # leaves a hole in the ids
    x = [
        model.add_variable(lb=low, ub=high, is_integer=bool(whole), name=f"x{j}")
        for j, (low, high, whole) in enumerate(
            zip(arrays["lower"], arrays["upper"], arrays["integrality"], strict=True)
        )
    ]
    first = model.add_linear_constraint(gone <= 1)
    for row, low, high in zip(arrays["matrix"], arrays["row_lower"], arrays["row_upper"], strict=True):
        constraint = model.add_linear_constraint(lb=low, ub=high)
        for a, v in zip(row, x, strict=True):
            if a:
                constraint.set_coefficient(v, a)
    model.delete_linear_constraint(first)
    model.delete_variable(gone)
    total = sum(-c * v if is_max else c * v for c, v in zip(costs, x, strict=True))
    (model.maximize if is_max else model.minimize)(total)
    return model


@pytest.mark.parametrize("is_mixed", [False, True])
def test_every_kind_of_model_has_the_same_optimum(tmp_path: Path, *, is_mixed: bool) -> None:
    arrays = draw_set(5, is_mixed=is_mixed)
    rng = np.random.default_rng(5)
    own, costs = np.round(rng.standard_normal(12), 3), rng.standard_normal((3, 12))
    wanted = solvers.milp(**arrays, backend="highs").solve(np.vstack([own, costs]))
    solved = scip_model(arrays, own, "maximize")
    solved.optimize()  # type: ignore[attr-defined]
    models = [
        *write_files(tmp_path, arrays, own),
        solved,
        scip_model(arrays, own),
        scip_model(arrays, own, "maximize"),
        math_opt_model(arrays, own),
        math_opt_model(arrays, own, is_max=True),
    ]
    for model in [*models, str(models[0])]:
        oracle = solvers.milp(model, backend="scip")
        assert sorted(oracle.names, key=lambda name: int(name[1:])) == [f"x{j}" for j in range(12)]
        order = [int(name[1:]) for name in oracle.names]  # a reader may keep another order
        np.testing.assert_allclose(oracle.model_costs, own[order], atol=1e-12)
        batch = oracle.solve(np.vstack([own, costs])[:, order])
        np.testing.assert_allclose(batch.objective, wanted.objective, rtol=1e-6, atol=1e-6)
        assert (oracle.violation(wanted.x[:, order]) <= 1e-6).all()


def test_a_model_that_is_not_linear_is_refused_by_name() -> None:
    from ortools.math_opt.python import mathopt
    from pyscipopt import Model

    model = Model()
    x = model.addVar(name="x")
    model.addCons(x * x <= 4, name="circle")
    with pytest.raises(ValueError, match=r"(?s)linear.*circle"):
        solvers.milp(model)
    other = mathopt.Model()
    y = other.add_binary_variable(name="y")
    other.add_indicator_constraint(indicator=y, implied_constraint=y <= 0)
    with pytest.raises(ValueError, match="indicator"):
        solvers.milp(other)


def test_it_says_what_is_wrong_with_the_input(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="either `model` or `matrix`"):
        solvers.milp()
    with pytest.raises(ValueError, match="both"):
        solvers.milp("a.mps", matrix=[[1.0]])
    with pytest.raises(TypeError, match=r"pyscipopt\.Model"):
        solvers.milp(42)
    with pytest.raises(FileNotFoundError, match=r"no\.mps"):
        solvers.milp(tmp_path / "no.mps")
    (tmp_path / "model.txt").write_text("")
    with pytest.raises(ValueError, match=r"\.mps"):
        solvers.milp(tmp_path / "model.txt")
    (tmp_path / "bad.lp").write_text("this is not a model")
    with pytest.raises(ValueError, match=r"bad\.lp"):
        solvers.milp(tmp_path / "bad.lp")
    with pytest.raises(ValueError, match="row_upper"):
        solvers.milp(matrix=np.ones((2, 3)), row_upper=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="NaN"):
        solvers.milp(matrix=np.ones((2, 3)), row_upper=np.nan)
    with pytest.raises(ValueError, match="cp-sat"):
        solvers.milp(matrix=np.ones((1, 2)), row_upper=1, upper=1, backend="gurobi")
    with pytest.raises(ValueError, match="integral"):
        solvers.milp(matrix=[[0.123456789]], row_upper=1, upper=1, backend="cp-sat")
    with pytest.raises(ValueError, match="continuous"):
        solvers.milp(matrix=[[1.0]], row_upper=1, upper=1, integrality=False, backend="cp-sat")
    with pytest.raises(ValueError, match="relaxation"):
        solvers.milp(matrix=[[1.0]], row_upper=1, upper=1, backend="glop")
    with pytest.raises(ValueError, match="seconds"):
        solvers.milp(matrix=[[1.0]], row_upper=1, seconds=0)
    with pytest.raises(ValueError, match="gap"):
        solvers.milp(matrix=[[1.0]], row_upper=1, gap=-0.1)


@pytest.mark.parametrize("backend", [*ALL, "scip-reoptimize", "choice", "auto"])
def test_an_empty_set_is_infeasible(backend: str) -> None:
    oracle = solvers.milp(matrix=[[1.0, 1.0]], row_lower=3, upper=1, backend=backend)
    batch = oracle.solve(np.array([[1.0, -1.0], [0.0, 0.0], [-1.0, 2.0]]))
    assert batch.status == (Status.INFEASIBLE,) * 3
    assert np.isnan(batch.x).all()
    assert np.isneginf(batch.bound).all()


@pytest.mark.parametrize("backend", ["scip", "highs", "cp-sat"])
def test_rows_without_entries_and_crossed_limits_are_infeasible(backend: str) -> None:
    empty_row = solvers.milp(matrix=[[0.0, 0.0], [1.0, 1.0]], row_lower=[1, 0], upper=1, backend=backend)
    crossed = solvers.milp(matrix=[[1.0, 1.0]], row_upper=5, lower=[0.2, 0.0], upper=[0.8, 1.0], backend=backend)
    for oracle in (empty_row, crossed):
        assert oracle.solve(np.ones((1, 2))).status == (Status.INFEASIBLE,)


@pytest.mark.parametrize(
    ("backend", "integrality"), [("scip", 1), ("highs", 1), ("scip", 0), ("highs", 0), ("glop", 0), ("auto", 1)]
)
def test_an_open_set_is_unbounded_only_for_costs_that_leave_it(backend: str, integrality: int) -> None:
    oracle = solvers.milp(matrix=[[1.0, -1.0]], row_upper=1, row_lower=0, integrality=integrality, backend=backend)
    batch = oracle.solve(np.array([[-1.0, -1.0], [1.0, 1.0], [-2.0, 1.0]]))
    assert batch.status == (Status.UNBOUNDED, Status.OPTIMAL, Status.UNBOUNDED), batch.message
    assert batch.objective[1] == 0.0
    assert batch.bound[0] == -np.inf


@pytest.mark.parametrize("backend", ["scip", "highs", "cp-sat", "choice"])
def test_a_time_limit_keeps_the_incumbent_and_a_valid_bound(backend: str) -> None:
    arrays, costs = hard_set()
    oracle = solvers.milp(**arrays, backend=backend, seconds=0.4)
    oracle.solve(np.zeros_like(costs))  # build first: the limit is for the search
    start = time.perf_counter()
    batch = oracle.solve(costs)
    assert time.perf_counter() - start < 10.0
    assert batch.status[0] in (Status.FEASIBLE, Status.LIMIT)
    assert batch.bound[0] <= 2700
    if batch.status[0] is Status.FEASIBLE:
        assert oracle.violation(batch.x[0]) == 0.0
        assert batch.bound[0] < batch.objective[0]
        assert batch.bound[0] > 0.5 * batch.objective[0]  # a bound that says something


@pytest.mark.parametrize("backend", ALL)
def test_a_limit_without_a_point_is_a_limit(backend: str) -> None:
    arrays, costs = market_split()
    batch = solvers.milp(**arrays, backend=backend, seconds=0.3).solve(costs)
    assert batch.status == (Status.LIMIT,)
    assert np.isnan(batch.x).all()
    assert batch.bound[0] < np.inf


@pytest.mark.parametrize("backend", ["scip", "highs", "cp-sat"])
def test_a_gap_stops_with_a_bound_that_keeps_it(backend: str) -> None:
    arrays, costs = hard_set()
    batch = solvers.milp(**arrays, backend=backend, gap=0.2, seconds=20).solve(costs)
    assert batch.status[0] in (Status.FEASIBLE, Status.OPTIMAL)
    assert batch.objective[0] - batch.bound[0] <= 0.2 * batch.objective[0] + 1e-6


def test_a_batch_has_a_deadline_of_its_own() -> None:
    arrays, costs = hard_set()
    oracle = solvers.milp(**arrays, backend="highs")
    start = time.perf_counter()
    batch = oracle.solve(np.repeat(costs, 5, axis=0), seconds=0.5)
    assert time.perf_counter() - start < 5.0
    assert len(batch) == 5
    assert all(s in (Status.FEASIBLE, Status.LIMIT) for s in batch.status)


def test_the_bound_of_scaled_costs_stays_valid() -> None:
    """CP-SAT sees integers; with costs of very different size the rounding shows, and the bound must not lie."""
    from solvers.backends.cp_sat import scale_costs

    rng = np.random.default_rng(0)
    for spread in (0, 8, 30):
        costs = rng.standard_normal(6) * 10.0 ** rng.integers(0, spread + 1, 6)
        largest = rng.integers(1, 1000, 6).astype(float)
        integers, scale, error = scale_costs(costs, largest)
        x = rng.integers(-largest, largest + 1, (1000, 6))
        assert (np.abs(x @ integers / scale - x @ costs) <= error * (1 + 1e-9) + 1e-16 * np.abs(costs).max()).all()
    whole, scale, error = scale_costs(np.array([3.0, -7.0, 0.0]), np.ones(3))
    assert error == 0.0
    np.testing.assert_array_equal(whole / scale, [3.0, -7.0, 0.0])
    arrays = draw_set(2)
    costs = rng.standard_normal((8, 12)) * 10.0 ** rng.integers(-9, 10, (8, 12))
    batch = solvers.milp(**arrays, backend="cp-sat").solve(costs)
    exact = solvers.milp(**arrays, backend="scip").solve(costs)
    assert (batch.bound <= exact.objective + 1e-9 * np.abs(costs).sum(axis=1)).all()
    assert (batch.objective - batch.bound <= 1e-9 * np.abs(costs).max(axis=1) * 100).all()


def test_the_relaxation_is_a_lower_bound_and_forgets_on_request() -> None:
    arrays = draw_set(1)
    oracle = solvers.milp(**arrays, backend="scip")
    relaxed = oracle.relaxation()
    assert relaxed.backend == "glop"
    costs = np.random.default_rng(0).standard_normal((20, 12))
    bound, batch = relaxed.solve(costs), oracle.solve(costs)
    assert set(bound.status) == {Status.OPTIMAL}
    assert (bound.objective <= batch.objective + 1e-7).all()
    assert (bound.objective < batch.objective - 1e-3).any()
    assert (relaxed.violation(bound.x) <= 1e-6).all()
    direct = solvers.milp(**{**arrays, "integrality": 0}, backend="highs").solve(costs)
    np.testing.assert_allclose(direct.objective, bound.objective, rtol=1e-7, atol=1e-7)
    relaxed.reset()
    tied = np.zeros((1, 12))
    fresh = relaxed.solve(tied).x
    relaxed.solve(costs)
    relaxed.reset()
    np.testing.assert_array_equal(relaxed.solve(tied).x, fresh)


@pytest.mark.parametrize("backend", ALL)
def test_earlier_rows_do_not_matter(backend: str) -> None:
    rows = np.kron(np.eye(6), np.ones(4))
    arrays = {
        "matrix": np.vstack([rows, np.tile([5.0, 7.0, 3.0, 9.0], 6)]),
        "row_lower": [1.0] * 6 + [-np.inf],
        "row_upper": [1.0] * 6 + [33.0],
        "upper": 1,
        "backend": backend,
    }
    rng = np.random.default_rng(0)
    tied = rng.integers(0, 3, (4, 24)).astype(float)
    used = solvers.milp(**arrays)
    used.solve(rng.standard_normal((5, 24)))
    used.solve(tied[::-1])
    for row in tied:
        np.testing.assert_array_equal(used.solve(row[None]).x, solvers.milp(**arrays).solve(row[None]).x)


class Liar:
    """A backend that claims what it likes."""

    is_stateless = True

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def close(self) -> None:
        pass

    def solve(self, costs: np.ndarray, seconds: float | None, gap: float) -> object:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def test_a_backend_that_lies_or_raises_is_an_error_row() -> None:
    from solvers.rows import Answer

    oracle = solvers.milp(matrix=[[1.0, 1.0]], row_upper=1, upper=1, backend="highs")
    for answer in (Answer(Status.OPTIMAL, np.array([1.0, 1.0])), Answer(Status.FEASIBLE, np.array([np.nan, 0.0]))):
        oracle._backend = Liar(answer)  # type: ignore[assignment]
        batch = oracle.solve(np.ones((1, 2)))
        assert batch.status == (Status.ERROR,)
        assert np.isnan(batch.x).all()
        assert "highs" in batch.message[0]
    oracle._backend = Liar(RuntimeError("out of luck"))  # type: ignore[assignment]
    batch = oracle.solve(np.ones((2, 2)))
    assert batch.status == (Status.ERROR,) * 2
    assert "out of luck" in batch.message[0]
    almost = Answer(Status.OPTIMAL, np.array([1.0 - 1e-7, -1e-9]))
    oracle._backend = Liar(almost)  # type: ignore[assignment]
    batch = oracle.solve(np.array([[-1.0, 0.0]]))
    np.testing.assert_array_equal(batch.x, [[1.0, 0.0]])


def test_ctrl_c_still_works_after_every_backend() -> None:
    """CP-SAT's own signal handler would leave SIGINT in a state that kills the process."""
    code = """
import os, signal, time
import numpy as np, solvers
for backend in ("cp-sat", "scip", "highs", "choice"):
    oracle = solvers.milp(matrix=[[3, 4, 2]], row_upper=6, upper=1, backend=backend)
    assert oracle.solve(np.array([[-1.0, -2.0, -3.0]])).objective[0] == -5.0
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1.0)
        raise SystemExit(f"no KeyboardInterrupt after {backend}")
    except KeyboardInterrupt:
        pass
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("fine")


def test_statuses_are_never_better_than_the_point() -> None:
    from ortools.math_opt.python import mathopt

    from solvers.statuses import MATH_OPT, SCIP, translate

    reasons = {reason.name: translate(MATH_OPT, reason.value, has_point=True) for reason in mathopt.TerminationReason}
    assert reasons["OPTIMAL"] is Status.OPTIMAL
    assert reasons["FEASIBLE"] is reasons["IMPRECISE"] is reasons["NO_SOLUTION_FOUND"] is Status.FEASIBLE
    assert reasons["NUMERICAL_ERROR"] is reasons["OTHER_ERROR"] is Status.ERROR
    reasons = {reason.name: translate(MATH_OPT, reason.value, has_point=False) for reason in mathopt.TerminationReason}
    assert reasons["OPTIMAL"] is Status.ERROR
    assert reasons["FEASIBLE"] is reasons["NO_SOLUTION_FOUND"] is Status.LIMIT
    assert reasons["INFEASIBLE"] is Status.INFEASIBLE
    assert translate(SCIP, "timelimit", has_point=False) is Status.LIMIT
    assert translate(SCIP, "timelimit", has_point=True) is Status.FEASIBLE
    assert translate(SCIP, "what?", has_point=True) is Status.ERROR


def test_a_linear_program_stops_in_time() -> None:
    rng = np.random.default_rng(0)
    size = 500
    oracle = solvers.milp(
        matrix=rng.random((size, size)), row_lower=1, upper=1, integrality=False, backend="glop", seconds=1e-3
    )
    start = time.perf_counter()
    batch = oracle.solve(rng.random((3, size)))
    assert time.perf_counter() - start < 10.0
    assert set(batch.status) <= {Status.OPTIMAL, Status.FEASIBLE, Status.LIMIT}
    assert batch.status[0] is not Status.OPTIMAL
    assert (np.isnan(batch.x).all(axis=1) | (oracle.violation(batch.x) <= 1e-6)).all()
