"""Compiled loops. Each module imports numba, so import them only inside the oracles that need them.

`kernel` marks a function that Python calls; `helper` one that only other compiled functions call, which saves the time
to compile its Python side. Whole-array statements cost seconds of compilation (for their error messages): write loops.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def kernel(function: Callable[..., Any]) -> Any:
    """Compile ``function`` with numba on its first call, and keep the machine code on disk where that is possible."""
    from numba import njit

    try:
        compiled: Any = njit(cache=True, **_OPTIONS)(function)
        # Numba looks at the file of the function alone; machine code also goes stale when a helper elsewhere changes.
        compiled._cache._cache_file._source_stamp = _stamp()
    except (RuntimeError, AttributeError):  # no folder to write to, or another layout of numba: compile every time
        return njit(**_OPTIONS)(function)
    return compiled


def helper(function: Callable[..., Any]) -> Any:
    """Compile ``function`` as a part of the kernels that call it."""
    from numba import njit

    options = {**_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return njit(**options)(function)


@cache
def _stamp() -> str:
    """Digest of the sources of all kernels."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
