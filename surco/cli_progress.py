"""Progress of a run on stderr: one living line on a terminal, a line a second otherwise, nothing where not wanted."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from surco.result import relative_gap

if TYPE_CHECKING:
    from rich.live import Live

    from surco.ledger import Ledger

LINE_SECONDS = 1.0


class Progress:
    """Shows a run's ledger; its :meth:`update` is the callback of ``surco.solve``.

    Args:
        wanted: True to show, False not to, None to show on a terminal only.
    """

    def __init__(self, wanted: bool | None) -> None:
        self.is_terminal = sys.stderr.isatty()
        self.is_shown = self.is_terminal if wanted is None else wanted
        self.ledger: Ledger | None = None
        self._live: Live | None = None
        self._shown_at = -math.inf

    def __enter__(self) -> Self:
        if self.is_shown and self.is_terminal:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                get_renderable=self.line, console=Console(stderr=True), refresh_per_second=4, transient=True
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self.is_shown and self.ledger is not None:
            sys.stderr.write(self.line() + "\n")

    def update(self, ledger: Ledger) -> None:
        """Take an improvement."""
        self.ledger = ledger
        now = time.monotonic()
        if self._live is None and self.is_shown and now - self._shown_at >= LINE_SECONDS:
            self._shown_at = now
            sys.stderr.write(self.line() + "\n")
            sys.stderr.flush()

    def line(self) -> str:
        """The run in one line."""
        ledger = self.ledger
        if ledger is None:
            return "searching for a first design ..."
        value = f"{ledger.value:.6g}" if math.isfinite(ledger.value) else "none yet"
        bound = f"{ledger.bound:.6g}" if math.isfinite(ledger.bound) else "none"
        gap = relative_gap(ledger.value, ledger.bound) if math.isfinite(ledger.value) else None
        shown = "" if gap is None else f"  gap {100 * gap:.3g} %"
        calls = f"{ledger.oracle_calls:,} oracle calls  {ledger.objective_calls:,} objective calls"
        return f"{ledger.seconds:7.1f} s  {calls}  value {value}  bound {bound}{shown}"
