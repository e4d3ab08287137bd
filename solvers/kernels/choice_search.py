"""Branch and bound over the relaxation of `solvers.kernels.choice_lp`: depth first, and stopped and resumed at will.

The state of a search lives in arrays, so that a caller can run it for some nodes, look at the clock, and go on.
``marks`` [4]: nodes so far, length of the trail, depth of the stack, whether the root is done.
``best`` [3]: value of the incumbent, the lower bound where the search was stopped, and the difference to the incumbent
below which a bound counts as met.
"""

from __future__ import annotations

import numpy as np

from solvers.kernels import helper, kernel
from solvers.kernels.choice_lp import CUT_OFF, INFEASIBLE, TOLERANCE, fill, reset_basis, solve_relaxation

NODES, TRAIL, DEPTH, STARTED = 0, 1, 2, 3
FINISHED, STOPPED, EMPTY = 0, 1, 2

RELATIVE_SLACK = 1e-10  # of the sum of the incumbent's |costs|
NEARLY_ONE = 1.0 - 1e-5


@helper
def remove(j, allowed, count, group_of, trail, marks):
    """Take option j out of the domain and note it on the trail."""
    allowed[j] = False
    count[group_of[j]] -= 1
    trail[marks[TRAIL]] = j
    marks[TRAIL] += 1


@helper
def restore(length, allowed, count, group_of, trail, marks):
    """Put back what was removed after the trail had ``length``."""
    while marks[TRAIL] > length:
        marks[TRAIL] -= 1
        j = trail[marks[TRAIL]]
        allowed[j] = True
        count[group_of[j]] += 1


@helper
def propagate(group_start, group_of, a_start, a_row, a_value, capacity, allowed, count, trail, marks, least, load):
    """Remove options that no completion can afford; False where a group is left without any.

    ``least`` [G, m] and ``load`` [m] are scratch: the smallest use of a resource by a group (written where an option of
    the group touches the resource), and its sum.
    """
    m = len(capacity)
    groups = len(count)
    touched = np.zeros(m, np.int64)
    changed = True
    while changed:
        changed = False
        fill(load, 0.0)
        for group in range(groups):
            if count[group] == 0:
                return False
            for j in range(group_start[group], group_start[group + 1]):
                if not allowed[j]:
                    continue
                for entry in range(a_start[j], a_start[j + 1]):
                    k = a_row[entry]
                    least[group, k] = a_value[entry] if touched[k] == 0 else min(least[group, k], a_value[entry])
                    touched[k] += 1
            for j in range(group_start[group], group_start[group + 1]):
                if not allowed[j]:
                    continue
                for entry in range(a_start[j], a_start[j + 1]):
                    k = a_row[entry]
                    if touched[k] > 0:
                        if touched[k] < count[group]:
                            least[group, k] = min(least[group, k], 0.0)  # some option leaves it alone
                        load[k] += least[group, k]
                        touched[k] = 0
        for k in range(m):
            if load[k] > capacity[k] + TOLERANCE:
                return False
        for group in range(groups):
            if count[group] == 1:
                continue
            for j in range(group_start[group], group_start[group + 1]):
                if not allowed[j]:
                    continue
                for entry in range(a_start[j], a_start[j + 1]):
                    k = a_row[entry]
                    if load[k] - least[group, k] + a_value[entry] > capacity[k] + TOLERANCE:
                        remove(j, allowed, count, group_of, trail, marks)
                        changed = True
                        break
            if count[group] == 0:
                return False
    return True


@helper
def fits(j, a_start, a_row, a_value, capacity, load):
    """Whether option j can be added to ``load`` [m]."""
    for entry in range(a_start[j], a_start[j + 1]):
        if load[a_row[entry]] + a_value[entry] > capacity[a_row[entry]] + TOLERANCE:
            return False
    return True


@helper
def add(j, sign, a_start, a_row, a_value, load):
    """Add (or with sign -1 take back) the use of option j."""
    for entry in range(a_start[j], a_start[j + 1]):
        load[a_row[entry]] += sign * a_value[entry]


