"""One option from each group under shared resources: an exact oracle, and the common root of assignment and knapsack.

A compiled branch and bound (`solvers.kernels.choice_search`) answers almost every row in about a millisecond or less; a
row that needs more nodes than a fixed number is handed to SCIP, so that no row is left open.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from solvers.backends.base import BackendName, make_backend, why_not
from solvers.choice_state import SearchState
from solvers.oracle import Array, OracleBatch, Status
from solvers.points import above, as_points, away, not_binary, settle
from solvers.polyhedron import Polyhedron
from solvers.rows import Answer, Failures, solve_together

if TYPE_CHECKING:
    from solvers.choice_relaxation import MultipleChoiceRelaxation

_NATIVE_NODES = 20_000
"""A row that is still open after so many nodes goes to CP-SAT or SCIP."""

_FIRST_NODES = 1000
"""Nodes for each row of a batch before it counts as hard."""

_TIMED_NODES = 128
_TIMED_BLOCK = 64
"""The same, and rows of a batch, between two looks at the clock where there is a time limit."""


def multiple_choice(
    groups: Sequence[int] | NDArray[Any],
    usage: Any,
    capacities: Any,
    *,
    minimums: Any = None,
    allowed: Any = None,
    seconds: float | None = None,
) -> MultipleChoiceOracle:
    """Oracle that picks one option from each group so that shared resources suffice.

    Args:
        groups: [n] integers, the group of each option; every number from 0 to G - 1 occurs.
        usage: [m, n] dense or sparse, how much of resource k option j uses; any sign.
        capacities: [m], the most of each resource; inf where there is no limit.
        minimums: [m], the least of each resource; -inf (the default) where there is no limit.
        allowed: [n] bool, options that may be taken; all by default.
        seconds: wall seconds allowed for each row.

    Examples:
        >>> import numpy as np
        >>> oracle = multiple_choice([0, 0, 1, 1], [[3.0, 1.0, 2.0, 1.0]], [4.0])
        >>> oracle.solve(np.array([[-5.0, 0.0, -4.0, 0.0]])).x.tolist()
        [[1.0, 0.0, 0.0, 1.0]]
    """
    return MultipleChoiceOracle(groups, usage, capacities, minimums=minimums, allowed=allowed, seconds=seconds)


class MultipleChoiceOracle:
    """{ x in {0,1}^n : sum of x over each group = 1, minimums <= A x <= capacities, x_j = 0 where not allowed }.

    Answers do not depend on earlier rows. A row that reaches ``seconds`` is ``FEASIBLE`` with its bound, or ``LIMIT``.
    """

    def __init__(
        self,
        groups: Sequence[int] | NDArray[Any],
        usage: Any,
        capacities: Any,
        *,
        minimums: Any = None,
        allowed: Any = None,
        seconds: float | None = None,
    ) -> None:
        labels = np.asarray(groups)
        if labels.ndim != 1 or labels.size == 0 or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
            raise ValueError("Expected `groups` as a non-empty [n] array of integers >= 0.")
        sizes = np.bincount(labels)
        if (sizes == 0).any():
            raise ValueError(f"Expected an option in every group, got none in group {int(np.argmin(sizes))}.")
        if seconds is not None and not seconds > 0:
            raise ValueError(f"Expected `seconds` > 0 or None, got {seconds}.")
        n = len(labels)
        self._labels: NDArray[np.int64] = labels.astype(np.int64)
        self._usage: Any = sp.csr_array(usage, dtype=np.float64)
        if self._usage.ndim != 2 or self._usage.shape[1] != n:
            raise ValueError(f"Expected `usage` of shape [m, {n}], got {list(self._usage.shape)}.")
        if not np.isfinite(self._usage.data).all():
            raise ValueError("Expected finite numbers in `usage`, got NaN or infinity.")
        m = self._usage.shape[0]
        self._capacities = _limits("capacities", capacities, m)
        self._minimums = np.full(m, -np.inf) if minimums is None else _limits("minimums", minimums, m)
        self._allowed = np.ones(n, bool) if allowed is None else np.array(allowed, bool)
        if self._allowed.shape != (n,):
            raise ValueError(f"Expected `allowed` of shape [{n}], got {list(self._allowed.shape)}.")
        self._seconds = seconds
        self._membership: Any = sp.csr_array((np.ones(n), (self._labels, np.arange(n))))
        self._build(sizes)

    def _build(self, sizes: NDArray[np.int64]) -> None:
        """Sort the options by group and scale every limited resource so that its limit is about 1."""
        self._order = np.argsort(self._labels, kind="stable")
        self._group_start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        upper, lower = np.isfinite(self._capacities), np.isfinite(self._minimums)
        rows: Any = sp.vstack([self._usage[upper], -self._usage[lower]]).tocsr()
        limits = np.concatenate([self._capacities[upper], -self._minimums[lower]])
        largest = np.asarray(abs(rows).max(axis=1).todense()).ravel() if rows.nnz else np.zeros(len(limits))
        scale = np.where(np.abs(limits) > 1e-12 * largest, np.abs(limits), largest)
        scale[scale == 0.0] = 1.0
        columns: Any = sp.csc_array(sp.diags_array(1.0 / scale) @ rows)
        columns = columns[:, self._order]
        columns.sum_duplicates()
        self._columns = (
            columns.indptr.astype(np.int64),
            columns.indices.astype(np.int64),
            np.ascontiguousarray(columns.data, dtype=np.float64),
        )
        self._scaled_limits = limits / scale
        self._group_of = self._labels[self._order]
        self._sorted_allowed = self._allowed[self._order]
        SearchState(self, np.zeros((0, self.n))).run(0)  # compile (or load) the search now, not in the first timed call

    @property
    def n(self) -> int:
        """Number of options, over all groups."""
        return len(self._labels)

    takes_seconds = True

    def solve(self, costs: Array, *, seconds: float | None = None) -> OracleBatch:
        """Minimize each row of ``costs`` [B, n].

        Args:
            costs: [B, n].
            seconds: wall seconds for the whole batch, on top of the limit of each row; rows that come too late are
                ``LIMIT``.
        """
        deadline = math.inf if seconds is None else time.perf_counter() + seconds
        return solve_together(costs, self.n, lambda finite: self._solve(finite, deadline))

    def violation(self, x: Array) -> Array:
        """Largest violation of a group's sum, a limit, a forbidden option or integrality; [..., n] -> [...]."""
        points, finite = as_points(x, self.n)
        return settle(finite, not_binary(points), self._rule_violation(points))

    def _rule_violation(self, points: Array) -> Array:
        flat = points.reshape(-1, self.n)
        sums = (self._membership @ flat.T).T
        worst = away(sums, np.ones(sums.shape[1]))
        if self._usage.shape[0]:
            load = (self._usage @ flat.T).T
            worst = np.maximum(worst, above(load, self._capacities))
            worst = np.maximum(worst, above(-load, -self._minimums))
        worst = np.maximum(worst, np.where(self._allowed, 0.0, np.abs(flat)).max(axis=1, initial=0.0))
        return worst.reshape(points.shape[:-1])

    def polyhedron(self) -> Polyhedron:
        """The same feasible set as arrays of a MILP."""
        ones = np.ones(len(self._group_start) - 1)
        return Polyhedron.from_arrays(
            sp.vstack([self._membership, self._usage]),
            np.concatenate([ones, self._minimums]),
            np.concatenate([ones, self._capacities]),
            0.0,
            self._allowed.astype(np.float64),
        )

    def relaxation(self) -> MultipleChoiceRelaxation:
        """The linear program without integrality, solved by the same compiled dual simplex."""
        from solvers.choice_relaxation import MultipleChoiceRelaxation

        return MultipleChoiceRelaxation(self)

    def _solve(self, costs: Array, deadline: float) -> tuple[Array, Failures]:
        """Some nodes for every row in compiled calls; the rows that need more go on one by one."""
        from solvers.kernels import choice_search as kernels

        is_timed = self._seconds is not None or math.isfinite(deadline)
        block = _TIMED_BLOCK if is_timed else max(len(costs), 1)
        x = np.zeros(costs.shape)
        failures: dict[int, Answer] = {}
        for first in range(0, len(costs), block):
            if time.perf_counter() >= deadline:
                late = Answer(Status.LIMIT, message="the time for the batch was over")
                failures.update(dict.fromkeys(range(first, len(costs)), late))
                break
            rows = slice(first, first + block)
            state = SearchState(self, costs[rows, self._order])
            state.run(_TIMED_NODES if is_timed else _FIRST_NODES)
            for place in np.flatnonzero(state.outcomes).tolist():
                row = first + place
                if state.outcomes[place] == kernels.EMPTY:
                    failures[row] = Answer(Status.INFEASIBLE)
                else:
                    failures[row] = self._go_on(costs[row], deadline)
                    state.incumbents[place] = 0  # any options: the answer replaces them
            np.put_along_axis(x[rows], self._order[state.incumbents], 1.0, axis=1)
        return x, failures

    def _go_on(self, costs: Array, deadline: float) -> Answer:
        """Solve one hard row: natively with an eye on the clock, then by another backend."""
        from solvers.kernels import choice_search as kernels

        if self._seconds is not None:
            deadline = min(deadline, time.perf_counter() + self._seconds)
        state = SearchState(self, costs[None, self._order])
        is_fresh, is_late = True, False
        while state.nodes < _NATIVE_NODES and not is_late:
            state.run(_TIMED_NODES, is_fresh=is_fresh)
            is_fresh = False
            if state.outcomes[0] == kernels.EMPTY:
                return Answer(Status.INFEASIBLE)
            if state.outcomes[0] == kernels.FINISHED:
                return Answer(Status.OPTIMAL, self._point(state.incumbents[0]))
            is_late = time.perf_counter() >= deadline
        x = self._point(state.incumbents[0]) if math.isfinite(state.value) else None
        if not is_late:
            return self._hand_over(costs, x, state.value, state.bound, deadline)
        message = f"stopped by the time limit after {state.nodes} nodes"
        return Answer(Status.LIMIT if x is None else Status.FEASIBLE, x, state.bound, message)

    def _point(self, incumbent: NDArray[np.int64]) -> Array:
        x = np.zeros(self.n)
        x[self._order[incumbent]] = 1.0
        return x

    def _hand_over(self, costs: Array, x: Array | None, value: float, bound: float, deadline: float) -> Answer:
        """Let CP-SAT or SCIP finish a row that is too hard for the native search; keep the better point and bound."""
        polyhedron = self.polyhedron()
        name = BackendName.SCIP if why_not(BackendName.CP_SAT, polyhedron) else BackendName.CP_SAT
        left = max(deadline - time.perf_counter(), 1e-3) if math.isfinite(deadline) else None
        answer = make_backend(name, polyhedron).solve(costs, left, 0.0)
        if answer.x is not None:
            point = np.rint(answer.x)
            if self.violation(point) == 0.0:
                if answer.status is Status.OPTIMAL:
                    is_better = x is None or float(costs @ point) < value
                    return Answer(Status.OPTIMAL, point if is_better else x)
                if x is None or float(costs @ point) < value:
                    x = point
        elif answer.status is Status.INFEASIBLE and x is None:
            return Answer(Status.INFEASIBLE)
        message = f"stopped after {_NATIVE_NODES} native nodes, and {name} within the time limit ({answer.status})"
        return Answer(Status.LIMIT if x is None else Status.FEASIBLE, x, max(bound, answer.bound), message)


def _limits(name: str, value: Any, m: int) -> Array:
    array = np.asarray(value, dtype=np.float64)
    if array.ndim == 0:
        array = np.full(m, array)
    if array.shape != (m,) or np.isnan(array).any():
        raise ValueError(f"Expected `{name}` of shape [{m}] without NaN, got shape {list(array.shape)}.")
    return array.copy()
