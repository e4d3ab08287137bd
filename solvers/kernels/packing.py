"""0/1 knapsack with whole weights by a table over what is left of the capacities, batched."""

from __future__ import annotations

import numpy as np

from solvers.kernels import kernel


@kernel
def fill_knapsacks(costs, weights, rooms, strides, x):
    """Mark the items of the cheapest subset that fits, for each row of ``costs`` [B, n].

    ``weights`` [n, d] and ``rooms`` [cells, d] are whole; a cell is what is left of each capacity, the last one all of
    it, and ``strides`` [d] say how far apart the cells of one unit are.
    """
    n, dimensions = weights.shape
    cells = len(rooms)
    least = np.empty(cells)
    taken = np.empty((n, cells), np.bool_)
    for row in range(costs.shape[0]):
        for cell in range(cells):
            least[cell] = 0.0
        for item in range(n):
            cost = costs[row, item]
            if cost >= 0.0:
                continue
            offset = 0
            for k in range(dimensions):
                offset += weights[item, k] * strides[k]
            for cell in range(cells):
                taken[item, cell] = False
            if dimensions == 1:
                for cell in range(cells - 1, offset - 1, -1):
                    if least[cell - offset] + cost < least[cell]:
                        least[cell] = least[cell - offset] + cost
                        taken[item, cell] = True
                continue
            for cell in range(cells - 1, -1, -1):
                fits = True
                for k in range(dimensions):
                    if rooms[cell, k] < weights[item, k]:
                        fits = False
                if fits and least[cell - offset] + cost < least[cell]:
                    least[cell] = least[cell - offset] + cost
                    taken[item, cell] = True
        cell = cells - 1
        for item in range(n - 1, -1, -1):
            if costs[row, item] < 0.0 and taken[item, cell]:
                x[row, item] = 1.0
                for k in range(dimensions):
                    cell -= weights[item, k] * strides[k]
