"""Certified lower bound that knows that pieces cannot be cut: packing of ranks by dual feasible functions.

Where ranks are alike, a plan of value V splits into *uniform* modes (row-wise, data-parallel), which add the same R to
every rank, and pieces that must fit into the C = V - R that is left on each of W ranks. A dual feasible function f
(sum x_i <= 1 implies sum f(x_i) <= 1) turns that into one linear row, sum of f(load / C) over all entries <= W, for any
f. So the least uniform cost that leaves room C is at least the value g(R) of the linear program

    min  sum of z[u, m] uniform cost of m     s.t.     sum_m z[u, m] = 1,   sum of z[u, m] f_k(m) <= W for each k,

and any plan has R >= g(R). Because g does not decrease (less room needs more uniform modes), starting at R = 0 and
setting R to g(R) never passes the R of a plan: if R exceeds V, or what all uniform modes together cost, no plan has
value V. Bisection on V gives the bound. The critical path of a plan is never below its rating, so the bound holds for
both scores.

The value of every program is recomputed from its dual prices, so that tolerances cannot make it invalid; loads are
divided by a C that is larger by 1e-9.

Source: functions U(eps) and u(k) as in Fekete and Schepers, bounds for bin packing.
"""

from __future__ import annotations

import time

import numpy as np
import scipy.sparse as sp
from scipy.optimize import linprog

from problems.sharding.joint.model import Model
from problems.sharding.joint.space import EVERYWHERE, Index
from solvers.oracle import Array

THRESHOLDS = 48
STEPS = 12  # of the functions u(k)
ROUNDS = 200  # programs for one V
BISECTIONS = 14
STALL = 1e-6
ENOUGH = 5e-5


