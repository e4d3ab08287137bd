"""What every oracle promises, on sets small enough to enumerate."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from solvers import LinearOracle, Status

from .cases import CASES, Case, judge_by_hand


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def draw(case: Case, n: int, rows: int = 12, seed: int = 0) -> np.ndarray:
    """Costs of different sizes and signs, some with ties and zeros."""
    rng = np.random.default_rng(seed)
    costs = rng.standard_normal((rows, n))
    costs[1::3] = rng.integers(-3, 4, costs[1::3].shape)
    costs[2::6] *= 1e6
    costs[3::6] *= 1e-6
    costs[4::6] = 0.0
    return np.abs(costs) if case.only_nonnegative else costs


def test_it_finds_the_enumerated_optimum(case: Case) -> None:
    oracle, points = case.make(), case.points()
    assert isinstance(oracle, LinearOracle)
    costs = draw(case, oracle.n)
    batch = oracle.solve(costs)
    assert batch.x.shape == costs.shape
    assert batch.x.dtype == np.float64
    assert set(batch.status) == {Status.OPTIMAL}, (batch.status, batch.message)
    best = (costs @ points.T).min(axis=1)
    scale = np.abs(costs).sum(axis=1)
    assert (np.abs(batch.objective - best) <= 1e-9 * scale).all()
    np.testing.assert_array_equal(batch.bound, batch.objective)
    np.testing.assert_allclose(batch.objective, (costs * batch.x).sum(axis=1), rtol=1e-12, atol=1e-300)
    for x in batch.x:  # an exact member of the list, not only close to one
        assert (points == x).all(axis=1).any()
    assert (oracle.violation(batch.x) == 0.0).all()
    assert (batch.seconds >= 0.0).all()
    assert len(batch.message) == len(costs)


def test_its_judge_agrees_with_the_list(case: Case) -> None:
    oracle, points = case.make(), case.points()
    np.testing.assert_array_equal(oracle.violation(points), 0.0)
    rng = np.random.default_rng(1)
    other = np.rint(points[rng.integers(len(points), size=200)])
    flipped = rng.integers(other.shape[1], size=200)
    other[np.arange(200), flipped] = 1.0 - other[np.arange(200), flipped]
    is_member = np.array([(points == x).all(axis=1).any() for x in other])
    np.testing.assert_array_equal(oracle.violation(other) == 0.0, is_member)
    assert (oracle.violation(points + 0.3) > 0.01).all()
    for poison in (np.nan, np.inf, -np.inf):
        assert oracle.violation(np.full(oracle.n, poison)) == np.inf
    shaped = np.broadcast_to(points[0], (2, 3, oracle.n))
    assert oracle.violation(shaped).shape == (2, 3)
    assert np.shape(oracle.violation(points[0])) == ()


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_bad_row_costs_no_other_row(case: Case, poison: float) -> None:
    oracle = case.make()
    costs = draw(case, oracle.n, rows=5)
    clean = case.make().solve(costs)
    dirty = costs.copy()
    dirty[2, oracle.n // 2] = poison
    batch = oracle.solve(dirty)
    assert batch.status[2] is Status.ERROR
    assert "finite" in batch.message[2]
    assert np.isnan(batch.x[2]).all()
    assert np.isnan(batch.objective[2])
    assert batch.bound[2] == -np.inf
    rest = [0, 1, 3, 4]
    assert [batch.status[row] for row in rest] == [Status.OPTIMAL] * 4
    np.testing.assert_array_equal(batch.x[rest], clean.x[rest])


def test_rows_do_not_depend_on_their_batch(case: Case) -> None:
    costs = draw(case, case.make().n, rows=6)
    together = case.make().solve(costs)
    alone = case.make()
    for row, cost in enumerate(costs):
        np.testing.assert_array_equal(alone.solve(cost[None]).x[0], together.x[row])


def test_it_checks_shapes_and_takes_an_empty_batch(case: Case) -> None:
    oracle = case.make()
    with pytest.raises(ValueError, match=r"costs\[None\]"):
        oracle.solve(np.zeros(oracle.n))
    with pytest.raises(ValueError, match="Expected `costs` of shape"):
        oracle.solve(np.zeros((2, oracle.n + 1)))
    empty = oracle.solve(np.zeros((0, oracle.n)))
    assert empty.x.shape == (0, oracle.n)
    assert len(empty) == 0


def test_it_leaves_the_costs_alone_and_takes_odd_layouts(case: Case) -> None:
    oracle = case.make()
    costs = draw(case, oracle.n, rows=6)
    kept = costs.copy()
    costs.flags.writeable = False
    batch = oracle.solve(costs)
    np.testing.assert_array_equal(costs, kept)
    np.testing.assert_array_equal(oracle.solve(np.asfortranarray(kept)).x, batch.x)
    whole = np.rint(kept[[0, 1, 4, 5]])
    np.testing.assert_array_equal(oracle.solve(whole.astype(np.int64)).objective, oracle.solve(whole).objective)


def test_it_travels_to_another_process(case: Case) -> None:
    oracle = case.make()
    costs = draw(case, oracle.n, rows=3)
    before = oracle.solve(costs)  # used once: what a backend holds must not be in the way
    after = pickle.loads(pickle.dumps(oracle)).solve(costs)
    np.testing.assert_array_equal(before.x, after.x)


def test_the_judge_of_the_function_case_can_fail() -> None:
    assert judge_by_hand(np.zeros(6)) > 0
