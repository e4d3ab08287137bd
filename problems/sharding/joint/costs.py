"""TorchRec's price of one shard: milliseconds of each phase on each rank, and bytes of memory.

With L the pooling factor, B the batch per device, W ranks in hosts of G, H = W / G hosts, e bytes per element, d the
width of the shard, o = min(1, L) B d e the pooled outputs of one device's batch, p the block penalty of d, and hbm,
intra, inter the bandwidths of the rank (all devices in one host: link = intra, else link = inter):

    table-, column-, table-column-wise      F = (ceil(8 L B W) + L B W max(d, 32) e + o W) p / hbm
                                            forward comms = backward comms = o W / link
    row-wise                                F = (ceil(8 L B) + L B d e + o W) / hbm
                                            forward comms = o W / link;  backward comms = o W (1 / link + 2.455 / hbm)
    table-row-wise, grid                    F = (ceil(8 L B W / G) + L B W d e / G + o W) / hbm
                                            forward comms = o W / intra + o H / inter  (the latter if H > 1)
                                            backward comms = the same + 2.455 o W / hbm
    data-parallel (dense kernel)            F = (ceil(8 L B) + L B d e + o) / (hbm / 2);  no forward comms
                                            backward comms = s ring / (inter G) + 9.22 s / (hbm / 2)

Forward compute is F, backward compute twice that, s are the bytes of the table's weights, and ring = (2 m - 1) / m
with m = min(H, 2), twice that for H > 2. A row-wise shard costs the same on every rank, also where it has no row.
Prefetch costs nothing: offloading kernels are not part of the space.

Memory of a shard: its weights, the optimizer's state of them, the indices that it receives and the outputs that it
makes, each rounded up to a byte; a shard without rows takes none.

Source: TorchRec 1.8, planner, default performance and storage estimators; checked number by number.

Note: devices of unequal bandwidth are an extension: each rank is priced by its own.
"""

from __future__ import annotations

import math

import numpy as np

from problems.sharding.costs import block_penalty
from problems.sharding.joint.plan import ShardingType
from problems.sharding.joint.spec import JointSpec
from problems.sharding.memory import INDEX_BYTES
from problems.sharding.tables import GIB_BYTES, Table
from solvers.oracle import Array

PHASES = ("forward compute", "forward comms", "backward comms", "backward compute")
BACKWARD_MULTIPLIER = 2.0
MIN_LOOKUP_DIM = 32
BATCHED_COPY_FACTOR = 2.455
DENSE_BANDWIDTH_SHARE = 0.5
DENSE_UPDATE_FACTOR = 9.22


