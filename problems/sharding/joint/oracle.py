"""The linear oracle of joint plans: a mode of each unit, a place of each piece, memory and spread groups."""

from __future__ import annotations

import math
import time

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from problems.sharding.joint.space import Index, Space
from solvers.oracle import Array, OracleBatch, Status, as_costs

MEMORY_SLACK = 1e-9  # relative; forgives sums of floats
PRICE_ROUNDS = 40
MILP_ATOMS = 20_000


class JointOracle:
    """Argmin of linear costs c [A] over joint plans.

    Without limits the answer is separable: the cheapest atom of each piece, the cheapest mode of each unit. Where that
    breaks memory or a spread group: prices on both (a Lagrangian bound), each priced answer repaired greedily; if the
    best repaired plan is not within ``gap`` of the bound and the space is small, a MILP with a time limit.

    Args:
        space: the plan space.
        seconds: wall seconds allowed for the MILP of one row.
        gap: relative to the spread of the costs of the units; within it a repaired plan is taken.
    """

    takes_seconds = True

    def __init__(self, space: Space, *, seconds: float = 5.0, gap: float = 1e-3) -> None:
        self.space = space
        self.seconds = seconds
        self.gap = gap
        self._piece_mode = space.piece_mode()
        self._mode_unit = space.mode_unit()
        self._atom_piece = space.atom_piece()
        self._atom_unit = self._mode_unit[self._piece_mode[self._atom_piece]]
        self.has_units = bool(np.all(np.diff(space.unit_start) > 0))
        self.is_overfull = self.has_units and space.is_overfull()
        self.rows, self.limits = self._limit_rows()

    @property
    def n(self) -> int:
        """Number of atoms."""
        return self.space.n

    def _limit_rows(self) -> tuple[sp.csr_array, Array]:
        """Rows of memory (in shares of the capacity) and of spread groups: rows @ x <= limits."""
        space = self.space
        atoms = space.entry_atom()
        scale = np.maximum(space.capacity, 1.0)
        data, row, column = [space.entry_bytes / scale[space.entry_rank]], [space.entry_rank], [atoms]
        limits = [space.capacity / scale]
        units = self._atom_unit[atoms]
        for g, group in enumerate(space.groups):
            inside = np.isin(units, group)
            row.append(space.ranks * (g + 1) + space.entry_rank[inside])
            column.append(atoms[inside])
            data.append(np.ones(int(inside.sum())))
            limits.append(np.ones(space.ranks))
        shape = (space.ranks * (1 + len(space.groups)), space.n)
        matrix = sp.csr_array((np.concatenate(data), (np.concatenate(row), np.concatenate(column))), shape=shape)
        return matrix, np.concatenate(limits)

    # ------------------------------------------------------------------ protocol

    def solve(self, costs: Array, *, seconds: float | None = None) -> OracleBatch:
        """Minimize each row of ``costs`` [B, A]; rows without a plan are labelled."""
        start = time.perf_counter()
        deadline = math.inf if seconds is None else start + seconds
        costs = as_costs(costs, self.n)
        batch = len(costs)
        x = np.full((batch, self.n), np.nan)
        objective, bound = np.full(batch, np.nan), np.full(batch, -np.inf)
        status, message = [Status.ERROR] * batch, [""] * batch
        for b in range(batch):
            if not self.has_units or self.is_overfull:
                why = (
                    "the tables exceed the memory of all devices together" if self.has_units else "a table has no place"
                )
                status[b], message[b] = Status.INFEASIBLE, why
                continue
            if not np.all(np.isfinite(costs[b])):
                message[b] = "costs are not finite"
                continue
            chosen, bound[b], status[b], message[b] = self._solve_row(costs[b], deadline)
            if chosen is not None:
                x[b] = 0.0
                x[b, chosen] = 1.0
                objective[b] = float(costs[b, chosen].sum())
                bound[b] = objective[b] if status[b] is Status.OPTIMAL else min(bound[b], objective[b])
        spent = np.full(batch, (time.perf_counter() - start) / max(batch, 1))
        return OracleBatch(x, objective, bound, tuple(status), spent, tuple(message))

    def violation(self, x: Array) -> Array:
        """Largest violation, [..., A] -> [...]: integrality, one mode a unit, one atom a piece, memory, spread."""
        x = np.asarray(x, dtype=np.float64)
        flat = x.reshape(-1, self.n)
        worst = np.zeros(len(flat))
        for i, row in enumerate(flat):
            worst[i] = self._violation(row)
        return worst.reshape(x.shape[:-1])

    def _violation(self, x: Array) -> float:
        if np.isnan(x).any() or not self.has_units:
            return math.inf
        space = self.space
        worst = float(np.abs(x - np.clip(np.rint(x), 0.0, 1.0)).max(initial=0.0))
        pieces = np.add.reduceat(x, space.piece_start[:-1])
        modes = pieces[space.mode_start[:-1]]
        worst = max(worst, float(np.abs(pieces - modes[self._piece_mode]).max()))
        worst = max(worst, float(np.abs(np.add.reduceat(modes, space.unit_start[:-1]) - 1.0).max()))
        over = self.rows @ x - self.limits * (1.0 + MEMORY_SLACK)
        return max(worst, float(np.maximum(over, 0.0).max()))

    # ------------------------------------------------------------------ one row

    def relax(self, costs: Array) -> tuple[Index, float]:
        """Cheapest atoms without memory and spread, and their cost."""
        space = self.space
        pieces = np.minimum.reduceat(costs, space.piece_start[:-1])
        modes = np.add.reduceat(pieces, space.mode_start[:-1])
        units = np.minimum.reduceat(modes, space.unit_start[:-1])
        is_mode = _first_of(modes == units[self._mode_unit], self._mode_unit)
        is_atom = (costs == pieces[self._atom_piece]) & is_mode[self._piece_mode[self._atom_piece]]
        return np.flatnonzero(_first_of(is_atom, self._atom_piece)), float(units.sum())

    def fits(self, chosen: Index) -> bool:
        """Whether chosen atoms respect memory and spread."""
        x = np.zeros(self.n)
        x[chosen] = 1.0
        return bool(np.all(self.rows @ x <= self.limits * (1.0 + MEMORY_SLACK)))

    def _solve_row(self, costs: Array, deadline: float) -> tuple[Index | None, float, Status, str]:
        chosen, value = self.relax(costs)
        if self.fits(chosen):
            return chosen, value, Status.OPTIMAL, ""
        best, bound = self._price(costs, deadline)
        found = math.inf if best is None else float(costs[best].sum())
        spread = self._spread_of(costs)
        if best is not None and found - bound <= self.gap * spread:
            return best, bound, Status.FEASIBLE, f"within {self.gap:g} of the spread of the costs"
        if self.n <= MILP_ATOMS and time.perf_counter() < deadline:
            return self._milp(costs, best, bound, min(self.seconds, deadline - time.perf_counter()))
        if best is None:
            return None, bound, Status.LIMIT, "no plan that fits was found"
        return best, bound, Status.FEASIBLE, "prices on memory, repaired"

    def _spread_of(self, costs: Array) -> float:
        space = self.space
        low = np.minimum.reduceat(costs, space.piece_start[:-1])
        high = np.maximum.reduceat(costs, space.piece_start[:-1])
        return float((high - low).sum()) + 1e-12

    def _price(self, costs: Array, deadline: float) -> tuple[Index | None, float]:
        """Prices on the rows by a subgradient; returns the best repaired plan and the best bound."""
        prices = np.zeros(len(self.limits))
        best: Index | None = None
        found, bound = math.inf, -math.inf
        step = self._spread_of(costs) / len(self.space.units)
        for k in range(PRICE_ROUNDS):
            chosen, value = self.relax(costs + self.rows.T @ prices)
            bound = max(bound, value - float(prices @ self.limits))
            repaired = self._repair(costs + self.rows.T @ prices, chosen)
            if repaired is not None and float(costs[repaired].sum()) < found:
                best, found = repaired, float(costs[repaired].sum())
            if time.perf_counter() > deadline:
                break
            x = np.zeros(self.n)
            x[chosen] = 1.0
            slope = self.rows @ x - self.limits
            prices = np.maximum(prices + step / math.sqrt(k + 1.0) * slope, 0.0)
        return best, bound

    def _repair(self, costs: Array, chosen: Index) -> Index | None:
        """Place units again, largest first, each by its cheapest mode whose pieces fit one after the other."""
        space = self.space
        if self.fits(chosen):
            return chosen
        entry_rank, entry_bytes = space.entry_rank, space.entry_bytes
        used = np.zeros(space.ranks)
        counts = np.zeros((len(space.groups), space.ranks))
        limit = space.capacity * (1.0 + MEMORY_SLACK)
        size = np.zeros(len(space.units))
        np.maximum.at(size, self._atom_unit[space.entry_atom()], entry_bytes)
        kept: list[int] = []
        for unit in np.argsort(-size, kind="stable"):
            inside = [g for g, group in enumerate(space.groups) if unit in group]
            answer: tuple[float, list[int], Array, Array] | None = None
            for mode in range(space.unit_start[unit], space.unit_start[unit + 1]):
                filled, taken, atoms, total = used.copy(), counts.copy(), [], 0.0
                for piece in range(space.mode_start[mode], space.mode_start[mode + 1]):
                    first, last = space.piece_start[piece], space.piece_start[piece + 1]
                    for atom in first + np.argsort(costs[first:last], kind="stable"):
                        entries = slice(space.atom_start[atom], space.atom_start[atom + 1])
                        ranks = entry_rank[entries]
                        if np.all(filled[ranks] + entry_bytes[entries] <= limit[ranks]) and not any(
                            taken[g, ranks].any() for g in inside
                        ):
                            filled[ranks] += entry_bytes[entries]
                            for g in inside:
                                taken[g, ranks] += 1
                            atoms.append(int(atom))
                            total += float(costs[atom])
                            break
                    else:
                        break
                else:
                    if answer is None or total < answer[0]:
                        answer = (total, atoms, filled, taken)
            if answer is None:
                return None
            kept += answer[1]
            used, counts = answer[2], answer[3]
        return np.sort(np.array(kept, dtype=np.int64))

    def _milp(
        self, costs: Array, start: Index | None, bound: float, seconds: float
    ) -> tuple[Index | None, float, Status, str]:
        """HiGHS on the whole polytope: x of atoms, and a variable for every mode of several pieces."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        space = self.space
        modes = len(space.mode_kind)
        in_piece = sp.csr_array(
            (np.ones(self.n), (self._atom_piece, np.arange(self.n))), shape=(len(space.piece_start) - 1, self.n)
        )
        of_mode = sp.csr_array(
            (-np.ones(len(self._piece_mode)), (np.arange(len(self._piece_mode)), self._piece_mode)),
            shape=(len(self._piece_mode), modes),
        )
        in_unit = sp.csr_array((np.ones(modes), (self._mode_unit, np.arange(modes))), shape=(len(space.units), modes))
        empty = sp.csr_array((len(self.limits), modes))
        constraints = [
            LinearConstraint(sp.hstack([in_piece, of_mode]).tocsr(), 0.0, 0.0),
            LinearConstraint(sp.hstack([sp.csr_array((len(space.units), self.n)), in_unit]).tocsr(), 1.0, 1.0),
            LinearConstraint(sp.hstack([self.rows, empty]).tocsr(), ub=self.limits),  # pyright: ignore[reportArgumentType]
        ]
        answer = milp(
            np.concatenate([costs, np.zeros(modes)]),
            integrality=np.ones(self.n + modes),
            bounds=Bounds(0.0, 1.0),
            constraints=constraints,
            options={"time_limit": max(seconds, 0.05), "mip_rel_gap": 1e-9},
        )
        if answer.status == 2:
            return None, math.inf, Status.INFEASIBLE, "no plan respects memory and the rules together"
        if answer.mip_dual_bound is not None and math.isfinite(answer.mip_dual_bound):
            bound = max(bound, float(answer.mip_dual_bound))
        if answer.x is not None:
            chosen = np.flatnonzero(answer.x[: self.n] > 0.5)
            if self.fits(chosen) and (start is None or costs[chosen].sum() <= costs[start].sum()):
                status = Status.OPTIMAL if answer.status == 0 else Status.FEASIBLE
                return chosen, bound, status, ""
        if start is None:
            return None, bound, Status.LIMIT, "the time ended before a plan that fits was found"
        return start, bound, Status.FEASIBLE, "prices on memory, repaired"


def _first_of(mask: NDArray[np.bool_], group: Index) -> NDArray[np.bool_]:
    """Keep the first True of each group; groups are consecutive."""
    where = np.flatnonzero(mask)
    first = np.zeros(len(mask), dtype=bool)
    first[where[np.unique(group[where], return_index=True)[1]]] = True
    return first
