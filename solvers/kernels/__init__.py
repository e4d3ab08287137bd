"""Compiled loops. Each module imports numba, so import them only inside the oracles that need them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def kernel(function: Callable[..., Any]) -> Any:
    """Compile ``function`` with numba on its first call, and keep the machine code on disk where that is possible."""
    from numba import njit

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to write to: compile in every process
        return njit(**options)(function)
