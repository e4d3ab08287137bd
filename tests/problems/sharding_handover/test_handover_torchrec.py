"""TorchRec as judge of our hand-over: its rule of cutting, its plan objects, its model as input."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

pytestmark = [
    pytest.mark.optional,
    pytest.mark.skipif(importlib.util.find_spec("torchrec") is None, reason="torchrec is not installed"),
]


@pytest.fixture(scope="module")
def findings():
    done = subprocess.run(
        [sys.executable, "-m", "tests.problems.sharding_handover.torchrec_check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "check",
    ["same_blocks", "same_objects", "serialized_alike", "text_round_trip", "renamed_modules", "reads_tables"],
)
def test_torchrec_agrees(findings, check):
    assert findings[check] is True


def test_what_cannot_be_read_or_run_is_refused(findings):
    said = findings["refuses"]
    for words, message in zip(("pooling factor for feature", "found none", "batch", "mean pooling"), said, strict=True):
        assert words in message
