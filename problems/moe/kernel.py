"""The inner loop of the search for one layer, in numba: simulated annealing over copies of experts.

All loops stay in this one file, because numba watches only the file of a function when it keeps machine code. A
token-node *product* is the chance that a recorded token misses a node: the product over its experts of ``miss`` [E, N],
kept as the product of the factors above 0 and the number of zeros, so that one factor can be taken out again.
"""

from __future__ import annotations

import numba as nb
import numpy as np

EPOCHS = 200  # in which temperature and sharpness are constant
ENOUGH = 1e-5  # smaller gains are not worth a copy of the plan
CHEAP = 16  # moves refused by the cap that count as one
REFRESH = 4096  # accepted moves until loads and products are computed afresh, so that rounding does not pile up
OPTIONS = {"nogil": True, "cache": True, "error_model": "numpy"}


@nb.njit(**OPTIONS)
def _random(state):
    """Next number in [0, 1) of a splitmix64 generator, whose ``state`` [1] uint64 moves on."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.float64(z >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@nb.njit(**OPTIONS)
def _fill_loads(loads, copies, on, load):
    """Load of each GPU from the experts ``on`` [G, S] it (-1: empty slot)."""
    for g in range(on.shape[0]):
        load[g] = 0.0
        for i in range(on.shape[1]):
            if on[g, i] >= 0:
                load[g] += loads[on[g, i]] / copies[on[g, i]]


@nb.njit(**OPTIONS)
def _exponentials(load, sharpness):
    """Sum over GPUs of exp(sharpness (load - 1))."""
    total = 0.0
    for g in range(len(load)):
        total += np.exp(sharpness * (load[g] - 1.0))
    return total


@nb.njit(**OPTIONS)
def _fill_products(tokens, miss, product, zeros):
    """Products and zeros of all tokens and nodes; returns the sum of the chances to reach."""
    reached = 0.0
    for t in range(tokens.shape[0]):
        for m in range(miss.shape[1]):
            product[t, m] = 1.0
            zeros[t, m] = 0
            for i in range(tokens.shape[1]):
                factor = miss[tokens[t, i], m]
                if factor > 0.0:
                    product[t, m] *= factor
                else:
                    zeros[t, m] += 1
            reached += 1.0 if zeros[t, m] else 1.0 - product[t, m]
    return reached


@nb.njit(**OPTIONS)
def _new_miss(copies_in, copies, source, target, miss, fresh, nodes):
    """Chances ``fresh`` [N] to miss once a copy leaves node ``source`` for ``target`` (-1: none), and what changes."""
    after = copies + (1 if target >= 0 else 0) - (1 if source >= 0 else 0)
    count = 0
    for m in range(len(copies_in)):
        here = copies_in[m] + (1 if m == target else 0) - (1 if m == source else 0)
        fresh[m] = 1.0 - here / after if here < after else 0.0
        if fresh[m] != miss[m]:
            nodes[count] = m
            count += 1
    return count


@nb.njit(**OPTIONS)
def _add(g, amount, change, touched, count):
    """Add to the change of a GPU's load; lists the GPU."""
    if change[g] == 0.0:
        touched[count] = g
        count += 1
    change[g] += amount
    return count


@nb.njit(**OPTIONS)
def _share(load, copies, source, target, x, change, touched, count):
    """Change of GPU loads when a copy leaves GPU ``source`` for ``target`` (-1: none); all copies share anew."""
    after = copies + (1 if target >= 0 else 0) - (1 if source >= 0 else 0)
    old, new = load / copies, load / after
    if after != copies:
        for g in range(len(x)):
            if x[g] and g != source:
                count = _add(g, new - old, change, touched, count)
    if source >= 0:
        count = _add(source, -old, change, touched, count)
    if target >= 0:
        count = _add(target, new, change, touched, count)
    return count


@nb.njit(**OPTIONS)
def _gain(e, ne, nodes_e, fresh_e, f, nf, nodes_f, fresh_f, miss, start, entries, product, zeros, mark, move):
    """By how much the sum of the chances to reach falls when e, and then f, gets fresh factors on its nodes."""
    gain = 0.0
    if ne > 0:
        for k in range(start[e], start[e + 1]):
            t = entries[k]
            mark[t] = move
            for c in range(ne):
                m = nodes_e[c]
                old = miss[e, m]
                if zeros[t, m] == (0 if old > 0.0 else 1):
                    rest = product[t, m] / old if old > 0.0 else product[t, m]
                    gain += rest * (fresh_e[m] - old)
    if nf > 0:
        for k in range(start[f], start[f + 1]):
            t = entries[k]
            has_both = ne > 0 and mark[t] == move
            for c in range(nf):
                m = nodes_f[c]
                old = miss[f, m]
                rest = product[t, m] / old if old > 0.0 else product[t, m]
                z = zeros[t, m] - (0 if old > 0.0 else 1)
                if has_both and fresh_e[m] != miss[e, m]:
                    if miss[e, m] > 0.0:
                        rest /= miss[e, m]
                    else:
                        z -= 1
                    if fresh_e[m] > 0.0:
                        rest *= fresh_e[m]
                    else:
                        z += 1
                if z == 0:
                    gain += rest * (fresh_f[m] - old)
    return gain


