"""The log of a training run: JSON lines, optionally TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from surco.atomic import write_text
from surco.errors import MissingExtraError

FILE = "log.jsonl"


class Journal:
    """Writes lines into ``log.jsonl`` of a folder (none without one) and hands them to ``progress``."""

    def __init__(
        self, folder: Path | None, progress: Callable[[dict[str, Any]], None] | None, *, has_tensorboard: bool = False
    ) -> None:
        self.path = folder / FILE if folder is not None else None
        self.progress = progress
        self.events: Any = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        if has_tensorboard and folder is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingExtraError('TensorBoard is missing. Try `pip install "surco[train]"`.') from error
            self.events = SummaryWriter(str(folder / "tensorboard"))
        self.is_fresh = True

    def write(self, **line: Any) -> None:
        """Append one line; a fresh run replaces the log of an earlier one."""
        if self.path is not None:
            with self.path.open("w" if self.is_fresh else "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        self.is_fresh = False
        if self.events is not None:
            for name, value in line.items():
                if isinstance(value, float):
                    self.events.add_scalar(name, value, line.get("step", 0))
        if self.progress is not None:
            self.progress(line)

    def rewind(self, step: int) -> None:
        """Drop the lines after ``step``, and a line that a kill cut in half: a resumed run writes them again."""
        self.is_fresh = False
        if self.path is None or not self.path.is_file():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, KeyError):
                continue
        write_text(self.path, "".join(line + "\n" for line in kept))

    def close(self) -> None:
        """Flush."""
        if self.events is not None:
            self.events.close()