class PackingBound:
    """The bound of one model.

    Args:
        model: alike ranks; see `applies`.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        space = model.space
        first = space.piece_start[:-1]
        atoms = first[space.mode_start[:-1]]
        self.is_uniform = space.atom_place[atoms] == EVERYWHERE  # [M]
        self.uniform = np.where(self.is_uniform, np.maximum.reduceat(model.totals, space.atom_start[:-1])[atoms], 0.0)
        self.mode_unit = space.mode_unit()
        entries, modes = [], []  # one entry stands for all that a mode puts on ranks: ranks are alike
        for mode in np.flatnonzero(~self.is_uniform):
            for piece in range(space.mode_start[mode], space.mode_start[mode + 1]):
                atom = space.piece_start[piece]
                own = range(space.atom_start[atom], space.atom_start[atom + 1])
                entries.extend(own)
                modes.extend([int(mode)] * len(own))
        self.loads = model.totals[np.array(entries, dtype=np.int64)]
        self.load_mode = np.array(modes, dtype=np.int64)
        self.bound = 0.0

    @classmethod
    def applies(cls, model: Model) -> bool:
        """Whether ranks are alike in speed, so that a shard costs the same wherever it goes."""
        return len({device.speed for device in model.space.spec.devices}) == 1

    def run(self, lower: float, upper: float, deadline: float) -> float:
        """Raise the bound by bisection between what is known; returns the best proven."""
        low, high = max(lower, self.bound), upper
        for _ in range(BISECTIONS):
            if high - low <= ENOUGH * high or time.perf_counter() > deadline:
                break
            middle = 0.5 * (low + high)
            if self.refutes(middle, deadline):
                low = middle
            else:
                high = middle
        self.bound = max(self.bound, low)
        return low

    def refutes(self, value: float, deadline: float) -> bool:
        """Whether no plan has this value or less; False where that is not proven, or not in time."""
        units = len(self.model.space.units)
        dearest = np.zeros(units)
        np.maximum.at(dearest, self.mode_unit, self.uniform)
        most = float(dearest.sum()) * (1.0 + 1e-9)
        uniform = 0.0
        for _ in range(ROUNDS):
            needed = self._least_uniform(value, uniform, deadline)
            if needed > min(value, most) * (1.0 + 1e-9):
                return True
            if needed <= uniform + STALL * value or time.perf_counter() > deadline:
                return False
            uniform = needed
        return False

    def _least_uniform(self, value: float, uniform: float, deadline: float) -> float:
        """g: least uniform cost of a plan of this value whose uniform cost is at least ``uniform``; inf if none."""
        room = (value - uniform) * (1.0 + 1e-9)
        share = self.loads / max(room, 1e-300)
        is_open = np.ones(len(self.is_uniform), dtype=bool)
        is_open[self.load_mode[share > 1.0]] = False
        is_open &= self.uniform <= value * (1.0 + 1e-9)
        has_mode = np.zeros(len(self.model.space.units), dtype=bool)
        has_mode[self.mode_unit[is_open]] = True
        if not has_mode.all():
            return np.inf
        open_modes = np.flatnonzero(is_open)
        number = np.full(len(is_open), -1)
        number[open_modes] = np.arange(len(open_modes))
        kept = is_open[self.load_mode]
        weights = dual_feasible(share[kept])  # [K, entries]
        rows = np.zeros((len(weights), len(open_modes)))
        columns = number[self.load_mode[kept]]
        for k, row in enumerate(weights):
            rows[k] = np.bincount(columns, row, len(open_modes))
        costs = self.uniform[open_modes]
        ranks = float(self.model.space.ranks)
        owners = self.mode_unit[open_modes]
        worst = np.zeros((len(rows), len(has_mode)))
        for k, row in enumerate(rows):
            np.maximum.at(worst[k], owners, row)
        rows = rows[worst.sum(axis=1) > ranks]  # the others hold anyway
        if not len(rows):
            least = np.full(len(has_mode), np.inf)
            np.minimum.at(least, owners, costs)
            return float(least.sum())
        seconds = min(max(deadline - time.perf_counter(), 0.01), 3600.0)
        one_each = sp.csr_array((np.ones(len(owners)), (owners, np.arange(len(owners)))))
        answer = linprog(
            costs, A_ub=rows, b_ub=np.full(len(rows), ranks), A_eq=one_each, b_eq=np.ones(len(has_mode)),
            bounds=(0.0, 1.0), method="highs", options={"time_limit": seconds},
        )  # fmt: skip
        if answer.status == 2:
            return self._when_infeasible(rows, owners, ranks)
        if answer.status != 0 or answer.ineqlin is None:
            return uniform  # nothing proven
        prices = np.maximum(-np.asarray(answer.ineqlin.marginals), 0.0)
        return self._dual_value(costs, rows, owners, ranks, prices)

    def _dual_value(self, costs: Array, rows: Array, owners: Index, ranks: float, prices: Array) -> float:
        """Lagrangian value at prices on the rows: valid whatever the prices are."""
        least = np.full(len(self.model.space.units), np.inf)
        np.minimum.at(least, owners, costs + prices @ rows)
        return float(least.sum() - ranks * prices.sum())

    def _when_infeasible(self, rows: Array, owners: Index, ranks: float) -> float:
        """Inf if single rows, each unit at its best, already exceed the ranks by a clear margin; else nothing proven.

        Note: a set that only several rows together rule out is left unproven; each V is then tried a little higher.
        """
        for row in rows:
            least = np.full(len(self.model.space.units), np.inf)
            np.minimum.at(least, owners, row)
            if least.sum() > ranks * (1.0 + 1e-9):
                return np.inf
        return 0.0


def dual_feasible(share: Array) -> Array:
    """Rows of dual feasible functions of shares in [0, 1]: the identity, U(eps) at shares, u(k); [K, entries]."""
    found: list[Array] = [share]
    small = np.unique(share[(share > 0.0) & (share <= 0.5)])
    if len(small) > THRESHOLDS:
        small = small[np.linspace(0, len(small) - 1, THRESHOLDS).astype(int)]
    found += [
        np.where(share > 1.0 - threshold, 1.0, np.where(share < threshold, 0.0, share))
        for threshold in (*(small * (1.0 - 1e-9)), 0.5)
    ]
    found += [np.maximum(np.ceil((k + 1) * share - 1e-9) - 1.0, 0.0) / k for k in range(1, STEPS + 1)]
    return np.array(found)
