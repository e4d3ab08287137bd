"""TorchRec's table-wise estimate, number by number: against recorded numbers, and live where it is installed."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

from problems.sharding.costs import table_wise_ms
from problems.sharding.memory import memory_bytes
from tests.problems.sharding.torchrec_peer import CASES, REFERENCE, peer_numbers


def check(tables, devices, workload, peer):
    ours = table_wise_ms(tables, devices, workload)
    theirs = np.array([entry["ms"] for entry in peer]).T
    for d in range(len(devices)):
        np.testing.assert_allclose(ours[:, :, d], theirs, rtol=1e-12, atol=0)
    bytes_ = memory_bytes(tables, workload, len(devices))
    np.testing.assert_array_equal(bytes_, [entry["hbm_bytes"] for entry in peer])


@pytest.mark.parametrize("name", CASES)
def test_estimate_equals_recorded_torchrec(name):
    reference = json.loads(REFERENCE.read_text(encoding="utf-8"))
    assert reference["provenance"]["torchrec"] == "1.8.0"
    check(*CASES[name], reference["cases"][name])


@pytest.mark.optional
@pytest.mark.skipif(importlib.util.find_spec("torchrec") is None, reason="torchrec is not installed")
@pytest.mark.parametrize("name", CASES)
def test_estimate_equals_live_torchrec(name):
    check(*CASES[name], peer_numbers(*CASES[name]))
