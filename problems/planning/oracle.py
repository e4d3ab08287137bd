"""The survivable polytope as a linear oracle: any costs, one pool of cuts that every call makes richer."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from problems.planning.construction import repair, trim
from problems.planning.decomposition import Decomposition
from problems.planning.judgment import violation_of
from problems.planning.network import Array, Network
from problems.planning.survival import Deadline
from solvers.oracle import OracleBatch, Status, as_costs

OPTIMAL_GAP = 1e-4
LEAST_SECONDS = 0.25  # of the first row of a call, and for the repair of a row that was stopped


class SurvivableOracle:
    """Minimizes linear costs over the whole, survivable plans of a network.

    Costs may have any sign. Every call solves integer masters over the cuts found so far and separates their answers,
    so later calls need few linear programs. A row that runs out of its seconds repairs its last point and reports it
    as ``FEASIBLE`` with the bound of its last master. A call with seconds of its own holds each row to what is left of
    them, and rows that it cannot begin any more are ``LIMIT``; the first row gets ``LEAST_SECONDS`` in any case.

    Args:
        engine: decomposition whose cuts and warm programs are shared.
        seconds: limit per row.
        gap: relative gap at which a row counts as solved.
        warmup_seconds: limit on the engine's own relaxation, which fills the pool at the first call.
    """

    def __init__(
        self, engine: Decomposition, *, seconds: float = 5.0, gap: float = OPTIMAL_GAP, warmup_seconds: float = 10.0
    ) -> None:
        self.engine = engine
        self.seconds, self.gap, self.warmup_seconds = seconds, gap, warmup_seconds
        self.clock: Callable[[], float] = time.monotonic
        self._is_warm = False

    takes_seconds = True

    @property
    def network(self) -> Network:
        """The compiled instance."""
        return self.engine.network

    @property
    def n(self) -> int:
        """Number of integer variables."""
        return self.network.n

    def warm_up(self, seconds: float = np.inf) -> None:
        """Fill the pool by the engine's relaxation, for so many seconds at most; later calls do nothing."""
        if not self._is_warm:
            self._is_warm = True
            self.engine.run(min(self.warmup_seconds, seconds), clock=self.clock, is_root_only=True)

    def solve(self, costs: Array, *, seconds: float | None = None) -> OracleBatch:
        """Minimize each row of ``costs`` [B, n]; ``seconds`` limits the whole batch."""
        costs = as_costs(costs, self.n)
        whole = Deadline(seconds, self.clock)
        self.warm_up(max(LEAST_SECONDS, whole.left / 2))
        rows = []
        for number, row in enumerate(costs):
            least = 0.0 if number else LEAST_SECONDS
            if number and whole.is_over():
                rows.append((np.full(self.n, np.nan), -np.inf, Status.LIMIT, 0.0, "no seconds left for this row"))
            else:
                rows.append(self._solve_row(row, max(least, min(self.seconds, whole.left))))
        x = np.array([row[0] for row in rows]).reshape(len(costs), self.n)
        objective = np.array([float(c @ p) for c, p in zip(costs, x, strict=True)])
        return OracleBatch(
            x,
            objective,
            np.array([row[1] for row in rows], dtype=np.float64),
            tuple(row[2] for row in rows),
            np.array([row[3] for row in rows], dtype=np.float64),
            tuple(row[4] for row in rows),
        )

    def violation(self, x: Array) -> Array:
        """[..., n] -> [...], by the independent judge; 0 if the plan keeps every rule and survives every failure."""
        flat = np.asarray(x, dtype=np.float64).reshape(-1, self.n)
        return np.array([violation_of(self.network, row) for row in flat]).reshape(np.shape(x)[:-1])

    def _solve_row(self, cost: Array, seconds: float) -> tuple[Array, float, Status, float, str]:
        start = time.perf_counter()
        nothing = np.full(self.n, np.nan)
        if not np.isfinite(cost).all():
            return nothing, -np.inf, Status.ERROR, 0.0, "costs are not finite"
        scale = float(np.abs(cost).max(initial=0.0)) or 1.0
        engine, deadline = self.engine, Deadline(seconds, self.clock)
        bound, x = -np.inf, None
        try:
            while not deadline.is_over():
                answer = engine.master.solve_integer(seconds=deadline.left, gap=self.gap / 2, cost=cost / scale)
                if answer.is_infeasible:
                    return nothing, np.inf, Status.INFEASIBLE, time.perf_counter() - start, "the rules leave no plan"
                bound = max(bound, answer.bound * scale)
                if answer.x is None:
                    break
                x = answer.x
                if engine.add_cutsets(x):
                    continue
                found, is_complete = engine.survival.failures(engine.network.capacities(x), until=deadline.is_over)
                if not found and is_complete:
                    value = float(cost @ x)
                    is_optimal = value - bound <= OPTIMAL_GAP * max(abs(value), 1e-9 * scale)
                    bound = value if is_optimal else bound
                    status = Status.OPTIMAL if is_optimal else Status.FEASIBLE
                    return x, min(bound, value), status, time.perf_counter() - start, ""
                engine.add_metric_cuts(found, x)
        except ArithmeticError as error:
            return nothing, -np.inf, Status.ERROR, time.perf_counter() - start, str(error)
        return self._repaired(cost, x, bound, start, seconds)

    def _repaired(
        self, cost: Array, x: Array | None, bound: float, start: float, seconds: float
    ) -> tuple[Array, float, Status, float, str]:
        """A feasible point near the last master's, for a row whose time is over."""
        engine = self.engine
        base = x if x is not None else engine.best
        grace = Deadline(max(seconds, LEAST_SECONDS), self.clock)
        point = None if base is None else repair(engine.network, engine.survival, engine.network.complete(base), grace)
        if point is None:
            point = engine.best
        if point is None:
            nothing = np.full(self.n, np.nan)
            return nothing, bound, Status.LIMIT, time.perf_counter() - start, "no feasible plan within the limit"
        if (cost > 0).any():
            cuts = (engine.master.rows, engine.master.rhs)
            point = trim(engine.network, engine.survival, point, grace, cuts=cuts, price=np.maximum(cost, 0.0))
        value = float(cost @ point)
        message = f"stopped after {seconds:.3g} s; repaired"
        return point, min(bound, value), Status.FEASIBLE, time.perf_counter() - start, message
