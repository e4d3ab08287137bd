"""The exact cache counts honestly and forgets in order; the pool holds distinct vertices."""

from __future__ import annotations

import numpy as np
import pytest

import solvers
from solvers import OracleBatch, Status


class Counting:
    """Counts the rows it solves; rows with a cost of 5 fail."""

    n = 2

    def __init__(self) -> None:
        self.rows: list[list[float]] = []

    def solve(self, costs: np.ndarray) -> OracleBatch:
        self.rows += costs.tolist()
        batch = OracleBatch.exact((costs < 0).astype(float), costs)
        status = tuple(Status.ERROR if row[0] == 5 else Status.OPTIMAL for row in costs)
        return OracleBatch(batch.x, batch.objective, batch.bound, status, batch.seconds, ("",) * len(costs))

    def violation(self, x: np.ndarray) -> np.ndarray:
        return np.zeros(np.shape(x)[:-1])


def test_known_rows_are_free() -> None:
    inner = Counting()
    oracle = solvers.cached(inner)
    a, b = [1.0, -1.0], [-1.0, 2.0]
    first = oracle.solve(np.array([a, b, a]))
    assert inner.rows == [a, b]
    assert (oracle.hits, oracle.misses, len(oracle)) == (1, 2, 2)
    second = oracle.solve(np.array([b, [0.5, 0.5], a]))
    assert inner.rows == [a, b, [0.5, 0.5]]
    assert (oracle.hits, oracle.misses) == (3, 3)
    np.testing.assert_array_equal(first.x, [[0, 1], [1, 0], [0, 1]])
    np.testing.assert_array_equal(second.x, [[1, 0], [0, 0], [0, 1]])
    np.testing.assert_array_equal(second.objective, [-1.0, 0.0, -1.0])
    second.x[:] = 7.0  # a caller's array, not the cache's
    np.testing.assert_array_equal(oracle.solve(np.array([b])).x, [[1, 0]])
    oracle.clear()
    assert (oracle.hits, oracle.misses, len(oracle)) == (0, 0, 0)


def test_the_least_recently_used_goes_first() -> None:
    inner = Counting()
    oracle = solvers.cached(inner, size=2)
    rows = np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    oracle.solve(rows[[0]])
    oracle.solve(rows[[1]])
    oracle.solve(rows[[0]])  # used again: the second is the oldest now
    oracle.solve(rows[[2]])
    inner.rows.clear()
    oracle.solve(rows[[0]])
    assert inner.rows == []
    oracle.solve(rows[[1]])
    assert inner.rows == [[2.0, 0.0]]


def test_failures_are_tried_again_and_nearly_equal_is_not_equal() -> None:
    inner = Counting()
    oracle = solvers.cached(inner)
    oracle.solve(np.array([[5.0, 0.0]]))
    oracle.solve(np.array([[5.0, 0.0]]))
    assert len(inner.rows) == 2
    oracle.solve(np.array([[1.0, 0.0], [np.nextafter(1.0, 2.0), 0.0], [1.0, -0.0]]))
    assert len(inner.rows) == 4


def test_the_pool_is_an_upper_bound_and_finds_the_stored_best() -> None:
    rng = np.random.default_rng(0)
    oracle, vertices = solvers.cardinality(8, 3), solvers.pool(8)
    costs = rng.standard_normal((50, 8))
    batch = oracle.solve(costs)
    added = vertices.add(batch)
    assert added == len(vertices) == len(np.unique(batch.x, axis=0))
    assert vertices.add(batch) == 0
    x, objective = vertices.best(costs)
    np.testing.assert_allclose(objective, batch.objective)
    fresh = rng.standard_normal((50, 8))
    x, objective = vertices.best(fresh)
    assert (objective >= oracle.solve(fresh).objective - 1e-12).all()
    np.testing.assert_allclose(objective, (fresh[:, None] * vertices.points).sum(2).min(1))
    assert (oracle.violation(x) == 0).all()


def test_an_empty_pool_and_bad_rows() -> None:
    vertices = solvers.pool(2)
    x, objective = vertices.best(np.ones((3, 2)))
    assert np.isnan(x).all()
    assert np.isinf(objective).all()
    assert vertices.add(np.array([[np.nan, 1.0]])) == 0
    vertices.add(np.array([1.0, 0.0]))
    x, objective = vertices.best(np.array([[2.0, 1.0], [np.nan, 0.0]]))
    assert objective.tolist() == [2.0, np.inf]
    assert np.isnan(x[1]).all()
    with pytest.raises(ValueError, match="shape"):
        vertices.add(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="read-only"):
        vertices.points[0] = 1.0


def test_a_full_pool_drops_what_was_useful_longest_ago() -> None:
    vertices = solvers.pool(2, size=2)
    vertices.add(np.array([[1.0, 0.0]]))
    vertices.add(np.array([[0.0, 1.0]]))
    vertices.best(np.array([[0.0, 1.0]]))  # the first one is the best here
    vertices.add(np.array([[1.0, 1.0]]))
    assert sorted(vertices.points.tolist()) == [[1.0, 0.0], [1.0, 1.0]]
    assert len(vertices) == 2
