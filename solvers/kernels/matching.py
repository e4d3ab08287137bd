"""Linear assignment by successive shortest augmenting paths (R. Jonker and A. Volgenant, 1987), batched."""

from __future__ import annotations

import numpy as np

from solvers.kernels import kernel


@kernel
def assign(costs, allowed, rows, columns, x, outcome):
    """Give each row a column of its own at least cost; ``outcome`` is 1 where that cannot be done.

    ``costs`` [B, rows * columns], ``allowed`` [rows * columns], rows <= columns; ``x`` is filled with 0 and 1.
    """
    row_price = np.empty(rows)
    column_price = np.empty(columns)
    row_of = np.empty(columns, np.int64)
    column_of = np.empty(rows, np.int64)
    distance = np.empty(columns)
    before = np.empty(columns, np.int64)
    is_done = np.empty(columns, np.bool_)
    for b in range(costs.shape[0]):
        # Start: every row offers its cheapest column; who comes first gets it.
        column_price[:] = 0.0
        row_of[:] = -1
        column_of[:] = -1
        failed = False
        for row in range(rows):
            best = -1
            for column in range(columns):
                j = row * columns + column
                if allowed[j] and (best < 0 or costs[b, j] < costs[b, row * columns + best]):
                    best = column
            if best < 0:
                failed = True
                break
            row_price[row] = costs[b, row * columns + best]
            if row_of[best] < 0:
                row_of[best] = row
                column_of[row] = best
        if failed:
            outcome[b] = 1
            continue
        for root in range(rows):
            if column_of[root] >= 0:
                continue
            distance[:] = np.inf
            is_done[:] = False
            row, reached, end = root, 0.0, -1
            while True:
                for column in range(columns):
                    j = row * columns + column
                    if is_done[column] or not allowed[j]:
                        continue
                    there = reached + (costs[b, j] - row_price[row] - column_price[column])
                    if there < distance[column]:
                        distance[column] = there
                        before[column] = row
                best = -1
                for column in range(columns):
                    if is_done[column] or distance[column] == np.inf:
                        continue
                    is_free = row_of[column] < 0
                    if (
                        best < 0
                        or distance[column] < distance[best]
                        or (distance[column] == distance[best] and is_free and row_of[best] >= 0)
                    ):
                        best = column
                if best < 0:
                    break
                reached = distance[best]
                is_done[best] = True
                if row_of[best] < 0:
                    end = best
                    break
                row = row_of[best]
            if end < 0:
                failed = True
                break
            row_price[root] += reached
            for column in range(columns):
                if is_done[column]:
                    change = reached - distance[column]
                    column_price[column] -= change
                    if row_of[column] >= 0:
                        row_price[row_of[column]] += change
            while end >= 0:
                row = before[end]
                row_of[end] = row
                onward = column_of[row]
                column_of[row] = end
                end = -1 if row == root else onward
        if failed:
            outcome[b] = 1
            continue
        outcome[b] = 0
        for row in range(rows):
            x[b, row * columns + column_of[row]] = 1.0
