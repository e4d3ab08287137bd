"""The native backend: 0/1 programs that are a choice in disjoint groups under few other rows.

Assignment with capacities, knapsacks and packing problems are of this kind, however they were written down. They go to
the compiled search of `solvers.choice`, which needs no call into a MILP backend.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from solvers.choice import MultipleChoiceOracle
from solvers.oracle import Array, Status
from solvers.polyhedron import Polyhedron
from solvers.rows import Answer

MOST_RESOURCES = 48
"""The working basis of the search is a dense square matrix of this size at most."""


@dataclass(frozen=True, slots=True)
class ChoiceForm:
    """A polyhedron as a choice problem: variable j is option ``column[j]``; the other options mean "none of them"."""

    groups: NDArray[np.int64]
    usage: sp.csr_array
    minimums: Array
    capacities: Array
    allowed: NDArray[np.bool_]
    column: NDArray[np.int64]


def find_choice_form(polyhedron: Polyhedron) -> ChoiceForm | None:
    """Read a set of 0/1 variables as choices in groups; None where too many other rows are left.

    A set without integers is read as the relaxation of one, if its bounds are 0 and 1.
    Rows "sum of some x = 1" (or <= 1) over disjoint variables become groups, larger ones first; a variable in no group
    becomes one with the options in and out.
    """
    p = polyhedron
    lower, upper = p.lower, p.upper
    if p.is_pure_integer:
        lower, upper = np.ceil(lower - 1e-9), np.floor(upper + 1e-9)
    elif p.is_integer.any() or not (np.isin(lower, (0.0, 1.0)) & np.isin(upper, (0.0, 1.0))).all():
        return None
    if p.n == 0 or (lower < 0).any() or (upper > 1).any() or (lower > upper).any():
        return None
    a = p.matrix
    sizes = np.diff(a.indptr)
    group_of = np.full(p.n, -1, np.int64)
    is_group_row = np.zeros(p.m, bool)
    may_be_empty: list[bool] = []
    for row in sorted(range(p.m), key=lambda r: (-sizes[r], r)):
        part = slice(a.indptr[row], a.indptr[row + 1])
        columns, values = a.indices[part], a.data[part]
        if sizes[row] < 2 or values[0] <= 0 or (values != values[0]).any() or (group_of[columns] >= 0).any():
            continue
        is_one = p.row_lower[row] == p.row_upper[row] == values[0]
        is_at_most_one = p.row_upper[row] == values[0] and p.row_lower[row] <= 0
        if not (is_one or is_at_most_one):
            continue
        group_of[columns] = len(may_be_empty)
        may_be_empty.append(not is_one)
        is_group_row[row] = True
    rest = np.flatnonzero(~is_group_row & (sizes > 0))
    if np.isfinite(p.row_upper[rest]).sum() + np.isfinite(p.row_lower[rest]).sum() > MOST_RESOURCES:
        return None
    empty = np.flatnonzero(sizes == 0)
    if (p.row_lower[empty] > 0).any() or (p.row_upper[empty] < 0).any():
        return None
    alone = np.flatnonzero(group_of < 0)
    group_of[alone] = len(may_be_empty) + np.arange(len(alone))
    may_be_empty += [True] * len(alone)
    none_options = np.flatnonzero(may_be_empty)
    forced = lower > 0.5
    # An option that is forced in leaves no other option of its group; the "none" options come last.
    forced_count = np.bincount(group_of[forced], minlength=len(may_be_empty))
    if (forced_count > 1).any():
        return None
    forced_groups = forced_count == 1
    allowed = (upper > 0.5) & (forced | ~forced_groups[group_of])
    return ChoiceForm(
        np.concatenate([group_of, none_options]),
        sp.csr_array(sp.hstack([a[rest], sp.csr_array((len(rest), len(none_options)))])),
        p.row_lower[rest],
        p.row_upper[rest],
        np.concatenate([allowed, ~forced_groups[none_options]]),
        np.arange(p.n),
    )


class ChoiceBackend:
    """The compiled search on a set in choice form; stateless, so an answer never depends on the calls before it.

    Attributes:
        form: the set as a choice problem.
        oracle: the oracle of that problem.
    """

    is_stateless = True

    def __init__(self, polyhedron: Polyhedron) -> None:
        form = find_choice_form(polyhedron)
        assert form is not None  # `why_not` was asked first
        self.form = form
        self.oracle = MultipleChoiceOracle(
            form.groups, form.usage, form.capacities, minimums=form.minimums, allowed=form.allowed
        )

    def close(self) -> None:
        """Nothing is held between calls."""

    def solve(self, costs: Array, seconds: float | None, gap: float) -> Answer:
        """Answer finite ``costs`` [n] within ``seconds`` of wall time; always to a proven optimum, whatever ``gap``."""
        extended = np.zeros((1, self.oracle.n))
        extended[0, self.form.column] = costs
        batch = self.oracle.solve(extended, seconds=seconds)
        status = batch.status[0]
        x = batch.x[0, self.form.column] if status.has_point else None
        bound = float(batch.bound[0]) if status in (Status.FEASIBLE, Status.LIMIT) else -np.inf
        return Answer(status, x, bound, batch.message[0])


class ChoiceLpBackend:
    """The compiled dual simplex on the relaxation of a set in choice form; stateless, and faster than a warm GLOP."""

    is_stateless = True

    def __init__(self, polyhedron: Polyhedron) -> None:
        inner = ChoiceBackend(polyhedron)
        self._form, self._relaxation = inner.form, inner.oracle.relaxation()

    def close(self) -> None:
        """Nothing is held between calls."""

    def solve(self, costs: Array, seconds: float | None, gap: float) -> Answer:
        """Answer finite ``costs`` [n]; the time limit and ``gap`` have no meaning here: a row takes microseconds."""
        extended = np.zeros((1, self._relaxation.n))
        extended[0, self._form.column] = costs
        batch = self._relaxation.solve(extended)
        status = batch.status[0]
        return Answer(status, batch.x[0, self._form.column] if status.has_point else None, message=batch.message[0])
