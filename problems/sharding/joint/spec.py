"""Everything that makes a joint sharding problem, and its JSON form.

    {"domain": "sharding", "kind": "joint", "id": "...", "objective": "rating",
     "tables":  [{"name": "user", "rows": 1000000, "dim": 128, "pooling_factor": 10, "dtype": "float32"}],
     "devices": [{"name": "gpu", "count": 16, "per_host": 8, "memory_bytes": 85899345920}],
     "workload": {"batch_size": 2048, "optimizer": "rowwise_adagrad", "reserve": 0.15},
     "reserved_bytes": 0,
     "constraints": {"pin": {"user": "gpu0"}, "forbid": [["ads", "gpu1"]], "colocate": [["a", "b"]],
                     "spread": [["c", "d"]], "types": {"user": ["table_wise", "row_wise"]},
                     "default_types": ["table_wise", "row_wise", "data_parallel"],
                     "min_width": 128, "min_widths": {"wide": 64}}}

Only ``kind``, ``tables`` and ``devices`` are required. Offloading kernels (UVM, UVM caching, key-value) are not part
of the space: every table lives in device memory.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from problems.sharding.constraints import suggestion
from problems.sharding.joint.plan import ShardingType
from problems.sharding.spec import (
    DOMAIN_NAME,
    build,
    check_keys,
    devices_from_json,
    json_list,
    json_object,
    table_from_json,
    table_to_json,
)
from problems.sharding.tables import Device, Table, Workload, check_int
from surco.errors import InvalidInputError

KIND = "joint"
MIN_WIDTH = 128  # TorchRec's default for column shards
DEFAULT_TYPES = tuple(ShardingType)
TOP_KEYS = (
    "domain", "kind", "id", "objective", "tables", "devices", "workload", "reserved_bytes", "constraints",
)  # fmt: skip


class Objective(enum.StrEnum):
    """Which of TorchRec's two scores is minimized."""

    RATING = "rating"  # max over ranks of the sum of all phases over its shards
    CRITICAL_PATH = "critical_path"  # sum of the maxima: compute by phase, comms by phase and sharding type


