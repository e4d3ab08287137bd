"""The inner loop of the traffic bound, in numba: the cheapest grouping of each token's experts.

All loops stay in this one file, because numba watches only the file of a function when it keeps machine code.
"""

from __future__ import annotations

import numba as nb
import numpy as np


@nb.njit(nogil=True, cache=True, error_model="numpy")
def cheapest_groupings(prices, size, is_together):
    """Mean over tokens of min over partitions of its experts of (groups + prices of the pairs inside a group).

    Dynamic programming over subsets, 3^size / 2 steps a token.

    Args:
        prices: [P, size (size - 1) / 2] float64, pairs (i, j), i < j, in lexicographic order.
        size: experts of a token.
        is_together: [P, size (size - 1) / 2] float64, overwritten: 1 where the cheapest partition joins a pair.
    """
    full = 1 << size
    group, best, taken = np.empty(full), np.empty(full), np.empty(full, np.int64)
    pair = np.zeros((size, size), np.int64)
    count = 0
    for i in range(size):
        for j in range(i + 1, size):
            pair[i, j] = count
            count += 1
    total = 0.0
    is_together[:] = 0.0
    for t in range(prices.shape[0]):
        for subset in range(1, full):
            first = 0
            while (subset >> first) & 1 == 0:
                first += 1
            rest = subset & (subset - 1)
            cost = group[rest] if rest else 1.0
            for j in range(first + 1, size):
                if (subset >> j) & 1:
                    cost += prices[t, pair[first, j]]
            group[subset] = cost
        best[0] = 0.0
        for subset in range(1, full):
            lowest = subset & -subset  # it is in some group: try all
            rest = subset ^ lowest
            least, choice, others = np.inf, 0, rest
            while True:
                cost = group[others | lowest] + best[rest ^ others]
                if cost < least:
                    least, choice = cost, others | lowest
                if others == 0:
                    break
                others = (others - 1) & rest
            best[subset], taken[subset] = least, choice
        total += best[full - 1]
        subset = full - 1
        while subset:
            chosen = taken[subset]
            for i in range(size):
                if (chosen >> i) & 1:
                    for j in range(i + 1, size):
                        if (chosen >> j) & 1:
                            is_together[t, pair[i, j]] = 1.0
            subset ^= chosen
    return total / prices.shape[0]
