"""Results on disk: one JSON line a finished cell, flushed to the disk before the next begins, never written twice.

A line is appended whole. A kill in the middle of one leaves half a line at the end of the file, which the next run
cuts off; its cell is run again.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from surco import provenance
from surco.errors import InvalidInputError

RESULTS = "results.jsonl"
RUNS = "runs.jsonl"  # provenance: one line an invocation of the runner
SUITE = "suite.toml"
LOCK = "lock"


class Store:
    """The folder of one benchmark, open for writing by one runner at a time.

    Args:
        folder: made where missing.
        resume: keep the finished cells of an earlier run; without it, a folder with results is refused.
    """

    def __init__(self, folder: str | Path, *, resume: bool) -> None:
        self.folder = Path(folder)
        self.resume = resume
        self.run = f"{provenance.now()}-{secrets.token_hex(3)}"
        self.finished: set[str] = set()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as undo:
            self._lock = undo.enter_context((self.folder / LOCK).open("w"))
            self._open()
            undo.pop_all()
        return self

    def _open(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system frees it when the runner dies
        except OSError as error:
            raise InvalidInputError(
                f"Another run is at work in `{self.folder}`. Wait for it, or choose another --out."
            ) from error
        path = self.folder / RESULTS
        if path.is_file() and path.stat().st_size and not self.resume:
            raise InvalidInputError(f"`{self.folder}` holds results. Add --resume to go on, or choose another --out.")
        cut_half_line(path)
        self.finished = {row["cell"] for row in read_lines(path)}
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
        self._lock.close()

    def begin(self, suite_text: str, command: str) -> None:
        """Record the suite and where the rows of this invocation come from."""
        (self.folder / SUITE).write_text(suite_text, encoding="utf-8")
        origin = {"run": self.run, **provenance.origin(), "command": command}
        file = os.open(self.folder / RUNS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            _append(file, origin)
        finally:
            os.close(file)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one finished cell and flush it to the disk."""
        if row["cell"] in self.finished:
            raise ValueError(f"cell {row['cell']} is finished already")
        _append(self._file, {**row, "run": self.run, "date": provenance.now()})
        self.finished.add(row["cell"])


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file, without a half-written last line; [] where there is no file.

    Raises:
        InvalidInputError: a whole line is not a JSON object.
    """
    if not path.is_file():
        return []
    *lines, _half = path.read_bytes().split(b"\n")
    rows = []
    for k, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidInputError(
                f"Line {k} of `{path}` is not JSON: {error}. Remove the line, or the file."
            ) from error
        if not isinstance(row, dict):
            raise InvalidInputError(f"Expected a JSON object in line {k} of `{path}`, got {type(row).__name__}.")
        rows.append(row)
    return rows


def cut_half_line(path: Path) -> None:
    """Remove what a killed writer left after the last line end."""
    if not path.is_file():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("rb+") as file:
            file.truncate(whole)
            os.fsync(file.fileno())


def _append(file: int, row: Mapping[str, Any]) -> None:
    line = (json.dumps(row, allow_nan=False) + "\n").encode()
    while line:
        line = line[os.write(file, line) :]
    os.fsync(file)
