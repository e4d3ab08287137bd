"""Neighbors of a route: one stretch of it replaced by another way between the same two nodes."""

from __future__ import annotations

import numpy as np
import torch

from problems.paths.network import RouteNetwork
from solvers.oracle import Array

ATTEMPTS = 3  # draws a neighbor that was asked for: many draws lead to the same detour, or to none
NOISE = 0.5  # standard deviation of log weights


def detours(
    network: RouteNetwork, nodes: list[int], columns: list[int], *, count: int, generator: torch.Generator
) -> list[list[int]]:
    """Different simple routes with the same ends, each by one shortest path around a closed edge.

    Two nodes of the route and one edge between them are drawn. The edge is closed, so are the nodes of the route
    outside the stretch, and the cheapest way between the two nodes under randomly mixed, noisy weights (mean plus or
    minus variance) replaces the stretch.

    Args:
        network: the graph.
        nodes: positions of the route's nodes, in order.
        columns: its columns, in order.
        count: most neighbors to return.
        generator: of the draws.

    Returns:
        At most ``count`` lists of columns, in order, all different and different from ``columns``.
    """
    length = len(columns)
    draws = torch.rand(ATTEMPTS * count, 4, generator=generator, dtype=torch.float64).numpy()
    found: dict[tuple[int, ...], None] = {tuple(columns): None}
    mean, variance = network.mean, network.variance
    spread = float(mean.mean() / variance.mean())  # makes the two comparable
    floor = 1e-3 * mean.mean()
    route = np.array(nodes)
    for first, second, closed, mix in draws:
        if len(found) > count:
            break
        start = int(first * length)
        stop = start + 1 + int(second * (length - start))
        edge = columns[start + int(closed * (stop - start))]
        noise = np.exp(NOISE * torch.randn(len(mean), generator=generator, dtype=torch.float64).numpy())
        weight: Array = np.maximum(mean + (2.0 * mix - 1.0) * spread * variance, floor) * noise
        weight[edge] = np.inf
        is_blocked = np.zeros(len(network.nodes), dtype=bool)
        is_blocked[route[:start]] = True
        is_blocked[route[stop + 1 :]] = True
        arcs = np.where(is_blocked[network.arc_head], np.inf, weight[network.arc_column])
        tree = network.tree(arcs, nodes[stop])
        if np.isfinite(tree.cost[nodes[start]]):
            detour = network.follow(tree, nodes[start])
            found.setdefault(tuple(columns[:start] + detour + columns[stop:]))
    return [list(route) for route in found][1:]
