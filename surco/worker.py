"""A thread that may hang without taking the caller with it.

A user's objective or oracle can loop forever. Running a solve on a worker lets the caller keep its deadline and its
Ctrl-C: it returns what is known and leaves the hanging thread behind (a daemon, ended with the process).
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import torch


class _Job:
    def __init__(self, function: Callable[[], Any], threads: int) -> None:
        self.function = function
        self.threads = threads
        self.done = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None


class _Worker:
    def __init__(self) -> None:
        self.jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="surco-worker", daemon=True).start()

    def _serve(self) -> None:
        while True:
            job = self.jobs.get()
            torch.set_num_threads(job.threads)  # of this thread only: OpenMP keeps the number per thread
            try:
                job.value = job.function()
            except BaseException as error:  # handed to the caller, whatever it is
                job.error = error
            job.done.set()


EXIT_SECONDS = 3.0  # for threads that are late when the interpreter ends
_idle: list[_Worker] = []
_left: list[_Job] = []  # behind: their threads may still run
_lock = threading.Lock()


class HungError(Exception):
    """The function did not return in time."""


def has_left_any() -> bool:
    """Whether a thread that was left behind still runs; compiled code in it can abort an interpreter that ends."""
    with _lock:
        _left[:] = [job for job in _left if not job.done.is_set()]
        return bool(_left)


@atexit.register
def _wait_for_left() -> None:
    """Let a thread that is only late end before the interpreter does."""
    end = time.monotonic() + EXIT_SECONDS
    while has_left_any() and time.monotonic() < end:
        time.sleep(0.02)


def run(function: Callable[[], Any], seconds_to_wait: Callable[[], float], *, threads: int = 1) -> Any:
    """Call ``function()`` on a worker thread and return its value or raise its error.

    Args:
        function: what to run.
        seconds_to_wait: seconds to go on waiting; at 0 or less the wait ends.
        threads: torch threads inside ``function``.

    Raises:
        HungError: the wait ended first; the thread is left behind.
    """
    with _lock:  # an idle thread is kept: starting one costs more than a small solve
        worker = _idle.pop() if _idle else _Worker()
    job = _Job(function, threads)
    worker.jobs.put(job)
    while not job.done.is_set():
        left = seconds_to_wait()
        if left <= 0:
            with _lock:
                _left.append(job)
            raise HungError
        job.done.wait(min(left, 0.5))  # short waits let Ctrl-C in
    with _lock:
        _idle.append(worker)
    if job.error is not None:
        raise job.error
    return job.value
