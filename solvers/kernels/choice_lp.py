"""Dual simplex for linear programs with one choice in each group and a few shared resources.

    min c.x   s.t.   sum of x over each group = 1,   A x <= b (m rows),   x >= 0,   x_j = 0 where not allowed

The groups are generalized upper bounds: each keeps one basic *key* option, so the working basis is only m x m, however
many groups there are (G. B. Dantzig and R. M. Van Slyke, "Generalized upper bounding techniques", 1967). With the key
options eliminated, the other m basic columns (options or slacks) hold

    W y = b - sum of A over the keys,     W's column = A_j - A_key for an option, e_k for slack k,
    x_key = 1 - sum of y over the basic options of its group.

Prices lambda >= 0 of the resources make the values v_j = c_j + lambda.A_j; dual feasible means that a key has the
smallest value of its group. The basis of all slacks with the cheapest options as keys is dual feasible, so there is no
first phase, and every lambda on the way gives the valid bound  sum over groups of min v_j - lambda.b.

Columns: by group, ``group_start`` [G+1], ``group_of`` [n]; A by column: ``a_start`` [n+1], ``a_row``, ``a_value``.
State: ``key`` [G], ``extra`` [G] (basic options beside the key), ``basic`` [m] (column, or n + k for slack k),
``place`` [n+m] (row in W, or -1), ``inverse`` [m, m], ``y`` [m], ``price`` [m], ``value`` [n].
"""

from __future__ import annotations

import numpy as np

from solvers.kernels import helper, kernel

OPTIMAL, CUT_OFF, INFEASIBLE, STALLED = 0, 1, 2, 3

TOLERANCE = 1e-9  # of primal values; resources are scaled to about 1
_TINY = 1e-11


@helper
def fill(array, number):
    """Set all entries of a flat array."""
    for i in range(len(array)):
        array[i] = number


@kernel
def reset_basis(costs, group_start, allowed, key, extra, basic, place):
    """All slacks basic, and the cheapest allowed option of each group as key; False where a group has none."""
    n = len(costs)
    fill(place, -1)
    fill(extra, 0)
    for row in range(len(basic)):
        basic[row] = n + row
        place[n + row] = row
    for group in range(len(key)):
        best = -1
        for j in range(group_start[group], group_start[group + 1]):
            if allowed[j] and (best < 0 or costs[j] < costs[best]):
                best = j
        if best < 0:
            return False
        key[group] = best
    return True


@helper
def factorize(group_of, a_start, a_row, a_value, key, basic, inverse):
    """Invert the working basis by Gauss-Jordan with row exchanges; False where it is close to singular."""
    m = len(basic)
    n = len(group_of)
    work = np.zeros((m, m))
    for row in range(m):
        j = basic[row]
        if j >= n:
            work[j - n, row] = 1.0
        else:
            for entry in range(a_start[j], a_start[j + 1]):
                work[a_row[entry], row] += a_value[entry]
            k = key[group_of[j]]
            for entry in range(a_start[k], a_start[k + 1]):
                work[a_row[entry], row] -= a_value[entry]
    for row in range(m):
        for column in range(m):
            inverse[row, column] = 1.0 if row == column else 0.0
    for column in range(m):
        pivot = column
        for row in range(column + 1, m):
            if abs(work[row, column]) > abs(work[pivot, column]):
                pivot = row
        if abs(work[pivot, column]) < 1e-10:
            return False
        if pivot != column:
            for k in range(m):
                work[pivot, k], work[column, k] = work[column, k], work[pivot, k]
                inverse[pivot, k], inverse[column, k] = inverse[column, k], inverse[pivot, k]
        scale = 1.0 / work[column, column]
        for k in range(m):
            work[column, k] *= scale
            inverse[column, k] *= scale
        for row in range(m):
            factor = work[row, column]
            if row != column and factor != 0.0:
                for k in range(m):
                    work[row, k] -= factor * work[column, k]
                    inverse[row, k] -= factor * inverse[column, k]
    return True


