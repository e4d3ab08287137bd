"""What the judge reads from an instance: directed arcs, and for each failure what is up and what must be carried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import dijkstra

from problems.planning.instance import Failure, PlanningInstance

Floats = NDArray[np.float64]
Ints = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Ground:
    """Nodes and arcs of an instance. Arc 2 k leads over link k from its source to its target, arc 2 k + 1 back.

    Attributes:
        nodes: names; ``number`` is their inverse.
        tail, head: [2 m] nodes of each arc.
        leaves: [N] where paths that start in a node leave it: a stub has a second place without any way in, so that
            nothing passes through it.
        places: how many there are.
    """

    nodes: tuple[str, ...]
    number: dict[str, int]
    tail: Ints
    head: Ints
    leaves: Ints
    places: int

    @classmethod
    def of(cls, instance: PlanningInstance) -> Ground:
        """Read the nodes and links."""
        nodes = tuple(node.name for node in instance.nodes)
        number = {name: i for i, name in enumerate(nodes)}
        ends = np.array([[number[link.source], number[link.target]] for link in instance.links]).reshape(-1, 2)
        is_stub = np.array([not node.has_transit for node in instance.nodes], dtype=bool)
        leaves = np.arange(len(nodes))
        leaves[is_stub] = len(nodes) + np.arange(is_stub.sum())
        return cls(nodes, number, ends.reshape(-1), ends[:, ::-1].reshape(-1), leaves, len(nodes) + int(is_stub.sum()))


@dataclass(frozen=True, slots=True)
class NetworkState:
    """One failure of an instance, read once; nothing in it depends on a plan.

    Attributes:
        failure: its name.
        ground: of the instance.
        is_up: [2 m] arcs.
        pairs: [P, 2] nodes between which something must be carried and some path is left.
        gbps: [P] how much.
        lost: names of the pairs without any path.
        fewest: [P, depth] arcs of a path of the fewest links for each pair, target first, padded with -1.
    """

    failure: str
    ground: Ground
    is_up: NDArray[np.bool_]
    pairs: Ints
    gbps: Floats
    lost: tuple[tuple[str, str], ...]
    fewest: Ints

    @classmethod
    def of(cls, instance: PlanningInstance, failure: Failure, ground: Ground) -> NetworkState:
        """Read one failure of an instance."""
        down, gone = set(failure.fibers), set(failure.nodes)
        link_is_up = [
            link.name not in failure.links
            and not down & set(link.fibers)
            and link.source not in gone
            and link.target not in gone
            for link in instance.links
        ]
        wanted: dict[tuple[int, int], float] = {}
        for d in instance.demands:
            carried = (failure.services is None or d.service in failure.services) and d.gbps > 0
            if carried and d.source not in gone and d.target not in gone:
                u, v = ground.number[d.source], ground.number[d.target]
                wanted[u, v] = wanted.get((u, v), 0.0) + d.gbps
                if instance.is_two_way:
                    wanted[v, u] = wanted.get((v, u), 0.0) + d.gbps
        pairs = np.array(list(wanted), dtype=np.int64).reshape(-1, 2)
        gbps = np.array(list(wanted.values()))
        is_up = np.repeat(np.array(link_is_up, dtype=bool), 2)
        paths, distance = _shortest(ground, is_up, pairs, np.ones(len(is_up)))
        has_path = np.isfinite(distance)
        lost = tuple((ground.nodes[u], ground.nodes[v]) for u, v in pairs[~has_path].tolist())
        return cls(failure.name, ground, is_up, pairs[has_path], gbps[has_path], lost, paths[has_path])

    def shortest(self, length: Floats) -> tuple[Ints, Floats]:
        """Arcs [P, depth] and distance [P] of a shortest path of each pair under arc lengths [2 m] >= 0."""
        return _shortest(self.ground, self.is_up, self.pairs, length)


def _shortest(ground: Ground, is_up: NDArray[np.bool_], pairs: Ints, length: Floats) -> tuple[Ints, Floats]:
    """Shortest paths of ``pairs`` over the arcs that are up, as in ``NetworkState.shortest``; inf where there is none.

    A length of 0 would be no arc in SciPy's matrix: all grow by 1e-12 of the longest, far below every tolerance.
    """
    if not len(pairs):
        return np.zeros((0, 0), dtype=np.int64), np.zeros(0)
    arcs = np.flatnonzero(is_up)
    tail, head = ground.leaves[ground.tail[arcs]], ground.head[arcs]
    order = np.lexsort((length[arcs], head, tail))
    arcs, tail, head = arcs[order], tail[order], head[order]
    first = np.r_[True, (np.diff(tail) != 0) | (np.diff(head) != 0)][: len(arcs)]  # the shortest of parallel arcs
    arcs, tail, head = arcs[first], tail[first], head[first]
    least = 1e-12 * max(float(length.max(initial=0.0)), 1e-12)
    matrix = sparse.csr_matrix((length[arcs] + least, (tail, head)), shape=(ground.places, ground.places))
    arc_of = np.full((ground.places, ground.places), -1)
    arc_of[tail, head] = arcs
    sources, row = np.unique(pairs[:, 0], return_inverse=True)
    table, before = dijkstra(matrix, indices=ground.leaves[sources], return_predecessors=True)
    distance = table[row, pairs[:, 1]]
    start, node, steps = ground.leaves[pairs[:, 0]], pairs[:, 1].copy(), []
    moving = np.isfinite(distance) & (node != start)
    while moving.any():
        previous = np.where(moving, before[row, node], node)
        steps.append(np.where(moving, arc_of[previous, node], -1))
        node = previous
        moving &= node != start
    return np.array(steps, dtype=np.int64).reshape(len(steps), len(pairs)).T, distance
