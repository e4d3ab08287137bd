"""Gradients through the oracle on a thread of their own, beside the network."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from surco.training.gradients import Gradient, Step, taken

Answer = Callable[[], tuple[Tensor, Tensor]]


class Overlap:
    """Takes gradients one after the other on one thread, so that what they are does not depend on timing.

    The thread waits for oracles in other processes, or runs compiled ones, while the caller's thread runs the network.
    Without a thread each gradient is taken at once.

    Args:
        has_thread: whether to have a thread.
        threads: of torch, for the work on the thread.

    Attributes:
        worked: seconds spent on gradients since `clear`.
        waited: the part of them in which the caller stood still inside `ask`.
    """

    def __init__(self, has_thread: bool, threads: int) -> None:
        self._pool = (
            ThreadPoolExecutor(1, "gradients", initializer=torch.set_num_threads, initargs=(threads,))
            if has_thread
            else None
        )
        self.worked = self.waited = 0.0

    def ask(self, gradient: Gradient, step: Step) -> Answer:
        """Begin a gradient; the answer, when called, waits for it and raises what it raised."""
        if self._pool is not None:
            return self._pool.submit(self._take, gradient, step).result
        before = self.worked
        found = self._take(gradient, step)
        self.waited += self.worked - before
        return lambda: found

    def clear(self) -> None:
        """Set the clocks back."""
        self.worked = self.waited = 0.0

    def _take(self, gradient: Gradient, step: Step) -> tuple[Tensor, Tensor]:
        begun = time.perf_counter()
        with torch.no_grad():  # of this thread
            found = taken(gradient, step)
        if step.costs.is_cuda:
            torch.cuda.synchronize(step.costs.device)
        self.worked += time.perf_counter() - begun
        return found

    def __enter__(self) -> Overlap:
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
