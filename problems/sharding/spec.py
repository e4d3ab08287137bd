"""JSON form of a sharding problem: strict in, complete out.

    {"domain": "sharding", "id": "...",
     "tables":  [{"name": "user", "rows": 1000000, "dim": 128, "pooling_factor": 10, "dtype": "float32",
                  "access": {"kind": "zipf_mandelbrot", "touched_rows": 200000, "exponent": 1.1, "shift": 400}}],
     "devices": [{"name": "gpu", "count": 8, "per_host": 8, "memory_bytes": 85899345920}],
     "workload": {"batch_size": 2048, "optimizer": "rowwise_adagrad", "reserve": 0.15, "has_io_buffers": true},
     "cost_model": {"name": "additive"},
     "constraints": {"pin": {"user": "gpu0"}, "forbid": [["ads", "gpu1"]], "colocate": [["a", "b"]]},
     "break_symmetry": true}

Only ``tables`` and ``devices`` are required. A device with a ``count`` stands for gpu0, gpu1, ...; with ``per_host``
they fill hosts from ``host`` on.
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, TypeVar

from problems.sharding.access import Access, ReuseHistogram, Uniform, ZipfMandelbrot
from problems.sharding.constraints import Constraints, suggestion
from problems.sharding.costs import AdditiveCost, CostModel
from problems.sharding.fused import FusedCost
from problems.sharding.measured.cost import MeasuredCost
from problems.sharding.tables import Device, Table, Workload, check_int
from surco.errors import InvalidInputError

DOMAIN_NAME = "sharding"
COST_MODELS: dict[str, type[AdditiveCost] | type[FusedCost] | type[MeasuredCost]] = {
    AdditiveCost.name: AdditiveCost,
    FusedCost.name: FusedCost,
    MeasuredCost.name: MeasuredCost,
}
ACCESS_KINDS: dict[str, type[Access]] = {
    "uniform": Uniform,
    "zipf_mandelbrot": ZipfMandelbrot,
    "reuse_histogram": ReuseHistogram,
}
MOST_DEVICES = 4096  # of one entry: every table has a variable on each
TOP_KEYS = ("domain", "id", "tables", "devices", "workload", "cost_model", "constraints", "break_symmetry")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ShardingSpec:
    """Everything that makes a sharding problem."""

    tables: tuple[Table, ...]
    devices: tuple[Device, ...]
    workload: Workload = field(default_factory=Workload)
    cost_model: CostModel = field(default_factory=AdditiveCost)
    constraints: Constraints = field(default_factory=Constraints)
    break_symmetry: bool = True
    id: str = "sharding/custom"

    def to_json(self) -> dict[str, Any]:
        """JSON object that ``spec_from_json`` turns back into an equal spec."""
        return {
            "domain": DOMAIN_NAME,
            "id": self.id,
            "tables": [table_to_json(table) for table in self.tables],
            "devices": [asdict(device) for device in self.devices],
            "workload": {**asdict(self.workload), "optimizer": self.workload.optimizer.value},
            "cost_model": self.cost_model.to_json(),
            "constraints": {
                "pin": dict(self.constraints.pin),
                "forbid": [list(pair) for pair in self.constraints.forbid],
                "colocate": [list(names) for names in self.constraints.colocate],
            },
            "break_symmetry": self.break_symmetry,
        }


def spec_from_json(spec: Mapping[str, Any]) -> ShardingSpec:
    """Read a JSON object.

    Raises:
        InvalidInputError: anything unknown, missing, of the wrong type or out of range; the message says where.
    """
    spec = json_object(spec, "the spec")
    check_keys(spec, TOP_KEYS, "the spec")
    if spec.get("domain", DOMAIN_NAME) != DOMAIN_NAME:
        raise InvalidInputError(f'Expected a spec with "domain": "{DOMAIN_NAME}", got {spec["domain"]!r}.')
    for key in ("tables", "devices"):
        if key not in spec:
            raise InvalidInputError(f"Expected the spec to have {key!r}, a list of objects; it is missing.")
    tables = tuple(
        table_from_json(entry, f"tables[{i}]") for i, entry in enumerate(json_list(spec["tables"], "tables"))
    )
    devices: list[Device] = []
    for i, entry in enumerate(json_list(spec["devices"], "devices")):
        devices.extend(devices_from_json(entry, f"devices[{i}]"))
    break_symmetry = spec.get("break_symmetry", True)
    if not isinstance(break_symmetry, bool):
        raise InvalidInputError(f"Expected break_symmetry to be true or false, got {break_symmetry!r}.")
    identifier = spec.get("id", "sharding/custom")
    if not isinstance(identifier, str):
        raise InvalidInputError(f"Expected id to be a string, got {identifier!r}.")
    return ShardingSpec(
        tables=tables,
        devices=tuple(devices),
        workload=build(Workload, json_object(spec.get("workload", {}), "workload"), "workload"),
        cost_model=_cost_model(spec.get("cost_model", {"name": AdditiveCost.name})),
        constraints=_constraints(json_object(spec.get("constraints", {}), "constraints")),
        break_symmetry=break_symmetry,
        id=identifier,
    )


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build a dataclass from a JSON object: no unknown key, no missing key, enums by value, ints where floats go.

    Raises:
        InvalidInputError: with the place ``where`` in front.
    """
    names = [item.name for item in fields(cls)]  # type: ignore[arg-type]
    check_keys(values, names, where)
    hints = typing.get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for item in fields(cls):  # type: ignore[arg-type]
        if item.name not in values:
            if item.default is MISSING and item.default_factory is MISSING:
                raise InvalidInputError(f"{where}: {item.name!r} is missing.")
            continue
        arguments[item.name] = _coerce(values[item.name], hints[item.name], f"{where}.{item.name}")
    try:
        return cls(**arguments)
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}") from error


