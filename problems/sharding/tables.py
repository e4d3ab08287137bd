"""Embedding tables, devices and the training workload: the data of a sharding problem, checked when built."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from problems.sharding.access import Access, Uniform
from surco.errors import InvalidInputError

GIB_BYTES = 1024**3


class DataType(enum.StrEnum):
    """Storage type of embedding weights; the output of a lookup travels in the same type."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"

    @property
    def bytes_per_element(self) -> int:
        """Bytes of one weight."""
        return {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}[self.value]


class Optimizer(enum.StrEnum):
    """Embedding optimizer; it decides how much state sits beside the weights."""

    SGD = "sgd"
    ROWWISE_ADAGRAD = "rowwise_adagrad"
    ADAGRAD = "adagrad"
    ADAM = "adam"

    def state_per_weight(self, dim: int) -> float:
        """State elements per weight of a table of width ``dim``."""
        return {"sgd": 0.0, "rowwise_adagrad": 1.0 / dim, "adagrad": 1.0, "adam": 2.0}[self.value]


@dataclass(frozen=True, slots=True)
class Table:
    """One embedding table.

    Attributes:
        name: unique name.
        rows: number of rows (hash size), at least 1.
        dim: embedding width, at least 1.
        pooling_factor: mean lookups per sample, at least 0 (0: the feature is never there).
        dtype: storage type.
        access: how often rows repeat; the additive estimate ignores it, the fused model uses it.
        state_bytes: measured bytes of this table's optimizer state; None takes the workload's optimizer.
    """

    name: str
    rows: int
    dim: int
    pooling_factor: float
    dtype: DataType = DataType.FLOAT32
    access: Access = field(default_factory=Uniform)
    state_bytes: int | None = None

    def __post_init__(self) -> None:
        where = f"table {self.name!r}"
        if self.state_bytes is not None:
            check_int(self.state_bytes, f"{where}: state_bytes", minimum=0)
        check_name(self.name, "table")
        check_int(self.rows, f"{where}: rows", minimum=1)
        check_int(self.dim, f"{where}: dim", minimum=1)
        check_float(self.pooling_factor, f"{where}: pooling_factor", minimum=0.0)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dim * self.dtype.bytes_per_element

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights."""
        return self.rows * self.row_bytes


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator.

    The default bandwidths are those of TorchRec's planner; its "GB/s" are GiB per 1000 ms, kept here as GiB/s.

    Attributes:
        name: unique name.
        memory_bytes: device memory, at least 0.
        host: index of the machine it sits in; devices of one host talk over ``intra_host_gib_per_s``.
        hbm_gib_per_s: bandwidth of device memory; the speed of a device.
        intra_host_gib_per_s: bandwidth to devices of the same host.
        inter_host_gib_per_s: bandwidth to devices of other hosts.
    """

    name: str
    memory_bytes: int
    host: int = 0
    hbm_gib_per_s: float = 897.0
    intra_host_gib_per_s: float = 600.0
    inter_host_gib_per_s: float = 12.5

    def __post_init__(self) -> None:
        where = f"device {self.name!r}"
        check_name(self.name, "device")
        check_int(self.memory_bytes, f"{where}: memory_bytes", minimum=0)
        check_int(self.host, f"{where}: host", minimum=0)
        for item in ("hbm_gib_per_s", "intra_host_gib_per_s", "inter_host_gib_per_s"):
            check_float(getattr(self, item), f"{where}: {item}", minimum=0.0, is_open=True)

    @property
    def speed(self) -> tuple[float, float, float]:
        """What a cost model may see of a device; two devices of the same speed and memory are alike."""
        return (self.hbm_gib_per_s, self.intra_host_gib_per_s, self.inter_host_gib_per_s)


@dataclass(frozen=True, slots=True)
class Workload:
    """How the tables are trained.

    Attributes:
        batch_size: samples per device and step; a table on one device serves the lookups of all devices.
        optimizer: decides the state bytes.
        reserve: share of every device's memory that stays free for the rest of the model; TorchRec's default is 0.15.
        has_io_buffers: whether one step's input indices and pooled outputs count as memory.
    """

    batch_size: int = 2048
    optimizer: Optimizer = Optimizer.ROWWISE_ADAGRAD
    reserve: float = 0.15
    has_io_buffers: bool = True

    def __post_init__(self) -> None:
        check_int(self.batch_size, "workload: batch_size", minimum=1)
        check_float(self.reserve, "workload: reserve", minimum=0.0)
        if self.reserve >= 1.0:
            raise InvalidInputError(
                f"Expected workload: reserve in [0, 1), got {self.reserve}. It is a share, not a percentage."
            )
        if not isinstance(self.has_io_buffers, bool):
            raise InvalidInputError(f"Expected workload: has_io_buffers to be a bool, got {self.has_io_buffers!r}.")


def check_name(value: object, what: str) -> None:
    """Raise InvalidInputError unless ``value`` is a non-empty string."""
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f"Expected the name of a {what} to be a non-empty string, got {value!r}.")


def check_int(value: object, where: str, *, minimum: int) -> None:
    """Raise InvalidInputError unless ``value`` is an int of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise InvalidInputError(f"Expected {where} to be an integer of at least {minimum}, got {value!r}.")


def check_float(value: object, where: str, *, minimum: float, is_open: bool = False) -> None:
    """Raise InvalidInputError unless ``value`` is a finite number of at least (or above) ``minimum``."""
    is_valid = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_valid or float(value) < minimum or (is_open and float(value) == minimum):  # type: ignore[arg-type]
        relation = "above" if is_open else "of at least"
        raise InvalidInputError(f"Expected {where} to be a finite number {relation} {minimum:g}, got {value!r}.")
