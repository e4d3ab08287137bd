"""The same answers for one or more workers; crashes and hangs cost their own rows; nothing is left running."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import solvers
from solvers import OracleBatch, Status

COSTS = np.random.default_rng(0).integers(0, 4, (37, 12)).astype(float)  # full of ties


def make_milp() -> solvers.MilpOracle:
    """Needs choices in groups of three and a knapsack row: ties are broken by the backend."""
    rows = np.kron(np.eye(4), np.ones(3))
    return solvers.milp(
        matrix=np.vstack([rows, np.tile([1.0, 2.0, 3.0], 4)]),
        row_lower=[1, 1, 1, 1, -np.inf],
        row_upper=[1, 1, 1, 1, 8],
        upper=1,
        backend="scip-reoptimize",
    )


class Troublemaker:
    """Crashes its process on a cost of 666, hangs on 777, raises for a whole batch on 888."""

    n = 2

    def solve(self, costs: np.ndarray) -> OracleBatch:
        if (costs == 666.0).any():
            os._exit(3)
        if (costs == 777.0).any():
            time.sleep(60.0)
        if (costs == 888.0).any():
            raise RuntimeError("no luck")
        return OracleBatch.exact((costs < 0).astype(float), costs)

    def violation(self, x: np.ndarray) -> np.ndarray:
        return np.zeros(np.shape(x)[:-1])


def processes() -> list[str]:
    return [child.name for child in multiprocessing.active_children() if child.name == "surco-worker"]


def test_workers_do_not_change_answers() -> None:
    with solvers.parallel(make_milp(), workers=1, chunk=5) as alone:
        wanted = alone.solve(COSTS)
    with solvers.parallel(make_milp, workers=2, chunk=5) as oracle:
        found = oracle.solve(COSTS)
        again = oracle.solve(COSTS[:20])
        assert len(processes()) == 2
    assert processes() == []
    np.testing.assert_array_equal(found.x, wanted.x)
    np.testing.assert_array_equal(again.x, wanted.x[:20])
    assert found.status == wanted.status == (Status.OPTIMAL,) * len(COSTS)
    assert (oracle.violation(found.x) == 0).all()


def test_an_injected_pool_needs_only_map() -> None:
    wanted = solvers.parallel(make_milp(), workers=1, chunk=5).solve(COSTS)
    with ThreadPoolExecutor(2) as pool:
        found = solvers.parallel(make_milp(), pool=pool, chunk=5).solve(COSTS)
        assert pool.submit(lambda: 1).result() == 1  # still open
    np.testing.assert_array_equal(found.x, wanted.x)

    class Sequential:
        def map(self, function: object, items: object) -> object:
            return map(function, items)  # type: ignore[call-overload]

    np.testing.assert_array_equal(solvers.parallel(make_milp(), pool=Sequential(), chunk=5).solve(COSTS).x, wanted.x)


def test_a_crash_and_a_hang_cost_their_own_rows() -> None:
    costs = np.array([[-1.0, 1.0], [666.0, 1.0], [1.0, -1.0], [-2.0, -2.0], [777.0, 0.0], [3.0, -4.0]])
    with solvers.parallel(Troublemaker(), workers=2, chunk=3, seconds=1.0) as oracle:
        batch = oracle.solve(costs)
        assert [s.value for s in batch.status] == ["optimal", "error", "optimal", "optimal", "error", "optimal"]
        assert "exit code 3" in batch.message[1]
        assert "killed" in batch.message[4]
        np.testing.assert_array_equal(batch.x[[0, 2, 3, 5]], [[1, 0], [0, 1], [1, 1], [0, 1]])
        assert np.isnan(batch.x[[1, 4]]).all()
        raised = oracle.solve(np.array([[888.0, 0.0]]))  # and the pool still works
        assert raised.status == (Status.ERROR,)
        assert "no luck" in raised.message[0]
    assert processes() == []


def test_a_deadline_reaches_the_workers() -> None:
    items = np.random.default_rng(0).integers(5, 26, (60, 10)).astype(float)
    hard = solvers.generalized_assignment(items, np.floor(0.8 * items.sum(axis=0) / 10))
    costs = np.random.default_rng(1).integers(10, 51, (2, 600)).astype(float)
    oracle = solvers.parallel(hard, workers=1, chunk=1)
    assert oracle.takes_seconds
    start = time.perf_counter()
    batch = oracle.solve(costs, seconds=0.2)
    assert time.perf_counter() - start < 5.0
    assert set(batch.status) <= {Status.OPTIMAL, Status.FEASIBLE, Status.LIMIT}


@pytest.mark.parametrize("arguments", [{}, {"workers": 0}, {"workers": 1, "pool": map}, {"workers": 1, "chunk": 0}])
def test_it_says_what_is_wrong(arguments: dict) -> None:
    with pytest.raises(ValueError, match="Expected"):
        solvers.parallel(solvers.cardinality(3, 1), **arguments)


def test_an_oracle_that_cannot_travel_is_an_error_at_once() -> None:
    oracle = solvers.parallel(solvers.function(lambda costs: costs, 2), workers=2, chunk=1)
    with pytest.raises((AttributeError, TypeError), match=r"pickle|local"):
        oracle.solve(np.zeros((2, 2)))
    assert processes() == []
