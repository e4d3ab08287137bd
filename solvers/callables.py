"""Any Python callable ``costs [n] -> x [n]`` as an oracle, guarded against errors, nonsense and hanging."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from solvers.oracle import Array, OracleBatch, Status
from solvers.points import as_points
from solvers.rows import Answer, describe_error, solve_one_by_one

_MOST_ABANDONED = 8


def function(
    call: Callable[[Array], Any],
    n: int,
    *,
    violation: Callable[[Array], Any] | None = None,
    seconds: float | None = None,
    isolated: bool = False,
    is_exact: bool = True,
) -> FunctionOracle:
    """Oracle of any callable that maps costs [n] to a point [n].

    Args:
        call: the callable. It gets a read-only copy of one cost vector and returns n numbers, or None where it finds
            no point.
        n: number of variables.
        violation: judge of a point, [n] -> a number, 0 if feasible. Without it only finiteness is checked, and
            `violation` of the oracle is 0 for every finite point. It must not trust ``call``.
        seconds: wall seconds allowed for a call. A call that takes longer becomes an ``ERROR`` row.
        isolated: run the calls in a process of their own, which is killed where a call hangs. ``call`` must be
            importable by that process (a function at the top level of a module). Without it a hanging call keeps
            running in a thread that nobody waits for; after 8 of them every row is an ``ERROR``.
        is_exact: whether a point is a proven optimum. If not, rows are ``FEASIBLE`` and carry no bound.

    Examples:
        >>> import numpy as np
        >>> oracle = function(lambda costs: costs < 0, 3)
        >>> oracle.solve(np.array([[1.0, -2.0, 0.5]])).x.tolist()
        [[0.0, 1.0, 0.0]]
    """
    return FunctionOracle(call, n, violation=violation, seconds=seconds, isolated=isolated, is_exact=is_exact)


class FunctionOracle:
    """Linear oracle of a callable; a call that raises, hangs or returns nonsense is a labelled row."""

    def __init__(
        self,
        call: Callable[[Array], Any],
        n: int,
        *,
        violation: Callable[[Array], Any] | None = None,
        seconds: float | None = None,
        isolated: bool = False,
        is_exact: bool = True,
    ) -> None:
        if not callable(call):
            raise TypeError(f"Expected a callable, got {type(call).__name__}.")
        if n < 1:
            raise ValueError(f"Expected n >= 1, got {n}.")
        if seconds is not None and not seconds > 0:
            raise ValueError(f"Expected `seconds` > 0 or None, got {seconds}.")
        self._call, self._n, self._violation = call, int(n), violation
        self._seconds, self._is_isolated, self._is_exact = seconds, isolated, is_exact
        self._abandoned = 0
        self._worker: Any = None

    @property
    def n(self) -> int:
        """Number of variables."""
        return self._n

    def solve(self, costs: Array) -> OracleBatch:
        """Answer each row of ``costs`` [B, n] by one call."""
        return solve_one_by_one(costs, self._n, self._solve_row)

    def violation(self, x: Array) -> Array:
        """What the user's ``violation`` says, [..., n] -> [...]; inf where a point is not finite."""
        points, finite = as_points(x, self._n)
        flat = points.reshape(-1, self._n)
        worst = np.where(finite.ravel(), 0.0, np.inf)
        if self._violation is not None:
            for row in np.flatnonzero(worst == 0.0):
                worst[row] = float(self._violation(flat[row]))
        return worst.reshape(points.shape[:-1])

    def close(self) -> None:
        """Stop the process of an isolated oracle; the next call starts it again."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def __enter__(self) -> FunctionOracle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_worker": None, "_abandoned": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def _solve_row(self, costs: Array) -> Answer:
        argument = costs.copy()
        argument.flags.writeable = False
        if self._is_isolated:
            value = self._run_in_process(argument)
        elif self._seconds is not None:
            value = self._run_in_thread(argument, self._seconds)
        else:
            value = self._call(argument)
        return value if isinstance(value, Answer) else self._judge(value)

    def _judge(self, value: Any) -> Answer:
        if value is None:
            return Answer(Status.LIMIT, message="the callable returned None: no point found")
        try:
            point = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            return Answer(Status.ERROR, message=f"Expected {self._n} numbers, got {describe_error(error)}")
        if point.shape != (self._n,):
            return Answer(Status.ERROR, message=f"Expected a point of shape [{self._n}], got {list(point.shape)}")
        if not np.isfinite(point).all():
            return Answer(Status.ERROR, message="Expected a finite point, got NaN or infinity")
        return Answer(Status.OPTIMAL if self._is_exact else Status.FEASIBLE, point)

    def _run_in_thread(self, costs: Array, seconds: float) -> Any:
        if self._abandoned >= _MOST_ABANDONED:
            return Answer(Status.ERROR, message=f"{self._abandoned} earlier calls still hang; use isolated=True")
        outcome: list[Any] = []

        def run() -> None:
            try:
                outcome.append((True, self._call(costs)))
            except Exception as error:  # handed over to the thread that waits
                outcome.append((False, error))

        thread = threading.Thread(target=run, name="surco-callable", daemon=True)
        thread.start()
        thread.join(seconds)
        if not outcome:
            self._abandoned += 1
            return Answer(
                Status.ERROR, message=f"the callable took longer than {seconds:g} s; its thread was abandoned"
            )
        succeeded, value = outcome[0]
        if not succeeded:
            raise value
        return value

    def _run_in_process(self, costs: Array) -> Any:
        from solvers.workers import HungError, Worker

        if self._worker is None:
            self._worker = Worker(self._call)
        try:
            return self._worker.ask(costs, self._seconds)
        except HungError as error:
            self._worker = None  # it was killed; the next call starts another one
            return Answer(Status.ERROR, message=f"the callable {error}")
