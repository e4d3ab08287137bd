"""What a cost model is, and the first one: TorchRec's additive table-wise estimate."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from problems.sharding.memory import INDEX_BYTES
from problems.sharding.tables import GIB_BYTES, Device, Table, Workload, check_float

PHASES = ("forward compute", "forward comms", "backward comms", "backward compute")


class CostModel(Protocol):
    """Settings of a cost model; ``bind`` computes everything that depends on the tables and devices once."""

    name: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """JSON object with ``name`` and the settings that differ from the defaults."""
        ...

    def bind(self, tables: Sequence[Table], devices: Sequence[Device], workload: Workload) -> BoundCost:
        """Cost of plans of these tables on these devices."""
        ...


class Combine(enum.StrEnum):
    """How the phases of the devices become one step time."""

    SLOWEST_DEVICE = "max over devices of the sum over phases"
    SLOWEST_PER_PHASE = "sum over phases of the (smooth) max over devices"


class BoundCost(Protocol):
    """Cost of plans x [..., T, D] of fixed tables and devices, in milliseconds per step.

    Every model has one shape, and search, bounds and charts rely on that alone: tables add up to a few *features* of
    a device, features give a *load* in each phase, a load gives the *phase* time, the phases of all devices give
    the value. Each arrow is non-decreasing in all its inputs.
    """

    combine: Combine
    is_convex: bool
    temperature_ms: float  # of the smooth max over devices; 0 for a plain max
    weights: NDArray[np.float64]  # [F, T, D] features of table t on device d; non-negative

    def loads_ms(self, features: Tensor) -> Tensor:
        """Features [..., F, D] -> busy milliseconds by phase [..., 4, D]."""
        ...

    def times_ms(self, loads: Tensor) -> Tensor:
        """Loads [..., 4, D] -> time of each phase [..., 4, D]; elementwise, convex, not below the load."""
        ...

    def value_ms(self, times: Tensor) -> Tensor:
        """Times [..., 4, D] -> [...]."""
        ...

    def merge_ms(self, times: Tensor) -> Tensor:
        """One time in each phase that stands for all devices in `value_ms`, [..., 4, D] -> [..., 4]; -inf is none."""
        ...

    def single_ms(self) -> NDArray[np.float64]:
        """[4, T, D] load that a table has alone; the sum over the tables of a device never exceeds its load."""
        ...


def features_of(weights: Tensor, x: Tensor) -> Tensor:
    """Sum table features [F, T, D] over plans x [..., T, D], giving [..., F, D]."""
    return torch.einsum("ftd,...td->...fd", weights, x)


@dataclass(frozen=True, slots=True)
class AdditiveCost:
    """TorchRec's table-wise estimate: a device's time is the sum over its tables, the step is the slowest device.

    With L the pooling factor, B the batch per device, W devices, e bytes per element, dim the width, and p the block
    penalty (1 for dim >= 128, 1.15 for dim >= 64, else 1.75):

        indices  = ceil(8 L B W)            lookups = L B W max(dim, 32) e        outputs = min(1, L) B W dim e
        forward compute  = (indices + lookups + outputs) p / hbm            backward compute = 2 forward compute
        forward comms    = backward comms = outputs / link

    ``link`` is the intra-host bandwidth where all devices share one host, else the inter-host bandwidth.
    The value is the max over devices of the sum of the four phases over the device's tables, in ms.

    Attributes:
        backward_multiplier: backward over forward compute.

    Source: TorchRec 1.8, planner, default estimator, table-wise sharding, fused kernel; checked number by number.
    """

    name: ClassVar[str] = "additive"
    backward_multiplier: float = 2.0

    def __post_init__(self) -> None:
        check_float(self.backward_multiplier, "cost_model: backward_multiplier", minimum=0.0)

    def to_json(self) -> dict[str, Any]:
        """JSON object of the settings."""
        return {"name": self.name, "backward_multiplier": self.backward_multiplier}

    def bind(self, tables: Sequence[Table], devices: Sequence[Device], workload: Workload) -> BoundAdditive:
        """Compute the four phases of every table on every device."""
        return BoundAdditive(table_wise_ms(tables, devices, workload, self.backward_multiplier))


class BoundAdditive:
    """Additive cost of fixed tables on fixed devices: features are the four phase times themselves."""

    combine = Combine.SLOWEST_DEVICE
    is_convex = True
    temperature_ms = 0.0

    def __init__(self, weights: NDArray[np.float64]) -> None:
        self.weights = weights

    def loads_ms(self, features: Tensor) -> Tensor:
        """The features are the loads."""
        return features

    def times_ms(self, loads: Tensor) -> Tensor:
        """The loads are the times."""
        return loads

    def value_ms(self, times: Tensor) -> Tensor:
        """Slowest device, [..., 4, D] -> [...]."""
        return times.sum(-2).amax(-1)

    def merge_ms(self, times: Tensor) -> Tensor:
        """The slowest device's total as the time of the first phase."""
        slowest = times.sum(-2).amax(-1)
        return torch.stack([slowest, *[torch.zeros_like(slowest)] * 3], dim=-1)

    def single_ms(self) -> NDArray[np.float64]:
        """[4, T, D], exact here."""
        return self.weights


def block_penalty(dim: int) -> float:
    """Slow-down of narrow tables: a thread block of the fused kernel handles 128 columns."""
    if dim >= 128:
        return 1.0
    return 1.15 if dim >= 64 else 1.75


def table_wise_ms(
    tables: Sequence[Table], devices: Sequence[Device], workload: Workload, backward_multiplier: float = 2.0
) -> NDArray[np.float64]:
    """[4, T, D] milliseconds of each phase (order of ``PHASES``) of each table on each device."""
    world = len(devices)
    is_one_host = len({device.host for device in devices}) <= 1
    link = np.array([d.intra_host_gib_per_s if is_one_host else d.inter_host_gib_per_s for d in devices])
    link_bytes_per_ms = link * GIB_BYTES / 1000.0
    hbm_bytes_per_ms = np.array([d.hbm_gib_per_s for d in devices]) * GIB_BYTES / 1000.0

    phases = np.zeros((4, len(tables), world))
    for t, table in enumerate(tables):
        element = table.dtype.bytes_per_element
        lookups = table.pooling_factor * workload.batch_size * world
        outputs = min(1.0, table.pooling_factor) * workload.batch_size * world * table.dim * element
        moved = math.ceil(lookups * INDEX_BYTES) + lookups * max(table.dim, 32) * element + outputs
        forward = moved * block_penalty(table.dim) / hbm_bytes_per_ms
        comms = outputs / link_bytes_per_ms
        phases[:, t] = np.stack([forward, comms, comms, backward_multiplier * forward])
    return phases
