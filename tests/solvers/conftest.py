"""Tests leave no record of backend trials in the user's home."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURCO_CACHE_DIR", "")