@helper
def round_point(
    costs, group_start, a_start, a_row, a_value, capacity, allowed, count, key, extra, value, load, choice, weight
):
    """Keep the groups that are decided, place the others greedily, improve; value, or inf.

    ``load`` [m], ``choice`` [G] and ``weight`` [G] are scratch; ``choice`` holds the point.
    """
    groups = len(key)
    fill(load, 0.0)
    waiting = 0
    for group in range(groups):
        choice[group] = -1
        weight[group] = 0.0
        if count[group] == 1:  # no choice, whether it fits so far or not: a later option may use less than nothing
            for j in range(group_start[group], group_start[group + 1]):
                if allowed[j]:
                    choice[group] = j
        elif extra[group] == 0 and allowed[key[group]]:
            choice[group] = key[group]
        if choice[group] >= 0:
            add(choice[group], 1.0, a_start, a_row, a_value, load)
        else:
            waiting += 1
            for entry in range(a_start[group_start[group]], a_start[group_start[group + 1]]):
                weight[group] = max(weight[group], abs(a_value[entry]))
    while waiting > 0:
        group = -1
        for other in range(groups):
            if choice[other] < 0 and (group < 0 or weight[other] > weight[group]):
                group = other
        best = -1
        for j in range(group_start[group], group_start[group + 1]):
            if allowed[j] and (best < 0 or value[j] < value[best]) and fits(j, a_start, a_row, a_value, capacity, load):
                best = j
        if best < 0:
            return np.inf
        choice[group] = best
        add(best, 1.0, a_start, a_row, a_value, load)
        waiting -= 1
    for k in range(len(capacity)):
        if load[k] > capacity[k] + TOLERANCE:
            return np.inf
    changed = True
    passes = 0
    while changed and passes < 4:
        changed = False
        passes += 1
        for group in range(groups):
            j = choice[group]
            add(j, -1.0, a_start, a_row, a_value, load)
            best = j
            for other in range(group_start[group], group_start[group + 1]):
                if (
                    allowed[other]
                    and costs[other] < costs[best]
                    and fits(other, a_start, a_row, a_value, capacity, load)
                ):
                    best = other
            add(best, 1.0, a_start, a_row, a_value, load)
            if best != j:
                choice[group] = best
                changed = True
    for k in range(len(capacity)):
        if load[k] > capacity[k] + TOLERANCE:
            return np.inf
    total = 0.0
    for group in range(groups):
        total += costs[choice[group]]
    return total


@helper
def choose_branch(group_of, group_start, a_start, a_value, allowed, count, key, basic, y, value, share):
    """Option to branch on: of the split group that uses most of a resource; -1 where all groups are decided."""
    m = len(basic)
    n = len(group_of)
    for row in range(m):
        if basic[row] < n:
            share[group_of[basic[row]]] = 1.0
    for row in range(m):
        if basic[row] < n:
            share[group_of[basic[row]]] -= y[row]
    best, score = -1, 0.0
    for row in range(m):
        j = basic[row]
        if j >= n:
            continue
        group = group_of[j]
        if count[group] < 2:
            continue
        top, top_share = key[group], share[group]
        for other in range(m):
            if basic[other] < n and group_of[basic[other]] == group and y[other] > top_share:
                top, top_share = basic[other], y[other]
        even = min(top_share, 1.0 - top_share)
        merit = 1e-3 * even
        for entry in range(a_start[top], a_start[top + 1]):
            merit = max(merit, abs(a_value[entry]) + 1e-3 * even)
        if even > 1e-7 and merit > score and allowed[top]:
            best, score = top, merit
    if best >= 0:
        return best
    margin = np.inf  # the relaxation is integral but not accepted: decide the group with the smallest margin
    for group in range(len(count)):
        if count[group] < 2:
            continue
        first, second = -1, -1
        for j in range(group_start[group], group_start[group + 1]):
            if not allowed[j]:
                continue
            if first < 0 or value[j] < value[first]:
                first, second = j, first
            elif second < 0 or value[j] < value[second]:
                second = j
        if best < 0 or value[second] - value[first] < margin:
            best, margin = first, value[second] - value[first]
    return best


@helper
def load_basis(depth, n, group_of, stack_key, stack_basic, key, extra, basic, place):
    """Go back to the basis that a node had."""
    fill(place, -1)
    fill(extra, 0)
    for group in range(len(key)):
        key[group] = stack_key[depth, group]
    for row in range(len(basic)):
        j = stack_basic[depth, row]
        basic[row] = j
        place[j] = row
        if j < n:
            extra[group_of[j]] += 1


@helper
def start_row(group_start, is_allowed, allowed, count, marks, best):
    """Get the state ready for a new row."""
    for group in range(len(count)):
        count[group] = 0
        for j in range(group_start[group], group_start[group + 1]):
            allowed[j] = is_allowed[j]
            count[group] += is_allowed[j]
    fill(marks, 0)
    best[0], best[1], best[2] = np.inf, -np.inf, 0.0


