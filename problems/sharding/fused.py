"""A smooth, nonlinear model of fused embedding kernels: launch floors, a shared cache, synchronous collectives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from problems.sharding.costs import Combine
from problems.sharding.memory import INDEX_BYTES
from problems.sharding.tables import GIB_BYTES, Device, Table, Workload, check_float
from surco.errors import InvalidInputError

SORT_BYTES_PER_LOOKUP = 64  # the backward pass sorts (index, sample) pairs: 16 bytes, about four read-and-write rounds


@dataclass(frozen=True, slots=True)
class FusedCost:
    """Model of one training step when all tables of a device run as one fused operator.

    It is a *model*, not a measurement: its shape is what fused kernels show (a launch floor, then bandwidth; the sum
    of single-table times is several times too high), its constants are set by hand near published H100 figures.

    Of each table on a device: N = L B W lookups of rows of r bytes, U distinct rows among them (from the access
    statistics), O = min(1, L) B W r bytes of pooled output. Per device, sums over its tables, b the effective
    bandwidth of its memory:

        streamed forward   sum (8 N + U r + O) / b          repeated forward   sum (N - U) r / b
        streamed backward  sum (64 N + 2 U r + O) / b       repeated backward  sum max(N r - O, 0) / b
        working set        S = sum U r / cache
        load               = streamed + repeated (h + (1 - h) S / (1 + S)),    h = 1 / cache_speedup
        compute time       = (floor^q + load^q)^(1/q)
        comms time         = latency + max(O share_near / intra, O share_far / inter),   each direction

    Repeated lookups hit the cache until the working sets of the device's tables crowd each other out: the product of
    two sums makes the cost non-convex. Collectives wait for the slowest device in each phase, so that

        step = sum over the four phases of smax over devices of the phase's time,
        smax(v) = temperature * log sum exp(v / temperature),

    the expected slowest of devices whose times jitter (Gumbel) on the scale ``temperature``, up to a constant.

    Attributes:
        forward_floor_ms: launch-bound time of a forward call.
        backward_floor_ms: launch-bound time of a backward call.
        sharpness: q above, at least 1; large values give max(floor, load).
        efficiency: share of the memory bandwidth that gathers reach.
        cache_mib: last-level cache.
        cache_speedup: cache bandwidth over memory bandwidth, at least 1; 1 removes the cache effect (convex model).
        comms_latency_ms: fixed time of a collective.
        temperature_ms: scale of the jitter.
    """

    name: ClassVar[str] = "fused"
    forward_floor_ms: float = 0.18
    backward_floor_ms: float = 0.42
    sharpness: float = 1.5
    efficiency: float = 0.6
    cache_mib: float = 50.0
    cache_speedup: float = 4.0
    comms_latency_ms: float = 0.03
    temperature_ms: float = 0.01

    def __post_init__(self) -> None:
        for field in fields(self):
            is_open = field.name in ("efficiency", "cache_mib", "temperature_ms")
            minimum = 1.0 if field.name in ("sharpness", "cache_speedup") else 0.0
            check_float(getattr(self, field.name), f"cost_model: {field.name}", minimum=minimum, is_open=is_open)
        if self.efficiency > 1.0:
            raise InvalidInputError(f"Expected cost_model: efficiency in (0, 1], got {self.efficiency}.")

    def to_json(self) -> dict[str, Any]:
        """JSON object of the settings."""
        return {"name": self.name, **asdict(self)}

    def bind(self, tables: Sequence[Table], devices: Sequence[Device], workload: Workload) -> BoundFused:
        """Compute the six features of every table on every device."""
        return BoundFused(self, _features(self, tables, devices, workload))


class BoundFused:
    """Fused cost of fixed tables on fixed devices; features in the order of the formulas of ``FusedCost``."""

    combine = Combine.SLOWEST_PER_PHASE

    def __init__(self, model: FusedCost, weights: NDArray[np.float64]) -> None:
        self.model = model
        self.weights = weights
        self.temperature_ms = model.temperature_ms
        self.is_convex = model.cache_speedup == 1.0
        self._floors = torch.tensor([[model.forward_floor_ms], [model.backward_floor_ms]], dtype=torch.float64)
        self._placed: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self._has_comms = bool(weights[5].any())

    def loads_ms(self, features: Tensor) -> Tensor:
        """Features [..., 6, D] -> loads [..., 4, D]."""
        forward, backward, repeated_forward, repeated_backward, working_set, comms = features.unbind(-2)
        hit_cost = 1.0 / self.model.cache_speedup
        factor = hit_cost + (1.0 - hit_cost) * working_set / (1.0 + working_set)
        return torch.stack(
            [forward + repeated_forward * factor, comms, comms, backward + repeated_backward * factor], dim=-2
        )

    def times_ms(self, loads: Tensor) -> Tensor:
        """Loads [..., 4, D] -> times [..., 4, D]."""
        forward, comms, _, backward = loads.unbind(-2)
        q = self.model.sharpness
        floors = self._floors_like(loads)
        compute = torch.stack([forward, backward], dim=-2)
        compute = (floors**q + compute**q) ** (1.0 / q)
        transfer = comms + self.model.comms_latency_ms if self._has_comms else comms
        return torch.stack([compute[..., 0, :], transfer, transfer, compute[..., 1, :]], dim=-2)

    def _floors_like(self, loads: Tensor) -> Tensor:
        """Launch floors beside the loads, moved once: nothing may come from the host while a CUDA graph is recorded."""
        place = (loads.device, loads.dtype)
        if place not in self._placed:
            self._placed[place] = self._floors.to(loads)
        return self._placed[place]

    def value_ms(self, times: Tensor) -> Tensor:
        """Sum over the phases of the smooth max over devices, [..., 4, D] -> [...]."""
        return self.merge_ms(times).sum(-1)

    def merge_ms(self, times: Tensor) -> Tensor:
        """Smooth max of each phase, [..., 4, D] -> [..., 4]."""
        return self.temperature_ms * torch.logsumexp(times / self.temperature_ms, dim=-1)

    def single_ms(self) -> NDArray[np.float64]:
        """[4, T, D] loads of tables alone; a table's own working set is never more than its device's."""
        forward, backward, repeated_forward, repeated_backward, working_set, comms = self.weights
        hit_cost = 1.0 / self.model.cache_speedup
        factor = hit_cost + (1.0 - hit_cost) * working_set / (1.0 + working_set)
        return np.stack([forward + repeated_forward * factor, comms, comms, backward + repeated_backward * factor])


def _features(
    model: FusedCost, tables: Sequence[Table], devices: Sequence[Device], workload: Workload
) -> NDArray[np.float64]:
    """[6, T, D] features of each table on each device."""
    world = len(devices)
    samples = workload.batch_size * world
    bytes_per_ms = np.array([d.hbm_gib_per_s for d in devices]) * GIB_BYTES / 1000.0 * model.efficiency
    cost_per_byte = _comms_ms_per_byte(devices)
    features = np.zeros((6, len(tables), world))
    for t, table in enumerate(tables):
        lookups = table.pooling_factor * samples
        distinct = table.access.distinct_rows(table.rows, lookups) if lookups > 0 else 0.0
        outputs = min(1.0, table.pooling_factor) * samples * table.row_bytes
        distinct_bytes = distinct * table.row_bytes
        streamed = (INDEX_BYTES * lookups + distinct_bytes + outputs) / bytes_per_ms
        streamed_back = (SORT_BYTES_PER_LOOKUP * lookups + 2.0 * distinct_bytes + outputs) / bytes_per_ms
        repeated = (lookups * table.row_bytes - distinct_bytes) / bytes_per_ms
        repeated_back = max(lookups * table.row_bytes - outputs, 0.0) / bytes_per_ms
        working_set = np.full(world, distinct_bytes / (model.cache_mib * 1024**2))
        features[:, t] = np.stack(
            [streamed, streamed_back, repeated, repeated_back, working_set, outputs * cost_per_byte]
        )
    return np.maximum(features, 0.0)  # distinct rows may exceed the lookups by rounding


def _comms_ms_per_byte(devices: Sequence[Device]) -> NDArray[np.float64]:
    """[D], ms per byte of pooled output that a device sends: near and far links work at the same time."""
    world = len(devices)
    cost = np.zeros(world)
    for d, device in enumerate(devices):
        near = sum(other.host == device.host for other in devices) - 1
        far = world - 1 - near
        near_ms = near / world / (device.intra_host_gib_per_s * GIB_BYTES / 1000.0)
        far_ms = far / world / (device.inter_host_gib_per_s * GIB_BYTES / 1000.0)
        cost[d] = max(near_ms, far_ms)
    return cost
