"""Fan the rows of a batch out over processes, or over any pool with a ``map``."""

from __future__ import annotations

import hashlib
import pickle
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

import numpy as np

from solvers.oracle import Array, LinearOracle, OracleBatch, Status, as_costs
from solvers.rows import Answer, describe_error, gather
from solvers.workers import HungError, Worker, ask_all

Chunk = tuple[Array, float | None]
"""Cost vectors [b, n], and the time of day by which they must be done, or None."""


class MapPool(Protocol):
    """What ``parallel`` needs of a pool: a `concurrent.futures.Executor` has it, and Ray's pool too."""

    def map(self, function: Callable[[Any], Any], iterable: Iterable[Any], /) -> Iterable[Any]:
        """Results in the order of the arguments."""
        ...


def parallel(
    oracle: LinearOracle | Callable[[], LinearOracle],
    *,
    workers: int | None = None,
    pool: MapPool | None = None,
    chunk: int = 16,
    seconds: float | None = None,
) -> ParallelOracle:
    """The same oracle, with the rows of a batch solved in several processes.

    Rows travel in chunks of fixed size, and an oracle forgets its warm starts before each chunk (``reset``, where it
    has one), so the answers are the same for any number of workers. Worth it where a row takes more than about a
    millisecond; the native oracles are faster alone. Processes are spawned: a script that uses them needs the usual
    ``if __name__ == "__main__":``.

    Args:
        oracle: an oracle that can be pickled, or a function without arguments that makes one (importable by the
            workers).
        workers: number of processes; 1 solves in this process.
        pool: in place of ``workers``: an object with ``map``, such as a `concurrent.futures` executor; not closed here.
        chunk: rows that travel together.
        seconds: wall seconds allowed for a row, as a guard against hanging (processes of ``workers`` only): a process
            that takes longer for a chunk is killed, and the guilty row becomes an ``ERROR``.

    Examples:
        >>> import numpy as np, solvers
        >>> with parallel(solvers.cardinality(3, 1), workers=1) as oracle:
        ...     oracle.solve(np.array([[3.0, 1.0, 2.0]])).x.tolist()
        [[0.0, 1.0, 0.0]]
    """
    return ParallelOracle(oracle, workers=workers, pool=pool, chunk=chunk, seconds=seconds)


