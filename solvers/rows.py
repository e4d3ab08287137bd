"""Bookkeeping of the rows of a batch: bad rows are labelled, good rows are solved together or one after the other."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solvers.oracle import Array, OracleBatch, Status, as_costs


@dataclass(frozen=True, slots=True)
class Answer:
    """What a backend found for one cost vector.

    Attributes:
        status: what the backend says.
        x: [n] float64, or None without a point.
        bound: proven lower bound on min c.x; -inf where none is known. Ignored where ``status`` is ``OPTIMAL``.
        message: the reason of a status without a point, or a remark.
    """

    status: Status
    x: Array | None = None
    bound: float = -math.inf
    message: str = ""


Failures = Mapping[int, Answer]


def describe_bad_costs(costs: Array) -> str:
    """Say which entries of one cost vector [n] are not finite."""
    bad = np.flatnonzero(~np.isfinite(costs))
    return f"Expected finite costs, got {costs[bad[0]]} at index {bad[0]} ({bad.size} of {costs.size} entries)."


def describe_error(error: BaseException) -> str:
    """One line about an exception: its class and text."""
    return f"{type(error).__name__}: {error}"


def gather(costs: Array, answers: list[Answer], seconds: Array) -> OracleBatch:
    """Make a batch of ``answers`` to ``costs`` [B, n]; ``seconds`` [B]."""
    batch, n = costs.shape
    x = np.full((batch, n), np.nan)
    objective = np.full(batch, np.nan)
    bound = np.full(batch, -np.inf)
    for row, answer in enumerate(answers):
        if answer.x is None:
            bound[row] = answer.bound if answer.status is Status.LIMIT else -np.inf
            continue
        x[row] = answer.x
        objective[row] = costs[row] @ answer.x
        bound[row] = objective[row] if answer.status is Status.OPTIMAL else min(answer.bound, objective[row])
    return OracleBatch(
        x, objective, bound, tuple(a.status for a in answers), seconds, tuple(a.message for a in answers)
    )


def solve_one_by_one(costs: object, n: int, solve_row: Callable[[Array], Answer]) -> OracleBatch:
    """Answer each row of ``costs`` [B, n] by ``solve_row``; a row that raises or is not finite is an ``ERROR``."""
    checked = as_costs(costs, n)
    answers: list[Answer] = []
    seconds = np.zeros(len(checked))
    for row, cost in enumerate(checked):
        start = time.perf_counter()
        if not np.isfinite(cost).all():
            answers.append(Answer(Status.ERROR, message=describe_bad_costs(cost)))
            continue
        try:
            answers.append(solve_row(cost))
        except Exception as error:  # one bad row must not cost the batch; the row says what happened
            answers.append(Answer(Status.ERROR, message=describe_error(error)))
        seconds[row] = time.perf_counter() - start
    return gather(checked, answers, seconds)


def solve_together(
    costs: object, n: int, solve_batch: Callable[[Array], Array | tuple[Array, Failures]]
) -> OracleBatch:
    """Answer all finite rows of ``costs`` [B, n] by one call of ``solve_batch``.

    Args:
        costs: [B, n].
        n: number of variables.
        solve_batch: finite costs [B', n] -> optimal points [B', n], or a pair of them and the answers that replace
            the rows that have no proven optimum.
    """
    checked = as_costs(costs, n)
    if not checked.flags.writeable:  # the compiled loops know writable arrays only
        checked = checked.copy()
    start = time.perf_counter()
    # A sum is finite only if all its terms are, and is far cheaper than a mask; large sums are looked at again.
    if math.isfinite(float(checked.sum())):
        good = None
        finite = checked
    else:
        mask = np.isfinite(checked).all(axis=1)
        good = np.flatnonzero(mask)
        finite = checked[mask]
    try:
        outcome = solve_batch(finite)
    except Exception as error:  # the batch fails as a whole, with its reason in every row
        outcome = (finite, dict.fromkeys(range(len(finite)), Answer(Status.ERROR, message=describe_error(error))))
    x, failures = outcome if isinstance(outcome, tuple) else (outcome, {})
    elapsed = time.perf_counter() - start
    if good is None and not failures:
        return OracleBatch.exact(x, checked, elapsed)
    return _merge(checked, x, good, failures, elapsed)


def _merge(checked: Array, x: Array, good: NDArray[np.intp] | None, failures: Failures, elapsed: float) -> OracleBatch:
    """Put the answers of the finite rows back among the rows that are not finite."""
    batch, n = checked.shape
    rows = np.arange(batch) if good is None else good
    full = np.full((batch, n), np.nan)
    full[rows] = x
    status = [Status.ERROR] * batch
    for row in rows:
        status[row] = Status.OPTIMAL
    bound_of: dict[int, float] = {}
    message = [""] * batch
    if good is not None:
        for row in np.setdiff1d(np.arange(batch), good):
            message[row] = describe_bad_costs(checked[row])
    for local, answer in failures.items():
        row = int(rows[local])
        status[row], message[row] = answer.status, answer.message
        full[row] = np.nan if answer.x is None else answer.x
        if answer.status is not Status.OPTIMAL:
            bound_of[row] = answer.bound
    has_point = np.fromiter((s.has_point for s in status), bool, batch)
    objective = np.full(batch, np.nan)
    objective[has_point] = np.einsum("bn,bn->b", checked[has_point], full[has_point])
    bound = np.where(has_point, objective, -np.inf)
    for row, value in bound_of.items():
        bound[row] = min(value, objective[row]) if has_point[row] else value
    return OracleBatch(full, objective, bound, tuple(status), np.full(batch, elapsed / max(batch, 1)), tuple(message))
