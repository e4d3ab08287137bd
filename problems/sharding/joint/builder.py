"""Builds the joint plan space of a spec: which modes a table may have under the rules, where its pieces fit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from problems.sharding.joint.costs import Prices, column_widths
from problems.sharding.joint.plan import ShardingType
from problems.sharding.joint.space import EVERYWHERE, KINDS, ONE_HOST, Index, Space
from problems.sharding.joint.spec import JointSpec
from solvers.oracle import Array

SHARED = (
    ShardingType.TABLE_WISE,
    ShardingType.ROW_WISE,
    ShardingType.TABLE_ROW_WISE,
    ShardingType.DATA_PARALLEL,
)  # modes that colocated tables can have in common


class SpaceBuilder:
    """Builds the space of a spec, and remembers why modes are missing.

    Attributes:
        reasons: unit -> (mode or rule, why it is not there) pairs.
    """

    def __init__(self, spec: JointSpec) -> None:
        self.spec = spec
        self.prices = Prices(spec)
        self.capacity = self.prices.capacity_bytes()
        self.reasons: dict[int, list[tuple[str, str]]] = {}
        self.index = {table.name: t for t, table in enumerate(spec.tables)}
        self.units = self._units()
        owner = {t: u for u, members in enumerate(self.units) for t in members}
        self.groups = tuple(
            tuple(owner[self.index[name]] for name in names) for names in spec.constraints.spread if len(names) > 1
        )
        self.spread_units = {u for group in self.groups for u in group}
        self.places = self._places()  # [U, W] bool

    def _units(self) -> tuple[tuple[int, ...], ...]:
        root = list(range(len(self.spec.tables)))

        def find(t: int) -> int:
            while root[t] != t:
                t = root[t]
            return t

        for names in self.spec.constraints.colocate:
            for name in names[1:]:
                a, b = sorted((find(self.index[names[0]]), find(self.index[name])))
                root[b] = a
        members: dict[int, list[int]] = {}
        for t in range(len(root)):
            members.setdefault(find(t), []).append(t)
        return tuple(tuple(ts) for ts in members.values())

    def _places(self) -> NDArray[np.bool_]:
        """[U, W], ranks that may hold something of a unit."""
        rules, world = self.spec.constraints, self.spec.world_size
        rank = {device.name: r for r, device in enumerate(self.spec.devices)}
        allowed = np.ones((len(self.spec.tables), world), dtype=bool)
        for table, device in rules.pin.items():
            allowed[self.index[table], np.arange(world) != rank[device]] = False
        for table, device in rules.forbid:
            allowed[self.index[table], rank[device]] = False
        return np.array([allowed[list(members)].all(axis=0) for members in self.units])

    def types_of(self, t: int) -> tuple[ShardingType, ...]:
        """Types that the rules allow table ``t``."""
        rules, name = self.spec.constraints, self.spec.tables[t].name
        return tuple(rules.types.get(name, rules.default_types))

    def build(self) -> Space:
        """All modes, pieces and atoms; a unit without any has an empty range of modes."""
        unit_start, mode_kind, mode_width, mode_start = [0], [], [], [0]
        piece_start, atom_place, counts = [0], [], []
        ranks: list[Index] = []
        ms: list[Array] = []
        sizes: list[Array] = []
        for unit in range(len(self.units)):
            for kind, width, pieces in self._modes(unit):
                mode_kind.append(KINDS.index(kind))
                mode_width.append(width)
                for places, piece_counts, piece_ranks, piece_ms, piece_bytes in pieces:
                    atom_place.append(places)
                    counts.append(piece_counts)
                    ranks.append(piece_ranks)
                    ms.append(piece_ms)
                    sizes.append(piece_bytes)
                    piece_start.append(piece_start[-1] + len(places))
                mode_start.append(len(piece_start) - 1)
            unit_start.append(len(mode_kind))
        none = np.zeros(0, dtype=np.int64)
        return Space(
            spec=self.spec,
            units=self.units,
            unit_start=np.array(unit_start),
            mode_kind=np.array(mode_kind, dtype=np.int64),
            mode_width=np.array(mode_width, dtype=np.int64),
            mode_start=np.array(mode_start),
            piece_start=np.array(piece_start),
            atom_place=np.concatenate([none, *atom_place]),
            atom_start=np.concatenate([[0], np.cumsum(np.concatenate([none, *counts]))]).astype(np.int64),
            entry_rank=np.concatenate([none, *ranks]),
            entry_ms=np.concatenate([np.zeros((0, 4)), *ms]),
            entry_bytes=np.concatenate([np.zeros(0), *sizes]),
            capacity=self.capacity,
            groups=self.groups,
        )

    # ------------------------------------------------------------------ modes of one unit

    def _modes(self, unit: int) -> list[tuple[ShardingType, int, list[tuple[Index, Index, Index, Array, Array]]]]:
        members = self.units[unit]
        first = members[0]
        kinds = [k for k in ShardingType if all(k in self.types_of(t) for t in members)]
        if not kinds:
            self._drop(unit, "types", "the allowed types of the colocated tables have none in common")
        if len(members) > 1:
            shared = [k for k in kinds if k in SHARED]
            if kinds and not shared:
                self._drop(unit, "types", "none of the allowed types can hold tables together")
            kinds = shared
        if self.spec.world_size == self.spec.local_world_size:
            kinds = [k for k in kinds if ONE_HOST.get(k) not in kinds]
        found = []
        for kind in kinds:
            for width in self.widths(kind, first):
                pieces = self._pieces(unit, kind, width)
                if pieces is not None:
                    found.append((kind, width, pieces))
        if ShardingType.TABLE_COLUMN_WISE in kinds:
            for width in self.widths(ShardingType.TABLE_COLUMN_WISE, first):
                found += self._host_modes(unit, width)
        return found

    def widths(self, kind: ShardingType, t: int) -> list[int]:
        """Widths of the column shards of table ``t`` in a type; [0] where it does not cut columns."""
        if not kind.cuts_columns:
            return [0]
        rules, table = self.spec.constraints, self.spec.tables[t]
        widths = column_widths(table.dim, rules.min_widths.get(table.name, rules.min_width))
        others = [k for k in self.types_of(t) if not k.cuts_columns]
        return widths if widths or others else [table.dim]  # one column shard is table-wise (or table-row-wise)

    def _price(self, unit: int, kind: ShardingType, width: int) -> tuple[Array, Array]:
        """[4, W] milliseconds and shard bytes of one piece of a unit."""
        tables = [self.spec.tables[t] for t in self.units[unit]]
        ms = np.zeros((4, self.spec.world_size))
        size: Array | float = 0.0
        for table in tables:
            ms += self.prices.phases_ms(table, kind, width or None)
            size = size + self.prices.shard_bytes(table, kind, width or None)
        return ms, np.asarray(size)

    def _pieces(
        self, unit: int, kind: ShardingType, width: int
    ) -> list[tuple[Index, Index, Index, Array, Array]] | None:
        """Pieces of a mode with all their places, or None where it has no place."""
        if kind is ShardingType.TABLE_COLUMN_WISE:
            return None  # one mode a host, see `_host_modes`
        world, local = self.spec.world_size, self.spec.local_world_size
        ms, size = self._price(unit, kind, width)
        allowed = self.places[unit]
        dim = self.spec.tables[self.units[unit][0]].dim
        if kind in (ShardingType.ROW_WISE, ShardingType.DATA_PARALLEL):
            if not allowed.all():
                return self._drop(unit, kind, "a rule keeps the table off a device, and the type uses all")
            if unit in self.spread_units and world > 0:
                return self._drop(unit, kind, "`spread` leaves devices to other tables, and the type uses all")
            if np.any(size > self.capacity):
                return self._drop(unit, kind, "a shard is larger than the room of a device")
            every = np.arange(world)
            return [(np.array([EVERYWHERE]), np.array([world]), every, ms.T.copy(), size)]
        if kind in (ShardingType.TABLE_ROW_WISE, ShardingType.GRID_SHARD):
            hosts = np.arange(world // local)
            every = np.arange(world).reshape(-1, local)
            is_open = allowed.reshape(-1, local).all(axis=1)
            fits = (size[None] <= self.capacity.reshape(-1, local)).all(axis=1)
            places = hosts[is_open & fits]
            if not len(places):
                why = "a shard is larger than the room of a device" if is_open.any() else "a rule leaves no whole host"
                return self._drop(unit, kind, why)
            used = every[places].ravel()
            piece = (places, np.full(len(places), local), used, ms.T[used], np.tile(size, len(places)))
            return [piece] * (dim // width if kind.cuts_columns else 1)
        fits = size[0] <= self.capacity
        places = np.flatnonzero(allowed & fits)
        if not len(places):
            why = "it is larger than the room of a device" if allowed.any() else "the rules leave no device"
            return self._drop(unit, kind, why)
        piece = (places, np.ones(len(places), dtype=np.int64), places, ms.T[places], np.full(len(places), size[0]))
        return [piece] * (dim // width if kind.cuts_columns else 1)

    def _host_modes(
        self, unit: int, width: int
    ) -> list[tuple[ShardingType, int, list[tuple[Index, Index, Index, Array, Array]]]]:
        """Table-column-wise: one mode for each host, its pieces on the ranks of that host."""
        kind, local = ShardingType.TABLE_COLUMN_WISE, self.spec.local_world_size
        ms, size = self._price(unit, kind, width)
        columns = self.spec.tables[self.units[unit][0]].dim // width
        found = []
        for host in range(self.spec.world_size // local):
            ranks = np.arange(host * local, (host + 1) * local)
            places = ranks[self.places[unit][ranks] & (size[0] <= self.capacity[ranks])]
            if len(places):
                piece = (
                    places, np.ones(len(places), dtype=np.int64), places, ms.T[places], np.full(len(places), size[0])
                )  # fmt: skip
                found.append((kind, width, [piece] * columns))
        if not found:
            self._drop(unit, kind, "no device of any host has room for a column shard")
        return found

    def _drop(self, unit: int, what: str, why: str) -> None:
        self.reasons.setdefault(unit, []).append((str(what), why))