@helper
def compute_prices(costs, group_of, a_start, a_row, a_value, key, basic, inverse, price, value, active):
    """Prices of the resources from the working basis, and the values of the active options."""
    m = len(basic)
    n = len(costs)
    fill(price, 0.0)
    for row in range(m):
        j = basic[row]
        if j < n:
            difference = costs[j] - costs[key[group_of[j]]]
            for k in range(m):
                price[k] -= difference * inverse[row, k]
    for k in range(m):
        if price[k] < 0.0:
            price[k] = 0.0
    for row in range(m):
        if basic[row] >= n:
            price[basic[row] - n] = 0.0
    for j in active:
        total = costs[j]
        for entry in range(a_start[j], a_start[j + 1]):
            total += price[a_row[entry]] * a_value[entry]
        value[j] = total


@helper
def dual_bound(active_start, active, allowed, value, price, capacity):
    """The Lagrangian bound of any prices >= 0: valid whatever the basis is."""
    total = 0.0
    for group in range(len(active_start) - 1):
        best = np.inf
        for place in range(active_start[group], active_start[group + 1]):
            j = active[place]
            if allowed[j] and value[j] < best:
                best = value[j]
        total += best
    for k in range(len(price)):
        total -= price[k] * capacity[k]
    return total


@helper
def compute_primal(a_start, a_row, a_value, capacity, key, inverse, rest, y):
    """What the keys leave of the resources (``rest``), and the values of the working basis."""
    m = len(capacity)
    for k in range(m):
        rest[k] = capacity[k]
    for group in range(len(key)):
        j = key[group]
        for entry in range(a_start[j], a_start[j + 1]):
            rest[a_row[entry]] -= a_value[entry]
    for row in range(m):
        total = 0.0
        for k in range(m):
            total += inverse[row, k] * rest[k]
        y[row] = total


@helper
def prepare(
    costs, group_start, group_of, a_start, a_row, a_value, capacity, allowed,
    key, extra, basic, place, inverse, y, price, value, rest, active_start, active,
):  # fmt: skip
    """Factorize the basis at hand and make it dual feasible; False where some group has no allowed option."""
    good = factorize(group_of, a_start, a_row, a_value, key, basic, inverse)
    if good:
        compute_prices(costs, group_of, a_start, a_row, a_value, key, basic, inverse, price, value, active)
        for group in range(len(key)):
            best = -1
            for spot in range(active_start[group], active_start[group + 1]):
                j = active[spot]
                if allowed[j] and (best < 0 or value[j] < value[best]):
                    best = j
            if best < 0:
                return False
            if extra[group] == 0:
                key[group] = best
            elif value[best] < value[key[group]] - 1e-7 * (1.0 + abs(value[best])):
                good = False
    if not good:
        if not reset_basis(costs, group_start, allowed, key, extra, basic, place):
            return False
        factorize(group_of, a_start, a_row, a_value, key, basic, inverse)
        compute_prices(costs, group_of, a_start, a_row, a_value, key, basic, inverse, price, value, active)
    compute_primal(a_start, a_row, a_value, capacity, key, inverse, rest, y)
    return True


@helper
def choose_leaving(group_of, a_start, a_row, a_value, allowed, key, basic, place, inverse, y, rest, share):
    """Row of the working basis that breaks its bound most, and the direction; (-1, 0) where all bounds hold.

    A key that breaks its bound first changes roles with a basic option of its group. ``share`` [G] is scratch.
    """
    m = len(basic)
    n = len(group_of)
    worst, leaving, direction, swap = TOLERANCE, -1, 0.0, -1
    for row in range(m):
        if basic[row] < n:
            share[group_of[basic[row]]] = 1.0
    for row in range(m):
        j = basic[row]
        if j < n:
            share[group_of[j]] -= y[row]
        if -y[row] > worst:
            worst, leaving, direction, swap = -y[row], row, 1.0, -1
        elif j < n and not allowed[j] and y[row] > worst:
            worst, leaving, direction, swap = y[row], row, -1.0, -1
    for row in range(m):
        j = basic[row]
        if j >= n:
            continue
        group = group_of[j]
        if -share[group] > worst:
            worst, leaving, direction, swap = -share[group], row, 1.0, group
        elif not allowed[key[group]] and share[group] > worst:
            worst, leaving, direction, swap = share[group], row, -1.0, group
    if swap >= 0:
        for row in range(m):  # the row that takes the key: the option with the largest value
            if basic[row] < n and group_of[basic[row]] == swap and y[row] > y[leaving]:
                leaving = row
        for k in range(m):
            total = 0.0
            for row in range(m):
                if basic[row] < n and group_of[basic[row]] == swap:
                    total -= inverse[row, k]
            inverse[leaving, k] = total
        old = key[swap]
        key[swap] = basic[leaving]
        place[basic[leaving]] = -1
        basic[leaving] = old
        place[old] = leaving
        y[leaving] = share[swap]
        for entry in range(a_start[old], a_start[old + 1]):
            rest[a_row[entry]] += a_value[entry]
        for entry in range(a_start[key[swap]], a_start[key[swap] + 1]):
            rest[a_row[entry]] -= a_value[entry]
    return leaving, direction


