"""A small content-addressed store of NumPy arrays under the user's cache folder. No pickle."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/surco/photonics``, by default ``~/.cache/surco/photonics``."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(Path.home(), ".cache")
    return Path(root) / "surco" / "photonics"


def content_key(version: str, *parts: object) -> str:
    """SHA-256 over a version and any mix of arrays and plain values (by ``repr``)."""
    digest = hashlib.sha256(version.encode())
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()


def load(key: str, folder: Path) -> dict[str, NDArray[np.generic]] | None:
    """Arrays of ``key``, or None where there are none or the file is damaged (which is logged)."""
    path = folder / f"{key}.npz"
    if not path.exists():
        return None
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        logger.warning("Ignoring the damaged cache file %s: %s", path, error)
        return None


def store(key: str, arrays: Mapping[str, NDArray[np.generic]], folder: Path) -> None:
    """Write atomically; a folder that cannot be written is logged and otherwise ignored (the cache is optional)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as stream:
                np.savez(stream, **dict(arrays))  # type: ignore[arg-type]
            os.replace(name, folder / f"{key}.npz")
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        logger.warning("Could not write the cache folder %s: %s", folder, error)
