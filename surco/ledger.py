"""The ledger of a run: every vertex and value is counted, checked and remembered.

Methods and estimators see the problem through it (:class:`surco.counted.CountedProblem`) and never think of budgets,
incumbents or bad answers: batches are cut to what is left, rows that fail are labelled, every vertex is valued once,
and the ledger keeps the best design that the problem's own independent check finds feasible.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from solvers.oracle import Array, OracleBatch, Status
from solvers.rows import describe_error
from surco.bridge import to_numpy, to_torch
from surco.budget import Budget, BudgetExhausted
from surco.designs import pack, unpack
from surco.errors import InfeasibleError
from surco.protocols import ExplainsInfeasibility, Problem
from surco.result import Point, Stats, relative_gap

logger = logging.getLogger(__name__)

FEASIBILITY_TOLERANCE = 1e-6
OPTIMALITY_GAP = 1e-6  # relative; a value this close to its bound is called optimal
ROUNDING = 1e-12  # absolute; a value this close to its bound is optimal whatever its size: 1e-17 against 0
MEMORY_BYTES = 64e6  # of designs whose value is remembered


class Ledger:
    """Counts, incumbent and bound of one run."""

    def __init__(
        self, problem: Problem, budget: Budget, on_improvement: Callable[[Ledger], None] | None = None
    ) -> None:
        self.problem = problem
        self.budget = budget
        self.on_improvement = on_improvement
        self.lock = threading.RLock()
        self.is_closed = False
        self.is_cut = False  # a batch was cut to what was left: the step that asked for it is not a whole step
        self.x: Array | None = None
        self.value = math.inf
        self.bound = -math.inf
        self.has_wrong_bound = False
        self.source = ""
        self.method = ""  # name of the method at work, for the trace
        self.trace: list[Point] = []
        self.notes: dict[str, int] = {}
        self.oracle_calls = self.objective_calls = 0
        self.oracle_failures = self.objective_failures = self.rejected = 0
        self.infeasible_rows = 0
        self.values: dict[bytes, float] = {}
        self.pending: dict[bytes, Array] = {}
        self._seconds_before = self._cpu_before = 0.0
        self._wall = time.perf_counter()
        self._cpu = time.process_time()
        self._row_seconds = 0.0
        self.turn_ends = math.inf  # in seconds of the run: when a method should hand back, see `turn_left`

    # ------------------------------------------------------------------ what is left

    @property
    def seconds(self) -> float:
        """Wall seconds of the run, earlier sessions of a resumed run included."""
        return self._seconds_before + time.perf_counter() - self._wall

    @property
    def cpu_seconds(self) -> float:
        """Process CPU seconds of the run, earlier sessions included."""
        return self._cpu_before + time.process_time() - self._cpu

    @property
    def seconds_left(self) -> float:
        """Wall seconds left; inf without a limit."""
        return math.inf if self.budget.seconds is None else self.budget.seconds - self.seconds

    @property
    def turn_left(self) -> float:
        """Wall seconds left to the method at work: of its turn in a portfolio, else of the run; inf without a limit."""
        if self.budget.seconds is None:
            return math.inf
        seconds = self.seconds
        return max(min(self.turn_ends - seconds, self.budget.seconds - seconds), 1e-3)

    def check(self) -> None:
        """Raise :class:`BudgetExhausted` if nothing is left, or the run was closed from outside."""
        if self.is_closed or self.seconds_left <= 0 or self.is_optimal:
            raise BudgetExhausted

    @property
    def is_optimal(self) -> bool:
        """Whether the incumbent meets the bound."""
        if self.x is None:
            return False
        gap = relative_gap(self.value, self.bound)
        return (gap is not None and gap <= OPTIMALITY_GAP) or self.value - self.bound <= ROUNDING

    @property
    def spent(self) -> int:
        """Oracle and objective calls together: the clock of a run that must not depend on the real one."""
        return self.oracle_calls + self.objective_calls

    def oracle_rows(self, wanted: int) -> int:
        """How many of ``wanted`` oracle rows may be solved now (at least 1, else the budget is exhausted)."""
        self.check()
        allowed = wanted
        if self.budget.calls is not None:
            allowed = min(allowed, self.budget.calls - self.oracle_calls)
        if self.budget.seconds is not None and self._row_seconds > 0:
            allowed = min(allowed, max(1, int(self.turn_left / self._row_seconds)))
        if allowed <= 0:
            raise BudgetExhausted
        return allowed

    def objective_rows(self, wanted: int) -> int:
        """How many of ``wanted`` objective rows may be evaluated now (at least 1, else exhausted)."""
        self.check()
        limit = self.budget.objective_limit
        allowed = wanted if limit is None else min(wanted, limit - self.objective_calls)
        if allowed <= 0:
            raise BudgetExhausted
        return allowed

    # ------------------------------------------------------------------ what happened

    def note(self, text: str) -> None:
        """Remember a survived failure; equal texts are counted."""
        if text not in self.notes:
            logger.warning("%s", text)
        self.notes[text] = self.notes.get(text, 0) + 1

    def solved(self, batch: OracleBatch) -> None:
        """Account for an oracle's answers; every new vertex waits to be valued."""
        rows = len(batch)
        self.oracle_calls += rows
        self._row_seconds = float(np.mean(batch.seconds)) if rows else 0.0
        for row, status in enumerate(batch.status):
            if status is Status.INFEASIBLE:
                self.infeasible_rows += 1
            elif not status.has_point:
                self.oracle_failures += 1
                reason = batch.message[row] if batch.message else ""
                self.note(f"oracle: {status.value}{': ' + reason if reason else ''}")
        if self.infeasible_rows and self.x is None and all(s is Status.INFEASIBLE for s in batch.status):
            problem = self.problem
            why = problem.explain_infeasibility() if isinstance(problem, ExplainsInfeasibility) else ""
            raise InfeasibleError(why or "The rules leave no feasible design: the oracle proved the set empty.")
        for x in batch.x[batch.has_point]:
            key = x.tobytes()
            if key not in self.values:
                self.pending.setdefault(key, x)

    def valued(self, x: Array, values: Array) -> None:
        """Take values [R] of designs x [R, n]; the best feasible one may become the incumbent."""
        for row, value in zip(x, values, strict=True):
            key = row.tobytes()
            self.pending.pop(key, None)
            if len(self.values) * x.shape[-1] * 8 < MEMORY_BYTES:
                self.values.setdefault(key, float(value))
        order = np.argsort(values, kind="stable")
        for row in order:
            if not values[row] < self.value:  # also ends at NaN, which sorts last
                break
            if self.offer(x[row], float(values[row])):
                break

    def offer(self, x: Array, value: float, source: str = "") -> bool:
        """Take x as incumbent if it is better and the independent check finds it feasible."""
        if not value < self.value:
            return False
        try:
            violation = float(self.problem.violation(to_torch(x)))
        except Exception as error:  # a design that cannot be judged is no answer
            self.note(f"the check of feasibility raised {describe_error(error)}")
            violation = math.nan
        if not violation <= FEASIBILITY_TOLERANCE:
            self.rejected += 1
            self.note(f"rejected an infeasible answer of {source or self.method or 'the oracle'}")
            return False
        with self.lock:
            if self.is_closed:
                raise BudgetExhausted
            if value < self.bound - _slack(self.bound):
                self.note(f"a lower bound of {self.bound:.9g} was wrong: a feasible design has {value:.9g}; withdrawn")
                self.bound, self.has_wrong_bound = -math.inf, True
            self.x, self.value, self.source = np.array(x, dtype=np.float64), value, source or self.method
            self._record()
        return True

    def offer_bound(self, bound: float) -> None:
        """Take a proven lower bound on min f; one that a known design contradicts is noted and not taken.

        After one contradiction no bound of this run is taken any more: a claim (convexity, an exact method) is false.
        """
        if not (bound > self.bound and math.isfinite(bound)) or self.has_wrong_bound:
            return
        if bound > self.value + _slack(self.value):
            self.note(f"a lower bound of {bound:.9g} is wrong: a feasible design has {self.value:.9g}")
            self.bound, self.has_wrong_bound = -math.inf, True
            return
        with self.lock:
            self.bound = min(bound, self.value)
            self._record()

    def _record(self) -> None:
        value = self.value if self.x is not None else None
        bound = self.bound if math.isfinite(self.bound) else None
        self.trace.append(
            Point(self.oracle_calls, self.objective_calls, self.seconds, self.cpu_seconds, value, bound, self.method)
        )
        if self.on_improvement is not None:
            self.on_improvement(self)

    def stats(self) -> Stats:
        """Costs so far."""
        return Stats(
            self.oracle_calls,
            self.objective_calls,
            self.seconds,
            self.cpu_seconds,
            self.oracle_failures,
            self.objective_failures,
            self.rejected,
        )

    # ------------------------------------------------------------------ save and restore

    _COUNTERS = (
        "oracle_calls",
        "objective_calls",
        "oracle_failures",
        "objective_failures",
        "rejected",
        "infeasible_rows",
        "has_wrong_bound",
    )

    def mark(self) -> dict[str, Any]:
        """A cheap picture of this moment, from which :meth:`state` can be made later."""
        return {
            **{name: getattr(self, name) for name in self._COUNTERS},
            "x": None if self.x is None else to_torch(self.x),
            "value": self.value,
            "bound": self.bound,
            "source": self.source,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "notes": dict(self.notes),
            "trace": len(self.trace),
            "known": len(self.values),
            "pending": list(self.pending),
        }

    def state(self, mark: dict[str, Any]) -> dict[str, Any]:
        """Plain data of a mark, for :meth:`restore`; what was learned since is left out."""
        values = dict(itertools.islice(self.values.items(), mark["known"]))
        return {
            **mark,
            "trace": [[getattr(p, name) for name in Point.__slots__] for p in self.trace[: mark["trace"]]],
            "known": pack(_stacked(values)),
            "known_values": torch.tensor(list(values.values()), dtype=torch.float64),
            "pending": pack(_stacked(mark["pending"])),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        for name in self._COUNTERS:
            setattr(self, name, state[name])
        self.x = None if state["x"] is None else to_numpy(state["x"]).copy()
        self.value, self.bound, self.source = state["value"], state["bound"], state["source"]
        self._seconds_before, self._cpu_before = state["seconds"], state["cpu_seconds"]
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        self.notes = dict(state["notes"])
        self.trace = [Point(*row) for row in state["trace"]]
        known = to_numpy(unpack(state["known"]))
        self.values = {row.tobytes(): float(v) for row, v in zip(known, state["known_values"].tolist(), strict=True)}
        self.pending = {row.tobytes(): row.copy() for row in to_numpy(unpack(state["pending"]))}


def _slack(value: float) -> float:
    """Rounding allowed between a bound and a value."""
    return 1e-6 * max(abs(value), 1e-3)


def _stacked(keys: Iterable[bytes]) -> Tensor:
    """Designs [R, n] of their keys."""
    rows = [np.frombuffer(key) for key in keys]
    return to_torch(np.stack(rows)) if rows else torch.zeros(0, 0, dtype=torch.float64)
