"""Network states as the judge sees them: what is up, what must be carried, and shortest paths under any arc lengths."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from problems.planning.instance import Failure, PlanningInstance

Pair = tuple[str, str]  # source and target of demands
Arc = tuple[str, bool]  # link name, and whether it is used from its source to its target
Path = tuple[Arc, ...]


@dataclass(frozen=True, slots=True)
class NetworkState:
    """One failure of an instance, read once; nothing in it depends on a plan.

    Attributes:
        failure: its name.
        arcs: both directions of every link that is up.
        out: source name -> (number of the arc, name of its head), of nodes that are up.
        stubs: nodes that are only ever ends of paths.
        wanted: Gbps of each pair that must be carried and has a path.
        lost: pairs without any path.
        fewest_links: a path of the fewest links of each wanted pair.
    """

    failure: str
    arcs: tuple[Arc, ...]
    out: dict[str, list[tuple[int, str]]]
    stubs: frozenset[str]
    wanted: dict[Pair, float]
    lost: tuple[Pair, ...]
    fewest_links: dict[Pair, Path]

    @classmethod
    def of(cls, instance: PlanningInstance, failure: Failure) -> NetworkState:
        """Read one failure of an instance."""
        out: dict[str, list[tuple[int, str]]] = {
            node.name: [] for node in instance.nodes if node.name not in failure.nodes
        }
        down = set(failure.fibers)
        arcs: list[Arc] = []
        for link in instance.links:
            is_up = link.name not in failure.links and not down & set(link.fibers)
            if is_up and link.source in out and link.target in out:
                out[link.source].append((len(arcs), link.target))
                out[link.target].append((len(arcs) + 1, link.source))
                arcs += [(link.name, True), (link.name, False)]
        wanted: dict[Pair, float] = {}
        for d in instance.demands:
            carried = (failure.services is None or d.service in failure.services) and d.gbps > 0
            if carried and d.source in out and d.target in out:
                wanted[d.source, d.target] = wanted.get((d.source, d.target), 0.0) + d.gbps
                if instance.is_two_way:
                    wanted[d.target, d.source] = wanted.get((d.target, d.source), 0.0) + d.gbps
        stubs = frozenset(node.name for node in instance.nodes if not node.has_transit)
        state = cls(failure.name, tuple(arcs), out, stubs, wanted, (), {})
        paths, _ = state.shortest(np.ones(len(arcs)))
        lost = tuple(pair for pair in wanted if pair not in paths)
        left = {pair: gbps for pair, gbps in wanted.items() if pair in paths}
        return cls(failure.name, tuple(arcs), out, stubs, left, lost, paths)

    def shortest(self, length: NDArray[np.float64]) -> tuple[dict[Pair, Path], dict[Pair, float]]:
        """A shortest path and the distance of each wanted pair that has a path, under arc lengths >= 0."""
        lengths = length.tolist()
        targets: dict[str, list[str]] = {}
        for source, target in self.wanted:
            targets.setdefault(source, []).append(target)
        paths: dict[Pair, Path] = {}
        distances: dict[Pair, float] = {}
        for source, ends in targets.items():
            distance, last = self._distances(source, lengths)
            for target in ends:
                if target not in distance:
                    continue
                path, node = [], target
                while node != source:
                    arc, node = last[node]
                    path.append(self.arcs[arc])
                paths[source, target] = tuple(reversed(path))
                distances[source, target] = distance[target]
        return paths, distances

    def _distances(self, source: str, lengths: list[float]) -> tuple[dict[str, float], dict[str, tuple[int, str]]]:
        """Dijkstra from one node: distances, and (arc, tail) by which each node is reached."""
        distance: dict[str, float] = {source: 0.0}
        last: dict[str, tuple[int, str]] = {}
        queue = [(0.0, source)]
        while queue:
            so_far, node = heapq.heappop(queue)
            if so_far > distance[node] or (node in self.stubs and node != source):
                continue
            for arc, head in self.out[node]:
                further = so_far + lengths[arc]
                if further < distance.get(head, np.inf):
                    distance[head], last[head] = further, (arc, node)
                    heapq.heappush(queue, (further, head))
        return distance, last