def _coerce(value: Any, hint: Any, where: str) -> Any:
    if isinstance(hint, types.UnionType):  # an access description, already built
        return value
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        choices = [member.value for member in hint]
        if value not in choices:
            raise InvalidInputError(
                f"{where}: expected one of {choices}, got {value!r}.{suggestion(str(value), choices)}"
            )
        return hint(value)
    if typing.get_origin(hint) is tuple:
        return tuple(json_list(value, where))
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)  # JSON writers may print 1e6
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def table_from_json(entry: Any, where: str) -> Table:
    """Read one table; ``where`` names the place in errors."""
    values = dict(json_object(entry, where))
    if "access" in values:
        access = dict(json_object(values["access"], f"{where}.access"))
        kind = access.pop("kind", None)
        if kind not in ACCESS_KINDS:
            raise InvalidInputError(f"{where}.access: unknown kind {kind!r}.{suggestion(str(kind), ACCESS_KINDS)}")
        values["access"] = build(ACCESS_KINDS[kind], access, f"{where}.access")
    return build(Table, values, where)


def table_to_json(table: Table) -> dict[str, Any]:
    """JSON object of a table."""
    values = asdict(table)
    values["dtype"] = table.dtype.value
    if table.state_bytes is None:
        del values["state_bytes"]
    kind = next(kind for kind, cls in ACCESS_KINDS.items() if isinstance(table.access, cls))
    access = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(table.access).items()}
    values["access"] = {"kind": kind, **access}
    return values


def devices_from_json(entry: Any, where: str) -> list[Device]:
    """Read a device, or ``count`` of them."""
    values = dict(json_object(entry, where))
    if "count" not in values:
        if "per_host" in values:
            raise InvalidInputError(f"{where}: 'per_host' goes with 'count'; it is missing.")
        return [build(Device, values, where)]
    count, per_host = values.pop("count"), values.pop("per_host", None)
    check_int(count, f"{where}.count", minimum=1)
    if count > MOST_DEVICES:
        raise InvalidInputError(
            f"Expected {where}.count to be at most {MOST_DEVICES}, got {count}. Plan a group of hosts at a time."
        )
    if per_host is not None:
        check_int(per_host, f"{where}.per_host", minimum=1)
    first = build(Device, values, where)
    return [
        build(
            Device,
            {**values, "name": f"{first.name}{i}", "host": first.host + (i // per_host if per_host else 0)},
            where,
        )
        for i in range(count)
    ]


def _cost_model(value: Any) -> CostModel:
    values = dict(json_object(value, "cost_model"))
    name = values.pop("name", None)
    if not isinstance(name, str) or name not in COST_MODELS:
        raise InvalidInputError(f"cost_model: unknown name {name!r}.{suggestion(str(name), COST_MODELS)}")
    return build(COST_MODELS[name], values, "cost_model")


def _constraints(values: Mapping[str, Any]) -> Constraints:
    check_keys(values, ("pin", "forbid", "colocate"), "constraints")
    pin = dict(json_object(values.get("pin", {}), "constraints.pin"))
    forbid = [
        tuple(json_list(pair, "constraints.forbid"))
        for pair in json_list(values.get("forbid", []), "constraints.forbid")
    ]
    colocate = [
        tuple(json_list(names, "constraints.colocate"))
        for names in json_list(values.get("colocate", []), "constraints.colocate")
    ]
    return Constraints(pin=pin, forbid=tuple(forbid), colocate=tuple(colocate))  # type: ignore[arg-type]


def json_object(value: Any, where: str) -> Mapping[str, Any]:
    """``value`` if it is a JSON object, else InvalidInputError."""
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"Expected {where} to be a JSON object, got {type(value).__name__}: {value!r:.80}.")
    return value


def json_list(value: Any, where: str) -> Sequence[Any]:
    """``value`` if it is a list, else InvalidInputError."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidInputError(f"Expected {where} to be a list, got {type(value).__name__}: {value!r:.80}.")
    return value


def check_keys(values: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raise InvalidInputError for a key that is not known."""
    for key in values:
        if key not in known:
            raise InvalidInputError(f"{where}: unknown key {key!r}.{suggestion(str(key), known)}")