@dataclass(frozen=True, slots=True)
class JointConstraints:
    """Rules of the user, by name.

    Attributes:
        pin: table -> the device that must hold all of it.
        forbid: (table, device) pairs: no shard of the table there; this rules out the types that use all devices.
        colocate: groups of tables with one common type (table-wise, row-wise, table-row-wise or data-parallel) on the
            same devices.
        spread: groups of tables no two of which may share a device.
        types: table -> sharding types that it may have.
        default_types: types of all other tables.
        min_width: least width of a column shard.
        min_widths: table -> its own least width.
    """

    pin: Mapping[str, str] = field(default_factory=dict)
    forbid: Sequence[tuple[str, str]] = ()
    colocate: Sequence[tuple[str, ...]] = ()
    spread: Sequence[tuple[str, ...]] = ()
    types: Mapping[str, tuple[ShardingType, ...]] = field(default_factory=dict)
    default_types: tuple[ShardingType, ...] = DEFAULT_TYPES
    min_width: int = MIN_WIDTH
    min_widths: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON object that ``constraints_from_json`` turns back."""
        return {
            "pin": dict(self.pin),
            "forbid": [list(pair) for pair in self.forbid],
            "colocate": [list(names) for names in self.colocate],
            "spread": [list(names) for names in self.spread],
            "types": {
                table: [kind.value for kind in ShardingType if kind in kinds] for table, kinds in self.types.items()
            },
            "default_types": [kind.value for kind in ShardingType if kind in self.default_types],
            "min_width": self.min_width,
            "min_widths": dict(self.min_widths),
        }


@dataclass(frozen=True, slots=True)
class JointSpec:
    """Tables, topology, rules and score.

    Attributes:
        tables: at least one, unique names.
        devices: device r is rank r; every host holds the same number of consecutive ranks.
        workload: batch, optimizer, share of the memory kept free. TorchRec counts buffers always, so
            ``has_io_buffers=False`` is for those who do not.
        constraints: rules by name.
        objective: the score to minimize.
        reserved_bytes: bytes of every device kept free on top of the share (TorchRec's heuristic reservation adds the
            dense part of the model and the inputs here).
        id: name of the instance.

    Raises:
        InvalidInputError: nothing to place, a name twice, a rule about an unknown name, hosts of unequal size.
    """

    tables: tuple[Table, ...]
    devices: tuple[Device, ...]
    workload: Workload = field(default_factory=Workload)
    constraints: JointConstraints = field(default_factory=JointConstraints)
    objective: Objective = Objective.RATING
    reserved_bytes: int = 0
    id: str = "sharding/custom-joint"

    def __post_init__(self) -> None:
        for what, names in (("table", [t.name for t in self.tables]), ("device", [d.name for d in self.devices])):
            if not names:
                raise InvalidInputError(f"Expected at least one {what}, got none.")
            if len(set(names)) != len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise InvalidInputError(f"Expected unique names, got two {what}s named {twice!r}. Rename one.")
        local = self.local_world_size
        hosts = [device.host for device in self.devices]
        blocks = [set(hosts[i : i + local]) for i in range(0, len(hosts), local)]
        if len(hosts) % local or any(len(block) != 1 for block in blocks) or len(set(hosts)) != len(blocks):
            raise InvalidInputError(
                f"Expected hosts of equal size with consecutive devices, got hosts {hosts}. Order the devices by host."
            )
        check_int(self.reserved_bytes, "reserved_bytes", minimum=0)
        check_int(self.constraints.min_width, "constraints: min_width", minimum=1)
        self._check_names()

    def _check_names(self) -> None:
        rules = self.constraints
        tables, devices = {t.name for t in self.tables}, {d.name for d in self.devices}
        named = [("pin", name) for name in rules.pin] + [("types", name) for name in rules.types]
        named += [("min_widths", name) for name in rules.min_widths]
        for pair in rules.forbid:
            if len(pair) != 2:
                raise InvalidInputError(f"Expected each rule of `forbid` to be a pair (table, device), got {pair!r}.")
            named.append(("forbid", pair[0]))
        for rule, groups in (("colocate", rules.colocate), ("spread", rules.spread)):
            named += [(rule, name) for names in groups for name in names]
        for rule, name in named:
            if name not in tables:
                raise InvalidInputError(
                    f"Rule `{rule}` names an unknown table {name!r}.{suggestion(str(name), tables)}"
                )
        for rule, name in [("pin", d) for d in rules.pin.values()] + [("forbid", pair[1]) for pair in rules.forbid]:
            if name not in devices:
                raise InvalidInputError(
                    f"Rule `{rule}` names an unknown device {name!r}.{suggestion(str(name), devices)}"
                )
        for name, width in rules.min_widths.items():
            check_int(width, f"constraints: min_widths of {name!r}", minimum=1)

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return len(self.devices)

    @property
    def local_world_size(self) -> int:
        """Ranks in each host."""
        first = self.devices[0].host
        return sum(device.host == first for device in self.devices)

    def to_json(self) -> dict[str, Any]:
        """JSON object that ``joint_spec_from_json`` turns back into an equal spec."""
        return {
            "domain": DOMAIN_NAME,
            "kind": KIND,
            "id": self.id,
            "objective": self.objective.value,
            "tables": [table_to_json(table) for table in self.tables],
            "devices": [asdict(device) for device in self.devices],
            "workload": {**asdict(self.workload), "optimizer": self.workload.optimizer.value},
            "reserved_bytes": self.reserved_bytes,
            "constraints": self.constraints.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> JointSpec:
        """Read a JSON object; see the module.

        Raises:
            InvalidInputError: anything unknown, missing, of the wrong type or out of range; the message says where.
        """
        value = json_object(value, "the spec")
        check_keys(value, TOP_KEYS, "the spec")
        if value.get("domain", DOMAIN_NAME) != DOMAIN_NAME or value.get("kind") != KIND:
            raise InvalidInputError(
                f'Expected a spec with "domain": "{DOMAIN_NAME}" and "kind": "{KIND}", got {value.get("domain")!r} '
                f"and {value.get('kind')!r}."
            )
        for key in ("tables", "devices"):
            if key not in value:
                raise InvalidInputError(f"Expected the spec to have {key!r}, a list of objects; it is missing.")
        devices: list[Device] = []
        for i, entry in enumerate(json_list(value["devices"], "devices")):
            devices.extend(devices_from_json(entry, f"devices[{i}]"))
        identifier = value.get("id", "sharding/custom-joint")
        if not isinstance(identifier, str):
            raise InvalidInputError(f"Expected id to be a string, got {identifier!r}.")
        return cls(
            tables=tuple(
                table_from_json(t, f"tables[{i}]") for i, t in enumerate(json_list(value["tables"], "tables"))
            ),
            devices=tuple(devices),
            workload=build(Workload, json_object(value.get("workload", {}), "workload"), "workload"),
            constraints=constraints_from_json(json_object(value.get("constraints", {}), "constraints")),
            objective=objective_of(value.get("objective", Objective.RATING.value)),
            reserved_bytes=value.get("reserved_bytes", 0),
            id=identifier,
        )


def objective_of(value: object) -> Objective:
    """The score of that name.

    Raises:
        InvalidInputError: there is none.
    """
    choices = [member.value for member in Objective]
    if value not in choices:
        raise InvalidInputError(f"objective: expected one of {choices}, got {value!r}.")
    return Objective(value)


def constraints_from_json(value: Mapping[str, Any]) -> JointConstraints:
    """Read the rules; names are checked by `JointSpec`."""
    check_keys(value, tuple(JointConstraints().to_json()), "constraints")

    def groups(key: str) -> tuple[tuple[str, ...], ...]:
        where = f"constraints.{key}"
        return tuple(tuple(json_list(names, where)) for names in json_list(value.get(key, []), where))

    return JointConstraints(
        pin=dict(json_object(value.get("pin", {}), "constraints.pin")),
        forbid=groups("forbid"),  # type: ignore[arg-type]
        colocate=groups("colocate"),
        spread=groups("spread"),
        types={
            str(table): types_of(kinds, f"constraints.types of {table!r}")
            for table, kinds in json_object(value.get("types", {}), "constraints.types").items()
        },
        default_types=types_of(value.get("default_types", list(DEFAULT_TYPES)), "constraints.default_types"),
        min_width=value.get("min_width", MIN_WIDTH),
        min_widths=dict(json_object(value.get("min_widths", {}), "constraints.min_widths")),
    )


def types_of(values: Any, where: str) -> tuple[ShardingType, ...]:
    """Sharding types by their names.

    Raises:
        InvalidInputError: an unknown name, or none at all.
    """
    known = [member.value for member in ShardingType]
    for value in json_list(values, where):
        if value not in known:
            raise InvalidInputError(f"{where}: unknown type {value!r}.{suggestion(str(value), known)}")
    if not values:
        raise InvalidInputError(f"{where}: expected at least one of {known}, got none.")
    return tuple(member for member in ShardingType if member.value in values)
