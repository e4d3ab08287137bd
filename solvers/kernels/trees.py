"""Minimum spanning trees by Kruskal's rule with union-find, batched."""

from __future__ import annotations

import numpy as np

from solvers.kernels import kernel


@kernel
def span(order, tail, head, nodes, x, outcome):
    """Take edges in the given ``order`` [B, n] where they join two parts; ``outcome`` 1 where no tree comes out."""
    parent = np.empty(nodes, np.int64)
    for row in range(order.shape[0]):
        for node in range(nodes):
            parent[node] = node
        missing = nodes - 1
        for place in range(order.shape[1]):
            edge = order[row, place]
            a = tail[edge]
            while parent[a] != a:
                parent[a] = parent[parent[a]]
                a = parent[a]
            b = head[edge]
            while parent[b] != b:
                parent[b] = parent[parent[b]]
                b = parent[b]
            if a != b:
                parent[a] = b
                x[row, edge] = 1.0
                missing -= 1
                if missing == 0:
                    break
        outcome[row] = 1 if missing > 0 else 0
