"""Makers of the registered sharding instances: the MLPerf tables, and drawn ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from problems.sharding.costs import CostModel
from problems.sharding.domain import NETWORK
from problems.sharding.fused import FusedCost
from problems.sharding.generator import DIMS, dlrm_tables
from problems.sharding.joint.problem import JointProblem
from problems.sharding.joint.spec import JointSpec, Objective, objective_of
from problems.sharding.measured.instances import numbered
from problems.sharding.memory import memory_bytes
from problems.sharding.mlperf import GLOBAL_BATCH_SIZE, mlperf_tables
from problems.sharding.problem import ShardingProblem
from problems.sharding.tables import GIB_BYTES, Device, Optimizer, Table, Workload
from surco.errors import InvalidInputError

PER_HOST = 8
MEMORY_CHOICES_GIB = (80, 141, 192, 288)  # accelerators that exist; a drawn instance takes the smallest that serves
H100 = {"hbm_gib_per_s": 3120.0, "intra_host_gib_per_s": 419.0, "inter_host_gib_per_s": 46.6}  # 3.35 TB/s, 450, 50 GB/s


def devices(count: int, memory_gib: float, *, per_host: int = PER_HOST, is_h100: bool = False) -> tuple[Device, ...]:
    """``count`` alike devices, ``per_host`` in each host; TorchRec's default bandwidths, or those of an H100."""
    return tuple(
        Device(f"gpu{d}", int(memory_gib * GIB_BYTES), host=d // per_host, **(H100 if is_h100 else {}))
        for d in range(count)
    )


def mlperf(count: int, id: str, cost_model: CostModel, *, memory_gib: float = 80.0) -> ShardingProblem:
    """The MLPerf DLRM-DCNv2 tables on ``count`` devices; Adagrad keeps one state per weight."""
    workload = Workload(batch_size=GLOBAL_BATCH_SIZE // count, optimizer=Optimizer.ADAGRAD)
    is_h100 = isinstance(cost_model, FusedCost)
    return ShardingProblem(
        mlperf_tables(), devices(count, memory_gib, is_h100=is_h100), cost_model, workload=workload, id=id
    )


def dlrm(
    tables: int,
    count: int,
    id: str,
    cost_model: CostModel,
    *,
    seed: int = 0,
    memory_gib: float | None = None,
    batch_size: int = 2048,
    dims: tuple[int, ...] = DIMS,
    rows_sigma: float = 2.0,
    pooling_sigma: float = 1.6,
    reserve: float = 0.15,
) -> ShardingProblem:
    """Drawn tables on ``count`` devices.

    Without ``memory_gib`` the devices are the smallest of 80, 141, 192, 288 GiB whose total holds the tables with a
    tenth to spare and whose every one holds the largest table.
    """
    drawn = _tables(tables, seed, dims=dims, rows_sigma=rows_sigma, pooling_sigma=pooling_sigma)
    workload = Workload(batch_size=batch_size, reserve=reserve)
    if memory_gib is None:
        memory_gib = _memory_gib(drawn, workload, count, seed, must_hold_each=True)
    is_h100 = isinstance(cost_model, FusedCost)
    return ShardingProblem(drawn, devices(count, memory_gib, is_h100=is_h100), cost_model, workload=workload, id=id)


def _tables(
    count: int, seed: int, *, dims: tuple[int, ...], rows_sigma: float, pooling_sigma: float
) -> tuple[Table, ...]:
    """Tables drawn by a seed.

    Raises:
        InvalidInputError: no such seed.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InvalidInputError(f"Expected `seed` to be a non-negative integer, got {seed!r}.")
    rng = np.random.default_rng(seed)
    return dlrm_tables(count, rng=rng, dims=tuple(dims), rows_sigma=rows_sigma, pooling_sigma=pooling_sigma)


def _memory_gib(tables: Sequence[Table], workload: Workload, count: int, seed: int, *, must_hold_each: bool) -> float:
    """The smallest memory of a device that exists and serves the tables.

    Raises:
        InvalidInputError: none does.
    """
    needed = memory_bytes(tables, workload, count) / GIB_BYTES / (1.0 - workload.reserve)
    largest = needed.max() if must_hold_each else 0.0
    fitting = [m for m in MEMORY_CHOICES_GIB if needed.sum() <= 0.9 * m * count and largest <= m]
    if not fitting:
        raise InvalidInputError(
            f"{len(tables)} tables of seed {seed} need {needed.sum():.0f} GiB with the reserve (largest "
            f"{needed.max():.0f}); no device of up to {MEMORY_CHOICES_GIB[-1]} GiB serves, {count} of them. "
            f"Try another seed, or pass memory_gib=."
        )
    return fitting[0]


def measured(tables: int, count: int, id: str, *, seed: int = 0, samples: int = 0) -> ShardingProblem:
    """Drawn tables within the limits of the measuring campaign of an H100; the cost is the networks trained on it.

    ``samples`` of a step on all devices together; 0 takes the most that were measured.
    """
    return numbered(NETWORK, tables, count, seed, samples=samples, id=id)


def joint(
    tables: int,
    count: int,
    id: str,
    *,
    seed: int = 0,
    objective: str = Objective.RATING.value,
    memory_gib: float | None = None,
    batch_size: int = 2048,
    dims: tuple[int, ...] = DIMS,
    rows_sigma: float = 2.0,
    pooling_sigma: float = 1.6,
    reserve: float = 0.15,
) -> JointProblem:
    """Drawn tables on ``count`` devices, eight in each host (all in one where there are fewer); all sharding types.

    Float32 weights under row-wise Adagrad, TorchRec's default bandwidths; ``objective`` is one of TorchRec's scores.
    Without ``memory_gib`` the devices are the smallest of 80, 141, 192, 288 GiB whose total holds the tables with a
    tenth to spare.
    """
    drawn = _tables(tables, seed, dims=dims, rows_sigma=rows_sigma, pooling_sigma=pooling_sigma)
    workload = Workload(batch_size=batch_size, reserve=reserve)
    if memory_gib is None:
        memory_gib = _memory_gib(drawn, workload, count, seed, must_hold_each=False)
    spec = JointSpec(drawn, devices(count, memory_gib), workload, objective=objective_of(objective), id=id)
    return JointProblem(spec)
