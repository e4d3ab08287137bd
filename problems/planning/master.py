"""The master over capacities only: its LP relaxation, kept warm, and its integer program."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from problems.planning.linear_program import linear_program
from problems.planning.network import Array, Network

_INF = float("inf")


@dataclass(frozen=True, slots=True)
class MasterAnswer:
    """Of one integer solve: point or None, proven bound on the master, whether the backend proved it infeasible."""

    x: Array | None
    bound: float
    is_infeasible: bool = False


class Master:
    """Side rules and cuts ``rows @ x >= rhs``.

    The LP holds only the cuts that bind lately; ``violated`` looks into all others, so nothing is lost.
    """

    def __init__(self, network: Network, *, backend: str = "auto") -> None:
        self._network = network
        self._backend = backend
        self.rows = np.zeros((0, network.n))
        self.rhs = np.zeros(0)
        self._in_lp: list[int] = []  # cut numbers, in row order of the LP after the side rules
        self._idle: list[int] = []
        self._is_in = np.zeros(0, dtype=bool)
        self._lp = linear_program(backend)
        n = network.n
        nothing = (np.zeros(0), np.zeros(0))
        self._lp.add_columns(network.cost, np.zeros(n), network.upper, [nothing] * n)
        self._n_side = len(network.limits)
        if self._n_side:
            entries = [(np.flatnonzero(row), row[np.flatnonzero(row)]) for row in network.rows]
            self._lp.add_rows(np.full(self._n_side, -_INF), network.limits, entries)

    def add(self, rows: Array, rhs: Array, *, to_lp: bool = True) -> None:
        """Add cuts [K, n], [K]."""
        first = len(self.rhs)
        self.rows = np.vstack([self.rows, rows])
        self.rhs = np.r_[self.rhs, rhs]
        self._is_in = np.r_[self._is_in, np.zeros(len(rhs), dtype=bool)]
        if to_lp:
            self._insert(list(range(first, len(self.rhs))))

    def _insert(self, numbers: list[int]) -> None:
        if not numbers:
            return
        entries = []
        for k in numbers:
            index = np.flatnonzero(self.rows[k])
            entries.append((index, self.rows[k, index]))
        self._lp.add_rows(self.rhs[numbers], np.full(len(numbers), _INF), entries)
        self._in_lp += numbers
        self._idle += [0] * len(numbers)
        self._is_in[numbers] = True

    def solve_lp(self, *, purge_after: int = 8) -> tuple[float, Array]:
        """Optimum of the relaxation with all cuts: bound and point. Cuts idle for long leave the LP, not the pool.

        Raises:
            ArithmeticError: no optimum; the side rules and cuts leave no point.
        """
        while True:
            value, x, _ = self._lp.solve()
            x = x[: self._network.n]
            depth = self.rhs - self.rows @ x
            again = np.flatnonzero(~self._is_in & (depth > 1e-7 * (1.0 + np.abs(self.rhs))))
            if len(again):
                order = np.argsort(-depth[again])[:100]
                self._insert(again[order].tolist())
                continue
            slack = -depth[self._in_lp] if self._in_lp else np.zeros(0)
            self._idle = [0 if s < 1e-6 else i + 1 for s, i in zip(slack, self._idle, strict=True)]
            gone = [i for i, idle in enumerate(self._idle) if idle > purge_after]
            if len(gone) > 50:
                self._lp.delete_rows(np.array(gone) + self._n_side)
                drop = set(gone)
                self._is_in[[self._in_lp[i] for i in gone]] = False
                self._in_lp = [k for i, k in enumerate(self._in_lp) if i not in drop]
                self._idle = [k for i, k in enumerate(self._idle) if i not in drop]
            return value, x

    def reduced_costs(self) -> tuple[float, Array]:
        """LP value and reduced costs [n] of the relaxation, for fixing."""
        value, _, dual = self._lp.solve()
        rows = np.vstack([self._network.rows, self.rows[self._in_lp]])
        return value, self._network.cost - dual @ rows

    def solve_integer(
        self,
        *,
        seconds: float,
        gap: float,
        lower: Array | None = None,
        upper: Array | None = None,
        cutoff: float = _INF,
        cost: Array | None = None,
    ) -> MasterAnswer:
        """Integer optimum of side rules and cuts by HiGHS.

        Args:
            seconds: limit.
            gap: relative gap to stop at.
            lower: [n] bounds, default 0.
            upper: [n] bounds, default the network's.
            cutoff: only points cheaper than this (by the network's prices) are wanted.
            cost: [n] other prices than the network's; then all cuts take part.
        """
        network = self._network
        low = np.zeros(network.n) if lower is None else lower
        high = network.upper if upper is None else np.minimum(upper, network.upper)
        constraints = []
        active = self._for_integer() if cost is None else np.arange(len(self.rhs))
        if len(active):
            constraints.append(LinearConstraint(self.rows[active], self.rhs[active] - 1e-9, np.inf))  # pyright: ignore[reportArgumentType]
        if self._n_side:
            constraints.append(LinearConstraint(network.rows, -np.inf, network.limits))  # pyright: ignore[reportArgumentType]
        if np.isfinite(cutoff):
            constraints.append(LinearConstraint(network.cost[None], -np.inf, cutoff))
        result = milp(
            network.cost if cost is None else cost,
            integrality=np.ones(network.n),
            bounds=Bounds(low, high),  # pyright: ignore[reportArgumentType]
            constraints=constraints,
            options={"time_limit": max(seconds, 0.05), "mip_rel_gap": gap, "presolve": True},
        )
        bound = result.mip_dual_bound if result.mip_dual_bound is not None else -_INF
        if result.status == 2:
            return MasterAnswer(None, _INF, is_infeasible=True)
        return MasterAnswer(None if result.x is None else np.round(result.x), float(bound))

    def _for_integer(self) -> NDArray[np.int64]:
        """Cuts for the integer program: those in the LP and those nearly tight there."""
        return np.arange(len(self.rhs)) if len(self.rhs) < 1500 else np.array(self._in_lp, dtype=np.int64)
