"""Oracles of plain callables: errors, nonsense and hanging are labelled rows."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

import solvers
from solvers import Status


def choose_negative(costs: np.ndarray) -> np.ndarray:
    return costs < 0


def sleep_on_seven(costs: np.ndarray) -> np.ndarray:
    if costs[0] == 7:
        time.sleep(60.0)
    if costs[0] == 9:
        os._exit(9)
    return costs < 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda costs: 1 / 0, "ZeroDivisionError"),
        (lambda costs: [1.0], "shape"),
        (lambda costs: np.zeros((1, 3)), "shape"),
        (lambda costs: [1.0, np.nan, 0.0], "finite"),
        (lambda costs: [1.0, np.inf, 0.0], "finite"),
        (lambda costs: "abc", "numbers"),
        (lambda costs: object(), "numbers"),
        (lambda costs: costs.__setitem__(0, 5.0), "read-only"),
    ],
)
def test_nonsense_is_labelled(answer: object, words: str) -> None:
    calls = []

    def call(costs: np.ndarray) -> object:
        calls.append(costs)
        return answer(costs) if costs[0] == 1.0 else [0.0, 1.0, 0.0]  # type: ignore[operator]

    batch = solvers.function(call, 3).solve(np.array([[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]]))
    assert batch.status == (Status.OPTIMAL, Status.ERROR, Status.OPTIMAL)
    assert words in batch.message[1]
    assert np.isnan(batch.x[1]).all()
    assert batch.bound[1] == -np.inf
    assert len(calls) == 3


def test_none_means_no_point_and_inexact_means_no_bound() -> None:
    assert solvers.function(lambda costs: None, 2).solve(np.zeros((1, 2))).status == (Status.LIMIT,)
    batch = solvers.function(choose_negative, 2, is_exact=False).solve(np.array([[-1.0, 2.0]]))
    assert batch.status == (Status.FEASIBLE,)
    assert batch.bound[0] == -np.inf
    assert batch.objective[0] == -1.0


def test_a_hanging_thread_is_left_behind() -> None:
    release = threading.Event()

    def call(costs: np.ndarray) -> np.ndarray:
        if costs[0] > 0:
            release.wait(60.0)
        return costs < 0

    oracle = solvers.function(call, 1, seconds=0.05)
    try:
        batch = oracle.solve(np.array([[-1.0], [1.0], [-1.0]]))
        assert batch.status == (Status.OPTIMAL, Status.ERROR, Status.OPTIMAL)
        assert "abandoned" in batch.message[1]
        many = oracle.solve(np.ones((10, 1)))
        assert set(many.status) == {Status.ERROR}
        assert "isolated=True" in many.message[-1]  # it does not pile up threads for ever
    finally:
        release.set()


def test_an_isolated_call_is_killed_and_started_again() -> None:
    with solvers.function(sleep_on_seven, 2, seconds=0.5, isolated=True) as oracle:
        batch = oracle.solve(np.array([[-1.0, 1.0], [7.0, 0.0], [-1.0, -1.0], [9.0, 0.0], [1.0, 1.0]]))
    assert batch.status == (Status.OPTIMAL, Status.ERROR, Status.OPTIMAL, Status.ERROR, Status.OPTIMAL)
    assert "killed" in batch.message[1]
    assert "exit code 9" in batch.message[3]
    np.testing.assert_array_equal(batch.x[[0, 2, 4]], [[1, 0], [1, 1], [0, 0]])


def test_the_users_judge_is_asked() -> None:
    oracle = solvers.function(choose_negative, 2, violation=lambda x: abs(x.sum() - 1.0))
    np.testing.assert_array_equal(oracle.violation(np.array([[1.0, 0.0], [1.0, 1.0], [np.nan, 0.0]])), [0, 1, np.inf])
    np.testing.assert_array_equal(solvers.function(choose_negative, 2).violation(np.ones((2, 3, 2))), np.zeros((2, 3)))


def test_it_says_what_is_wrong() -> None:
    with pytest.raises(TypeError, match="callable"):
        solvers.function(3, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n >= 1"):
        solvers.function(choose_negative, 0)
    with pytest.raises(ValueError, match="seconds"):
        solvers.function(choose_negative, 1, seconds=0.0)
