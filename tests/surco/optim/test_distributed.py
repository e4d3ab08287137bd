"""Two gloo processes that exchange d x d Gram matrices and projected rows."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from surco.optim import GaLore

ROWS, DIM, RANK, STEPS = 60, 8, 3, 14
OPTIONS: dict[str, Any] = {"lr": 0.05, "rank": RANK, "update_gap": 5}


def local_gradients(rank: int) -> list[torch.Tensor]:
    """What one rank sees: its own lookups, in the lower half of the table."""
    generator = torch.Generator().manual_seed(10 + rank)
    directions = torch.randn(3, DIM, generator=torch.Generator().manual_seed(9))
    gradients = []
    for _ in range(STEPS):
        count = 20 + 5 * rank
        index = torch.randint(ROWS // 2, (1, count), generator=generator)
        values = torch.randn(count, 3, generator=generator) @ directions
        gradients.append(torch.sparse_coo_tensor(index, values, (ROWS, DIM), check_invariants=True))
    return gradients


def start_weight() -> torch.Tensor:
    return torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(8))


def replica_worker(rank: int, folder: str) -> None:
    """One of two processes, which leaves no thread of gloo behind.

    A thread that still holds a tensor when the interpreter ends aborts the process (PyTorch pull request 179291).
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        replicate(rank, folder)
    finally:
        dist.destroy_process_group()
        gc.collect()  # optimizers hold the group in a cycle


def replicate(rank: int, folder: str) -> None:
    """A replica that exchanges projected rows; then a row shard of the same table."""
    group = dist.group.WORLD
    weight = nn.Parameter(start_weight())
    optimizer = GaLore([weight], process_group=group, has_local_gradients=True, **OPTIONS)
    for gradient in local_gradients(rank):
        weight.grad = gradient
        optimizer.step()
    shard = nn.Parameter(start_weight()[rank::2].clone())
    sharded = GaLore([shard], process_group=group, **OPTIONS)
    for first, second in zip(local_gradients(0), local_gradients(1), strict=True):
        mean = ((first + second) / 2).coalesce()
        mine = mean.indices()[0] % 2 == rank
        index, values = mean.indices()[:, mine] // 2, mean.values()[mine]
        shard.grad = torch.sparse_coo_tensor(index, values, (ROWS // 2, DIM), check_invariants=True)
        sharded.step()
    by_rows = nn.Parameter(start_weight())
    rowwise = GaLore([by_rows], process_group=group, has_local_gradients=True, mode="rowwise", **OPTIONS)
    for gradient in local_gradients(rank):
        by_rows.grad = gradient
        rowwise.step()
    torch.save(
        {"by rows": by_rows.detach(), "replica": weight.detach(), "shard": shard.detach()},
        Path(folder) / f"{rank}.pt",
    )


@pytest.mark.slow
def test_replicas_and_shards():
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(replica_worker, args=(folder,), nprocs=2, join=True, start_method="spawn")
        first, second = (torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    # Row by row the second moment is that of the mean gradient, which both ranks have in full.
    assert torch.equal(first["by rows"], second["by rows"])
    single = nn.Parameter(start_weight())
    rowwise = GaLore([single], mode="rowwise", **OPTIONS)
    for one, two in zip(local_gradients(0), local_gradients(1), strict=True):
        single.grad = (one + two) / 2
        rowwise.step()
    torch.testing.assert_close(first["by rows"], single.detach(), rtol=1e-3, atol=1e-3)
    # Replicas agree to the bit; rows that no rank touched are as they were.
    assert torch.equal(first["replica"], second["replica"])
    touched = torch.cat([g.coalesce().indices()[0] for rank in (0, 1) for g in local_gradients(rank)]).unique()
    idle = torch.ones(ROWS, dtype=torch.bool)
    idle[touched] = False
    assert torch.equal(first["replica"][idle], start_weight()[idle])
    # One process with the mean gradient. Gradients lie in three directions, so the basis spans the same space whichever
    # Gram matrix it comes from; the shards' Gram matrices add up to that of the mean gradient exactly.
    alone = nn.Parameter(start_weight())
    optimizer = GaLore([alone], **OPTIONS)
    for one, two in zip(local_gradients(0), local_gradients(1), strict=True):
        alone.grad = (one + two) / 2
        optimizer.step()
    whole = torch.empty(ROWS, DIM)
    whole[0::2], whole[1::2] = first["shard"], second["shard"]
    torch.testing.assert_close(whole, alone.detach(), rtol=1e-3, atol=1e-4)
    moved = (first["replica"] - start_weight())[touched].flatten()
    cosine = torch.nn.functional.cosine_similarity(moved, (alone.detach() - start_weight())[touched].flatten(), dim=0)
    assert float(cosine) > 0.9
