"""A guard against training that only looks alive: steps that stop growing, returns or losses that are not numbers."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from surco.errors import InvalidInputError, SurcoError

EXIT_CODE = 75
"""Exit code of a run that gave up with a checkpoint behind it (EX_TEMPFAIL): run it again with ``--resume``."""

_LOOK_SECONDS = 0.5


class StallError(SurcoError, RuntimeError):
    """Training does not get on; the message says what was seen."""


class StallGuard:
    """Watches a run's step counter and figures.

    RLlib's ``train()`` returns cheerfully with all its workers dead; a wait inside of it need not return at all. So
    `observe` raises where the counter stands still, and a thread ends the process where `observe` is not called at all
    for so long, after ``rescue`` had its chance to save what is known.

    Args:
        seconds: wall seconds without a new step after which the run is given up.
        nan_limit: observations in a row with a figure that is not a number, after which the run is given up.
        rescue: called from the thread before it ends the process; None switches the thread off.
    """

    def __init__(self, seconds: float, nan_limit: int = 3, *, rescue: Callable[[], None] | None = None) -> None:
        if not seconds > 0:
            raise InvalidInputError(f"Expected `stall_seconds` > 0, got {seconds}.")
        if nan_limit < 1:
            raise InvalidInputError(f"Expected `nan_limit` >= 1, got {nan_limit}.")
        self.seconds, self.nan_limit, self._rescue = seconds, nan_limit, rescue
        self.steps = -1
        self.nans = 0
        self._grown = self._seen = time.monotonic()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._grown = self._seen = time.monotonic()
        if self._rescue is not None:
            self._thread = threading.Thread(target=self._watch, name="stall-guard", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()  # else it might free tensors while the interpreter ends, which aborts the process
            self._thread = None

    def observe(self, steps: int, *figures: float | None) -> None:
        """Take the step counter, and figures that should be numbers; None is one that is not known this time.

        Raises:
            StallError: no new step for too long, or figures that are not numbers too often in a row.
        """
        now = self._seen = time.monotonic()
        known = [figure for figure in figures if figure is not None]
        if any(not math.isfinite(figure) for figure in known):
            self.nans += 1
            if self.nans >= self.nan_limit:
                raise StallError(
                    f"{self.nans} times in a row a return or loss was not a number, the last time at step {steps}. "
                    "Resume with a smaller step size, or look for rewards that are not numbers."
                )
        elif known:
            self.nans = 0
        if steps > self.steps:
            self.steps, self._grown = steps, now
        elif now - self._grown >= self.seconds:
            raise StallError(
                f"No new step for {now - self._grown:.0f} s at step {steps}: all workers are gone or hang. "
                "Resume when the cluster is whole again."
            )

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            if time.monotonic() - self._seen >= self.seconds + _LOOK_SECONDS:
                sys.stderr.write(f"given up: no answer from training for {self.seconds:g} s at step {self.steps}.\n")
                try:
                    assert self._rescue is not None
                    self._rescue()
                finally:
                    sys.stderr.flush()
                    os._exit(EXIT_CODE)
