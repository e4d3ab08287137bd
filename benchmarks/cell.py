"""One cell, run in a worker process: build the problem, solve, and describe what happened as plain data."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import surco
from benchmarks.suite import Cell
from surco.errors import InfeasibleError, NoDesignError
from surco.ledger import Ledger
from surco.result import Result

WARM_UP_CALLS = 4
WATCH_SECONDS = 0.005
TRACE = ("oracle_calls", "objective_calls", "seconds", "cpu_seconds", "value", "bound")


class CpuLimit:
    """Ends a run when it has used its CPU seconds; its :meth:`start` is the run's callback.

    The clock is watched from the first incumbent on: before it, a run has nothing to return.
    """

    def __init__(self, cpu_seconds: float) -> None:
        self.cpu_seconds = cpu_seconds
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    def start(self, ledger: Ledger) -> None:
        """Begin to watch."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, args=(ledger,), daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the watch."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, ledger: Ledger) -> None:
        while not self._over.wait(WATCH_SECONDS):
            if ledger.cpu_seconds >= self.cpu_seconds:
                with ledger.lock:
                    ledger.is_closed = True
                return


def run(cell: Cell) -> dict[str, Any]:
    """Run one cell. Whatever it raises becomes a labelled row: status ``infeasible``, ``no_design`` or ``error``."""
    start = time.perf_counter()
    try:
        result = _solve(cell)
    except InfeasibleError as error:
        outcome: dict[str, Any] = {"status": "infeasible", "message": str(error)}
    except NoDesignError as error:
        outcome = {"status": "no_design", "message": str(error)}
    except Exception as error:  # isolation: a method or problem that raises is one row of the table, not its end
        outcome = {"status": "error", "message": f"{type(error).__name__}: {error}"}
    else:
        outcome = _outcome(result)
    return {**identity(cell), **outcome, "wall_seconds": time.perf_counter() - start}


def identity(cell: Cell) -> dict[str, Any]:
    """The part of a row that says which cell it is."""
    return {
        "cell": cell.key,
        "group": cell.instance.group,
        "instance": cell.instance.key,
        "id": cell.instance.id,
        "set": dict(cell.instance.overrides),
        "label": cell.row.label,
        "method": cell.row.method,
        "options": dict(cell.row.options),
        "budget": dict(cell.instance.budget),
        "seed": cell.seed,
    }


def warm_up(cell: Cell) -> None:
    """Pay once for imports and compilation, which belong to no cell."""
    with contextlib.suppress(Exception):  # the measured run raises it again, and is labelled
        surco.solve(_make(cell), cell.row.method, calls=WARM_UP_CALLS, seed=cell.seed, **cell.row.options)


def _make(cell: Cell) -> surco.Problem:
    return surco.make(cell.instance.id, **cell.instance.overrides)


def _solve(cell: Cell) -> Result:
    budget = dict(cell.instance.budget)
    cpu_seconds = budget.pop("cpu_seconds", None)
    if cpu_seconds is None:
        return surco.solve(_make(cell), cell.row.method, seed=cell.seed, **budget, **cell.row.options)
    if not budget:
        budget = {"objective_calls": 10**15}  # no other limit: only the watch ends the run
    limit = CpuLimit(cpu_seconds)
    try:
        return surco.solve(
            _make(cell), cell.row.method, seed=cell.seed, callback=limit.start, **budget, **cell.row.options
        )
    finally:
        limit.stop()


def _outcome(result: Result) -> dict[str, Any]:
    data = result.to_json()
    kept = {
        key: data[key] for key in data if key not in ("x", "spec", "trace", "trace_columns", "id", "method", "seed")
    }
    kept["end"] = kept.pop("status")  # why the solve ended; the row's own status says whether there is a design
    trace = [[getattr(point, name) for name in TRACE] for point in result.trace]
    return {"status": "ok", **kept, "trace": trace}
