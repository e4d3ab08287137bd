"""Plans without a master: shortest-path greedy, repair by the cheapest extra capacity, trim."""

from __future__ import annotations

import numpy as np

from problems.planning.network import Array, Network
from problems.planning.routing import shortest_path_loads
from problems.planning.separation import Answer
from problems.planning.survival import Deadline, Survival, edge_prices


def cheapest_cover(network: Network, need: Array, room: Array) -> Array | None:
    """Cheapest whole modules per link that add ``need`` [m] usable Gbps, within ``room`` [n]; None if there are none.

    Links with one module size are rounded up; with several, big ones first and the best rounding at the end.
    """
    x = np.zeros(network.n)
    for link in np.flatnonzero(need > 1e-7 * max(float(network.gbps.max(initial=0.0)), 1e-12)):
        mine = np.flatnonzero((network.variable_link == link) & (network.gbps > 0.0))
        choice = _cover(need[link], network.gbps[mine], network.module_cost[mine], room[mine])
        if choice is None:
            return None
        x[mine] = choice
    return x


def _cover(need: float, sizes: Array, prices: Array, room: Array) -> Array | None:
    if not len(sizes) or float(sizes @ room) < need * (1 - 1e-9):
        return None
    best, best_price = None, np.inf
    order = np.argsort(prices / sizes)
    for first in range(len(order)):  # fill by price per Gbps, and finish with the cheapest single module that is enough
        x, left = np.zeros(len(sizes)), need
        for j in order[first:]:
            if left <= 1e-9 * need:
                break
            count = min(room[j], np.floor(left / sizes[j] + 1e-9))
            x[j] += count
            left -= count * sizes[j]
            enough = [k for k in range(len(sizes)) if room[k] - x[k] >= 1 and sizes[k] >= left * (1 - 1e-9)]
            if left > 1e-9 * need and enough:
                k = min(enough, key=lambda k: prices[k])
                y = x.copy()
                y[k] += 1
                if float(prices @ y) < best_price:
                    best, best_price = y, float(prices @ y)
        if left <= 1e-9 * need and float(prices @ x) < best_price:
            best, best_price = x, float(prices @ x)
    if best is None:
        best = np.zeros(len(sizes))
        left = need
        for j in order:
            best[j] = min(room[j], np.ceil(left / sizes[j] - 1e-9))
            left -= best[j] * sizes[j]
            if left <= 1e-9 * need:
                break
    return best


def keeps_rules(network: Network, x: Array) -> bool:
    """Whether x [n] keeps its bounds and the side rules."""
    scale = 1e-6 * (1.0 + np.abs(network.limits))
    inside = (x >= -1e-9).all() and (x <= network.upper + 1e-9).all()
    return bool(inside and (network.rows @ x <= network.limits + scale).all())


def shortest_path_plan(network: Network) -> Array | None:
    """In every scenario all demands take a shortest path (by price); each link gets the most it ever carries.

    None if that breaks a side rule. This is the reference rule of planners: simple, survivable, expensive.
    """
    price = edge_prices(network)[network.link_edge]
    need = np.zeros(network.n_links)
    for scenario in network.scenarios:
        load = shortest_path_loads(
            len(network.is_transit),
            network.link_ends,
            price,
            scenario.demand,
            alive=scenario.alive,
            is_transit=network.is_transit,
        )
        need = np.maximum(need, load.max(axis=0))
    x = cheapest_cover(network, np.maximum(need - network.offset, 0.0), network.upper)
    if x is None:
        return None
    x = network.complete(x)
    return x if keeps_rules(network, x) else None


def repair(network: Network, survival: Survival, x: Array, deadline: Deadline) -> Array | None:
    """Add the cheapest extra capacity of each scenario in turn until all are survived; None if rules forbid it."""
    x = network.complete(np.minimum(np.round(x), network.upper))
    if not keeps_rules(network, x):
        return None
    while not deadline.is_over():
        found = survival.first_failure(network.capacities(x))
        if found is None:
            return x
        scenario, answer = found
        answer = survival.separate(network.capacities(x), scenario, share=1.0)
        if answer.is_survived:
            continue
        grown = _add_extra(network, scenario, answer, x)
        if grown is None or not keeps_rules(network, grown):
            return None
        x = grown
    return None


def cover_cuts(network: Network, x: Array, rows: Array, rhs: Array) -> Array:
    """X [n] with modules added until it keeps the cuts rows @ x >= rhs, each time the one that heals most per price.

    Stops early where no module helps; rules are not looked at.
    """
    x = x.copy()
    if not len(rhs):
        return x
    scale = np.maximum(np.abs(rhs), 1e-12)
    missing = (rhs - rows @ x) / scale
    weights = rows / scale[:, None]
    price = np.maximum(network.cost, 1e-9 * max(float(network.cost.max(initial=0.0)), 1e-12))
    for _ in range(int(network.upper.sum())):
        short = np.flatnonzero(missing > 1e-9)
        if not len(short):
            break
        healed = np.minimum(weights[short], missing[short, None]).sum(axis=0) / price
        j = int(np.argmax(np.where(x + 1.0 <= network.upper, healed, -np.inf)))
        if healed[j] <= 0.0 or x[j] + 1.0 > network.upper[j]:
            break
        x[j] += 1.0
        missing -= weights[:, j]
    return x


def _add_extra(network: Network, scenario: int, answer: Answer, x: Array) -> Array | None:
    """X with modules on the edges where the scenario's LP bought capacity."""
    alive = network.scenarios[scenario].alive
    need = np.zeros(network.n_links)
    price = np.full(network.n_links, np.inf)
    buys = np.flatnonzero((network.gbps > 0.0) & (x < network.upper))
    np.minimum.at(price, network.variable_link[buys], network.module_cost[buys] / network.gbps[buys])
    price[~alive] = np.inf
    for edge in np.flatnonzero(answer.extra > 1e-6 * max(float(answer.extra.max()), 1e-12)):
        links = np.flatnonzero(network.link_edge == edge)
        link = links[np.argmin(price[links])]
        if not np.isfinite(price[link]):
            return None
        need[link] = answer.extra[edge]
    more = cheapest_cover(network, need, network.upper - x)
    return None if more is None or not more.any() else network.complete(x + more)


def trim(
    network: Network,
    survival: Survival,
    x: Array,
    deadline: Deadline,
    *,
    cuts: tuple[Array, Array],
    price: Array | None = None,
) -> Array:
    """Take modules away while all scenarios are still survived, the dearest first.

    Args:
        network: compiled instance.
        survival: warm LPs.
        x: [n], survives everything.
        deadline: stop then.
        cuts: rows [K, n] and right-hand sides [K] that every plan must keep; they refuse most removals without an LP.
        price: [n], what a module is worth; default the network's prices. Free modules stay.
    """
    x = x.copy()
    rows, rhs = cuts
    slack = rows @ x - rhs
    price = network.module_cost if price is None else price
    for j in [j for j in np.argsort(-price).tolist() if network.gbps[j] > 0.0 and price[j] > 0.0]:
        while x[j] >= 1.0 and not deadline.is_over():
            if len(rhs) and (slack - rows[:, j] < -1e-6).any():
                break
            x[j] -= 1.0
            if not survival.is_survivable(network.capacities(x)):
                x[j] += 1.0
                break
            slack -= rows[:, j]
    return network.complete(x)
