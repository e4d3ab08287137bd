"""The measured cost: networks trained on timed kernels as the objective of a sharding problem."""

from __future__ import annotations

import copy
import enum
import functools
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from problems.sharding.costs import Combine
from problems.sharding.measured.features import FEATURES, logarithms, pooled_bytes, quantities, sums
from problems.sharding.measured.network import CostNetworks
from problems.sharding.tables import GIB_BYTES, DataType, Device, Optimizer, Table, Workload, check_float
from surco.errors import InvalidInputError

DATA = Path(__file__).parent / "data"
SLACK = 0.7  # in logarithms: a feature may be twice as large as any that was measured
logger = logging.getLogger(__name__)


class Comms(enum.StrEnum):
    """Where the time of the exchanges comes from."""

    MEASURED = "measured"
    BANDWIDTH = "bandwidth"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class MeasuredCost:
    """Step time by cost networks: all tables of a device run as one fused operator, exchanges are synchronous.

        step = sum over the four phases of smax over devices of the phase's time,
        smax(v) = temperature * log sum exp(v / temperature), the plain max for a temperature of 0.

    Forward and backward compute of a device are the compute network at the sum of its tables' features; an exchange
    takes the comms network at the bytes that a device sends (``comms: "measured"``, only for as many devices as were
    measured), or bytes over the device's link (``"bandwidth"``, the slower of the near and far link as TorchRec
    has it), or nothing (``"none"``). Linear in the summed features, then convex and non-decreasing heads: the objective
    is convex in the relaxed plan, so bounds are certified under this model.

    What was measured is one kind of device, float32, row-wise Adagrad: anything else is refused.

    Attributes:
        network: file of cost networks (safetensors), or the name of one in the package's data.
        comms: see above.
        temperature_ms: scale of the jitter between devices, at least 0.
    """

    name: ClassVar[str] = "measured"
    network: str
    comms: Comms = Comms.MEASURED
    temperature_ms: float = 0.01

    def __post_init__(self) -> None:
        if not isinstance(self.network, str) or not self.network:
            raise InvalidInputError(f"Expected cost_model: network to name a file, got {self.network!r}.")
        if self.comms not in list(Comms):
            raise InvalidInputError(f"Expected cost_model: comms to be one of {[c.value for c in Comms]}.")
        check_float(self.temperature_ms, "cost_model: temperature_ms", minimum=0.0)

    def to_json(self) -> dict[str, Any]:
        """JSON object of the settings."""
        return {"name": self.name, **asdict(self), "comms": Comms(self.comms).value}

    def networks(self) -> CostNetworks:
        """The networks, read once for each version of the file.

        Raises:
            InvalidInputError: no such file or name.
        """
        path = Path(self.network)
        if not path.is_file():
            path = DATA / f"{self.network}.safetensors"
        if not path.is_file():
            known = sorted(file.stem for file in DATA.glob("*.safetensors"))
            raise InvalidInputError(
                f"Expected cost_model: network to be a file or one of {known}, got {self.network!r}. "
                "Train one: python -m benchmarks.sharding_measured train."
            )
        return _load(str(path.resolve()), path.stat().st_mtime_ns)

    def bind(self, tables: Sequence[Table], devices: Sequence[Device], workload: Workload) -> BoundMeasured:
        """Embed every table once.

        Raises:
            InvalidInputError: devices of different speeds, another type or optimizer than was measured, or measured
                comms for another number of devices.
        """
        networks = self.networks()
        if len({device.speed for device in devices}) > 1:
            raise InvalidInputError("Expected devices of one speed: the cost networks know one. Use the fused model.")
        other = next((table for table in tables if table.dtype is not DataType.FLOAT32), None)
        if other is not None:
            raise InvalidInputError(f"Expected float32 tables, as measured; {other.name!r} is {other.dtype.value}.")
        if workload.optimizer is not Optimizer.ROWWISE_ADAGRAD:
            raise InvalidInputError(f"Expected rowwise_adagrad, as measured, got {workload.optimizer.value}.")
        if self.comms == Comms.MEASURED and networks.world != len(devices):
            raise InvalidInputError(
                f"Exchanges were measured among {networks.world} devices, not {len(devices)}. "
                'Try cost_model: comms "bandwidth" or "none".'
            )
        return BoundMeasured(self, networks, tables, devices, workload)


