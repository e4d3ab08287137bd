"""Cuts in words, and which rules leave no plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from problems.planning.network import Array, Network
from problems.planning.survival import MetricCut, Survival, metric_cut
from surco.errors import InfeasibleError

if TYPE_CHECKING:
    from problems.planning.master import Master

_SHOWN = 6


def node_set_in_words(network: Network, inside: NDArray[np.bool_]) -> str:
    """The smaller side of a node set [N] bool, by name."""
    if inside.sum() > len(inside) / 2:
        inside = ~inside
    names = [network.instance.nodes[i].name for i in np.flatnonzero(inside)]
    return "{" + ", ".join(names[:_SHOWN]) + (f", ... {len(names)} nodes" if len(names) > _SHOWN else "") + "}"


def cut_in_words(network: Network, cut: MetricCut, capacities: Array) -> str:
    """What ``cut`` says against link ``capacities`` [m]: a cut of the network if one is violated, else the metric."""
    scenario = network.scenarios[cut.scenario]
    state = "without failure" if cut.scenario == 0 else f"in failure {scenario.name!r}"
    best, best_missing, best_text = None, 1e-6 * max(cut.rhs, 1e-12), ""
    for inside in _sweep_sets(network, cut):
        crosses = inside[network.link_ends[:, 0]] != inside[network.link_ends[:, 1]]
        have = float(capacities[crosses & scenario.alive].sum())
        out = float(scenario.demand[np.ix_(inside, ~inside)].sum())
        into = float(scenario.demand[np.ix_(~inside, inside)].sum())
        missing = max(out, into) - have
        if missing > best_missing:
            links = [network.instance.links[i].name for i in np.flatnonzero(crosses & scenario.alive)]
            shown = ", ".join(links[:_SHOWN]) + (", ..." if len(links) > _SHOWN else "")
            best, best_missing = inside, missing
            best_text = (
                f"{state}, {max(out, into):,.6g} Gbps must cross around {node_set_in_words(network, inside)}, but the "
                f"usable capacity there is {have:,.6g} Gbps (links up: {shown or 'none'}): {missing:,.4g} Gbps missing"
            )
    if best is not None:
        return best_text
    have = float(cut.weights @ capacities)
    order = np.argsort(-cut.weights * (cut.weights > 1e-9))
    top = [f"{cut.weights[i]:.3g} x {network.instance.links[i].name}" for i in order[:_SHOWN] if cut.weights[i] > 1e-9]
    return (
        f"{state}, the weighted capacity {' + '.join(top)}{' + ...' if len(top) == _SHOWN else ''} is {have:,.6g} "
        f"Gbps, but routing all demands takes at least {cut.rhs:,.6g} Gbps of it: {cut.rhs - have:,.4g} missing"
    )


def _sweep_sets(network: Network, cut: MetricCut) -> list[NDArray[np.bool_]]:
    """Node sets that the cut suggests: balls around each node under its weights as lengths."""
    from problems.planning.routing import distances

    n_nodes = len(network.is_transit)
    per_edge = np.full(len(network.edges), np.inf)
    np.minimum.at(per_edge, network.link_edge, np.where(cut.weights > 0, cut.weights, np.inf))
    alive = np.bincount(network.link_edge, network.scenarios[cut.scenario].alive, len(network.edges)) > 0
    per_edge = np.where(np.isfinite(per_edge), per_edge, np.where(alive, 0.0, np.inf))
    table = distances(n_nodes, network.edges, np.vstack([per_edge, per_edge]), network.is_transit)
    sets: dict[bytes, NDArray[np.bool_]] = {}
    for center in range(n_nodes):
        for radius in np.unique(np.round(table[center][np.isfinite(table[center])], 9)):
            inside = table[center] <= radius + 1e-9
            if 0 < inside.sum() < n_nodes:
                sets[inside.tobytes()] = inside
        if len(sets) > 20_000:
            break
    return list(sets.values())


def refuse_if_hopeless(network: Network, survival: Survival) -> None:
    """Raise if even the largest capacities of all links together do not survive.

    Raises:
        InfeasibleError: the message names the scenario and the cut.
    """
    if not network.n and not network.n_links:
        return
    largest = network.capacities(network.upper)
    exclusive = [i for i, link in enumerate(network.instance.links) if link.is_exclusive]
    for i in exclusive:
        mine = network.variable_link == i
        largest[i] = network.offset[i] + float((network.gbps * np.minimum(network.upper, 1.0))[mine].max(initial=0.0))
    limits = [
        network.instance.load_factor * link.max_gbps if link.max_gbps is not None else np.inf
        for link in network.instance.links
    ]
    largest = np.minimum(largest, np.maximum(limits, network.offset))
    found = survival.first_failure(largest)
    if found is not None:
        words = cut_in_words(network, metric_cut(network, *found), largest)
        raise InfeasibleError(f"No plan survives, even with every link at its largest capacity: {words}.")
    rules = network.limits < -1e-9 * (1.0 + np.abs(network.limits))
    broken = [name for name, bad in zip(network.row_names, rules, strict=True) if bad]
    if broken:
        raise InfeasibleError(f"No plan: the existing capacity alone already breaks the {broken[0]}.")


def explain_rules(network: Network, master: Master) -> str:
    """Which side rules conflict with the cuts: the least relaxation of rules that leaves a point, by LP."""
    n, n_side, n_cuts = network.n, len(network.limits), len(master.rhs)
    scale = np.maximum(np.abs(network.rows).max(axis=1, initial=1e-12), 1e-12) if n_side else np.zeros(0)
    cost = np.r_[np.zeros(n), np.ones(n_side)]
    a = (
        np.block([[network.rows / scale[:, None], -np.eye(n_side)], [-master.rows, np.zeros((n_cuts, n_side))]])
        if n_side
        else -master.rows
    )
    b = np.r_[network.limits / scale, -master.rhs] if n_side else -master.rhs
    bounds = [(0.0, float(u)) for u in network.upper] + [(0.0, None)] * n_side
    result = linprog(cost, A_ub=a, b_ub=b, bounds=bounds, method="highs")
    if result.status != 0 or result.fun <= 1e-9:
        return (
            "No whole number of modules fits all rules together. Allow more capacity per link, more spectrum, or "
            "fewer failures."
        )
    over = result.x[n:]
    parts = [
        f"the {network.row_names[i]} would have to grow from {network.limits[i]:,.6g} to "
        f"{network.limits[i] + over[i] * scale[i]:,.6g} for new capacity"
        for i in np.argsort(-over)
        if over[i] > 1e-7
    ]
    return "No plan survives within the rules; at least, " + "; ".join(parts[:_SHOWN]) + "."
