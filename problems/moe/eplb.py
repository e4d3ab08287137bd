"""The rules of the field: the published EPLB greedy in both variants, and LPT.

Source: the description of DeepSeek's Expert Parallelism Load Balancer (https://github.com/deepseek-ai/EPLB, README):
*hierarchical*, where the nodes divide the expert groups: pack the groups to nodes so that node loads are even,
duplicate experts inside each node, pack the copies to the GPUs of the node; *global*, otherwise: duplicate experts
regardless of groups, pack the copies to all GPUs. Duplication gives the next copy to the expert of the largest load per
copy; packing takes items from heavy to light, each to the lightest bin with room, and every bin gets as many.

A rule answers with counts [E, G]: EPLB may put two copies of an expert on one GPU.
"""

from __future__ import annotations

import heapq

import numpy as np

from problems.moe.instance import Cluster, Index
from solvers.oracle import Array


def pack(weights: Array, bins: int, room: int) -> Index:
    """Bin of each item: from heavy to light, each to the lightest bin with room."""
    bin_of = np.empty(len(weights), dtype=np.int64)
    heap = [(0.0, b, 0) for b in range(bins)]
    for item in np.argsort(-weights, kind="stable"):
        load, b, used = heapq.heappop(heap)
        bin_of[item] = b
        if used + 1 < room:
            heapq.heappush(heap, (load + float(weights[item]), b, used + 1))
    return bin_of


def duplicate(loads: Array, slots: int, most: int | None = None) -> Index:
    """Expert of each copy, ``slots`` in all: every expert once, then again and again that of the largest load per copy.

    This minimizes the largest load per copy. ``most`` limits the copies of one expert; then there may be fewer.
    """
    expert = list(range(len(loads)))
    copies = np.ones(len(loads), dtype=np.int64)
    heap = [(-float(load), e) for e, load in enumerate(loads)]
    heapq.heapify(heap)
    for _ in range(slots - len(loads)):
        while heap and most is not None and copies[heap[0][1]] >= most:
            heapq.heappop(heap)
        if not heap:
            break
        _, e = heap[0]
        expert.append(e)
        copies[e] += 1
        heapq.heapreplace(heap, (-float(loads[e]) / copies[e], e))
    return np.array(expert, dtype=np.int64)


def eplb_global(loads: Array, cluster: Cluster) -> Index:
    """Counts [E, G] of EPLB's global variant."""
    expert = duplicate(loads, cluster.total_slots)
    gpu = pack((loads / np.bincount(expert))[expert], cluster.gpus, cluster.slots)
    counts = np.zeros((len(loads), cluster.gpus), dtype=np.int64)
    np.add.at(counts, (expert, gpu), 1)
    return counts


def eplb_hierarchical(loads: Array, cluster: Cluster, groups: int) -> Index | None:
    """Counts [E, G] of EPLB's hierarchical variant; None where the nodes do not divide the groups, or lack room."""
    experts, nodes = len(loads), cluster.nodes
    if groups % nodes or experts // nodes > cluster.total_slots // nodes:
        return None
    node_of_group = pack(loads.reshape(groups, -1).sum(axis=1), nodes, groups // nodes)
    node_of_expert = np.repeat(node_of_group, experts // groups)
    inside = Cluster(cluster.per_node, 1, cluster.slots)
    counts = np.zeros((experts, cluster.gpus), dtype=np.int64)
    for node in range(nodes):
        members = np.flatnonzero(node_of_expert == node)
        first = node * cluster.per_node
        counts[members, first : first + cluster.per_node] = eplb_global(loads[members], inside)
    return counts


def lpt(loads: Array, cluster: Cluster, *, has_copies: bool = True, most: int | None = None) -> Index | None:
    """Longest processing time first, [E, G] of zeros and ones: never two copies of an expert on one GPU.

    Copies are made as by EPLB, or not at all; None where an expert finds no room.
    """
    limit = min(cluster.gpus, cluster.gpus if most is None else most)
    copies = np.bincount(duplicate(loads, cluster.total_slots if has_copies else len(loads), limit))
    counts = np.zeros((len(loads), cluster.gpus), dtype=np.int64)
    gpu_load, used = np.zeros(cluster.gpus), np.zeros(cluster.gpus, dtype=np.int64)
    pieces = loads / copies
    for e in np.argsort(-pieces, kind="stable"):
        order = np.argsort(gpu_load, kind="stable")
        order = order[used[order] < cluster.slots][: copies[e]]
        if not len(order):
            return None
        counts[e, order] = 1
        used[order] += 1
        gpu_load[order] += pieces[e]
    return counts
