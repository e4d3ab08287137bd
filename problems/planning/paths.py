"""Paths of the scenario programs: a pool that all of them share, and shortest path trees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from problems.planning.network import Array, Network


class PathPool:
    """Paths found in any scenario, offered to every new one: [P, 2] end nodes and padded arcs [P, longest]."""

    def __init__(self, n_nodes: int) -> None:
        self._width = n_nodes
        self._seen: set[bytes] = set()
        self._ends: list[NDArray[np.int64]] = []
        self._arcs: list[NDArray[np.int32]] = []

    def add(self, ends: NDArray[np.int64], arcs: NDArray[np.int32]) -> None:
        """Remember paths; ``arcs`` [P, depth] is padded with -1. Known ones are skipped."""
        wide = np.full((len(arcs), self._width), -1, dtype=np.int32)
        wide[:, : arcs.shape[1]] = arcs
        fresh = []
        for i, row in enumerate(wide):
            key = row.tobytes()
            if key not in self._seen:
                self._seen.add(key)
                fresh.append(i)
        if fresh:
            self._ends.append(ends[fresh])
            self._arcs.append(wide[fresh])

    def all(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """All paths: end nodes [P, 2], arcs [P, longest] padded with -1."""
        if not self._arcs:
            return np.zeros((0, 2), np.int64), np.zeros((0, 1), np.int32)
        self._ends, self._arcs = [np.concatenate(self._ends)], [np.concatenate(self._arcs)]
        used = int((self._arcs[0] >= 0).sum(axis=1).max())
        return self._ends[0], self._arcs[0][:, :used]


class SearchGraph:
    """Shortest path trees over the edges that are up; a stub node is split, so that nothing passes through it."""

    def __init__(self, network: Network, is_up: NDArray[np.bool_]) -> None:
        n_nodes = len(network.is_transit)
        stub = np.flatnonzero(~network.is_transit)
        leaves_from = np.arange(n_nodes)
        leaves_from[stub] = n_nodes + np.arange(len(stub))
        tail = leaves_from[np.r_[network.edges[:, 0], network.edges[:, 1]]]
        head = np.r_[network.edges[:, 1], network.edges[:, 0]]
        arcs = np.flatnonzero(np.r_[is_up, is_up])
        size = n_nodes + len(stub)
        self._arcs = arcs[np.lexsort((head[arcs], tail[arcs]))]
        starts = np.searchsorted(tail[self._arcs], np.arange(size + 1))
        self._matrix = sparse.csr_matrix((np.ones(len(arcs)), head[self._arcs], starts), shape=(size, size))
        self._leaves_from = leaves_from
        self._arc = np.full((size, size), -1, dtype=np.int32)
        self._arc[tail[self._arcs], head[self._arcs]] = self._arcs

    def trees(self, lengths: Array, sources: NDArray[np.int64]) -> tuple[Array, NDArray[np.int32]]:
        """Distances and predecessors from ``sources`` under lengths [2, e]."""
        self._matrix.data = np.maximum(lengths.reshape(-1)[self._arcs], 0.0) + 1e-13  # a stored 0 would be no arc
        return csgraph.dijkstra(self._matrix, indices=self._leaves_from[sources], return_predecessors=True)

    def paths(
        self, previous: NDArray[np.int32], tree: NDArray[np.int64], pairs: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """Arcs of the paths of ``pairs`` [P, 2], target first, [P, depth] padded with -1; ``tree`` [P] rows."""
        start = self._leaves_from[pairs[:, 0]]
        node = pairs[:, 1].copy()
        steps = []
        while (node != start).any():
            moving = node != start
            before = np.where(moving, previous[tree, node], node)
            steps.append(np.where(moving, self._arc[before, node], -1))
            node = before
        return np.array(steps, dtype=np.int32).reshape(len(steps), len(pairs)).T
