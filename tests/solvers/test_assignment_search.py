"""The compiled search behind generalized assignment and knapsack: exact, bounded, and honest when it is stopped."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import solvers
from solvers import Status


def sharding_like(seed: int, items: int, bins: int) -> solvers.GeneralizedAssignmentOracle:
    """A few huge tables and many small ones, unequal bins, some forbidden; whole sizes so that CP-SAT can judge."""
    rng = np.random.default_rng(seed)
    sizes = np.ceil(1000 * np.exp(rng.normal(0.0, 1.7, items)))
    share = rng.uniform(0.8, 1.2, bins)
    capacities = np.floor(np.maximum(1.15 * sizes.sum() * share / share.sum(), 1.01 * sizes.max()))
    allowed = rng.random((items, bins)) < 0.85
    allowed[np.arange(items), rng.integers(0, bins, items)] = True
    return solvers.generalized_assignment(sizes, capacities, allowed=allowed)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_small_sets_are_those_of_enumeration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items, bins = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    sizes = rng.integers(0, 9, (items, bins)).astype(float) if rng.random() < 0.5 else rng.random((items, bins))
    capacities = sizes.mean(axis=1).sum() / bins * rng.uniform(0.7, 1.6, bins)
    capacities[rng.random(bins) < 0.1] = np.inf
    allowed = rng.random((items, bins)) < 0.85
    minimum = int(rng.integers(0, 2))
    oracle = solvers.generalized_assignment(sizes, capacities, allowed=allowed, minimum_items=minimum)
    costs = rng.standard_normal((3, oracle.n)) if rng.random() < 0.6 else rng.integers(-2, 3, (3, oracle.n)) * 1.0
    best = np.full(3, np.inf)
    for bin_of in itertools.product(range(bins), repeat=items):
        x = np.eye(bins)[list(bin_of)]
        fits = ((x * sizes).sum(axis=0) <= capacities + 1e-9).all() and (x.sum(axis=0) >= minimum).all()
        if fits and not x[~allowed].any():
            best = np.minimum(best, costs @ x.ravel())
    batch = oracle.solve(costs)
    if np.isinf(best).any():
        assert set(batch.status) == {Status.INFEASIBLE}
        assert set(oracle.relaxation().solve(costs).status) <= {Status.INFEASIBLE, Status.OPTIMAL}
        return
    assert set(batch.status) == {Status.OPTIMAL}
    np.testing.assert_allclose(batch.objective, best, atol=1e-9)
    assert (oracle.violation(batch.x) == 0).all()
    relaxed = oracle.relaxation()
    bound = relaxed.solve(costs)
    assert (bound.objective <= best + 1e-9).all()
    assert (relaxed.violation(bound.x) <= 1e-7).all()


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_any_choice_agrees_with_cp_sat(seed: int) -> None:
    """Several resources, negative use, least amounts, equations: a feasible point is planted, CP-SAT is the judge."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(int(rng.integers(3, 25))), 1)
    groups = np.repeat(groups, rng.integers(1, int(rng.integers(2, 7)), len(groups)))
    n, m = len(groups), int(rng.integers(1, 6))
    usage = rng.integers(-3 if rng.random() < 0.4 else 0, 8, (m, n)) * (rng.random((m, n)) < rng.uniform(0.3, 1.0))
    planted = np.array([rng.choice(np.flatnonzero(groups == group)) for group in np.unique(groups)])
    load = usage[:, planted].sum(axis=1).astype(float)
    capacities = load + rng.integers(0, 4, m)
    minimums = np.where(rng.random(m) < 0.4, load - rng.integers(0, 3, m), -np.inf)
    if rng.random() < 0.3:
        capacities[0] = minimums[0] = load[0]
    oracle = solvers.multiple_choice(
        groups, usage, capacities, minimums=minimums, allowed=(rng.random(n) < 0.9) | np.isin(np.arange(n), planted)
    )
    costs = rng.standard_normal((3, n)) if rng.random() < 0.6 else rng.integers(-4, 5, (3, n)).astype(float)
    batch = oracle.solve(costs)
    judge = solvers.MilpOracle(oracle.polyhedron(), backend="cp-sat").solve(costs)
    assert batch.status == judge.status == (Status.OPTIMAL,) * 3
    np.testing.assert_allclose(batch.objective, judge.objective, atol=1e-9)
    assert (oracle.violation(batch.x) == 0).all()
    relaxed = oracle.relaxation().solve(costs)
    wanted = solvers.MilpOracle(oracle.polyhedron().relaxed(), backend="highs").solve(costs)
    np.testing.assert_allclose(relaxed.objective, wanted.objective, atol=1e-7)


@pytest.mark.parametrize(("items", "bins"), [(50, 4), (50, 8), (26, 16), (200, 8)])
def test_large_sets_agree_with_cp_sat(items: int, bins: int) -> None:
    for seed in range(2):
        oracle = sharding_like(seed, items, bins)
        rng = np.random.default_rng(seed)
        costs = rng.random(oracle.n) + 0.1 * rng.standard_normal((2, oracle.n))
        batch = oracle.solve(costs)
        judge = solvers.MilpOracle(oracle.polyhedron(), backend="cp-sat").solve(costs)
        assert batch.status == judge.status == (Status.OPTIMAL,) * 2
        np.testing.assert_allclose(batch.objective, judge.objective, rtol=1e-9)
        assert (oracle.violation(batch.x) == 0).all()
        relaxed, direct = oracle.relaxation(), solvers.MilpOracle(oracle.polyhedron().relaxed(), backend="highs")
        np.testing.assert_allclose(relaxed.solve(costs).objective, direct.solve(costs).objective, rtol=1e-8)


