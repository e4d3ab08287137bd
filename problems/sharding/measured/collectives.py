"""Processes of one host that exchange pooled embeddings: launching them, and one all-to-all each way.

Every rank looks up its tables for the samples of all ranks and holds [W B, S_r] pooled numbers, S_r the sum of its
tables' dims. Forward, rank r sends rows of sample block q to rank q and gets [B, S_q] from each; backward, the
gradients go the same ways back.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

RANK, WORLD = "RANK", "WORLD_SIZE"


def launch(module: str, arguments: Sequence[str], world: int, *, seconds: float) -> int:
    """Run ``python -m module arguments`` in ``world`` processes with the variables of torch.distributed set.

    The first that fails, or the end of the time, ends the others.

    Returns:
        the worst exit code; 124 where the time was up.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = []
    for rank in range(world):
        variables = {
            **os.environ,
            RANK: str(rank),
            "LOCAL_RANK": str(rank),
            WORLD: str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        ranks.append(subprocess.Popen([sys.executable, "-m", module, *arguments], env=variables))
    codes: list[int] = []
    try:
        left = list(ranks)
        waited = 0.0
        while left and waited < seconds and not any(codes):
            for process in list(left):
                try:
                    codes.append(process.wait(timeout=0.2))
                    left.remove(process)
                except subprocess.TimeoutExpired:
                    waited += 0.2
        return max(codes, key=abs) if codes and (any(codes) or not left) else 124
    finally:
        for process in ranks:
            if process.poll() is None:
                process.terminate()
        for process in ranks:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def is_worker() -> bool:
    """Whether this process was started by `launch`."""
    return RANK in os.environ and WORLD in os.environ


def join(device_type: str) -> tuple[int, int, torch.device]:
    """Join the group: rank, world size, and this rank's device. NCCL on CUDA, gloo on CPUs."""
    rank, world = int(os.environ[RANK]), int(os.environ[WORLD])
    if device_type == "cuda":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        device = torch.device("cpu")
        dist.init_process_group("gloo")
    return rank, world, device


@dataclass(frozen=True, slots=True)
class Exchange:
    """One rank's side of the all-to-all.

    Attributes:
        rank: this rank.
        widths: [W], sum of dims on each rank.
        batch: samples per rank, B.
    """

    rank: int
    widths: tuple[int, ...]
    batch: int

    def forward(self, pooled: Tensor) -> Tensor:
        """[W B, S_r] -> flat [B * sum of S], the parts of the ranks one after another."""
        received = pooled.new_empty(self.batch * sum(self.widths))
        dist.all_to_all_single(received, pooled.reshape(-1), self._by_source(), self._by_target())
        return received

    def backward(self, gradient: Tensor) -> Tensor:
        """Flat [B * sum of S] -> gradient [W B, S_r] of this rank's pooled rows."""
        width = self.widths[self.rank]
        received = gradient.new_empty(len(self.widths) * self.batch * width)
        dist.all_to_all_single(received, gradient, self._by_target(), self._by_source())
        return received.reshape(len(self.widths) * self.batch, width)  # a rank without tables has width 0

    def _by_source(self) -> list[int]:
        return [self.batch * width for width in self.widths]

    def _by_target(self) -> list[int]:
        return [self.batch * self.widths[self.rank]] * len(self.widths)


def slowest(value: float, device: torch.device) -> float:
    """Largest ``value`` of all ranks."""
    tensor = torch.tensor([value], dtype=torch.float64, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return float(tensor)
