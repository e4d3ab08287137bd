"""Cuts: valid inequalities a.x >= b over the integer variables, their strengthening, and the pool of cutset cuts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from problems.planning.network import COVER, Array, Network

_EPS = 1e-9


@dataclass(frozen=True, slots=True)
class Rounded:
    """Mixed-integer rounding of rows: a [K, n], b [K]."""

    rows: Array
    rhs: Array


def round_rows(rows: Array, rhs: Array, divisors: Array) -> Rounded:
    """Mixed-integer rounding of a.x >= b, a >= 0, x whole and >= 0, by one divisor each.

    With a' = a / delta, b' = b / delta, f = frac(b'): sum (floor(a') + min(frac(a') / f, 1)) x >= ceil(b').

    Args:
        rows: [K, n] >= 0.
        rhs: [K] > 0.
        divisors: [K] > 0.

    Source: Nemhauser and Wolsey 1990, "A recursive procedure to generate all cuts for 0-1 mixed integer programs".
    """
    a = np.minimum(rows, rhs[:, None]) / divisors[:, None]
    b = rhs / divisors
    f = b - np.floor(b + _EPS)
    is_whole = f <= 1e-7
    whole = np.floor(a + _EPS)
    fraction = np.maximum(a - whole, 0.0)
    share = np.minimum(fraction / np.where(is_whole, 1.0, np.maximum(f, 1e-7))[:, None], 1.0)
    share[fraction <= _EPS] = 0.0
    return Rounded(np.where(is_whole[:, None], a, whole + share), np.where(is_whole, b, np.ceil(b - 1e-7)))


def strengthen(row: Array, rhs: float, x: Array, *, most_divisors: int = 40) -> tuple[Array, float]:
    """The deepest rounding of one row at point ``x`` [n] over its own coefficients as divisors.

    Depth is violation over the Euclidean norm of the row. Returns the row itself if no rounding is deeper.
    """
    clipped = np.minimum(row, rhs)
    divisors = np.unique(np.round(clipped[clipped > 1e-7 * clipped.max()], 9))
    if len(divisors) > most_divisors:
        divisors = divisors[np.linspace(0, len(divisors) - 1, most_divisors).astype(int)]
    count = len(divisors)
    rounded = round_rows(np.broadcast_to(clipped, (count, len(row))), np.full(count, rhs), divisors)  # pyright: ignore[reportArgumentType]
    rows = np.vstack([clipped[None] / clipped.max(), rounded.rows])
    values = np.r_[rhs / clipped.max(), rounded.rhs]
    depth = (values - rows @ x) / np.linalg.norm(rows, axis=1)
    best = int(np.argmax(depth))
    return rows[best], float(values[best])


def connected_sets(network: Network, *, largest: int, most: int) -> NDArray[np.bool_]:
    """Indicator [C, N] of connected node sets of up to ``largest`` nodes, small ones first, at most ``most``."""
    n_nodes = len(network.is_transit)
    neighbors: list[set[int]] = [set() for _ in range(n_nodes)]
    for u, v in network.edges.tolist():
        neighbors[u].add(v)
        neighbors[v].add(u)
    layer = {frozenset([u]) for u in range(n_nodes)}
    found: list[frozenset[int]] = sorted(layer, key=sorted)
    seen = set(found)
    for size in range(2, min(largest, n_nodes // 2) + 1):
        layer = {
            grown
            for group in layer
            for v in set().union(*(neighbors[u] for u in group)) - group
            if len(grown := group | {v}) == size
        }
        ordered = sorted(layer, key=sorted)
        if len(found) + len(ordered) > most:
            step = max(1, len(ordered) // max(1, most - len(found)))
            found += [g for g in ordered[::step] if g not in seen][: most - len(found)]
            break
        found += ordered
    result = np.zeros((len(found), n_nodes), dtype=bool)
    for i, group in enumerate(found):
        result[i, list(group)] = True
    return result


@dataclass(frozen=True, slots=True)
class CutsetPool:
    """All rounded cutset cuts of many node sets: a [K, n] @ x >= b [K]; ``node_set`` [K] says of which.

    ``link_rows`` [R, m], ``link_rhs`` [R] are the same sets as plain capacity cuts (Gbps), one per set and scenario,
    with ``link_set`` and ``link_scenario`` [R].
    """

    sets: NDArray[np.bool_]
    rows: Array
    rhs: Array
    node_set: NDArray[np.int64]
    link_rows: Array
    link_rhs: Array
    link_set: NDArray[np.int64]
    link_scenario: NDArray[np.int64]


def joined(first: CutsetPool, second: CutsetPool) -> CutsetPool:
    """Both pools in one."""
    shift = len(first.sets)
    return CutsetPool(
        np.vstack([first.sets, second.sets]),
        np.vstack([first.rows, second.rows]),
        np.r_[first.rhs, second.rhs],
        np.r_[first.node_set, second.node_set + shift],
        np.vstack([first.link_rows, second.link_rows]),
        np.r_[first.link_rhs, second.link_rhs],
        np.r_[first.link_set, second.link_set + shift],
        np.r_[first.link_scenario, second.link_scenario],
    )


def cutset_pool(
    network: Network,
    *,
    largest: int = 5,
    most: int = 4000,
    most_rows: int = 40_000,
    sets: NDArray[np.bool_] | None = None,
) -> CutsetPool:
    """Cutset cuts: for each node set and each scenario that hits its cut, and the rounded sum over those scenarios.

    ``sets`` [C, N] replaces the small connected sets.

    The sum is what makes them strong: with k links of one unit size across, each of which may fail, adding the k rows
    gives (k - 1) x(cut) >= k b, hence x(cut) >= ceil(k b / (k - 1)).
    """
    sets = connected_sets(network, largest=largest, most=most) if sets is None else sets
    inside = sets[:, network.link_ends]
    crosses = (inside[..., 0] != inside[..., 1]).astype(np.float64)
    alive = np.array([s.alive for s in network.scenarios], dtype=np.float64)
    need = _demand_across(network, sets)
    hits = (crosses @ (1.0 - alive).T) > 0.5
    hits[:, 0] |= ~hits.any(axis=1)
    # the intact state counts where it must carry more than every state that hits the cut
    hits[:, 0] |= need[:, 0] > np.where(hits, need, 0.0)[:, 1:].max(axis=1, initial=0.0) + _EPS
    which, state = np.nonzero(hits & (need > _EPS))
    if len(which) > most_rows:
        which, state = which[:most_rows], state[:most_rows]
    link_rows = crosses[which] * alive[state]
    link_rhs = need[which, state]
    rows = network.to_variables(link_rows)
    rhs = link_rhs - link_rows @ network.offset
    keep = rhs > _EPS
    sizes = np.unique(network.gbps[network.gbps > 0.0])
    parts_rows, parts_rhs, parts_set = [], [], []
    for size in sizes[:3]:
        rounded = round_rows(rows[keep], rhs[keep], np.full(int(keep.sum()), size))
        parts_rows.append(rounded.rows)
        parts_rhs.append(rounded.rhs)
        parts_set.append(which[keep])
    count = np.bincount(which[keep], minlength=len(sets))
    total = np.zeros((len(sets), network.n))
    np.add.at(total, which[keep], rows[keep])
    total_rhs = np.bincount(which[keep], rhs[keep], len(sets)).astype(np.float64)
    summed, divisors = [np.zeros(0, np.int64)], [np.zeros(0)]
    for i in np.flatnonzero(count > 1):
        values = np.unique(total[i][total[i] > 0.0])
        values = values[np.linspace(0, len(values) - 1, min(3, len(values))).astype(int)]
        summed.append(np.full(len(values), i))
        divisors.append(values)
    of_set = np.concatenate(summed)
    rounded = round_rows(total[of_set], total_rhs[of_set], np.concatenate(divisors))
    parts_rows.append(rounded.rows)
    parts_rhs.append(rounded.rhs)
    parts_set.append(of_set)
    gated_rows, gated_set = _opening_cuts(network, crosses, alive, which[keep], state[keep])
    if len(gated_set):
        parts_rows.append(gated_rows)
        parts_rhs.append(np.full(len(gated_set), 2.0))
        parts_set.append(gated_set)
    empty = not parts_rows
    return CutsetPool(
        sets,
        np.zeros((0, network.n)) if empty else np.vstack(parts_rows),
        np.zeros(0) if empty else np.concatenate(parts_rhs),
        np.zeros(0, np.int64) if empty else np.concatenate(parts_set),
        link_rows,
        link_rhs,
        which,
        state,
    )


def gates(network: Network) -> NDArray[np.int64]:
    """[m] the 0-1 variable without which nothing can be installed on a link (its set-up), or -1."""
    result = np.full(network.n_links, -1)
    for j in np.flatnonzero((network.variable_module == COVER) & (network.upper == 1.0)):
        rules = network.rows[network.rows[:, j] < 0.0]
        opened = {int(k) for row in rules for k in np.flatnonzero(row > 0.0)} if len(rules) else set()
        if not opened or any((row > 0.0).sum() != 1 for row in rules):
            continue
        link = int(network.variable_link[next(iter(opened))])
        if opened == set(np.flatnonzero((network.variable_link == link) & (network.variable_module >= 0)).tolist()):
            result[link] = j
    return result


def _opening_cuts(
    network: Network, crosses: Array, alive: Array, which: NDArray[np.int64], state: NDArray[np.int64]
) -> tuple[Array, NDArray[np.int64]]:
    """Cuts y(cut) >= 2: traffic must cross in every failure, each failure takes a link, all links there need a set-up.

    From y(cut without the failed links) >= 1 for k failures that take one link each: (k - 1) y(cut) >= k.
    """
    gate = gates(network)
    rows, sets = [], []
    if (gate < 0).all():
        return np.zeros((0, network.n)), np.zeros(0, np.int64)
    states_of: dict[int, list[int]] = {}
    for c, s in zip(which.tolist(), state.tolist(), strict=True):
        states_of.setdefault(c, []).append(s)
    for c, states in states_of.items():
        links = np.flatnonzero(crosses[c])
        taken = {int(links[down[0]]) for s in states if len(down := np.flatnonzero(alive[s, links] == 0.0)) == 1}
        if len(links) < 2 or taken != set(links.tolist()) or (gate[links] < 0).any() or network.offset[links].any():
            continue
        row = np.zeros(network.n)
        row[gate[links]] = 1.0
        rows.append(row)
        sets.append(c)
    return np.array(rows).reshape(len(rows), network.n), np.array(sets, dtype=np.int64)


def _demand_across(network: Network, sets: NDArray[np.bool_]) -> Array:
    """[C, S] larger of the demand out of and into each set, in each scenario."""
    inside = sets.astype(np.float64)
    result = np.empty((len(sets), len(network.scenarios)))
    done: dict[bytes, Array] = {}
    for s, scenario in enumerate(network.scenarios):
        key = scenario.demand.tobytes()
        if key not in done:
            out = ((inside @ scenario.demand) * (1.0 - inside)).sum(axis=1)
            into = ((inside @ scenario.demand.T) * (1.0 - inside)).sum(axis=1)
            done[key] = np.maximum(out, into)
        result[:, s] = done[key]
    return result
