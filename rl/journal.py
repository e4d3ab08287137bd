"""The journal of a training run, the same for both trainers: JSON lines, and events for TensorBoard."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from surco.atomic import write_text
from surco.errors import MissingExtraError

FILE = "progress.jsonl"


class Journal:
    """Appends lines to ``progress.jsonl`` of a folder; a new journal replaces an old one unless it is resumed.

    Args:
        folder: of the run.
        resumed_at: environment steps of the checkpoint that the run goes on from; later lines are dropped.
    """

    def __init__(self, folder: Path, *, resumed_at: int | None = None) -> None:
        self.path = folder / FILE
        kept = [] if resumed_at is None else [line for line in read(folder) if line["steps"] <= resumed_at]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, line: dict[str, Any]) -> None:
        """Append a line; figures that are not numbers become null."""
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain) + "\n")


class Events:
    """TensorBoard events in the folder ``tensorboard`` of a run.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError('TensorBoard is missing. Try `pip install "surco[rl]"`.') from error
        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def write(self, line: dict[str, Any]) -> None:
        """Every number of a line over the environment steps."""
        for name, value in line.items():
            if isinstance(value, float) and math.isfinite(value):
                self._writer.add_scalar(name, value, line["steps"])

    def close(self) -> None:
        """Flush."""
        self._writer.close()


def read(folder: str | Path) -> list[dict[str, Any]]:
    """Lines of a run's journal; none where there is no journal. A line that a kill cut in half is left out."""
    path = Path(folder) / FILE
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines
