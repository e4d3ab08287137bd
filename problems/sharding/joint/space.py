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

from problems.sharding.joint.plan import JointPlan, ShardingType, TablePlacement
from problems.sharding.joint.spec import JointSpec
from solvers.oracle import Array
from surco.errors import InvalidInputError

Index = NDArray[np.int64]
KINDS = tuple(ShardingType)
EVERYWHERE = -1
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
