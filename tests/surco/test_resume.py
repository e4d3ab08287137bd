"""Checkpoints: a killed run goes on exactly; a foreign checkpoint is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import surco
from surco import checkpoint
from surco.designs import pack, unpack
from tests.surco.toys import BlackBox, QuadraticChoice

SCRIPT = """
import sys, time
import surco
from tests.surco.toys import QuadraticChoice

class Slow(QuadraticChoice):
    def objective(self, x):
        time.sleep(0.002)
        return super().objective(x)

surco.solve(Slow(n=40, k=12), sys.argv[1], calls=2000, seed=5, checkpoint=sys.argv[2], resume=True)
"""


@pytest.mark.parametrize("method", ["random", "local_search", "zero", "auto"])
def test_a_run_killed_at_any_time_goes_on_exactly(method: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, method, str(tmp_path)], cwd=Path(__file__).parents[2], env={**os.environ}
    )
    deadline = time.monotonic() + 60
    files = (tmp_path / checkpoint.FILE, tmp_path / "incumbent.json")
    while not all(file.exists() for file in files) and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    saved = json.loads((tmp_path / "incumbent.json").read_text())
    assert float(QuadraticChoice(n=40, k=12).violation(torch.tensor(saved["x"], dtype=torch.float64))) == 0
    resumed = surco.solve(QuadraticChoice(n=40, k=12), method, calls=2000, seed=5, checkpoint=tmp_path, resume=True)
    whole = surco.solve(QuadraticChoice(n=40, k=12), method, calls=2000, seed=5)
    assert resumed.value == whole.value
    assert resumed.value <= saved["value"]
    assert (resumed.x == whole.x).all()
    assert resumed.stats.oracle_calls == whole.stats.oracle_calls
    assert resumed.stats.objective_calls == whole.stats.objective_calls
    assert [p.value for p in resumed.trace] == [p.value for p in whole.trace]


@pytest.mark.parametrize("method", ["random", "local_search", "zero"])
def test_a_larger_budget_goes_on_from_the_smaller(method: str, tmp_path: Path) -> None:
    surco.solve(BlackBox(n=30, k=8), method, calls=100, seed=2, checkpoint=tmp_path)
    longer = surco.solve(BlackBox(n=30, k=8), method, calls=300, seed=2, checkpoint=tmp_path, resume=True)
    whole = surco.solve(BlackBox(n=30, k=8), method, calls=300, seed=2)
    assert (longer.x == whole.x).all()
    assert longer.stats.objective_calls == whole.stats.objective_calls


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    surco.solve(QuadraticChoice(), "random", calls=40, seed=1, checkpoint=tmp_path)
    with pytest.raises(surco.ResumeError, match="'seed': 1"):
        surco.solve(QuadraticChoice(), "random", calls=40, seed=2, checkpoint=tmp_path, resume=True)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / checkpoint.FILE).write_bytes(b"not a checkpoint")
    with pytest.raises(surco.ResumeError, match="not a checkpoint"):
        surco.solve(QuadraticChoice(), "random", calls=40, checkpoint=tmp_path, resume=True)


def test_designs_of_bits_take_a_bit_each_and_others_stay_as_they_are() -> None:
    bits = torch.randint(0, 2, (5, 1001), generator=torch.Generator().manual_seed(0)).double()
    packed = pack(bits)
    assert packed["bits"].numel() == 5 * 126
    for x in (bits, torch.tensor([[0.0, 2.0], [0.5, 1.0]]).double(), -bits, torch.zeros(0, 0).double()):
        back = unpack(pack(x))
        assert back.dtype == x.dtype
        assert back.numpy().tobytes() == x.numpy().tobytes()
        assert back.shape == x.shape


def test_checkpoints_round_trip(tmp_path: Path) -> None:
    state = {
        "a": torch.arange(3),
        "b": [1, 2.5, None, {"c": torch.tensor([float("nan")], dtype=torch.float64)}],
        "inf": float("-inf"),
        "text": "x",
        "yes": True,
        "empty": torch.zeros(0, 4),
    }
    checkpoint.save(tmp_path / "s", state)
    back = checkpoint.load(tmp_path / "s")
    assert back["a"].tolist() == [0, 1, 2]
    assert back["b"][:3] == [1, 2.5, None]
    assert torch.isnan(back["b"][3]["c"]).all()
    assert back["b"][3]["c"].dtype == torch.float64
    assert back["inf"] == float("-inf")
    assert back["text"] == "x"
    assert back["yes"] is True
    assert back["empty"].shape == (0, 4)
