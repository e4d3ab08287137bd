"""The arrays of a compiled search over options."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solvers.oracle import Array

if TYPE_CHECKING:
    from solvers.choice import MultipleChoiceOracle


class SearchState:
    """Arrays of a compiled search; see `solvers.kernels.choice_search` for their meaning.

    Attributes:
        incumbents: [B, G], options of the best points, in the order of the groups.
        outcomes: [B].
        basis: the working basis of the relaxation.
    """

    def __init__(self, oracle: MultipleChoiceOracle, costs: Array) -> None:
        n, m, groups = oracle.n, len(oracle._scaled_limits), len(oracle._group_start) - 1
        integers = np.int64
        self.incumbents = np.zeros((len(costs), groups), integers)
        self.outcomes = np.zeros(len(costs), integers)
        self._marks, self._best = np.zeros(4, integers), np.zeros(3)
        self.basis = (
            np.zeros(groups, integers),
            np.zeros(groups, integers),
            np.zeros(m, integers),
            np.zeros(n + m, integers),
            np.zeros((m, m)),
            np.zeros(m),
            np.zeros(m),
            np.zeros(n),
        )
        depth = groups + 1  # an open branch fixes a group
        costs = np.ascontiguousarray(costs)
        whole = (costs == np.rint(costs)).all(axis=1) & (np.abs(costs).sum(axis=1) < 1e9)
        self._arrays = (
            costs,
            whole,
            oracle._group_start,
            oracle._group_of,
            *oracle._columns,
            oracle._scaled_limits,
            oracle._sorted_allowed,
            np.zeros(n, bool),
            np.zeros(groups, integers),
            *self.basis,
            np.zeros(n, integers),
            self._marks,
            np.zeros(depth, integers),
            np.zeros(depth, integers),
            np.zeros(depth),
            np.zeros((depth, groups), integers),
            np.zeros((depth, m), integers),
            self._best,
            self.incumbents,
            self.outcomes,
        )

    def run(self, nodes: int, *, is_fresh: bool = True) -> None:
        """Search for at most ``nodes`` nodes a row; a single row goes on where it was with ``is_fresh`` False."""
        from solvers.kernels.choice_search import search

        search(*self._arrays, nodes, is_fresh)

    @property
    def value(self) -> float:
        """Value of the last row's incumbent, or inf."""
        return float(self._best[0])

    @property
    def bound(self) -> float:
        """Lower bound of the last row, where it was stopped."""
        return float(self._best[1])

    @property
    def nodes(self) -> int:
        """Nodes of the last row so far."""
        return int(self._marks[0])