@nb.njit(**OPTIONS)
def _apply(e, source, target, count, nodes, fresh, x, copies, copies_in, node_of, miss, start, entries, product, zeros):
    """Let a copy of e leave GPU ``source`` for ``target`` (-1: none), and give its tokens their new factors."""
    for c in range(count):
        m = nodes[c]
        old, new = miss[e, m], fresh[m]
        for k in range(start[e], start[e + 1]):
            t = entries[k]
            if old > 0.0:
                product[t, m] /= old
            else:
                zeros[t, m] -= 1
            if new > 0.0:
                product[t, m] *= new
            else:
                zeros[t, m] += 1
        miss[e, m] = new
    if source >= 0:
        x[e, source] = False
        copies[e] -= 1
        copies_in[e, node_of[source]] -= 1
    if target >= 0:
        x[e, target] = True
        copies[e] += 1
        copies_in[e, node_of[target]] += 1


@nb.njit(**OPTIONS)
def anneal(
    loads, tokens, start, entries, x, node_of, slots, most, is_held, cap, weight, moves, hot, cold, soft, sharp, tries,
    state,
):  # fmt: skip
    """Improve ``x`` [E, G] (bool, changed in place to the best found); returns its value.

    A move takes expert e from GPU a to GPU b and expert f from b to a (either may be an empty slot), or puts f in the
    place of a copy of e that has others. Its energy is sharpness^-1 log sum_g exp(sharpness (load_g - 1)), a smooth
    largest load, plus the traffic; sharpness grows and temperature falls. The best plan is kept by the exact value.

    Args:
        loads: [E], 1 is the mean load of a GPU.
        tokens: [P, k] experts of recorded tokens.
        start: [E + 1], where the tokens of each expert begin in ``entries``.
        entries: [P k] tokens of each expert.
        x: [E, G] a feasible plan.
        node_of: [G].
        slots: of each GPU.
        most: most copies of one expert.
        is_held: [E, G] bool, where a copy costs no migration.
        cap: most copies elsewhere.
        weight: of one recorded token's chance to reach one node.
        moves: how many to try; those that the cap refuses count a sixteenth.
        hot: first temperature.
        cold: last temperature.
        soft: first sharpness.
        sharp: last sharpness.
        tries: further partners for a swap, of which the one of the nearest load is taken.
        state: [1] uint64 of the random numbers.
    """
    experts, gpus = x.shape
    nodes = node_of[gpus - 1] + 1
    copies, used = np.zeros(experts, np.int64), np.zeros(gpus, np.int64)
    copies_in = np.zeros((experts, nodes), np.int64)
    on = np.full((gpus, slots), -1, np.int64)
    moved = 0
    for e in range(experts):
        for g in range(gpus):
            if x[e, g]:
                copies[e] += 1
                copies_in[e, node_of[g]] += 1
                on[g, used[g]] = e
                used[g] += 1
                moved += 0 if is_held[e, g] else 1
    miss = np.empty((experts, nodes))
    for e in range(experts):
        for m in range(nodes):
            miss[e, m] = 1.0 - copies_in[e, m] / copies[e] if copies_in[e, m] < copies[e] else 0.0
    load = np.empty(gpus)
    _fill_loads(loads, copies, on, load)
    rows = tokens.shape[0]
    product, zeros = np.ones((rows, nodes)), np.zeros((rows, nodes), np.int64)
    reached = _fill_products(tokens, miss, product, zeros)
    best_value, best = load.max() + weight * reached, x.copy()

    change, amount = np.zeros(gpus), np.empty(4 * gpus + 8)
    touched = np.empty(4 * gpus + 8, np.int64)
    fresh_e, fresh_f = np.empty(nodes), np.empty(nodes)
    nodes_e, nodes_f = np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    mark = np.full(rows, -1, np.int64)
    total = energy = sharpness = temperature = 0.0
    since, worst, epoch = 0, 0, max(moves // EPOCHS, 1)
    move = idle = next_epoch = 0
    while move < moves:
        if move >= next_epoch or since >= REFRESH:
            next_epoch = max(next_epoch, move - move % epoch + epoch)
            done = move / moves
            temperature = hot * (cold / hot) ** done
            sharpness = soft * (sharp / soft) ** done
            _fill_loads(loads, copies, on, load)
            total = _exponentials(load, sharpness)
            if since >= REFRESH:
                since = 0
                reached = _fill_products(tokens, miss, product, zeros)
            energy = np.log(total) / sharpness + weight * reached
        # what moves: e leaves a for b and f leaves b for a; without a b, f takes the place of e
        a = worst if _random(state) < 0.3 else int(_random(state) * gpus)
        i = int(_random(state) * slots)
        e = on[a, i]
        b = j = -1
        if _random(state) < 0.75:
            b, j = int(_random(state) * gpus), int(_random(state) * slots)
            f = on[b, j]
            if e >= 0:  # what is swapped should not tip the balance
                size = loads[e] / copies[e]
                near = abs(size - (loads[f] / copies[f] if f >= 0 else 0.0))
                for _ in range(tries):
                    other_b, other_j = int(_random(state) * gpus), int(_random(state) * slots)
                    other = on[other_b, other_j]
                    off = abs(size - (loads[other] / copies[other] if other >= 0 else 0.0))
                    if off < near and other_b != a:
                        b, j, f, near = other_b, other_j, other, off
            if a == b or e == f or (e >= 0 and x[e, b]) or (f >= 0 and x[f, a]):
                move += 1
                continue
        else:
            f = int(_random(state) * (experts + experts // 8 + 1))
            if f < experts:  # the one of three whose copies are busiest
                for _ in range(2):
                    other = int(_random(state) * experts)
                    if loads[other] * copies[f] > loads[f] * copies[other]:
                        f = other
                if x[f, a] or copies[f] >= most:
                    move += 1
                    continue
            else:
                f = -1  # leave the slot empty
            if e == f or (e >= 0 and copies[e] == 1):
                move += 1
                continue
        shift = 0
        if e >= 0:
            shift -= 0 if is_held[e, a] else 1
            shift += 0 if b < 0 or is_held[e, b] else 1
        if f >= 0:
            shift += 0 if is_held[f, a] else 1
            shift -= 0 if b < 0 or is_held[f, b] else 1
        if shift > 0 and moved + shift > cap:
            idle += 1  # costs next to nothing, so it counts as a small part of a move
            move += 0 if idle % CHEAP else 1
            continue
        move += 1
        # loads are changed at once, and given back if the move is refused
        count = 0
        if e >= 0:
            count = _share(loads[e], copies[e], a, b, x[e], change, touched, count)
        if f >= 0:
            count = _share(loads[f], copies[f], b, a, x[f], change, touched, count)
        new_total = total
        for c in range(count):
            g = touched[c]
            amount[c] = change[g]
            change[g] = 0.0
            new_total -= np.exp(sharpness * (load[g] - 1.0))
            load[g] += amount[c]
            new_total += np.exp(sharpness * (load[g] - 1.0))
        smooth = np.log(max(new_total, 1e-300)) / sharpness
        limit = energy - temperature * np.log(max(_random(state), 1e-300))
        gain, most_gain, ne, nf = 0.0, 0.0, 0, 0
        if weight > 0.0:
            node_a, node_b = node_of[a], node_of[b] if b >= 0 else -1
            if e >= 0:
                ne = _new_miss(copies_in[e], copies[e], node_a, node_b, miss[e], fresh_e, nodes_e)
                for c in range(ne):
                    most_gain += max(fresh_e[nodes_e[c]] - miss[e, nodes_e[c]], 0.0) * (start[e + 1] - start[e])
            if f >= 0:
                nf = _new_miss(copies_in[f], copies[f], node_b, node_a, miss[f], fresh_f, nodes_f)
                for c in range(nf):
                    most_gain += max(fresh_f[nodes_f[c]] - miss[f, nodes_f[c]], 0.0) * (start[f + 1] - start[f])
            if smooth + weight * (reached - most_gain) <= limit:  # else not worth a look at the tokens
                gain = _gain(
                    e, ne, nodes_e, fresh_e, f, nf, nodes_f, fresh_f, miss, start, entries, product, zeros, mark, move
                )
        proposed = smooth + weight * (reached - gain)
        if proposed > limit:
            for c in range(count):
                load[touched[c]] -= amount[c]
            continue
        since += 1
        total, energy = new_total, proposed
        reached -= gain
        moved += shift
        if e >= 0:
            _apply(e, a, b, ne, nodes_e, fresh_e, x, copies, copies_in, node_of, miss, start, entries, product, zeros)
        if f >= 0:
            _apply(f, b, a, nf, nodes_f, fresh_f, x, copies, copies_in, node_of, miss, start, entries, product, zeros)
        on[a, i] = f
        if b >= 0:
            on[b, j] = e
        worst = load.argmax()
        value = load[worst] + weight * reached
        if value < best_value - ENOUGH:
            best_value = value
            best[:] = x
    x[:] = best
    return best_value
