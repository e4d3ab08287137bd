"""The judge's linear program of one state: paths of every demand, as little overload as possible, plainly solved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from problems.planning.judge_states import Floats, Ints, NetworkState


@dataclass(frozen=True, slots=True)
class Flows:
    """Paths, what they carry: ``pairs`` [F, 2] of nodes, ``arcs`` [F, N] target first, padded with -1, ``gbps`` [F]."""

    pairs: Ints
    arcs: Ints
    gbps: Floats

    def __iter__(self) -> Iterator[tuple[tuple[int, int], tuple[int, ...], float]]:
        """Pair, arcs from the source on, Gbps of each path."""
        for pair, row, gbps in zip(self.pairs.tolist(), self.arcs.tolist(), self.gbps.tolist(), strict=True):
            yield (pair[0], pair[1]), tuple(a for a in reversed(row) if a >= 0), gbps


NO_FLOWS = Flows(np.zeros((0, 2), np.int64), np.zeros((0, 0), np.int64), np.zeros(0))


@dataclass(frozen=True, slots=True)
class Outcome:
    """Flows, or arc lengths that prove that there are none; neither is taken from the program unchecked.

    Attributes:
        is_survived: whether everything that must be carried fits.
        load: [2 m] Gbps on each arc, of ``flows``, which serve every demand; 0 without.
        flows: what is carried where.
        lengths: [2 m] of the proof: all demands take ``needed`` Gbps x length, more than there is; 0 without one.
        needed: see ``lengths``.
        overload: least sum of Gbps over the capacities, by the program.
    """

    is_survived: bool
    load: Floats
    flows: Flows
    lengths: Floats
    needed: float
    overload: float


class PathStore:
    """Paths that carried something in some state, to begin with in the next: pairs u N + v [K] and arcs [K, N].

    Arcs are target first and padded with -1.
    """

    def __init__(self, n_nodes: int) -> None:
        self._n_nodes = n_nodes
        self._known: set[bytes] = set()
        self._pair, self._arcs = np.zeros(0, np.int64), np.zeros((0, n_nodes), np.int64)

    def widened(self, arcs: Ints) -> Ints:
        """[K, depth] as [K, N]."""
        return np.pad(arcs, ((0, 0), (0, self._n_nodes - arcs.shape[1])), constant_values=-1)

    def add(self, pairs: Ints, arcs: Ints) -> None:
        """Keep paths [K, N] of ``pairs`` [K, 2]."""
        keys = [row.tobytes() for row in arcs]
        fresh = [i for i, key in enumerate(keys) if key not in self._known]
        self._known.update(keys)
        self._pair = np.r_[self._pair, pairs[fresh, 0] * self._n_nodes + pairs[fresh, 1]]
        self._arcs = np.vstack([self._arcs, arcs[fresh]])

    def of(self, state: NetworkState) -> tuple[Ints, Ints]:
        """Numbers of the state's pairs [K] and arcs [K, N] of the kept paths that are up there."""
        row_of = np.full(self._n_nodes**2, -1)
        row_of[state.pairs[:, 0] * self._n_nodes + state.pairs[:, 1]] = np.arange(len(state.pairs))
        rows = row_of[self._pair]
        up = np.append(state.is_up, True)  # the last entry answers for the padding
        usable = (rows >= 0) & up[self._arcs].all(axis=1)
        return rows[usable], self._arcs[usable]


def route(state: NetworkState, capacity: Floats, paths: PathStore, *, tolerance: float) -> Outcome:
    """Column generation over paths of every demand: least total overload; 0 means survived.

    Args:
        state: what is up and what must be carried.
        capacity: [2 m] Gbps of the arcs.
        paths: known ones; those that carry something join.
        tolerance: relative, of capacities and demands.
    """
    none, arcs_up = np.zeros(len(capacity)), np.flatnonzero(state.is_up)
    if not len(state.pairs):
        return Outcome(True, none, NO_FLOWS, none, 0.0, 0.0)
    scale = max(float(state.gbps.max()), 1e-12)
    demand, limit = state.gbps / scale, capacity[arcs_up] / scale
    rows, arcs = paths.of(state)
    rows, arcs = np.r_[np.arange(len(demand)), rows], np.vstack([paths.widened(state.fewest), arcs])
    while True:
        use, serve = _incidence(arcs, arcs_up, len(capacity)), _rows_of(rows, len(demand))
        n, m = len(rows), len(arcs_up)
        result = linprog(
            np.r_[np.zeros(n), np.ones(m)],
            A_ub=sparse.hstack([use, -sparse.identity(m)]).tocsc(),
            b_ub=limit,
            A_eq=sparse.hstack([serve, sparse.csc_matrix((len(demand), m))]).tocsc(),
            b_eq=demand,
            method="highs",
        )
        if result.status != 0:
            raise RuntimeError(f"The judge's LP of state {state.failure!r} ended with {result.message!r}.")
        flow = np.maximum(result.x[:n], 0.0)
        flow *= (demand / np.maximum(serve @ flow, 1e-300))[rows]  # serves every demand exactly
        load = np.zeros(len(capacity))
        load[arcs_up] = (use @ flow) * scale
        if (load <= capacity * (1 + tolerance) + tolerance * scale)[arcs_up].all():
            used = np.flatnonzero(flow > 1e-9)
            flows = Flows(state.pairs[rows[used]], arcs[used], flow[used] * scale)
            paths.add(flows.pairs, flows.arcs)
            return Outcome(True, load, flows, none, 0.0, 0.0)
        lengths = np.zeros(len(capacity))
        lengths[arcs_up] = np.maximum(-result.ineqlin.marginals, 0.0)
        best, distance = state.shortest(lengths)
        needed, have = float(distance @ state.gbps), float(lengths @ capacity)
        if needed > have * (1 + tolerance) + tolerance * scale:
            return Outcome(False, none, NO_FLOWS, lengths, needed, float(result.fun * scale))
        fresh = _unknown(paths.widened(best), distance < result.eqlin.marginals - 1e-9, arcs)
        if not len(fresh):
            # LP optimal over all paths and neither proof holds: inside the tolerance band, so not accepted
            return Outcome(False, none, NO_FLOWS, none, 0.0, float(result.fun * scale))
        rows, arcs = np.r_[rows, fresh], np.vstack([arcs, paths.widened(best)[fresh]])


def _incidence(arcs: Ints, arcs_up: Ints, n_arcs: int) -> sparse.csc_matrix:
    """[arcs that are up, paths] of ones."""
    place = np.full(n_arcs, -1)
    place[arcs_up] = np.arange(len(arcs_up))
    path, step = np.nonzero(arcs >= 0)
    return sparse.csc_matrix((np.ones(len(path)), (place[arcs[path, step]], path)), shape=(len(arcs_up), len(arcs)))


def _rows_of(rows: Ints, n_pairs: int) -> sparse.csc_matrix:
    """[pairs, paths] of ones."""
    return sparse.csc_matrix((np.ones(len(rows)), (rows, np.arange(len(rows)))), shape=(n_pairs, len(rows)))


def _unknown(best: Ints, is_better: Ints, arcs: Ints) -> Ints:
    """Pairs whose best path [P, N] is no column yet: of those whose path beats their price, or of all if none does."""
    columns = {row.tobytes() for row in arcs}
    for candidates in (np.flatnonzero(is_better), np.arange(len(best))):
        fresh = [i for i in candidates.tolist() if best[i].tobytes() not in columns]
        if fresh:
            return np.array(fresh)
    return np.zeros(0, dtype=np.int64)