@helper
def first_crossing(first, last, active, key, allowed, place, value, alpha):
    """Option of one group that reaches the key's value first along the direction, and the step there."""
    best, step = -1, np.inf
    for spot in range(first, last):
        j = active[spot]
        if j == key or not allowed[j] or place[j] >= 0:
            continue
        fall = alpha[key] - alpha[j]
        if fall > _TINY:
            ratio = max(value[j] - value[key], 0.0) / fall
            if ratio < step or (ratio == step and fall > alpha[key] - alpha[best]):
                best, step = j, ratio
    return best, step


@kernel
def solve_relaxation(
    costs, group_start, group_of, a_start, a_row, a_value, capacity, allowed,
    key, extra, basic, place, inverse, y, price, value, rest, cutoff, most_pivots,
):  # fmt: skip
    """Dual simplex from the basis at hand, with bound flips; stops when the bound reaches ``cutoff``.

    Returns the outcome and a valid lower bound (inf where infeasible).
    """
    m = len(basic)
    n = len(costs)
    groups = len(key)
    # Most options are out of the domain deep in a search: the loops run over the others.
    active_start = np.empty(groups + 1, np.int64)
    active = np.empty(n, np.int64)
    count = 0
    for group in range(groups):
        active_start[group] = count
        for j in range(group_start[group], group_start[group + 1]):
            if allowed[j] or place[j] >= 0 or j == key[group]:
                active[count] = j
                count += 1
    active_start[groups] = count
    active = active[:count]
    if not prepare(
        costs, group_start, group_of, a_start, a_row, a_value, capacity, allowed,
        key, extra, basic, place, inverse, y, price, value, rest, active_start, active,
    ):  # fmt: skip
        return INFEASIBLE, np.inf
    alpha = np.empty(n)
    share = np.empty(groups)
    column = np.empty(m)
    direction = np.empty(m)
    crossing = np.empty(groups, np.int64)
    step_of = np.empty(groups)
    for pivot in range(most_pivots):
        if pivot % 64 == 63 and not prepare(
            costs, group_start, group_of, a_start, a_row, a_value, capacity, allowed,
            key, extra, basic, place, inverse, y, price, value, rest, active_start, active,
        ):  # fmt: skip
            return INFEASIBLE, np.inf
        leaving, sign = choose_leaving(
            group_of, a_start, a_row, a_value, allowed, key, basic, place, inverse, y, rest, share
        )
        if leaving < 0:
            return OPTIMAL, dual_bound(active_start, active, allowed, value, price, capacity)
        for k in range(m):
            direction[k] = sign * inverse[leaving, k]
        for j in active:
            total = 0.0
            for entry in range(a_start[j], a_start[j + 1]):
                total += direction[a_row[entry]] * a_value[entry]
            alpha[j] = total
        slack, slack_step = -1, np.inf
        for k in range(m):
            if place[n + k] < 0 and direction[k] < -_TINY and price[k] / -direction[k] < slack_step:
                slack, slack_step = k, price[k] / -direction[k]
        for group in range(groups):
            crossing[group], step_of[group] = first_crossing(
                active_start[group], active_start[group + 1], active, key[group], allowed, place, value, alpha
            )
        slope = abs(y[leaving])
        entering, step = -1, np.inf
        while True:
            best = 0
            for group in range(1, groups):
                if step_of[group] < step_of[best]:
                    best = group
            if slack_step <= step_of[best]:
                if slack >= 0:
                    entering, step = n + slack, slack_step
                break
            j = crossing[best]
            if j < 0:
                break
            fall = alpha[key[best]] - alpha[j]
            if extra[best] > 0 or slope - fall <= _TINY:
                entering, step = j, step_of[best]
                break
            # The bound still rises behind this crossing: pass it, and let the option become the key.
            slope -= fall
            old = key[best]
            for entry in range(a_start[old], a_start[old + 1]):
                rest[a_row[entry]] += a_value[entry]
            for entry in range(a_start[j], a_start[j + 1]):
                rest[a_row[entry]] -= a_value[entry]
            key[best] = j
            crossing[best], step_of[best] = first_crossing(
                active_start[best], active_start[best + 1], active, j, allowed, place, value, alpha
            )
        if entering < 0:
            # The dual is unbounded along the direction; the certificate is checked before it is believed.
            rise = 0.0
            for group in range(groups):
                lowest = np.inf
                for spot in range(active_start[group], active_start[group + 1]):
                    j = active[spot]
                    if allowed[j] and alpha[j] < lowest:
                        lowest = alpha[j]
                rise += lowest
            size = 0.0
            is_certified = True
            for k in range(m):
                rise -= direction[k] * capacity[k]
                size += abs(direction[k])
                is_certified = is_certified and direction[k] >= -1e-9
            if is_certified and rise > 0.5 * TOLERANCE * size:
                return INFEASIBLE, np.inf
            return STALLED, dual_bound(active_start, active, allowed, value, price, capacity)
        for k in range(m):
            price[k] = max(price[k] + step * direction[k], 0.0)
        for j in active:
            value[j] += step * alpha[j]
        if entering < n:
            fill(column, 0.0)
            owner = key[group_of[entering]]
            for row in range(m):
                total = 0.0
                for entry in range(a_start[entering], a_start[entering + 1]):
                    total += inverse[row, a_row[entry]] * a_value[entry]
                for entry in range(a_start[owner], a_start[owner + 1]):
                    total -= inverse[row, a_row[entry]] * a_value[entry]
                column[row] = total
        else:
            for row in range(m):
                column[row] = inverse[row, entering - n]
        if abs(column[leaving]) < 1e-10:
            return STALLED, dual_bound(active_start, active, allowed, value, price, capacity)
        scale = 1.0 / column[leaving]
        for k in range(m):
            inverse[leaving, k] *= scale
        for row in range(m):
            if row != leaving and column[row] != 0.0:
                for k in range(m):
                    inverse[row, k] -= column[row] * inverse[leaving, k]
        old = basic[leaving]
        place[old] = -1
        if old < n:
            extra[group_of[old]] -= 1
        basic[leaving] = entering
        place[entering] = leaving
        if entering < n:
            extra[group_of[entering]] += 1
        else:
            price[entering - n] = 0.0
        # A group whose key is not allowed and stands alone gets its cheapest option.
        if old < n and extra[group_of[old]] == 0 and not allowed[key[group_of[old]]]:
            group = group_of[old]
            best = -1
            for spot in range(active_start[group], active_start[group + 1]):
                j = active[spot]
                if allowed[j] and (best < 0 or value[j] < value[best]):
                    best = j
            if best < 0:
                return INFEASIBLE, np.inf
            lost = key[group]
            for entry in range(a_start[lost], a_start[lost + 1]):
                rest[a_row[entry]] += a_value[entry]
            for entry in range(a_start[best], a_start[best + 1]):
                rest[a_row[entry]] -= a_value[entry]
            key[group] = best
        for row in range(m):
            total = 0.0
            for k in range(m):
                total += inverse[row, k] * rest[k]
            y[row] = total
        if step > 0.0:
            total = 0.0
            for group in range(groups):
                total += value[key[group]]
            for k in range(m):
                total -= price[k] * capacity[k]
            if total >= cutoff:
                bound = dual_bound(active_start, active, allowed, value, price, capacity)
                if bound >= cutoff:
                    return CUT_OFF, bound
    return STALLED, dual_bound(active_start, active, allowed, value, price, capacity)