class ParallelOracle:
    """Solves chunks of rows in worker processes; a crash or a hang costs the guilty rows only.

    Use it as a context manager, or call `close`: it stops all processes. They are daemons, so none outlives the parent.
    """

    def __init__(
        self,
        oracle: LinearOracle | Callable[[], LinearOracle],
        *,
        workers: int | None = None,
        pool: MapPool | None = None,
        chunk: int = 16,
        seconds: float | None = None,
    ) -> None:
        if (workers is None) == (pool is None):
            raise ValueError("Expected either `workers` or `pool`, got " + ("none." if pool is None else "both."))
        if workers is not None and workers < 1:
            raise ValueError(f"Expected `workers` >= 1, got {workers}.")
        if chunk < 1:
            raise ValueError(f"Expected `chunk` >= 1, got {chunk}.")
        if seconds is not None and not seconds > 0:
            raise ValueError(f"Expected `seconds` > 0 or None, got {seconds}.")
        self._oracle: Any = oracle if hasattr(oracle, "solve") else oracle()  # type: ignore[operator]
        self._source = oracle
        self._count, self._pool = workers, pool
        self._chunk, self._seconds = int(chunk), seconds
        self._workers: list[Worker | None] = []
        self._payload: bytes | None = None

    @property
    def n(self) -> int:
        """Number of variables."""
        return self._oracle.n

    def violation(self, x: Array) -> Array:
        """Of the oracle itself, in this process."""
        return self._oracle.violation(x)

    @property
    def needs_nonnegative_costs(self) -> bool:
        """Of the oracle itself."""
        return bool(getattr(self._oracle, "needs_nonnegative_costs", False))

    @property
    def takes_seconds(self) -> bool:
        """Of the oracle itself."""
        return bool(getattr(self._oracle, "takes_seconds", False))

    def solve(self, costs: Array, *, seconds: float | None = None) -> OracleBatch:
        """Minimize each row of ``costs`` [B, n].

        Args:
            costs: [B, n].
            seconds: wall seconds for the whole batch, for an oracle that takes such a limit.
        """
        checked = as_costs(costs, self.n)
        # The clock of the day is the same in all processes; a monotonic one need not be.
        deadline = None if seconds is None or not self.takes_seconds else time.time() + seconds
        starts = range(0, len(checked), self._chunk)
        parts = [(checked[start : start + self._chunk], deadline) for start in starts]
        if not parts:
            return self._oracle.solve(checked)
        if self._pool is not None:
            payload = self._pickled()
            key = hashlib.sha256(payload).hexdigest()
            batches = list(self._pool.map(partial(_solve_pickled, key, payload), parts))
        elif self._count == 1:
            batches = [solve_chunk(self._oracle, *part) for part in parts]
        else:
            batches = self._fan_out(parts)
        return _concatenate(batches)

    def close(self) -> None:
        """Stop all processes; a later `solve` starts them again."""
        for worker in self._workers:
            if worker is not None:
                worker.stop()
        self._workers = []

    def __enter__(self) -> ParallelOracle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _pickled(self) -> bytes:
        if self._payload is None:
            self._payload = pickle.dumps(self._source)
        return self._payload

    def _fan_out(self, parts: list[Chunk]) -> list[OracleBatch]:
        assert self._count is not None
        while len(self._workers) < min(self._count, len(parts)):
            self._workers.append(None)
        limits = None if self._seconds is None else [self._seconds * len(part) for part, _ in parts]
        try:
            answers = ask_all(self._workers, self._start, parts, limits)
            return [
                self._one_by_one(part, answer) if isinstance(answer, HungError) else _raised_or_batch(part[0], answer)
                for part, answer in zip(parts, answers, strict=True)
            ]
        except BaseException:
            self.close()
            raise

    def _start(self) -> Worker:
        return Worker(_Server(self._pickled()))

    def _one_by_one(self, part: Chunk, error: HungError) -> OracleBatch:
        """Find the guilty rows of a chunk that killed its process."""
        costs, deadline = part
        if len(costs) == 1:
            return _failed(costs, describe_error(error))
        rows = [(costs[row : row + 1], deadline) for row in range(len(costs))]
        limits = None if self._seconds is None else [self._seconds] * len(rows)
        answers = ask_all(self._workers, self._start, rows, limits)
        return _concatenate([_raised_or_batch(row[0], answer) for row, answer in zip(rows, answers, strict=True)])


def solve_chunk(oracle: Any, costs: Array, deadline: float | None) -> OracleBatch:
    """Solve rows as if the oracle were new, up to a time of day."""
    reset = getattr(oracle, "reset", None)
    if callable(reset):
        reset()
    return oracle.solve(costs) if deadline is None else oracle.solve(costs, seconds=max(deadline - time.time(), 1e-3))


_MOST_MADE = 8


class _Made(threading.local):
    """Oracles of this thread (a backend is no matter for two threads), by the digest of their pickle."""

    def __init__(self) -> None:
        self.oracles: dict[str, Any] = {}


_made = _Made()


def _solve_pickled(key: str, payload: bytes, part: Chunk) -> OracleBatch:
    oracles = _made.oracles
    if key not in oracles:
        while len(oracles) >= _MOST_MADE:
            del oracles[next(iter(oracles))]
        source = pickle.loads(payload)  # from the parent process, never from a file
        oracles[key] = source if hasattr(source, "solve") else source()
    return solve_chunk(oracles[key], *part)


class _Server:
    """Body of a worker: its oracle is made while the process starts, so that it costs no row its time."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload

    def __setstate__(self, state: dict[str, Any]) -> None:
        source = pickle.loads(state["_payload"])  # from the parent process, never from a file
        self._oracle = source if hasattr(source, "solve") else source()

    def __call__(self, part: Chunk) -> OracleBatch:
        return solve_chunk(self._oracle, *part)


def _raised_or_batch(part: Array, answer: Any) -> OracleBatch:
    return _failed(part, describe_error(answer)) if isinstance(answer, BaseException) else answer


def _failed(part: Array, message: str) -> OracleBatch:
    return gather(part, [Answer(Status.ERROR, message=message)] * len(part), np.zeros(len(part)))


def _concatenate(batches: list[OracleBatch]) -> OracleBatch:
    return OracleBatch(
        np.concatenate([b.x for b in batches]),
        np.concatenate([b.objective for b in batches]),
        np.concatenate([b.bound for b in batches]),
        tuple(s for b in batches for s in b.status),
        np.concatenate([b.seconds for b in batches]),
        tuple(m for b in batches for m in (b.message or ("",) * len(b))),
    )