def test_big_penalties_do_not_hide_small_differences() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(5, 26, 30).astype(float)
    oracle = solvers.generalized_assignment(sizes, np.full(4, 130.0))
    costs = rng.random((5, oracle.n))
    penalty = rng.random(oracle.n) < 0.2
    costs[:, penalty] += 1e9
    forbidden = solvers.generalized_assignment(sizes, np.full(4, 130.0), allowed=~penalty.reshape(30, 4))
    np.testing.assert_allclose(oracle.solve(costs).objective, forbidden.solve(costs).objective, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e6, 1e12])
def test_the_answer_does_not_depend_on_units(scale: float) -> None:
    rng = np.random.default_rng(3)
    sizes, costs = rng.uniform(1, 5, 24), rng.standard_normal((4, 96))
    capacities = np.full(4, 1.05 * sizes.sum() / 4)
    plain = solvers.generalized_assignment(sizes, capacities).solve(costs)
    np.testing.assert_array_equal(solvers.generalized_assignment(sizes, capacities).solve(scale * costs).x, plain.x)
    np.testing.assert_array_equal(
        solvers.generalized_assignment(scale * sizes, scale * capacities).solve(costs).x, plain.x
    )


def hard() -> tuple[solvers.GeneralizedAssignmentOracle, np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 101, (40, 8)).astype(float)
    costs = (111 - sizes + rng.integers(-10, 11, (40, 8))).reshape(1, -1)
    return solvers.generalized_assignment(sizes, np.floor(0.8 * sizes.sum(axis=0) / 8), seconds=0.5), costs


def test_a_stopped_search_keeps_its_point_and_a_valid_bound() -> None:
    oracle, costs = hard()
    start = time.perf_counter()
    batch = oracle.solve(costs)
    assert time.perf_counter() - start < 10.0
    assert batch.status == (Status.FEASIBLE,)
    assert oracle.violation(batch.x[0]) == 0.0
    relaxed = oracle.relaxation().solve(costs).objective[0]
    assert relaxed - 1e-6 <= batch.bound[0] < batch.objective[0] <= 1.05 * relaxed


def test_a_deadline_labels_the_rows_that_come_too_late() -> None:
    oracle, costs = hard()
    start = time.perf_counter()
    batch = oracle.solve(np.repeat(costs, 200, axis=0), seconds=0.3)
    assert time.perf_counter() - start < 10.0
    assert len(batch) == 200
    assert set(batch.status) <= {Status.FEASIBLE, Status.LIMIT}
    assert batch.status[-1] is Status.LIMIT
    assert batch.status[0] is Status.FEASIBLE
    assert (batch.bound <= np.nanmin(batch.objective)).all()


def test_ties_and_symmetry_do_not_blow_up() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.uniform(0.1, 1.0, 50)
    oracle = solvers.generalized_assignment(sizes, np.full(8, 1.03 * sizes.sum() / 8))
    costs = np.stack([np.zeros(400), np.repeat(rng.random(50), 8), rng.integers(0, 2, 400).astype(float)])
    start = time.process_time()
    batch = oracle.solve(costs)
    assert time.process_time() - start < 5.0
    assert set(batch.status) == {Status.OPTIMAL}
    assert (oracle.violation(batch.x) == 0).all()
    np.testing.assert_allclose(batch.objective[:2], [0.0, costs[1, ::8].sum()])


def test_options_need_not_be_sorted_by_group() -> None:
    rng = np.random.default_rng(1)
    groups, usage = np.repeat(np.arange(6), 3), rng.integers(0, 5, (2, 18)).astype(float)
    costs = rng.standard_normal((5, 18))
    order = rng.permutation(18)
    plain = solvers.multiple_choice(groups, usage, [12.0, 11.0]).solve(costs)
    mixed = solvers.multiple_choice(groups[order], usage[:, order], [12.0, 11.0]).solve(costs[:, order])
    np.testing.assert_array_equal(mixed.x, plain.x[:, order])
    free = solvers.multiple_choice(groups, np.zeros((0, 18)), np.zeros(0)).solve(costs)
    np.testing.assert_allclose(free.objective, costs.reshape(5, 6, 3).min(axis=2).sum(axis=1))


@pytest.mark.parametrize("unit", [1.0, 0.37])  # whole sizes go to CP-SAT, others to SCIP
def test_a_row_that_is_handed_over_has_the_same_optimum(unit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    from solvers import choice

    rng = np.random.default_rng(2)
    sizes = rng.integers(5, 26, 30) * unit
    capacities = np.full(5, 1.03 * sizes.sum() / 5)
    costs = rng.standard_normal((4, 150))
    wanted = solvers.generalized_assignment(sizes, capacities).solve(costs)
    for name in ("_NATIVE_NODES", "_FIRST_NODES", "_TIMED_NODES"):
        monkeypatch.setattr(choice, name, 1)
    handed: list[float] = []
    hand_over = choice.MultipleChoiceOracle._hand_over

    def count(self: solvers.MultipleChoiceOracle, *arguments: object) -> object:
        handed.append(1.0)
        return hand_over(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(choice.MultipleChoiceOracle, "_hand_over", count)
    batch = solvers.generalized_assignment(sizes, capacities).solve(costs)
    assert handed
    assert batch.status == wanted.status == (Status.OPTIMAL,) * 4
    np.testing.assert_allclose(batch.objective, wanted.objective, rtol=1e-9)
    empty = solvers.generalized_assignment(sizes, capacities * 0.9)  # less room than items
    assert set(empty.solve(costs).status) == {Status.INFEASIBLE}
