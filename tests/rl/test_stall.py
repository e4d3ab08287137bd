from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from rl.stall import EXIT_CODE, StallError, StallGuard
from surco.errors import InvalidInputError

ROOT = Path(__file__).parents[2]


def test_growing_steps_are_fine() -> None:
    with StallGuard(0.2) as guard:
        for step in range(5):
            time.sleep(0.06)
            guard.observe(step, 1.0, None)


def test_a_counter_that_stands_still_is_seen() -> None:
    with StallGuard(0.1) as guard:
        guard.observe(7)
        guard.observe(7)  # not for long enough
        time.sleep(0.15)
        with pytest.raises(StallError, match="step 7"):
            guard.observe(7)


def test_figures_that_are_not_numbers_are_counted_in_a_row() -> None:
    guard = StallGuard(100.0, nan_limit=2)
    guard.observe(1, float("nan"))
    guard.observe(2, None)  # no episode ended: nothing is known
    guard.observe(3, 1.0)  # the row is broken
    guard.observe(4, float("nan"), 1.0)
    with pytest.raises(StallError, match="2 times"):
        guard.observe(5, float("inf"))


def test_a_hanging_call_ends_the_process_after_the_rescue(tmp_path: Path) -> None:
    code = f"""
import pathlib, time
from rl.stall import StallGuard
with StallGuard(0.3, rescue=pathlib.Path({str(tmp_path / "saved")!r}).touch) as guard:
    guard.observe(11)
    time.sleep(600)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == EXIT_CODE
    assert (tmp_path / "saved").exists()
    assert "step 11" in done.stderr


def test_limits_are_checked() -> None:
    with pytest.raises(InvalidInputError):
        StallGuard(0.0)
    with pytest.raises(InvalidInputError):
        StallGuard(1.0, nan_limit=0)
