"""Traffic over bridges is forced: an equivalent demand matrix with far fewer pairs."""

from __future__ import annotations

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from problems.planning.network import Array


def project_over_bridges(demand: Array, edges: NDArray[np.int64], is_up: NDArray[np.bool_]) -> Array:
    """Demand [N, N] that can be routed over the edges that are up exactly if ``demand`` can.

    Every route of a demand crosses the same bridges (node pairs whose removal disconnects its ends), so it splits into
    pieces inside the parts between bridges, and pieces of the same ends are added up. Shortest distances are additive
    over bridges, so right-hand sides of metric cuts do not change either.

    Args:
        demand: [N, N]; every positive entry must have a path.
        edges: [e, 2] node numbers.
        is_up: [e] bool.
    """
    graph = nx.Graph()
    graph.add_nodes_from(range(len(demand)))
    graph.add_edges_from(edges[is_up].tolist())
    bridges = list(nx.bridges(graph))
    if not bridges:
        return demand
    graph.remove_edges_from(bridges)
    part_of = np.empty(len(demand), dtype=np.int64)
    members: list[NDArray[np.int64]] = []
    for i, nodes in enumerate(nx.connected_components(graph)):
        members.append(np.array(sorted(nodes), dtype=np.int64))
        part_of[members[i]] = i
    at: list[dict[int, tuple[int, int]]] = [{} for _ in members]  # neighbor part -> (own end, other end) of the bridge
    for u, v in bridges:
        at[part_of[u]][int(part_of[v])] = (u, v)
        at[part_of[v]][int(part_of[u])] = (v, u)
    left = demand.copy()
    result = np.zeros_like(demand)
    leaves = [i for i, near in enumerate(at) if len(near) == 1]
    active = np.ones(len(demand), dtype=bool)
    while leaves:
        leaf = leaves.pop()
        if len(at[leaf]) != 1:
            continue
        ((other, (own, beyond)),) = at[leaf].items()
        inside = members[leaf]
        active[inside] = False
        outside = np.flatnonzero(active)
        for matrix, total in ((left, result), (left.T, result.T)):  # out of the leaf, then into it
            sent = matrix[np.ix_(inside, outside)]
            matrix[inside, own] += sent.sum(axis=1)
            total[own, beyond] += sent.sum()
            matrix[beyond, outside] += sent.sum(axis=0)
        result[np.ix_(inside, inside)] += left[np.ix_(inside, inside)]
        at[leaf].clear()
        del at[other][leaf]
        if len(at[other]) == 1:
            leaves.append(other)
    rest = np.flatnonzero(active)
    result[np.ix_(rest, rest)] += left[np.ix_(rest, rest)]
    np.fill_diagonal(result, 0.0)
    return result
