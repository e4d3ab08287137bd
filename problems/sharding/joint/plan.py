"""A sharding plan: which type each table has, and which rank owns each of its shards."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surco.errors import InvalidInputError


class ShardingType(enum.StrEnum):
    """How a table is cut; the values are TorchRec's own strings."""

    TABLE_WISE = "table_wise"  # whole, on one rank
    COLUMN_WISE = "column_wise"  # columns cut, each shard on any rank
    ROW_WISE = "row_wise"  # rows cut over all ranks
    TABLE_ROW_WISE = "table_row_wise"  # rows cut over the ranks of one host
    TABLE_COLUMN_WISE = "table_column_wise"  # columns cut, the shards on ranks of one host
    GRID_SHARD = "grid_shard"  # columns cut, each column shard's rows cut over the ranks of one host
    DATA_PARALLEL = "data_parallel"  # a copy on every rank

    @property
    def cuts_columns(self) -> bool:
        """Whether the columns are shared out, so that a placement carries ``shard_dims``."""
        return self in (ShardingType.COLUMN_WISE, ShardingType.TABLE_COLUMN_WISE, ShardingType.GRID_SHARD)

    @property
    def kernel(self) -> str:
        """Compute kernel that TorchRec pairs with the type on devices: copies are dense, all else fused."""
        return "dense" if self is ShardingType.DATA_PARALLEL else "fused"


@dataclass(frozen=True, slots=True)
class TablePlacement:
    """Where one table goes.

    Attributes:
        table: its name.
        sharding_type: how it is cut.
        ranks: owner of each shard, in TorchRec's order of shards. Table-wise: one rank. Column-wise and
            table-column-wise: the owner of each column shard. Row-wise and data-parallel: all ranks in order.
            Table-row-wise: the ranks of a host in order. Grid: for each column shard the ranks of its host in order.
        shard_dims: width of each column shard; empty for types that do not cut columns.
        kernel: TorchRec's compute kernel, "fused" or "dense"; empty takes the type's own.
    """

    table: str
    sharding_type: ShardingType
    ranks: tuple[int, ...]
    shard_dims: tuple[int, ...] = ()
    kernel: str = ""

    def __post_init__(self) -> None:
        if not self.kernel:
            object.__setattr__(self, "kernel", self.sharding_type.kernel)

    def to_json(self) -> dict[str, Any]:
        """JSON object that ``from_json`` turns back into an equal placement."""
        return {
            "table": self.table,
            "sharding_type": self.sharding_type.value,
            "ranks": list(self.ranks),
            "shard_dims": list(self.shard_dims),
            "kernel": self.kernel,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TablePlacement:
        """Read a JSON object.

        Raises:
            InvalidInputError: a key missing or unknown, or a value of the wrong type.
        """
        where = f"placement of {value.get('table')!r}"
        known = ("table", "sharding_type", "ranks", "shard_dims", "kernel")
        for key in value:
            if key not in known:
                raise InvalidInputError(f"{where}: unknown key {key!r}. Known: {', '.join(known)}.")
        for key in known[:3]:
            if key not in value:
                raise InvalidInputError(f"{where}: {key!r} is missing.")
        types = [member.value for member in ShardingType]
        if value["sharding_type"] not in types:
            raise InvalidInputError(f"{where}: expected one of {types}, got {value['sharding_type']!r}.")
        if not isinstance(value["table"], str):
            raise InvalidInputError(f"{where}: expected the name of a table, got {value['table']!r}.")
        return cls(
            table=value["table"],
            sharding_type=ShardingType(value["sharding_type"]),
            ranks=_integers(value["ranks"], f"{where}: ranks"),
            shard_dims=_integers(value.get("shard_dims", []), f"{where}: shard_dims"),
            kernel=str(value.get("kernel", "")),
        )


@dataclass(frozen=True, slots=True)
class JointPlan:
    """A placement of every table, in the order of the tables.

    Attributes:
        placements: one per table.
        world_size: number of ranks; rank r is device r of the spec.
        local_world_size: ranks in each host; rank r sits in host r // local_world_size.

    Raises:
        InvalidInputError: a rank that does not exist, or a shape that the type cannot have.
    """

    placements: tuple[TablePlacement, ...]
    world_size: int
    local_world_size: int

    def __post_init__(self) -> None:
        if self.local_world_size < 1 or self.world_size % self.local_world_size:
            raise InvalidInputError(
                f"Expected world_size to be a multiple of local_world_size, got {self.world_size} and "
                f"{self.local_world_size}."
            )
        names = [placement.table for placement in self.placements]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidInputError(f"Expected one placement per table, got two of {twice!r}.")
        for placement in self.placements:
            self._check(placement)

    def _check(self, placement: TablePlacement) -> None:
        world, local, ranks = self.world_size, self.local_world_size, placement.ranks
        kind, where = placement.sharding_type, f"placement of {placement.table!r}"
        if any(not 0 <= rank < world for rank in ranks):
            raise InvalidInputError(f"{where}: expected ranks from 0 to {world - 1}, got {list(ranks)}.")
        if kind.cuts_columns != bool(placement.shard_dims) or any(dim < 1 for dim in placement.shard_dims):
            raise InvalidInputError(f"{where}: a {kind} table has no shard_dims {list(placement.shard_dims)}.")
        columns = len(placement.shard_dims)
        match kind:
            case ShardingType.TABLE_WISE:
                fits = len(ranks) == 1
            case ShardingType.COLUMN_WISE:
                fits = len(ranks) == columns
            case ShardingType.TABLE_COLUMN_WISE:
                fits = len(ranks) == columns and len({rank // local for rank in ranks}) == 1
            case ShardingType.ROW_WISE | ShardingType.DATA_PARALLEL:
                fits = ranks == tuple(range(world))
            case _:  # table-row-wise, grid: whole hosts
                hosts = [ranks[i] // local for i in range(0, len(ranks), local)]
                whole = tuple(host * local + i for host in hosts for i in range(local))
                fits = ranks == whole and len(hosts) == max(columns, 1)
        if not fits:
            raise InvalidInputError(
                f"{where}: ranks {list(ranks)} with shard_dims {list(placement.shard_dims)} are no {kind} placement "
                f"on {world} ranks, {local} in each host."
            )

    def placement(self, table: str) -> TablePlacement:
        """Placement of a table by name.

        Raises:
            InvalidInputError: no such table.
        """
        for placement in self.placements:
            if placement.table == table:
                return placement
        raise InvalidInputError(f"The plan has no table {table!r}.")

    def to_json(self) -> dict[str, Any]:
        """JSON object that ``from_json`` turns back into an equal plan."""
        return {
            "world_size": self.world_size,
            "local_world_size": self.local_world_size,
            "placements": [placement.to_json() for placement in self.placements],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> JointPlan:
        """Read a JSON object.

        Raises:
            InvalidInputError: a key missing, a value of the wrong type, or a plan that cannot be.
        """
        for key in ("world_size", "local_world_size", "placements"):
            if key not in value:
                raise InvalidInputError(f"Expected a plan to have {key!r}; it is missing.")
        (world, local) = _integers([value["world_size"], value["local_world_size"]], "world sizes of the plan")
        return cls(tuple(TablePlacement.from_json(entry) for entry in value["placements"]), world, local)


def _integers(values: Any, where: str) -> tuple[int, ...]:
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    if not is_list or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise InvalidInputError(f"Expected {where} to be a list of integers, got {values!r:.80}.")
    return tuple(values)
