"""The joint plan space as flat arrays: units, modes, pieces, and atoms (a piece at a place).

A *unit* is a table, or a group of colocated tables. A *mode* is one way to cut it: table-wise; column-wise with one
width; row-wise; table-row-wise; table-column-wise on one host with one width; grid with one width; data-parallel. A
*piece* of a mode is what is placed as a whole: the table, or one column shard. An *atom* is a piece at a place, a rank
or a host (or everywhere), and the variable x[atom] of the problem. A plan takes one mode of every unit, and one atom
of every piece of that mode. An atom has an *entry* for every rank that it touches: milliseconds of each phase, bytes.

So the number of variables is T (2 W + H + ...), never the number of plans of a table with k shards (W to the k).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from problems.sharding.joint.costs import Prices, column_widths
from problems.sharding.joint.plan import JointPlan, ShardingType, TablePlacement
from problems.sharding.joint.spec import JointSpec
from solvers.oracle import Array
from surco.errors import InvalidInputError

Index = NDArray[np.int64]
KINDS = tuple(ShardingType)
EVERYWHERE = -1
SHARED = (
    ShardingType.TABLE_WISE,
    ShardingType.ROW_WISE,
    ShardingType.TABLE_ROW_WISE,
    ShardingType.DATA_PARALLEL,
)  # modes that colocated tables can have in common
ONE_HOST = {
    ShardingType.TABLE_ROW_WISE: ShardingType.ROW_WISE,
    ShardingType.TABLE_COLUMN_WISE: ShardingType.COLUMN_WISE,
    ShardingType.GRID_SHARD: ShardingType.ROW_WISE,
}  # on one host the first is never better than the second


@dataclass(frozen=True, slots=True)
class Space:
    """Arrays of the plan space; atoms are in the order of pieces, pieces of modes, modes of units.

    Attributes:
        units: table indices of each unit.
        unit_start: [U + 1] first mode of each unit.
        mode_kind: [M] index into `KINDS`.
        mode_width: [M] width of the column shards; 0 where columns stay together.
        mode_start: [M + 1] first piece of each mode.
        piece_start: [P + 1] first atom of each piece.
        atom_place: [A] rank (table-wise, column-wise), host (table-row-wise, grid), or `EVERYWHERE`.
        atom_start: [A + 1] first entry of each atom.
        entry_rank: [E].
        entry_ms: [E, 4] milliseconds of each phase.
        entry_bytes: [E].
        capacity: [W] bytes.
        groups: sets of units no two of which may share a rank.
    """

    spec: JointSpec
    units: tuple[tuple[int, ...], ...]
    unit_start: Index
    mode_kind: Index
    mode_width: Index
    mode_start: Index
    piece_start: Index
    atom_place: Index
    atom_start: Index
    entry_rank: Index
    entry_ms: Array
    entry_bytes: Array
    capacity: Array
    groups: tuple[tuple[int, ...], ...]

    @property
    def n(self) -> int:
        """Number of atoms."""
        return len(self.atom_place)

    @property
    def ranks(self) -> int:
        """W."""
        return len(self.capacity)

    def mode_unit(self) -> Index:
        """[M], unit of each mode."""
        return np.repeat(np.arange(len(self.units)), np.diff(self.unit_start))

    def piece_mode(self) -> Index:
        """[P], mode of each piece."""
        return np.repeat(np.arange(len(self.mode_kind)), np.diff(self.mode_start))

    def atom_piece(self) -> Index:
        """[A], piece of each atom."""
        return np.repeat(np.arange(len(self.piece_start) - 1), np.diff(self.piece_start))

    def entry_atom(self) -> Index:
        """[E], atom of each entry."""
        return np.repeat(np.arange(self.n), np.diff(self.atom_start))

    def least_bytes(self) -> Array:
        """[U] bytes of the leanest mode of each unit, over all ranks; every unit must have a mode."""
        atoms = np.add.reduceat(self.entry_bytes, self.atom_start[:-1])
        pieces = np.minimum.reduceat(atoms, self.piece_start[:-1])
        modes = np.add.reduceat(pieces, self.mode_start[:-1])
        return np.minimum.reduceat(modes, self.unit_start[:-1])

    def is_overfull(self) -> bool:
        """Whether the leanest plan exceeds the memory of all devices together: a proof that there is no plan."""
        return bool(self.least_bytes().sum() > self.capacity.sum() * (1.0 + 1e-9))

    # ------------------------------------------------------------------ plans

    def plan(self, atoms: Sequence[int] | Index) -> JointPlan:
        """The plan that a set of chosen atoms stands for."""
        chosen = np.sort(np.asarray(atoms, dtype=np.int64))
        pieces = self.atom_piece()[chosen]
        modes = self.piece_mode()[pieces]
        owners = self.mode_unit()[modes]
        placements: dict[int, TablePlacement] = {}
        for unit, members in enumerate(self.units):
            own = np.flatnonzero(owners == unit)
            mode = int(modes[own[0]])
            kind = KINDS[self.mode_kind[mode]]
            places = [int(self.atom_place[chosen[i]]) for i in own]
            width = int(self.mode_width[mode])
            for t in members:
                dims = (width,) * len(places) if kind.cuts_columns else ()
                placements[t] = TablePlacement(self.spec.tables[t].name, kind, self._ranks(kind, places), dims)
        ordered = tuple(placements[t] for t in range(len(self.spec.tables)))
        return JointPlan(ordered, self.spec.world_size, self.spec.local_world_size)

    def _ranks(self, kind: ShardingType, places: Sequence[int]) -> tuple[int, ...]:
        local = self.spec.local_world_size
        if kind in (ShardingType.ROW_WISE, ShardingType.DATA_PARALLEL):
            return tuple(range(self.spec.world_size))
        if kind in (ShardingType.TABLE_ROW_WISE, ShardingType.GRID_SHARD):
            return tuple(host * local + i for host in places for i in range(local))
        return tuple(places)

    def atoms(self, plan: JointPlan) -> Index:
        """The atoms of a plan, sorted.

        Raises:
            InvalidInputError: the plan has other tables, or a placement that the rules or the space do not have.
        """
        if {p.table for p in plan.placements} != {t.name for t in self.spec.tables}:
            raise InvalidInputError("Expected a plan of the tables of the spec; the names differ.")
        if (plan.world_size, plan.local_world_size) != (self.spec.world_size, self.spec.local_world_size):
            raise InvalidInputError(
                f"Expected a plan for {self.spec.world_size} ranks, {self.spec.local_world_size} in each host, got "
                f"{plan.world_size} and {plan.local_world_size}."
            )
        by_name = {p.table: p for p in plan.placements}
        found: list[int] = []
        for unit, members in enumerate(self.units):
            placements = [by_name[self.spec.tables[t].name] for t in members]
            first = placements[0]
            if any((p.sharding_type, p.ranks) != (first.sharding_type, first.ranks) for p in placements):
                raise InvalidInputError(f"The plan parts colocated tables {[p.table for p in placements]}.")
            found.extend(self.atoms_of(unit, first))
        return np.sort(np.array(found, dtype=np.int64))

    def atoms_of(self, unit: int, placement: TablePlacement) -> list[int]:
        """Atoms of a unit under a placement.

        Raises:
            InvalidInputError: the space has no such placement.
        """
        kind, local = placement.sharding_type, self.spec.local_world_size
        if self.spec.world_size == local:  # one host: the twin that the space kept
            kinds = {KINDS[k] for k in self.mode_kind[self.unit_start[unit] : self.unit_start[unit + 1]]}
            if kind not in kinds and kind is not ShardingType.GRID_SHARD:
                kind = ONE_HOST.get(kind, kind)
        match kind:
            case ShardingType.ROW_WISE | ShardingType.DATA_PARALLEL:
                places = [EVERYWHERE]
            case ShardingType.TABLE_ROW_WISE | ShardingType.GRID_SHARD:
                places = [rank // local for rank in placement.ranks[::local]]
            case _:
                places = list(placement.ranks)
        width = placement.shard_dims[0] if placement.shard_dims else 0
        if not kind.cuts_columns:
            width = 0
        for mode in range(self.unit_start[unit], self.unit_start[unit + 1]):
            if KINDS[self.mode_kind[mode]] is not kind or self.mode_width[mode] != width:
                continue
            atoms = []
            for piece, place in zip(range(self.mode_start[mode], self.mode_start[mode + 1]), places, strict=False):
                first, last = self.piece_start[piece], self.piece_start[piece + 1]
                atoms += [int(a) for a in range(first, last) if self.atom_place[a] == place]
            if len(atoms) == len(places) == self.mode_start[mode + 1] - self.mode_start[mode]:
                return atoms
        raise InvalidInputError(
            f"The placement of {placement.table!r} ({placement.sharding_type} on {list(placement.ranks)[:8]}) is not "
            f"in the space: forbidden by a rule, larger than a device, or of another width of column shards."
        )


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
