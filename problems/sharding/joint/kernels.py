"""Compiled loops of the joint search. This module imports numba, so import it inside functions only.

All loops see one flat `Model` (see ``problems.sharding.joint.model``): an atom touches ranks, with weights on features;
the value of a plan is the sum over features of the largest load of a rank. The rating has one feature; the critical
path has two for compute and two for the comms of each sharding type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

SMOOTH = 0.02  # share of the root mean square load in the energy of the critical path: evens out what is not largest


def kernel(function: Callable[..., Any]) -> Any:
    """Compile on the first call, and keep the machine code on disk where there is a folder to write to."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        return njit(**options)(function)


@kernel
def draw(rng):
    """Uniform in [0, 1): xorshift64* on the state ``rng`` [1] uint64, so that a run depends on its own seed alone."""
    x = rng[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    rng[0] = x
    return float((x * np.uint64(2685821657736338717)) >> np.uint64(11)) / 9007199254740992.0


@kernel
def draw_below(rng, count):
    """Integer from 0 to count - 1."""
    return int(draw(rng) * count)


@kernel
def excess(load, target):
    """What is over the target."""
    return load - target if load > target else 0.0


@kernel
def path_energy(loads):
    """Sum over features of the largest load, and a little of the root mean square."""
    features, ranks = loads.shape
    total = 0.0
    for f in range(features):
        top, squares = 0.0, 0.0
        for r in range(ranks):
            load = loads[f, r]
            top = max(top, load)
            squares += load * load
        if squares > 0.0:
            total += top + SMOOTH * np.sqrt(squares / ranks)
    return total


@kernel
def toggle(atom, sign, is_path, target, memory_price, model, state):
    """Put an atom on (sign 1) or off (-1).

    Returns:
        The change of the energy: own cost, excess of loads (rating only), of memory and of spread groups.
    """
    atom_start, entry_rank, entry_weight, feature, entry_bytes, capacity, spread_start, spread_group, own_cost = model
    loads, used, counts = state
    change = sign * own_cost[atom]
    for e in range(atom_start[atom], atom_start[atom + 1]):
        r = entry_rank[e]
        if is_path:
            for k in range(entry_weight.shape[1]):
                loads[feature[atom, k], r] += sign * entry_weight[e, k]
        else:
            before = excess(loads[0, r], target)
            loads[0, r] += sign * entry_weight[e, 0]
            change += excess(loads[0, r], target) - before
        before = excess(used[r], capacity[r])
        used[r] += sign * entry_bytes[e]
        change += memory_price * (excess(used[r], capacity[r]) - before)
        for k in range(spread_start[atom], spread_start[atom + 1]):
            g = spread_group[k]
            if sign > 0.0:
                if counts[g, r] >= 1:
                    change += target
                counts[g, r] += 1
            else:
                counts[g, r] -= 1
                if counts[g, r] >= 1:
                    change -= target
    return change


@kernel
def find_place(first, last, place, atom_place):
    """Atom of a piece (atoms first to last) at a place, by bisection; -1 if there is none."""
    low, high = first, last
    while low < high:
        middle = (low + high) // 2
        if atom_place[middle] < place:
            low = middle + 1
        else:
            high = middle
    if low < last and atom_place[low] == place:
        return low
    return -1


@kernel
def place_greedily(pieces, by_bytes, shape, model, totals, choice, state):
    """Put the given pieces, in their order, each where its ranks end least loaded among the places that fit.

    Args:
        pieces: [Q] pieces in the order of placement.
        by_bytes: whether the least filled place is taken instead of the least loaded.
        shape: (mode_start, piece_start, atom_place).
        model: see `Model`.
        totals: [E] weight of an entry over all features.
        choice: [P], filled.
        state: (loads [1, W] of the totals, used [W], counts [g, W]), filled.

    Returns:
        Number of pieces that fitted nowhere and were put where they exceed least.
    """
    piece_start = shape[1]
    atom_start, entry_rank, _, _, entry_bytes, capacity, spread_start, spread_group, _ = model
    loads, used, counts = state
    misfits = 0
    for q in range(len(pieces)):
        piece = pieces[q]
        best, best_score, best_over = -1, np.inf, np.inf
        for atom in range(piece_start[piece], piece_start[piece + 1]):
            over, score = 0.0, 0.0
            for e in range(atom_start[atom], atom_start[atom + 1]):
                r = entry_rank[e]
                over += excess(used[r] + entry_bytes[e], capacity[r]) / (capacity[r] + 1.0)
                for k in range(spread_start[atom], spread_start[atom + 1]):
                    if counts[spread_group[k], r] > 0:
                        over += 1.0
                load = loads[0, r] + totals[e]
                if by_bytes:
                    load = (used[r] + entry_bytes[e]) / (capacity[r] + 1.0)
                score = max(score, load)
            if over < best_over or (over == best_over and score < best_score):
                best, best_score, best_over = atom, score, over
        if best_over > 0.0:
            misfits += 1
        choice[piece] = best
        for e in range(atom_start[best], atom_start[best + 1]):
            r = entry_rank[e]
            loads[0, r] += totals[e]
            used[r] += entry_bytes[e]
            for k in range(spread_start[best], spread_start[best + 1]):
                counts[spread_group[k], r] += 1
    return misfits


@kernel
def pick(first, last, model, state, rng):
    """A random atom of a piece; of two, the one whose rank is less loaded on the first feature."""
    atom_start, entry_rank = model[0], model[1]
    loads = state[0]
    a = first + draw_below(rng, last - first)
    b = first + draw_below(rng, last - first)
    if loads[0, entry_rank[atom_start[b]]] < loads[0, entry_rank[atom_start[a]]]:
        return b
    return a


@kernel
def set_mode(unit, mode, place, choice, mode_of, shape, model, state, removed, added, rng):
    """Fill `removed` and `added` with the atoms that a change of mode takes off and puts on; returns their numbers.

    The first piece goes to ``place`` where it can (-1: wherever).
    """
    mode_start, piece_start, atom_place = shape
    count_removed, count_added = 0, 0
    for piece in range(mode_start[mode_of[unit]], mode_start[mode_of[unit] + 1]):
        removed[count_removed] = choice[piece]
        count_removed += 1
    for piece in range(mode_start[mode], mode_start[mode + 1]):
        atom = -1
        if place >= 0 and piece == mode_start[mode]:
            atom = find_place(piece_start[piece], piece_start[piece + 1], place, atom_place)
        if atom < 0:
            atom = pick(piece_start[piece], piece_start[piece + 1], model, state, rng)
        added[count_added] = atom
        count_added += 1
    return count_removed, count_added


@kernel
def find_mode(unit, key, unit_start, mode_key):
    """A mode of a unit with that kind and width, -1 if there is none."""
    for mode in range(unit_start[unit], unit_start[unit + 1]):
        if mode_key[mode] == key:
            return mode
    return -1


@kernel
def anneal(choice, mode_of, shape, units, model, state, is_path, target, memory_price, hot, cold, steps, seed):
    """Metropolis search: for the rating, a plan without excess over ``target``; for the path, one of least energy.

    Args:
        choice: [P] atom of each piece of the modes in use, else -1; changed in place.
        mode_of: [U] mode of each unit; changed in place.
        shape: (mode_start, piece_start, atom_place).
        units: (unit_start, mode_key, atom_piece): see `Model`.
        model: see `Model`.
        state: belongs to the choice; changed in place.
        is_path: which score.
        target: load that no rank should exceed (rating); a scale of values (path).
        memory_price: of a byte over the capacity, in units of load.
        hot: first temperature.
        cold: last temperature.
        steps: proposals.
        seed: of the draws.

    Returns:
        The energy at the end, and the number of proposals made.
    """
    rng = np.empty(1, dtype=np.uint64)
    rng[0] = np.uint64(seed) * np.uint64(7046029254386353131) + np.uint64(88172645463325252)
    for _ in range(8):
        draw(rng)
    unit_start, mode_key, atom_piece = units
    mode_start, piece_start, atom_place = shape
    loads, used, counts = state
    capacity, own_cost = model[5], model[8]
    energy = 0.0
    has_own_cost = False
    for atom in choice:
        if atom >= 0:
            energy += own_cost[atom]
    for cost in own_cost:
        has_own_cost = has_own_cost or cost != 0.0
    for r in range(len(used)):
        if not is_path:
            energy += excess(loads[0, r], target)
        energy += memory_price * excess(used[r], capacity[r])
        for g in range(len(counts)):
            if counts[g, r] > 1:
                energy += (counts[g, r] - 1) * target
    path = path_energy(loads) if is_path else 0.0
    longest = 1
    for mode in range(len(mode_start) - 1):
        longest = max(longest, mode_start[mode + 1] - mode_start[mode])
    removed = np.empty(2 * longest + 2, dtype=np.int64)
    added = np.empty(2 * longest + 2, dtype=np.int64)
    ratio = cold / hot
    temperature = hot
    tiny = 1e-12 * target
    stops = not is_path and not has_own_cost
    for step in range(steps):
        if stops and energy <= tiny:
            return energy, step
        if step % 256 == 0:
            temperature = hot * ratio ** (step / steps)
        u = draw_below(rng, len(mode_of))
        dice = draw(rng)
        count_removed, count_added = 0, 0
        v, mode_u, mode_v = -1, mode_of[u], -1
        if dice < 0.35:  # one piece elsewhere
            piece = mode_start[mode_u] + draw_below(rng, mode_start[mode_u + 1] - mode_start[mode_u])
            if piece_start[piece + 1] - piece_start[piece] < 2:
                continue
            atom = pick(piece_start[piece], piece_start[piece + 1], model, state, rng)
            if atom == choice[piece]:
                continue
            removed[0], added[0] = choice[piece], atom
            count_removed = count_added = 1
        elif dice < 0.65:  # two pieces change places
            w = draw_below(rng, len(mode_of))
            if w == u:
                continue
            p = mode_start[mode_u] + draw_below(rng, mode_start[mode_u + 1] - mode_start[mode_u])
            q = mode_start[mode_of[w]] + draw_below(rng, mode_start[mode_of[w] + 1] - mode_start[mode_of[w]])
            here, there = atom_place[choice[p]], atom_place[choice[q]]
            if here == there or here < 0 or there < 0:
                continue
            a = find_place(piece_start[p], piece_start[p + 1], there, atom_place)
            b = find_place(piece_start[q], piece_start[q + 1], here, atom_place)
            if a < 0 or b < 0:
                continue
            removed[0], removed[1], added[0], added[1] = choice[p], choice[q], a, b
            count_removed = count_added = 2
        elif dice < 0.8:  # another mode
            modes = unit_start[u + 1] - unit_start[u]
            if modes < 2:
                continue
            mode_u = unit_start[u] + draw_below(rng, modes)
            if mode_u == mode_of[u]:
                continue
            count_removed, count_added = set_mode(
                u, mode_u, -1, choice, mode_of, shape, model, state, removed, added, rng
            )
        else:  # two units change modes and places
            v = draw_below(rng, len(mode_of))
            if mode_key[mode_of[v]] == mode_key[mode_of[u]]:
                continue
            mode_v = find_mode(v, mode_key[mode_of[u]], unit_start, mode_key)
            mode_u = find_mode(u, mode_key[mode_of[v]], unit_start, mode_key)
            if mode_u < 0 or mode_v < 0:
                continue
            here = atom_place[choice[mode_start[mode_of[u]]]]
            there = atom_place[choice[mode_start[mode_of[v]]]]
            count_removed, count_added = set_mode(
                u, mode_u, there, choice, mode_of, shape, model, state, removed, added, rng
            )
            more_removed, more_added = set_mode(
                v, mode_v, here, choice, mode_of, shape, model, state, removed[count_removed:], added[count_added:], rng
            )
            count_removed += more_removed
            count_added += more_added
        change = 0.0
        for k in range(count_removed):
            change += toggle(removed[k], -1.0, is_path, target, memory_price, model, state)
        for k in range(count_added):
            change += toggle(added[k], 1.0, is_path, target, memory_price, model, state)
        new_path = path
        if is_path:
            new_path = path_energy(loads)
            change += new_path - path
        if change <= 0.0 or draw(rng) < np.exp(-change / temperature):
            energy += change
            path = new_path
            for k in range(count_removed):
                choice[atom_piece[removed[k]]] = -1
            for k in range(count_added):
                choice[atom_piece[added[k]]] = added[k]
            mode_of[u] = mode_u
            if v >= 0:
                mode_of[v] = mode_v
        else:
            for k in range(count_added):
                toggle(added[k], -1.0, is_path, target, memory_price, model, state)
            for k in range(count_removed):
                toggle(removed[k], 1.0, is_path, target, memory_price, model, state)
    return energy, steps
