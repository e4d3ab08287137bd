"""Kill -9 in the middle of training and resume: does the optimizer end with the same bits as an undisturbed run?

    python -m benchmarks.galore_resume KIND FOLDER STEPS      one training process, goes on from FOLDER's checkpoint

``resume_rows`` starts that process, kills it at changing moments, starts it again until it is done, and compares every
tensor of the weights and of the optimizer's state with those of a process that nobody disturbed.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from surco.optim import GaLore

OPTIONS: dict[str, dict[str, Any]] = {
    "dense": {"rank": 8, "weight_decay": 0.01},
    "dense, 8-bit": {"rank": 8, "inner": "adamw8bit"},
    "dense, bfloat16": {"rank": 8},
    "dense, fira": {"rank": 8, "mode": "fira"},
    "sparse": {"rank": 4},
    "sparse, 8-bit": {"rank": 4, "inner": "adamw8bit"},
    "sparse, rowwise": {"rank": 4, "mode": "rowwise", "covariance_decay": 0.9},
    "sparse, rowwise 8-bit": {"rank": 4, "mode": "rowwise", "inner": "adamw8bit"},
    "sparse, running covariance": {"rank": 4, "covariance_decay": 0.9},
}
UPDATE_GAP = 7
ROWS = 5000


def build(kind: str) -> nn.Module:
    """A small network, dense or with an embedding table in front; its weights depend on nothing but ``kind``."""
    torch.manual_seed(0)  # the benchmark owns its process: initial weights only
    if kind.startswith("sparse"):
        return nn.Sequential(nn.EmbeddingBag(ROWS, 32, sparse=True), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 1))
    model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 128), nn.GELU(), nn.Linear(128, 1))
    return model.to(torch.bfloat16) if kind.endswith("bfloat16") else model


def batch(kind: str, step: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a step, a function of its number."""
    generator = torch.Generator().manual_seed(1000 + step)
    if kind.startswith("sparse"):
        ids = torch.randint(ROWS, (256, 4), generator=generator)
        return ids, (ids[:, 0] % 7 > 3).float()
    inputs = torch.randn(256, 64, generator=generator)
    return inputs.to(torch.bfloat16 if kind.endswith("bfloat16") else torch.float32), (inputs[:, 0] > 0).float()


def train(kind: str, folder: Path, steps: int) -> None:
    """Train up to ``steps``, a checkpoint after each, from the checkpoint in ``folder`` where there is one."""
    torch.set_num_threads(1)
    model = build(kind)
    optimizer = GaLore(model.parameters(), lr=1e-2, update_gap=UPDATE_GAP, **OPTIONS[kind])
    path, first = folder / "checkpoint.pt", 0
    if path.exists():
        content = torch.load(path, weights_only=True)
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        first = content["step"]
    for step in range(first, steps):
        inputs, targets = batch(kind, step)
        loss = functional.binary_cross_entropy_with_logits(model(inputs).float().squeeze(1), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        part = folder / "checkpoint.part"
        torch.save({"step": step + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, part)
        os.replace(part, path)


def resume_rows(
    *, steps: int = 40, kills: int = 1, kinds: tuple[str, ...] = tuple(OPTIONS)
) -> Iterator[dict[str, Any]]:
    """One row a kind of state: at which steps the process was killed, and whether all bits agree at the end."""
    for kind in kinds:
        with tempfile.TemporaryDirectory() as name:
            whole, killed = Path(name, "whole"), Path(name, "killed")
            for folder in (whole, killed):
                folder.mkdir()
            subprocess.run(command(kind, whole, steps), check=True)
            killed_at = []
            for number in range(kills):
                aim = (number + 1) * steps // (kills + 1)
                step = run_and_kill(command(kind, killed, steps), killed / "checkpoint.pt", aim)
                killed_at.append(step)
            subprocess.run(command(kind, killed, steps), check=True)
            digests = [digest(folder / "checkpoint.pt") for folder in (whole, killed)]
        row = {"kind": kind, "steps": steps, "update_gap": UPDATE_GAP, "killed_after_step": killed_at}
        yield row | {"tensors": digests[0][1], "is_bit_equal": digests[0] == digests[1]}


def command(kind: str, folder: Path, steps: int) -> list[str]:
    """The training process."""
    return [sys.executable, "-m", "benchmarks.galore_resume", kind, str(folder), str(steps)]


def run_and_kill(arguments: list[str], path: Path, aim: int) -> int:
    """Start a training process, kill it once its checkpoint has reached step ``aim``; the step that it left."""
    process = subprocess.Popen(arguments)
    try:
        while process.poll() is None and step_of(path) < aim:
            time.sleep(0.005)
        time.sleep(0.003 * (aim % 3))  # into the next step, or its write
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    return step_of(path)


def step_of(path: Path) -> int:
    """Steps behind a checkpoint, 0 where there is none."""
    return int(torch.load(path, weights_only=True)["step"]) if path.exists() else 0


def digest(path: Path) -> tuple[str, int]:
    """A hash of everything in a checkpoint, bit by bit, and the number of its tensors."""
    total, count = hashlib.sha256(), 0
    stack: list[Any] = [torch.load(path, weights_only=True)]
    while stack:
        item = stack.pop()
        if isinstance(item, Tensor):
            count += 1
            total.update(str((item.dtype, tuple(item.shape))).encode())
            total.update(item.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(item, dict):
            for key in sorted(item, key=str):
                total.update(str(key).encode())
                stack.append(item[key])
        elif isinstance(item, (list, tuple)):
            stack.extend(item)
        else:
            total.update(repr(item).encode())
    return total.hexdigest(), count


if __name__ == "__main__":
    train(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