@kernel
def search(
    batch, whole, group_start, group_of, a_start, a_row, a_value, capacity, is_allowed, allowed, count,
    key, extra, basic, place, inverse, y, price, value, trail, marks,
    stack_trail, stack_branch, stack_bound, stack_key, stack_basic, best, incumbents, outcomes, most_nodes, is_fresh,
):  # fmt: skip
    """Search for at most ``most_nodes`` nodes in each row of costs ``batch`` [B, n].

    ``outcomes`` [B] says FINISHED, STOPPED or EMPTY (finished without a point); ``incumbents`` [B, G] are the options
    of the best points. ``whole`` [B] tells rows of whole numbers, where a better point is better by at least one. A
    single row that was STOPPED goes on with ``is_fresh`` False.
    """
    n, m, groups = batch.shape[1], len(basic), len(key)
    rest = np.empty(m)
    load = np.empty(m)
    least = np.empty((groups, m))
    choice = np.empty(groups, np.int64)
    weight = np.empty(groups)
    share = np.empty(groups)
    for b in range(batch.shape[0]):
        costs = batch[b]
        done = 0
        outcomes[b] = FINISHED
        if is_fresh:
            start_row(group_start, is_allowed, allowed, count, marks, best)
        while True:
            if marks[STARTED] == 0:
                marks[STARTED] = 1
                if not reset_basis(costs, group_start, allowed, key, extra, basic, place):
                    break
                parent_bound = -np.inf
            else:
                # Take the other side of the deepest open branch.
                if marks[DEPTH] == 0:
                    break
                if done >= most_nodes:
                    best[1] = best[0]
                    for depth in range(marks[DEPTH]):
                        best[1] = min(best[1], stack_bound[depth])
                    outcomes[b] = STOPPED
                    break
                marks[DEPTH] -= 1
                depth = marks[DEPTH]
                restore(stack_trail[depth], allowed, count, group_of, trail, marks)
                if stack_bound[depth] >= best[0] - best[2]:
                    continue
                remove(stack_branch[depth], allowed, count, group_of, trail, marks)
                parent_bound = stack_bound[depth]
                load_basis(depth, n, group_of, stack_key, stack_basic, key, extra, basic, place)
            while True:  # dive
                done += 1
                marks[NODES] += 1
                if not propagate(
                    group_start, group_of, a_start, a_row, a_value, capacity, allowed, count, trail, marks, least, load
                ):
                    break
                outcome, own_bound = solve_relaxation(
                    costs, group_start, group_of, a_start, a_row, a_value, capacity, allowed, key, extra, basic,
                    place, inverse, y, price, value, rest, best[0] - best[2], 50 + 10 * (m + groups),
                )  # fmt: skip
                bound = max(own_bound, parent_bound)
                if outcome in (INFEASIBLE, CUT_OFF) or bound >= best[0] - best[2]:
                    break
                found = round_point(
                    costs, group_start, a_start, a_row, a_value, capacity, allowed, count, key, extra, value, load,
                    choice, weight,
                )  # fmt: skip
                if found < best[0]:
                    best[0] = found
                    size = 0.0
                    for group in range(groups):
                        incumbents[b, group] = choice[group]
                        size += abs(costs[choice[group]])
                    best[2] = NEARLY_ONE if whole[b] else RELATIVE_SLACK * size
                    if bound >= best[0] - best[2]:
                        break
                # Options that cannot be part of a better point go: the values belong to this node's own bound.
                before = marks[TRAIL]
                for group in range(groups):
                    if count[group] == 1:
                        continue
                    lowest = np.inf
                    for j in range(group_start[group], group_start[group + 1]):
                        if allowed[j] and value[j] < lowest:
                            lowest = value[j]
                    for j in range(group_start[group], group_start[group + 1]):
                        if allowed[j] and own_bound + value[j] - lowest >= best[0] - best[2] and value[j] > lowest:
                            remove(j, allowed, count, group_of, trail, marks)
                branch = choose_branch(
                    group_of, group_start, a_start, a_value, allowed, count, key, basic, y, value, share
                )
                if branch < 0:
                    if marks[TRAIL] > before:
                        continue  # decided only now: look at that one point
                    break  # every group was decided, and the rounding has judged that point
                depth = marks[DEPTH]
                marks[DEPTH] += 1
                stack_trail[depth] = marks[TRAIL]
                stack_branch[depth] = branch
                stack_bound[depth] = bound
                for group in range(groups):
                    stack_key[depth, group] = key[group]
                for row in range(m):
                    stack_basic[depth, row] = basic[row]
                group = group_of[branch]
                for j in range(group_start[group], group_start[group + 1]):
                    if allowed[j] and j != branch:
                        remove(j, allowed, count, group_of, trail, marks)
                parent_bound = bound
        if outcomes[b] == FINISHED and best[0] == np.inf:
            outcomes[b] = EMPTY
