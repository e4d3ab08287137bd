"""Checkpoints of a training run: plain tensors and numbers, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from surco.errors import ResumeError

NAME = "checkpoint.pt"


def save(folder: Path, content: dict[str, Any]) -> Path:
    """Write ``content`` (tensors, numbers, strings, dicts and lists of them) under a new name, then rename it.

    A process that is killed at any moment leaves the old file or the new one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, part = folder / NAME, folder / (NAME + ".part")
    with part.open("wb") as handle:
        torch.save(content, handle)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(part, path)
    return path


def load(folder: Path, *, device: torch.device, expected: dict[str, Any]) -> dict[str, Any] | None:
    """The checkpoint of ``folder``, None where there is none.

    Args:
        folder: of the run.
        device: where the tensors go.
        expected: entries that must be equal, else the checkpoint belongs to another run.

    Raises:
        ResumeError: an expected entry differs; the message names it.
    """
    path = folder / NAME
    if not path.exists():
        return None
    content = torch.load(path, map_location=device, weights_only=True)
    for key, value in expected.items():
        if content.get(key) != value:
            raise ResumeError(
                f"{path} belongs to another run: its {key} is {content.get(key)!r}, expected {value!r}. "
                "Try another folder, or resume=False."
            )
    return content