class BoundMeasured:
    """Measured cost of fixed tables on fixed devices.

    The features of a device are the channels of the compute network and the bytes that it sends. Loads are times less
    the intercept of the tangent plane at the balanced plan (every device the mean of all features), so that the sum of
    the tangent's values of single tables never exceeds a load: that is all the certified bounds need.

    Attributes:
        intercept: [4] ms, of the tangent planes; times are loads plus it. It may be negative.
        slopes: [4, F], of the tangent planes.
    """

    combine = Combine.SLOWEST_PER_PHASE

    def __init__(
        self,
        model: MeasuredCost,
        networks: CostNetworks,
        tables: Sequence[Table],
        devices: Sequence[Device],
        workload: Workload,
    ) -> None:
        self.model = model
        self.temperature_ms = model.temperature_ms
        self.is_convex = networks.compute.is_convex
        if not self.is_convex:
            raise InvalidInputError("Expected networks with a convex or additive head, got a free one: bounds need it.")
        self._compute = copy.deepcopy(networks.compute).double().requires_grad_(False)
        self._comms = None if networks.comms is None else copy.deepcopy(networks.comms).double().requires_grad_(False)
        self._channels = networks.compute.channels
        plain = quantities(tables, workload.batch_size * len(devices))
        features = torch.from_numpy(logarithms(plain))
        _warn_of_extrapolation(features, networks.limits.double(), tables)
        embedded = self._compute.embed(features, torch.from_numpy(sums(plain)))
        rows = torch.cat([embedded, torch.from_numpy(pooled_bytes(plain))[:, None]], dim=1).T  # [F, T]
        self.weights: NDArray[np.float64] = rows[..., None].expand(*rows.shape, len(devices)).contiguous().numpy()
        self._ms_per_byte = _link_ms_per_byte(devices)
        self.intercept = torch.zeros(4, dtype=torch.float64)
        balanced = rows.sum(1) / len(devices)
        self.slopes: Tensor = torch.autograd.functional.jacobian(  # type: ignore[assignment]
            lambda z: self.loads_ms(z[:, None])[:, 0], balanced
        )
        self.intercept = self.loads_ms(balanced[:, None])[:, 0] - self.slopes @ balanced

    def loads_ms(self, features: Tensor) -> Tensor:
        """Features [..., F, D] -> loads [..., 4, D]."""
        compute = self._compute.times_ms(features[..., : self._channels, :].transpose(-1, -2))  # [..., D, 2]
        sent = features[..., self._channels, :]
        if self.model.comms == Comms.MEASURED:
            assert self._comms is not None
            comms = self._comms.rank_ms(sent)
        else:
            rate = self._ms_per_byte if self.model.comms == Comms.BANDWIDTH else 0.0
            comms = (sent * rate)[..., None].expand(*sent.shape, 2)
        times = torch.stack([compute[..., 0], comms[..., 0], comms[..., 1], compute[..., 1]], dim=-2)
        return times - self.intercept.to(features)[:, None]

    def times_ms(self, loads: Tensor) -> Tensor:
        """Loads [..., 4, D] -> times [..., 4, D]."""
        return loads + self.intercept.to(loads)[:, None]

    def value_ms(self, times: Tensor) -> Tensor:
        """Sum over the phases of the (smooth) max over devices, [..., 4, D] -> [...]."""
        return self.merge_ms(times).sum(-1)

    def merge_ms(self, times: Tensor) -> Tensor:
        """(Smooth) max of each phase, [..., 4, D] -> [..., 4]."""
        if self.temperature_ms == 0.0:
            return times.amax(-1)
        return self.temperature_ms * torch.logsumexp(times / self.temperature_ms, dim=-1)

    def single_ms(self) -> NDArray[np.float64]:
        """[4, T, D], what a table adds to a balanced device, by the tangent plane: a lower bound on what it adds up."""
        return np.einsum("pf,ftd->ptd", self.slopes.numpy(), self.weights)

    def alone_ms(self) -> NDArray[np.float64]:
        """[4, T], predicted times of a device that holds one table only, launch included."""
        alone = torch.from_numpy(self.weights[:, :, 0])  # a table a column, as if it were a device
        return self.times_ms(self.loads_ms(alone)).numpy()


def _link_ms_per_byte(devices: Sequence[Device]) -> float:
    """Milliseconds per byte of an exchange: within a host if there is one, else between hosts."""
    is_one_host = len({device.host for device in devices}) <= 1
    link = devices[0].intra_host_gib_per_s if is_one_host else devices[0].inter_host_gib_per_s
    return 1000.0 / (link * GIB_BYTES) if len(devices) > 1 else 0.0


def _warn_of_extrapolation(features: Tensor, limits: Tensor, tables: Sequence[Table]) -> None:
    """Log which features lie outside of what was measured."""
    low, high = features < limits[0] - SLACK, features > limits[1] + SLACK
    for k in torch.nonzero((low | high).any(0)).flatten().tolist():
        t = int((low | high)[:, k].long().argmax())
        logger.warning("measured cost: %s of table %r is outside of what was measured", FEATURES[k], tables[t].name)


@functools.lru_cache(maxsize=8)
def _load(path: str, version: int) -> CostNetworks:
    """One read of each version (time of change) of a file."""
    return CostNetworks.load(Path(path))
