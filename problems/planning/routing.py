"""Shortest paths: loads of shortest-path routing, and all distances under given arc lengths."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def distances(n_nodes: int, edges: NDArray[np.int64], length: Array, is_transit: NDArray[np.bool_]) -> Array:
    """All shortest distances, paths pass transit nodes only.

    Args:
        n_nodes: N.
        edges: [e, 2] node numbers.
        length: [2, e] >= 0, length of each edge forward and backward; inf where it is down.
        is_transit: [N] bool.

    Returns:
        [N, N] distances from row to column; inf where there is no path.
    """
    result = np.full((n_nodes, n_nodes), np.inf)
    np.minimum.at(result, (edges[:, 0], edges[:, 1]), length[0])
    np.minimum.at(result, (edges[:, 1], edges[:, 0]), length[1])
    np.fill_diagonal(result, 0.0)
    for k in np.flatnonzero(is_transit):
        np.minimum(result, result[:, k : k + 1] + result[k], out=result)
    return result


def shortest_path_tree(
    source: int, out: list[list[tuple[int, int, float]]], is_transit: NDArray[np.bool_] | None = None
) -> tuple[list[float], list[int]]:
    """Dijkstra. ``out[u]`` lists (neighbor, arc, length). Returns distances, and each node's arc."""
    distance = [np.inf] * len(out)
    arc_to = [-1] * len(out)
    distance[source] = 0.0
    queue = [(0.0, source)]
    while queue:
        d, u = heapq.heappop(queue)
        if d > distance[u] or (is_transit is not None and u != source and not is_transit[u]):
            continue
        for v, arc, length in out[u]:
            if d + length < distance[v]:
                distance[v], arc_to[v] = d + length, arc
                heapq.heappush(queue, (d + length, v))
    return distance, arc_to


def shortest_path_loads(
    n_nodes: int,
    ends: NDArray[np.int64],
    length: Array,
    demand: Array,
    *,
    alive: NDArray[np.bool_] | None = None,
    is_transit: NDArray[np.bool_] | None = None,
) -> Array:
    """Load of each link direction when every demand takes one shortest path.

    Args:
        n_nodes: N.
        ends: [m, 2] node numbers.
        length: [m].
        demand: [N, N].
        alive: [m] bool, links that are up; default all.
        is_transit: [N] bool; default all.

    Returns:
        [2, m] load forward and backward. Demands without a path load nothing.
    """
    m = len(ends)
    out: list[list[tuple[int, int, float]]] = [[] for _ in range(n_nodes)]
    for i, (u, v) in enumerate(ends.tolist()):
        if alive is None or alive[i]:
            out[u].append((v, i, float(length[i])))
            out[v].append((u, m + i, float(length[i])))
    tail = np.concatenate([ends[:, 0], ends[:, 1]]).tolist()
    load = np.zeros(2 * m)
    for source in range(n_nodes):
        if not demand[source].any():
            continue
        distance, arc_to = shortest_path_tree(source, out, is_transit)
        through = demand[source].copy()
        for v in sorted(range(n_nodes), key=lambda q: -distance[q]):
            if v != source and np.isfinite(distance[v]) and through[v] > 0.0:
                load[arc_to[v]] += through[v]
                through[tail[arc_to[v]]] += through[v]
    return load.reshape(2, m)
