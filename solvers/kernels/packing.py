"""0/1 knapsack with integral weights by a table over capacities, batched."""

from __future__ import annotations

import numpy as np

from solvers.kernels import kernel


@kernel
def fill_knapsacks(costs, weights, capacity, x):
    """Mark the items of the cheapest subset that fits, for each row of ``costs`` [B, n]."""
    n = len(weights)
    least = np.empty(capacity + 1)
    taken = np.empty((n, capacity + 1), np.bool_)
    for row in range(costs.shape[0]):
        least[:] = 0.0
        for item in range(n):
            taken[item, :] = False
            cost, weight = costs[row, item], weights[item]
            if cost >= 0.0:
                continue
            for room in range(capacity, weight - 1, -1):
                with_item = least[room - weight] + cost
                if with_item < least[room]:
                    least[room] = with_item
                    taken[item, room] = True
        room = capacity
        for item in range(n - 1, -1, -1):
            if room >= weights[item] and taken[item, room]:
                x[row, item] = 1.0
                room -= weights[item]
