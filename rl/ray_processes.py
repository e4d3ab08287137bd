"""Processes of one Ray session, found by a mark in their environment, and a guardian that ends them after a crash.

Ray ends its own processes where it can; when the process that started it is killed, its agents may stay for minutes.
The guardian is a small process that outlives its parent by a few seconds only. The title that Ray gives its agents and
workers (``ray::...``) is written over the beginning of their environment, and the mark may stand there; so these are
also known by the session's folder, in which they keep their logs open. This file needs nothing but the standard
library: it runs as a script.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "SURCO_RAY_SESSION"
"""Environment variable that every Ray process started here inherits; its value is unique."""

END_SECONDS = 15.0


def marked_processes(mark: str, *, name: str = MARK, folder: Path | None = None) -> dict[int, str]:
    """Living processes started with an environment variable: number -> start of the command line; {} without /proc.

    With a ``folder``, also those titled ``ray::...`` that have a file in it open for writing.
    """
    found: dict[int, str] = {}
    wanted = f"{name}={mark}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            is_marked = wanted in (process / "environ").read_bytes().split(b"\0")
            if is_marked or (folder and command.startswith(b"ray::") and _writes_in(process, folder)):
                found[int(process.name)] = command.replace(b"\0", b" ").decode().strip()[:300]
        except (OSError, ValueError):  # it ended meanwhile, or belongs to somebody else
            continue
    return found


def _writes_in(process: Path, folder: Path) -> bool:
    """Whether a process of /proc has a file of a folder open for writing."""
    for link in (process / "fd").iterdir():
        with contextlib.suppress(OSError):
            if link.lstat().st_mode & stat.S_IWUSR and link.readlink().is_relative_to(folder):
                return True
    return False


def end_processes(mark: str, *, folder: Path | None = None, seconds: float = END_SECONDS) -> None:
    """Wait for marked processes (see `marked_processes`) to end by themselves, then end them by number."""
    deadline = time.monotonic() + seconds
    while left := marked_processes(mark, folder=folder):
        if time.monotonic() < deadline:
            time.sleep(0.05)
            continue
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)


@contextlib.contextmanager
def guardian(mark: str, folder: Path, *, keeps_folder: bool = False, seconds: float = END_SECONDS) -> Iterator[None]:
    """Have a process that ends what is marked and removes the session's folder, should this process die in the block.

    It learns of that by the end of a pipe, whatever the signal, and gives the processes some seconds to end by
    themselves. Where the block is left in order, it does nothing.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", __file__, mark, str(folder), str(seconds), *["keep"] * keeps_folder],
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


def _guard(mark: str, folder: str, seconds: str, *keep: str) -> None:
    if sys.stdin.buffer.read() == b"done":
        return
    end_processes(mark, folder=Path(folder), seconds=float(seconds))
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _guard(*sys.argv[1:])
