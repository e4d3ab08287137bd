"""Processes of one Ray session, found by a mark in their environment, and a guardian that ends them after a crash.

Ray ends its own processes where it can; when the process that started it is killed, its agents may stay for minutes.
The guardian is a small process that outlives its parent by a few seconds only. This file needs nothing but the standard
library: it runs as a script.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "SURCO_RAY_SESSION"
"""Environment variable that every Ray process started here inherits; its value is unique."""

END_SECONDS = 15.0


def marked_processes(mark: str, *, name: str = MARK) -> dict[int, str]:
    """Living processes started with an environment variable: number -> start of the command line; {} without /proc."""
    found: dict[int, str] = {}
    wanted = f"{name}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:300]
        except (OSError, ValueError):  # it ended meanwhile, or belongs to somebody else
            continue
    return found


def end_processes(mark: str, *, seconds: float = END_SECONDS) -> None:
    """Wait for marked processes to end by themselves, then end them by number."""
    deadline = time.monotonic() + seconds
    while left := marked_processes(mark):
        if time.monotonic() < deadline:
            time.sleep(0.05)
            continue
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)


@contextlib.contextmanager
def guardian(mark: str, folder: Path | None, *, seconds: float = END_SECONDS) -> Iterator[None]:
    """Have a process that ends what is marked, and removes ``folder`` if given, should this process die in the block.

    It learns of that by the end of a pipe, whatever the signal, and gives the processes some seconds to end by
    themselves. Where the block is left in order, it does nothing.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", __file__, mark, "" if folder is None else str(folder), str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={k: v for k, v in os.environ.items() if k != MARK},
        start_new_session=True,  # Ctrl-C in a terminal goes to the whole group
    )
    assert process.stdin is not None
    try:
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"done")
            process.stdin.close()
        process.wait()


def _guard(mark: str, folder: str, seconds: str) -> None:
    if sys.stdin.buffer.read() == b"done":
        return
    end_processes(mark, seconds=float(seconds))
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _guard(*sys.argv[1:])
