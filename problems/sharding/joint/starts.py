"""First plans: sweeps over how much is split, with greedy placement of the pieces.

Two sweeps decide the mode of every unit, the pieces then go by weight, heaviest first, to the least loaded place:

    cut     order the units by (cost of the best mode that uses all ranks) / (cost of the whole table), put the first k
            into that mode, the rest table-wise; every k. (Needs such modes; others keep their cheapest mode.)
    level   every unit takes the mode of least mean load none of whose pieces weighs more than a level; levels from a
            small part of the bound up. With a price on memory where the plain plans do not fit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np

from problems.sharding.joint.model import Choice, Model
from problems.sharding.joint.space import EVERYWHERE, KINDS, Index
from solvers.oracle import Array

LEVELS = 120
MEMORY_PRICES = (0.0, 0.3, 1.0, 3.0, 10.0, 100.0)  # of a full share of all memory, in mean loads


class Starts:
    """Greedy plans of a model.

    Args:
        model: the space and the score.
        bound: a lower bound on the value; scales the levels.
    """

    def __init__(self, model: Model, bound: float) -> None:
        from problems.sharding.joint.kernels import place_greedily

        self.model = model
        self.bound = bound
        self._place = place_greedily
        space = model.space
        first = space.piece_start[:-1]
        self.is_everywhere = space.atom_place[first] == EVERYWHERE  # [P]
        self.piece_weight = np.minimum.reduceat(model.atom_top, first)
        self.piece_bytes = np.minimum.reduceat(model.atom_bytes, first)
        self.arrays = model.arrays()

    def modes(self, level: float, memory_price: float = 0.0) -> Index | None:
        """[U] the mode of least mean load, each piece at most ``level``; None where a unit has none."""
        space, model = self.model.space, self.model
        score = np.where(model.atom_top <= level, model.atom_mean, np.inf)
        if memory_price:
            scale = memory_price * self.bound / max(float(space.capacity.sum()), 1.0)
            score = score + scale * model.atom_bytes
        mode_score = np.add.reduceat(np.minimum.reduceat(score, space.piece_start[:-1]), space.mode_start[:-1])
        return self._best_modes(mode_score)

    def _best_modes(self, mode_score: Array) -> Index | None:
        space = self.model.space
        best = np.minimum.reduceat(mode_score, space.unit_start[:-1])
        if not np.all(np.isfinite(best)):
            return None
        is_best = mode_score == np.repeat(best, np.diff(space.unit_start))
        chosen = np.flatnonzero(is_best)
        owners = space.mode_unit()[chosen]
        return chosen[np.unique(owners, return_index=True)[1]]

    def place(self, modes: Index, *, by_bytes: bool = False) -> tuple[Choice, float, bool]:
        """Place the pieces of the modes; returns the plan, its value, and whether it fits."""
        space = self.model.space
        lengths = space.mode_start[modes + 1] - space.mode_start[modes]
        pieces = np.concatenate([np.arange(int(space.mode_start[m]), int(space.mode_start[m + 1])) for m in modes])
        assert len(pieces) == lengths.sum()
        weight = self.piece_bytes[pieces] if by_bytes else self.piece_weight[pieces]
        order = np.lexsort((-weight, ~self.is_everywhere[pieces]))
        choice = Choice(np.full(len(space.piece_start) - 1, -1, dtype=np.int64), modes.copy())
        loads = np.zeros((1, space.ranks))
        state = (loads, np.zeros(space.ranks), np.zeros((len(space.groups), space.ranks), dtype=np.int64))
        misfits = self._place(
            pieces[order], by_bytes, self.model.shape, self.arrays, self.model.totals, choice.atoms, state
        )
        value = self.model.value(choice) if self.model.is_path else float(loads.max())
        return choice, value, misfits == 0

    def level_sweep(self, memory_price: float = 0.0) -> Iterator[Index]:
        """Modes at levels from low to high, each once."""
        seen: set[bytes] = set()
        tops = self.model.atom_top
        lowest = max(float(np.min(tops[tops > 0], initial=self.bound)), 1e-3 * self.bound, 1e-12)
        for level in np.geomspace(lowest, max(float(tops.max(initial=0.0)), lowest) * 1.001, LEVELS):
            modes = self.modes(float(level), memory_price)
            if modes is not None and modes.tobytes() not in seen:
                seen.add(modes.tobytes())
                yield modes

    def cut_sweep(self) -> Iterator[Index]:
        """Modes with the first k units split over all ranks, k = 0 ... U."""
        space, model = self.model.space, self.model
        cost = np.add.reduceat(
            np.minimum.reduceat(model.atom_mean, space.piece_start[:-1]), space.mode_start[:-1]
        )  # [M]
        is_split = self.is_everywhere[space.mode_start[:-1]]
        is_whole = space.mode_kind == [k.value for k in KINDS].index("table_wise")
        cheapest = self._best_modes(cost)
        whole = self._best_of(is_whole, cost, cheapest)
        split = self._best_of(is_split, cost, whole)
        order = np.argsort(cost[split] / np.maximum(cost[whole], 1e-300), kind="stable")
        order = order[split[order] != whole[order]]
        modes = whole.copy()
        yield modes.copy()
        for unit in order:
            modes[unit] = split[unit]
            yield modes.copy()

    def _best_of(self, mask: np.ndarray, cost: Array, otherwise: Index | None) -> Index:
        space = self.model.space
        assert otherwise is not None
        found = otherwise.copy()
        masked = np.where(mask, cost, np.inf)
        for unit in range(len(space.units)):
            first, last = space.unit_start[unit], space.unit_start[unit + 1]
            best = first + int(np.argmin(masked[first:last]))
            if np.isfinite(masked[best]):
                found[unit] = best
        return found

    def whole(self) -> tuple[Choice, float] | None:
        """All table-wise where allowed (else the cheapest mode), heaviest first; None if it does not fit."""
        choice, value, fits = self.place(next(iter(self.cut_sweep())))
        return (choice, value) if fits else None

    def best(self, sweep: Iterator[Index], deadline: float = math.inf) -> tuple[Choice, float] | None:
        """The best fitting plan of what is left of a sweep; an iterator cut by the deadline may be given again."""
        found: tuple[Choice, float] | None = None
        for modes in sweep:
            choice, value, fits = self.place(modes)
            if fits and (found is None or value < found[1]):
                found = (choice, value)
            if time.perf_counter() > deadline:
                break
        return found

    def any(self, deadline: float) -> tuple[Choice, float, bool]:
        """A plan at any price: sweeps with growing prices of memory, by weight and by bytes; and whether it fits."""
        fallback: tuple[Choice, float, bool] | None = None
        for price in MEMORY_PRICES:
            found: tuple[Choice, float] | None = None
            for modes in self.level_sweep(price):
                for by_bytes in (False, True):
                    choice, value, fits = self.place(modes, by_bytes=by_bytes)
                    if fits and (found is None or value < found[1]):
                        found = (choice, value)
                    fallback = fallback or (choice, value, False)
                if fallback is not None and time.perf_counter() > deadline:
                    break
            if found is not None:
                return (*found, True)
            if time.perf_counter() > deadline:
                break
        if fallback is None:
            modes = self.modes(np.inf)
            assert modes is not None, "expected every unit to have a mode"
            choice, value, fits = self.place(modes)
            fallback = (choice, value, fits)
        return fallback
