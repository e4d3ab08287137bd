"""The search's view of a plan space: weights of entries on features, values of plans, and plans as choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from problems.sharding.joint.space import KINDS, Index, Space
from problems.sharding.joint.spec import Objective
from solvers.oracle import Array

COMPUTE_FEATURES = 2


@dataclass(frozen=True, slots=True)
class Choice:
    """A plan as the loops keep it.

    Attributes:
        atoms: [P] atom of each piece of the modes in use, else -1.
        modes: [U] mode of each unit.
    """

    atoms: Index
    modes: Index

    def copy(self) -> Choice:
        """A choice that may be changed in place."""
        return Choice(self.atoms.copy(), self.modes.copy())

    def chosen(self) -> Index:
        """The atoms, sorted."""
        return self.atoms[self.atoms >= 0]


class Model:
    """Flat arrays for the compiled loops, and the value of plans.

    The value is the sum over features f of max over ranks r of load[f, r]. Rating: one feature, all phases. Critical
    path: forward compute, backward compute, and for each sharding type forward and backward comms.

    Args:
        space: the plan space; every unit has a mode.
        objective: the score.
    """

    def __init__(self, space: Space, objective: Objective) -> None:
        self.space = space
        self.objective = objective
        self.is_path = objective is Objective.CRITICAL_PATH
        self.totals = space.entry_ms.sum(axis=1)  # [E]
        kinds = space.mode_kind[space.piece_mode()[space.atom_piece()]]  # [A]
        if self.is_path:
            ms = space.entry_ms
            self.weights = np.ascontiguousarray(ms[:, [0, 3, 1, 2]])  # [E, K]
            zero, one = np.zeros_like(kinds), np.ones_like(kinds)
            self.feature = np.stack([zero, one, 2 + 2 * kinds, 3 + 2 * kinds], axis=1)  # [A, K]
            self.features = COMPUTE_FEATURES + 2 * len(KINDS)
        else:
            self.weights = self.totals[:, None].copy()
            self.feature = np.zeros((len(kinds), 1), dtype=np.int64)
            self.features = 1
        keys: dict[tuple[int, int, int], int] = {}
        hosts = self._mode_host()
        self.mode_key = np.array(
            [
                keys.setdefault((int(k), int(w), int(h)), len(keys))
                for k, w, h in zip(space.mode_kind, space.mode_width, hosts, strict=True)
            ],
            dtype=np.int64,
        )
        self.shape = (space.mode_start, space.piece_start, space.atom_place)
        self.unit_arrays = (space.unit_start, self.mode_key, space.atom_piece())
        start = space.atom_start[:-1]
        self.atom_mean = np.add.reduceat(self.totals, start) / space.ranks if len(start) else np.zeros(0)  # [A]
        self.atom_top = self._atom_tops()  # [A] value of the atom alone
        self.atom_bytes = np.add.reduceat(space.entry_bytes, start) if len(start) else np.zeros(0)

    def _mode_host(self) -> Index:
        """[M] host of a table-column-wise mode, which is bound to one; else -1."""
        space = self.space
        first = space.atom_place[space.piece_start[space.mode_start[:-1]]]
        is_bound = space.mode_kind == [k.value for k in KINDS].index("table_column_wise")
        return np.where(is_bound, first // space.spec.local_world_size, -1)

    def _atom_tops(self) -> Array:
        if self.space.n == 0:
            return np.zeros(0)
        return np.maximum.reduceat(self.weights, self.space.atom_start[:-1], axis=0).sum(axis=1)

    def arrays(self, own_cost: Array | None = None) -> tuple[Any, ...]:
        """The model of the compiled loops; ``own_cost`` [A] is a linear cost besides the value."""
        spread_start, spread_group = self._spread
        return (
            self.space.atom_start, self.space.entry_rank, self.weights, self.feature, self.space.entry_bytes,
            self.space.capacity, spread_start, spread_group,
            np.zeros(self.space.n) if own_cost is None else own_cost,
        )  # fmt: skip

    @cached_property
    def _spread(self) -> tuple[Index, Index]:
        """Spread groups of each atom: [A + 1] starts, and group numbers."""
        space = self.space
        of_unit: list[list[int]] = [[] for _ in space.units]
        for g, group in enumerate(space.groups):
            for unit in group:
                of_unit[unit].append(g)
        atom_unit = self.atom_unit
        counts = np.array([len(groups) for groups in of_unit], dtype=np.int64)[atom_unit]
        start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        members = [g for unit in atom_unit[counts > 0] for g in of_unit[unit]]
        return start, np.array(members, dtype=np.int64)

    @cached_property
    def atom_unit(self) -> Index:
        """[A], unit of each atom."""
        return self.space.mode_unit()[self.space.piece_mode()[self.space.atom_piece()]]

    # ------------------------------------------------------------------ plans

    def choice(self, atoms: Sequence[int] | Index) -> Choice:
        """Chosen atoms as a choice."""
        space = self.space
        chosen = np.asarray(atoms, dtype=np.int64)
        pieces = space.atom_piece()[chosen]
        by_piece = np.full(len(space.piece_start) - 1, -1, dtype=np.int64)
        by_piece[pieces] = chosen
        modes = np.zeros(len(space.units), dtype=np.int64)
        owners = space.piece_mode()[pieces]
        modes[space.mode_unit()[owners]] = owners
        return Choice(by_piece, modes)

    def state(self, choice: Choice) -> tuple[Array, Array, Index]:
        """(loads [F, W], used bytes [W], shards of each spread group [g, W]) of a choice."""
        space, chosen = self.space, choice.chosen()
        lengths = space.atom_start[chosen + 1] - space.atom_start[chosen]
        entries = np.repeat(space.atom_start[chosen] - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
        entries = entries + np.arange(int(lengths.sum()))
        atoms = np.repeat(chosen, lengths)
        ranks = space.entry_rank[entries]
        loads = np.zeros((self.features, space.ranks))
        for k in range(self.weights.shape[1]):
            np.add.at(loads, (self.feature[atoms, k], ranks), self.weights[entries, k])
        used = np.zeros(space.ranks)
        np.add.at(used, ranks, space.entry_bytes[entries])
        counts = np.zeros((len(space.groups), space.ranks), dtype=np.int64)
        units = self.atom_unit[atoms]
        for g, group in enumerate(space.groups):
            np.add.at(counts[g], ranks[np.isin(units, group)], 1)
        return loads, used, counts

    def value(self, choice: Choice) -> float:
        """The score, ms."""
        return float(self.state(choice)[0].max(axis=1).sum())

    def fits(self, choice: Choice) -> bool:
        """Whether memory and spread groups are respected."""
        _, used, counts = self.state(choice)
        return bool(np.all(used <= self.space.capacity) and np.all(counts <= 1))
