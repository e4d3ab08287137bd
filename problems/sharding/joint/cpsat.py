"""The joint plan space for CP-SAT: proven bounds and optimal plans where the space is small.

Loads are rounded down to whole units, so that the integer optimum is never above the true one and bounds are valid;
bytes are rounded down too, so every plan that CP-SAT finds is checked afterwards.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from problems.sharding.joint.model import Choice, Model
from problems.sharding.joint.space import EVERYWHERE
from solvers.oracle import Array

RESOLUTION = 10**7  # units of the scale of values; at most one unit per entry is lost to rounding
BYTE_UNITS = 2**30  # units of the largest capacity
MAX_ENTRIES = 30_000


@dataclass(frozen=True, slots=True)
class CpSatAnswer:
    """Best choice (None: none), proven lower bound on the score, whether the set is empty, and branches."""

    choice: Choice | None
    bound: float
    is_infeasible: bool = False
    branches: int = 0


@dataclass(frozen=True, slots=True)
class Migration:
    """A linear cost besides the score, for re-planning.

    Attributes:
        costs: [A] of each atom.
        weight: added to the score, times the sum of the costs.
        cap: most that the sum may be; inf for none.
    """

    costs: Array
    weight: float = 0.0
    cap: float = math.inf


class CpSatProgram:
    """The program of one model.

    Args:
        model: the space and the score.
        upper: value of a known plan, or any number that no wanted plan exceeds; inf for none. Atoms that alone exceed
            it are left out.
        lower: known bound.
        extra_bytes: whether memory may be exceeded, and the least excess per device is the only objective.
        migration: linear cost of re-planning; the objective is then score + weight * sum.
    """

    def __init__(
        self,
        model: Model,
        *,
        upper: float,
        lower: float,
        extra_bytes: bool = False,
        migration: Migration | None = None,
    ) -> None:
        from ortools.sat.python import cp_model

        self.model, self.migration = model, migration
        self.program = cp_model.CpModel()
        self.extra_bytes = extra_bytes
        space = model.space
        top = upper if math.isfinite(upper) else self._safe_upper()
        self.unit = max(top, 1e-300) / RESOLUTION
        is_open = model.atom_top <= top * (1.0 + 1e-9)
        if migration is not None or extra_bytes:
            is_open = np.ones(space.n, dtype=bool)
        self.literals: dict[int, Any] = {}
        self.mode_literals: list[tuple[int, Any]] = []
        self._choose(is_open)
        self._limit_memory()
        self._limit_spread()
        if self.extra is not None:
            self.program.minimize(self.extra)
        else:
            self._weigh(top, lower)

    def solve(self, seconds: float, hint: Choice | None = None, *, gap: float = 1e-5, seed: int = 0) -> CpSatAnswer:
        """Search for at most ``seconds`` of wall time on one thread."""
        from ortools.sat.python import cp_model

        if hint is not None:
            on = set(hint.chosen().tolist())
            for atom, literal in self.literals.items():
                self.program.add_hint(literal, atom in on)
        solver = cp_model.CpSolver()
        solver.parameters.max_time_in_seconds = max(seconds, 0.01)
        solver.parameters.num_workers = 1
        solver.parameters.relative_gap_limit = gap
        solver.parameters.random_seed = seed
        status = solver.solve(self.program)
        branches = int(solver.num_branches)
        if status == cp_model.INFEASIBLE:
            return CpSatAnswer(None, math.inf, True, branches)
        bound = max(float(solver.best_objective_bound), 0.0) * (1.0 if self.extra_bytes else self.unit)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return CpSatAnswer(None, bound, False, branches)
        chosen = [atom for atom, literal in self.literals.items() if solver.boolean_value(literal)]
        return CpSatAnswer(self.model.choice(chosen), bound, False, branches)

    # ------------------------------------------------------------------ building

    def _safe_upper(self) -> float:
        """A value that no plan exceeds: the sum over units of their dearest mode."""
        space = self.model.space
        pieces = np.maximum.reduceat(self.model.atom_top, space.piece_start[:-1])
        modes = np.add.reduceat(pieces, space.mode_start[:-1])
        return float(np.maximum.reduceat(modes, space.unit_start[:-1]).sum())

    def _choose(self, is_open: np.ndarray) -> None:
        """One mode of every unit, one atom of every piece of it; alike pieces of a mode in order of their places."""
        program, space = self.program, self.model.space
        for unit in range(len(space.units)):
            options: list[Any] = []
            for mode in self._undominated(unit):
                pieces = range(space.mode_start[mode], space.mode_start[mode + 1])
                atoms = [
                    [a for a in range(space.piece_start[p], space.piece_start[p + 1]) if is_open[a]] for p in pieces
                ]
                if not all(atoms):
                    continue
                for piece_atoms in atoms:
                    for atom in piece_atoms:
                        self.literals[atom] = program.new_bool_var("")
                if len(atoms) == 1:
                    options += [self.literals[atom] for atom in atoms[0]]
                    continue
                on = program.new_bool_var("")
                options.append(on)
                self.mode_literals.append((mode, on))
                places = []
                for piece_atoms in atoms:
                    literals = [self.literals[atom] for atom in piece_atoms]
                    program.add(sum(literals) == on)
                    places.append(sum(int(space.atom_place[atom]) * self.literals[atom] for atom in piece_atoms))
                for before, after in itertools.pairwise(places):  # shards of one width are exchangeable
                    program.add(before <= after)
            program.add_exactly_one(options) if options else program.add_bool_or([])

    def _undominated(self, unit: int) -> list[int]:
        """Modes of a unit less those on all ranks that cost as much as another one, in time and memory."""
        space, model = self.model.space, self.model
        modes = list(range(space.unit_start[unit], space.unit_start[unit + 1]))
        if model.is_path or self.migration is not None:
            return modes
        kept: list[int] = []
        for mode in modes:
            atom = space.piece_start[space.mode_start[mode]]
            is_worse = False
            if space.atom_place[atom] == EVERYWHERE:
                mine = slice(space.atom_start[atom], space.atom_start[atom + 1])
                for other in kept:
                    rival = space.piece_start[space.mode_start[other]]
                    if space.atom_place[rival] != EVERYWHERE:
                        continue
                    theirs = slice(space.atom_start[rival], space.atom_start[rival + 1])
                    is_worse |= bool(
                        np.all(model.totals[theirs] <= model.totals[mine])
                        and np.all(space.entry_bytes[theirs] <= space.entry_bytes[mine])
                    )
            if not is_worse:
                kept.append(mode)
        return kept

    def _entries(self) -> list[list[tuple[int, int]]]:
        """Rank -> (entry, atom) pairs of the atoms in the program."""
        space = self.model.space
        found: list[list[tuple[int, int]]] = [[] for _ in range(space.ranks)]
        for atom in self.literals:
            for entry in range(space.atom_start[atom], space.atom_start[atom + 1]):
                found[space.entry_rank[entry]].append((entry, atom))
        return found

    def _limit_memory(self) -> None:
        space, program = self.model.space, self.program
        scale = max(float(space.capacity.max(initial=1.0)) / BYTE_UNITS, 1.0)
        self.extra = program.new_int_var(0, 2**50, "extra") if self.extra_bytes else None
        self.byte_scale = scale
        by_rank = self._entries()
        units = self.model.atom_unit
        for rank, entries in enumerate(by_rank):
            most = np.zeros(len(space.units))  # an over-estimate of what each unit can put here
            for entry, atom in entries:
                most[units[atom]] += space.entry_bytes[entry]
            if not self.extra_bytes and most.sum() <= space.capacity[rank]:
                continue
            terms = [int(space.entry_bytes[entry] / scale) * self.literals[atom] for entry, atom in entries]
            room = math.floor(space.capacity[rank] / scale)
            program.add(sum(terms) <= room + (self.extra if self.extra is not None else 0))

    def _limit_spread(self) -> None:
        space = self.model.space
        for group in space.groups:
            for entries in self._entries():
                inside = [self.literals[a] for _, a in entries if self.model.atom_unit[a] in group]
                if len(inside) > 1:
                    self.program.add_at_most_one(inside)

    def _weigh(self, top: float, lower: float) -> None:
        """Objective: the sum over features of the largest load, in units."""
        model, program = self.model, self.program
        terms: dict[tuple[int, int], list[Any]] = {}
        for rank, entries in enumerate(self._entries()):
            for entry, atom in entries:
                for k in range(model.weights.shape[1]):
                    coefficient = int(model.weights[entry, k] / self.unit)
                    if coefficient:
                        terms.setdefault((int(model.feature[atom, k]), rank), []).append(
                            coefficient * self.literals[atom]
                        )
        ceiling = RESOLUTION + 1 if self.migration is None else 64 * RESOLUTION
        tops = {f: program.new_int_var(0, ceiling, "") for f in {f for f, _ in terms}}
        for (f, _), values in terms.items():
            program.add(sum(values) <= tops[f])
        score = sum(tops.values())
        program.add(score >= math.floor(min(lower, top) / self.unit * (1.0 - 1e-9)))
        if self.migration is None:
            program.minimize(score)
            return
        costs = self.migration.costs
        scale = max(float(costs.max(initial=0.0)), 1e-300) / BYTE_UNITS
        moved = sum(int(costs[atom] / scale) * literal for atom, literal in self.literals.items() if costs[atom])
        if math.isfinite(self.migration.cap):
            program.add(moved <= math.floor(self.migration.cap / scale))
        if self.migration.weight:
            rate = self.migration.weight / self.unit
            moved = sum(int(costs[atom] * rate) * literal for atom, literal in self.literals.items() if costs[atom])
            program.minimize(score + moved)
        else:
            program.minimize(score)


def is_small(model: Model) -> bool:
    """Whether CP-SAT is of use: it reads the whole model into its own structures first."""
    return len(model.space.entry_rank) <= MAX_ENTRIES