class Prices:
    """Prices of shards under one spec.

    Args:
        spec: topology and workload.
    """

    def __init__(self, spec: JointSpec) -> None:
        self.spec = spec
        self.world = spec.world_size
        self.local = spec.local_world_size
        self.hosts = self.world // self.local

        def bandwidth(name: str) -> Array:
            return np.array([getattr(device, name) for device in spec.devices]) * GIB_BYTES / 1000.0  # bytes per ms

        self.hbm = bandwidth("hbm_gib_per_s")
        self.intra = bandwidth("intra_host_gib_per_s")
        self.inter = bandwidth("inter_host_gib_per_s")
        self.link = self.intra if self.hosts == 1 else self.inter

    def phases_ms(self, table: Table, kind: ShardingType, width: int | None = None) -> Array:
        """[4, W] milliseconds of a shard of ``width`` columns (None: all) on each rank, in the order of `PHASES`."""
        batch, world, element = self.spec.workload.batch_size, self.world, table.dtype.bytes_per_element
        pooling, dim = table.pooling_factor, table.dim if width is None else width
        inputs = pooling * batch
        outputs = min(1.0, pooling) * batch
        phases = np.zeros((4, world))
        match kind:
            case ShardingType.TABLE_WISE | ShardingType.COLUMN_WISE | ShardingType.TABLE_COLUMN_WISE:
                moved = math.ceil(inputs * world * INDEX_BYTES)
                moved += inputs * world * max(dim, MIN_LOOKUP_DIM) * element + outputs * world * dim * element
                phases[0] = moved * block_penalty(dim) / self.hbm
                phases[1] = phases[2] = outputs * world * dim * element / self.link
            case ShardingType.ROW_WISE:
                share = inputs / world * world
                sent = outputs * world * dim * element
                phases[0] = (math.ceil(share * INDEX_BYTES) + share * dim * element + sent) / self.hbm
                phases[1] = sent / self.link
                phases[2] = phases[1] + sent * BATCHED_COPY_FACTOR / self.hbm
            case ShardingType.TABLE_ROW_WISE | ShardingType.GRID_SHARD:
                share = inputs / self.local * world
                sent = outputs * world * dim * element
                phases[0] = (math.ceil(share * INDEX_BYTES) + share * dim * element + sent) / self.hbm
                phases[1] = sent / self.intra
                if self.hosts > 1:
                    phases[1] += outputs * self.hosts * dim * element / self.inter
                phases[2] = phases[1] + sent * BATCHED_COPY_FACTOR / self.hbm
            case ShardingType.DATA_PARALLEL:
                slow = DENSE_BANDWIDTH_SHARE * self.hbm
                moved = math.ceil(inputs * INDEX_BYTES) + inputs * dim * element + outputs * dim * element
                phases[0] = moved / slow
                nodes = min(self.hosts, 2)
                ring = (2 * nodes - 1) / nodes * (2.0 if self.hosts > 2 else 1.0)
                phases[2] = table.weight_bytes * ring / (self.inter * self.local)
                phases[2] += table.weight_bytes * DENSE_UPDATE_FACTOR / slow
        phases[3] = BACKWARD_MULTIPLIER * phases[0]
        return phases

    def shard_bytes(self, table: Table, kind: ShardingType, width: int | None = None) -> Array:
        """Bytes of each shard of one column shard of ``width`` (None: all columns), in the order of the shards.

        One shard for table-, column- and table-column-wise, W for row-wise and data-parallel, G for table-row-wise and
        grid.
        """
        workload, world = self.spec.workload, self.world
        batch, element = workload.batch_size, table.dtype.bytes_per_element
        dim = table.dim if width is None else width
        inputs, outputs = table.pooling_factor * batch, min(1.0, table.pooling_factor) * batch
        receivers = world
        match kind:
            case ShardingType.ROW_WISE:
                rows, inputs = row_shares(table.rows, world), inputs / world
            case ShardingType.TABLE_ROW_WISE | ShardingType.GRID_SHARD:
                rows, inputs = row_shares(table.rows, self.local), inputs / self.local
            case ShardingType.DATA_PARALLEL:
                rows, receivers = [table.rows] * world, 1
            case _:
                rows = [table.rows]
        buffers = 0
        if workload.has_io_buffers:
            buffers = math.ceil(inputs * receivers * INDEX_BYTES) + math.ceil(outputs * receivers * dim * element)
        sizes = []
        for share in rows:
            if share == 0:
                sizes.append(0)
                continue
            weights = math.ceil(table.weight_bytes * (share * dim) / (table.rows * table.dim))
            if table.state_bytes is None:
                state = math.ceil(weights * workload.optimizer.state_per_weight(table.dim))
            else:
                state = math.ceil(table.state_bytes * (share * dim) / (table.rows * table.dim))
            sizes.append(weights + state + buffers)
        return np.array(sizes, dtype=np.float64)

    def capacity_bytes(self) -> Array:
        """[W], bytes that a plan may fill on each rank."""
        spec = self.spec
        free = [math.floor((1.0 - spec.workload.reserve) * d.memory_bytes) - spec.reserved_bytes for d in spec.devices]
        return np.array([max(value, 0) for value in free], dtype=np.float64)


def row_shares(rows: int, parts: int) -> list[int]:
    """Rows of each part: blocks of ceil(rows / parts), the last ones short or empty."""
    block = math.ceil(rows / parts)
    return [max(min(block, rows - block * part), 0) for part in range(parts)]


def column_widths(dim: int, min_width: int) -> list[int]:
    """Widths of equal column shards: multiples of 4 that divide ``dim``, from ``min_width`` to below ``dim``."""
    return [width for width in range(max(min_width, 4), dim) if dim % width == 0 and width % 4 == 0]
