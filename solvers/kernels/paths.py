"""Shortest paths: a dynamic program in topological order, Dijkstra with a binary heap, and Bellman-Ford.

A graph is its arcs sorted by tail: ``start`` [V+1], ``head`` [A], ``edge`` [A] (the column of the cost vector; both
arcs of an undirected edge share one). All walk back over ``parent`` (the arc that reached a node) and mark x.
"""

from __future__ import annotations

import numpy as np

from solvers.kernels import kernel

REACHED, UNREACHED, NEGATIVE = 0, 1, 2


@kernel
def acyclic_paths(order, start, head, tail, edge, source, target, costs, x, outcome):
    """Batched dynamic program over the nodes in topological ``order``; costs of any sign."""
    nodes = len(start) - 1
    distance = np.empty(nodes)
    parent = np.empty(nodes, np.int64)
    for row in range(costs.shape[0]):
        distance[:] = np.inf
        distance[source] = 0.0
        for node in order:
            here = distance[node]
            if here == np.inf:
                continue
            for arc in range(start[node], start[node + 1]):
                there = here + costs[row, edge[arc]]
                if there < distance[head[arc]]:
                    distance[head[arc]] = there
                    parent[head[arc]] = arc
        if distance[target] == np.inf:
            outcome[row] = UNREACHED
            continue
        outcome[row] = REACHED
        node = target
        while node != source:
            arc = parent[node]
            x[row, edge[arc]] = 1.0
            node = tail[arc]


@kernel
def dijkstra_paths(start, head, tail, edge, source, target, costs, x, outcome):
    """Dijkstra to one target for each row of non-negative costs; stops when the target is settled."""
    nodes = len(start) - 1
    distance = np.empty(nodes)
    parent = np.empty(nodes, np.int64)
    heap = np.empty(nodes, np.int64)  # nodes, smallest distance first
    place = np.empty(nodes, np.int64)  # of a node in the heap; -1 not seen yet, -2 settled
    for row in range(costs.shape[0]):
        distance[:] = np.inf
        place[:] = -1
        distance[source] = 0.0
        heap[0] = source
        place[source] = 0
        size = 1
        while size > 0:
            node = heap[0]
            place[node] = -2
            if node == target:
                break
            size -= 1
            if size > 0:  # sift the last one down from the top
                moved = heap[size]
                key = distance[moved]
                hole = 0
                while True:
                    child = 2 * hole + 1
                    if child >= size:
                        break
                    if child + 1 < size and distance[heap[child + 1]] < distance[heap[child]]:
                        child += 1
                    if distance[heap[child]] >= key:
                        break
                    heap[hole] = heap[child]
                    place[heap[hole]] = hole
                    hole = child
                heap[hole] = moved
                place[moved] = hole
            for arc in range(start[node], start[node + 1]):
                other = head[arc]
                if place[other] == -2:
                    continue
                there = distance[node] + costs[row, edge[arc]]
                if there < distance[other]:
                    distance[other] = there
                    parent[other] = arc
                    hole = place[other]
                    if hole == -1:
                        hole = size
                        size += 1
                    while hole > 0:
                        above = (hole - 1) // 2
                        if distance[heap[above]] <= there:
                            break
                        heap[hole] = heap[above]
                        place[heap[hole]] = hole
                        hole = above
                    heap[hole] = other
                    place[other] = hole
        if distance[target] == np.inf:
            outcome[row] = UNREACHED
            continue
        outcome[row] = REACHED
        node = target
        while node != source:
            arc = parent[node]
            x[row, edge[arc]] = 1.0
            node = tail[arc]


@kernel
def bellman_ford_paths(start, head, tail, edge, source, target, costs, x, outcome):
    """Bellman-Ford for rows with negative costs on a graph with cycles; finds negative cycles."""
    nodes = len(start) - 1
    distance = np.empty(nodes)
    parent = np.empty(nodes, np.int64)
    for row in range(costs.shape[0]):
        distance[:] = np.inf
        distance[source] = 0.0
        size = 0.0
        for column in range(costs.shape[1]):
            size = max(size, abs(costs[row, column]))
        slack = 1e-12 * size  # a cycle of rounding errors is not a negative cycle
        changed = True
        for _ in range(nodes):
            changed = False
            for node in range(nodes):
                here = distance[node]
                if here == np.inf:
                    continue
                for arc in range(start[node], start[node + 1]):
                    there = here + costs[row, edge[arc]]
                    if there < distance[head[arc]] - slack:
                        distance[head[arc]] = there
                        parent[head[arc]] = arc
                        changed = True
            if not changed:
                break
        if changed:
            outcome[row] = NEGATIVE
            continue
        if distance[target] == np.inf:
            outcome[row] = UNREACHED
            continue
        outcome[row] = REACHED
        node = target
        steps = 0
        while node != source:
            arc = parent[node]
            x[row, edge[arc]] = 1.0
            node = tail[arc]
            steps += 1
            if steps > nodes:
                outcome[row] = NEGATIVE
                break
