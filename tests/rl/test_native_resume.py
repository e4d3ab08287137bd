"""The native trainer ends with the same weights whether or not it was killed on the way."""

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

from rl.policy import load
from surco import checkpoint

_SCRIPT = """
import functools, sys
import torch
from rl.config import PpoSettings
from rl.native import train
from rl.planning_game import N_CONTEXT, N_LINK, N_NODE
from rl.policy import build
from rl.vector_env import VectorPlanningEnv

torch.set_num_threads(1)
config = dict(link_features=N_LINK, node_features=N_NODE, context_features=N_CONTEXT, heads=4, width=8, rounds=1)
policy = build("planning-gnn", config, seed=3)
train(
    lambda seed: VectorPlanningEnv(8, ["planning/abilene-v0", "planning/nobel-us-v0"], seed=seed, proof_share=0.5),
    policy,
    steps=1500,
    seed=5,
    out=sys.argv[1],
    resume="--resume" in sys.argv,
    settings=PpoSettings(steps_per_iteration=128, minibatch=64, epochs=2),
    checkpoint_every=2,
    anneal=True,
)
"""


def _start(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, str(folder), *more], env=environment, stderr=subprocess.PIPE
    )


def _finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors.decode()


def test_a_run_killed_twice_and_resumed_ends_with_bit_equal_weights(tmp_path: Path) -> None:
    _finish(_start(tmp_path / "whole"))
    broken = tmp_path / "broken"
    seen = 0
    for more in ((), ("--resume",)):
        process = _start(broken, *more)
        until = time.monotonic() + 300.0
        while process.poll() is None and time.monotonic() < until:
            journal = broken / "progress.jsonl"
            lines = journal.read_text().splitlines() if journal.is_file() else []
            if len(lines) >= seen + 3:
                break
            time.sleep(0.005)
        assert process.poll() is None, "the run ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()  # type: ignore[union-attr]
        seen = len((broken / "progress.jsonl").read_text().splitlines())
    assert checkpoint.load(broken / checkpoint.FILE)["steps"] < 1500
    _finish(_start(broken, "--resume"))

    whole, again = load(tmp_path / "whole").state_dict(), load(broken).state_dict()
    assert whole.keys() == again.keys()
    for key, value in whole.items():
        assert torch.equal(value, again[key]), key
    journals = [
        [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
        for folder in (tmp_path / "whole", broken)
    ]
    assert journals[0][-1]["steps"] == 1500  # exactly
    for one, other in zip(*journals, strict=True):
        for key in ("steps", "return", "policy_loss", "entropy", "kl"):
            assert one[key] == other[key], key


def test_a_run_is_not_overwritten_and_strangers_are_refused(tmp_path: Path) -> None:
    from rl.native import train
    from rl.planning_game import N_CONTEXT, N_LINK, N_NODE
    from rl.policy import build
    from rl.vector_env import VectorPlanningEnv
    from surco.errors import InvalidInputError, ResumeError

    config = {"link_features": N_LINK, "node_features": N_NODE, "context_features": N_CONTEXT, "heads": 4}

    def run(seed: int, *, width: int = 8, resume: bool = False) -> None:
        policy = build("planning-gnn", {**config, "width": width, "rounds": 1}, seed=0)
        train(
            lambda s: VectorPlanningEnv(2, seed=s, proof_share=0.0),
            policy,
            steps=8,
            seed=seed,
            out=tmp_path / "run",
            resume=resume,
        )

    run(0)
    with pytest.raises(InvalidInputError, match="holds a run already"):
        run(0)
    with pytest.raises(ResumeError, match="seed 0"):
        run(1, resume=True)
    with pytest.raises(ResumeError, match="another policy"):
        run(0, width=16, resume=True)
