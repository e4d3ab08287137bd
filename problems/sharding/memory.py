"""Memory of a table on a device, as TorchRec's planner counts it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from problems.sharding.tables import Device, Table, Workload

INDEX_BYTES = 8


def table_memory_bytes(table: Table, workload: Workload, world_size: int) -> int:
    """Weights, optimizer state, and one step's input indices and pooled outputs of a table on one device.

    A table-wise table serves every device's batch, so its buffers hold ``world_size * batch_size`` samples. A sample
    without lookups sends no output: outputs scale with min(1, pooling factor).
    """
    weights = table.weight_bytes
    state = table.state_bytes
    if state is None:
        state = math.ceil(weights * workload.optimizer.state_per_weight(table.dim))
    if not workload.has_io_buffers:
        return weights + state
    samples = workload.batch_size * world_size
    inputs = math.ceil(table.pooling_factor * workload.batch_size * world_size * INDEX_BYTES)
    outputs = math.ceil(min(1.0, table.pooling_factor) * samples * table.row_bytes)
    return weights + state + inputs + outputs


def memory_bytes(tables: Sequence[Table], workload: Workload, world_size: int) -> NDArray[np.float64]:
    """[T], whole bytes as float64 (exact below 2^53)."""
    return np.array([table_memory_bytes(table, workload, world_size) for table in tables], dtype=np.float64)


def capacity_bytes(devices: Sequence[Device], workload: Workload) -> NDArray[np.float64]:
    """[D], memory that a plan may fill: all but the reserve, rounded down to a byte."""
    return np.array([math.floor(d.memory_bytes * (1.0 - workload.reserve)) for d in devices], dtype=np.float64)
