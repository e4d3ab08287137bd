"""Worker processes that may hang, crash or be killed: their cell becomes a labelled row, and the rest goes on."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, as_completed
from multiprocessing.connection import Connection, wait
from typing import Any

from benchmarks import cell as cells
from benchmarks.suite import Cell

_CONTEXT = multiprocessing.get_context("spawn")  # nothing is inherited: every worker starts the same
_ORPHAN_SECONDS = 0.5
_START_SECONDS = 300.0  # for a process to come up and import what it needs, on a busy machine
_BEGUN = "begun"


class _Worker:
    """One process and what it is at."""

    def __init__(self) -> None:
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
        self.process.start()
        theirs.close()
        self.cell: Cell | None = None
        self.deadline = float("inf")

    def give(self, cell: Cell) -> None:
        self.cell = cell
        self.deadline = time.monotonic() + _START_SECONDS
        self.pipe.send(cell)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run(todo: Iterable[Cell], *, workers: int, cell_seconds: float) -> Iterator[dict[str, Any]]:
    """Run cells on ``workers`` processes and yield their rows as they finish.

    A cell that takes longer than ``cell_seconds`` of wall time is ended (status ``timeout``); one whose process dies
    has status ``died``. Closing the iterator ends all processes.
    """
    waiting = deque(todo)
    crew: list[_Worker] = []
    try:
        while waiting or any(worker.cell for worker in crew):
            while waiting and len(crew) < workers:
                crew.append(_Worker())
            for worker in crew:
                if worker.cell is None and waiting:
                    worker.give(waiting.popleft())
            busy = [worker for worker in crew if worker.cell is not None]
            left = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
            ready = wait([worker.pipe for worker in busy], timeout=left)
            for worker in busy:
                row = _harvest(worker, cell_seconds, is_ready=worker.pipe in ready)
                if row is None:
                    continue
                if row["status"] in ("died", "timeout"):
                    worker.end()
                    crew.remove(worker)
                worker.cell = None
                yield row
    finally:
        for worker in crew:
            worker.end()


def run_on(executor: Executor, todo: Iterable[Cell]) -> Iterator[dict[str, Any]]:
    """Run cells on any executor, such as `rl.pool.RayPool`, and yield their rows as they finish.

    A cell whose process dies has status ``died``. Budgets are the cells' own; nothing ends a cell that hangs.
    """
    futures = {executor.submit(_run_warm, cell): cell for cell in todo}
    for future in as_completed(futures):
        try:
            yield future.result()
        except Exception as error:  # of the machinery: a cell's own errors are in its row
            yield {**cells.identity(futures[future]), "status": "died", "message": f"{type(error).__name__}: {error}"}


_WARM: set[tuple[str, str]] = set()


def _run_warm(cell: Cell) -> dict[str, Any]:
    """A cell in a process that others share, after imports and compilation were paid for."""
    import torch

    torch.set_num_threads(1)
    kind = (cell.instance.id, cell.row.method)
    if kind not in _WARM:
        cells.warm_up(cell)
        _WARM.add(kind)
    return cells.run(cell)


def _harvest(worker: _Worker, cell_seconds: float, *, is_ready: bool) -> dict[str, Any] | None:
    """The row of a worker's cell, if it is finished, dead or overdue."""
    assert worker.cell is not None
    if is_ready:
        try:
            news = worker.pipe.recv()
            if news != _BEGUN:
                return news
            worker.deadline = time.monotonic() + cell_seconds
        except (EOFError, OSError):
            worker.process.join(timeout=5.0)
            code = worker.process.exitcode
            message = f"the worker process ended with exit code {code}"
            return {**cells.identity(worker.cell), "status": "died", "message": message}
    if time.monotonic() >= worker.deadline:
        return {**cells.identity(worker.cell), "status": "timeout", "message": "the cell took too long and was ended"}
    return None


def _serve(pipe: Connection, parent: int) -> None:
    """A worker's life: take a cell, run it, send its row; end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    logging.getLogger("surco").addHandler(logging.NullHandler())  # a run's notes are in its row
    import torch

    torch.set_num_threads(1)  # a CPU second is then the same for every method
    warm: set[tuple[str, str]] = set()
    while True:
        try:
            cell: Cell = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(_BEGUN)  # the clock of the cell starts now, not with the imports
        kind = (cell.instance.id, cell.row.method)
        if kind not in warm:
            cells.warm_up(cell)
            warm.add(kind)
        pipe.send(cells.run(cell))


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, also by a kill that the parent could not handle."""
    while os.getppid() == parent:
        time.sleep(_ORPHAN_SECONDS)
    os._exit(1)
