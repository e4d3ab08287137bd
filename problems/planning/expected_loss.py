"""Price of capacity plus the traffic that is lost, in expectation, when two links fail at once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from problems.planning.network import Array, Network
from problems.planning.routing import shortest_path_tree


@dataclass(frozen=True, slots=True)
class TreeLevel:
    """The nodes of all shortest-path trees that are the same number of links away from their root.

    Attributes:
        arc: [K] the last arc of the path to each node, as a number ``state * 2 m + arc``.
        parent: [K] the node before it, as its place in the level above; unused in the first level.
        weight: [K] probability of the state times the Gbps of the demand that ends here.
    """

    arc: NDArray[np.int64]
    parent: NDArray[np.int64]
    weight: Array


@dataclass(frozen=True)
class ExpectedLoss:
    """Price of capacity plus expected lost traffic when two links fail at once, which no plan is built to survive.

    Each link is down with probability ``rate`` per kilometer (at most 5 %), independently. In each of the likeliest
    ``states`` double failures traffic goes on shortest paths; a demand gets the smallest share C_l / load_l (at most 1)
    over its path, and the rest is lost, as is traffic without a path. f(x) = cost.x + weight sum_s p_s lost_s(x);
    convex and piecewise linear in x, but each demand in each state has its own minimum. The paths from one source are a
    tree, so the minima run down the trees, level by level: two reads for a path, however long it is.
    """

    network: Network
    rate: float = 1e-5
    states: int = 150
    weight: float | None = None
    is_convex: bool = field(default=True, init=False)
    is_differentiable: bool = field(default=True, init=False)
    _load: Array = field(init=False, repr=False)  # [S, 2 m]
    _levels: list[TreeLevel] = field(init=False, repr=False)
    _lost_always: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        load, levels, always = _failure_trees(self.network, self.rate, self.states)
        for name, value in (("_load", load), ("_levels", levels), ("_lost_always", always)):
            object.__setattr__(self, name, value)
        if self.weight is None:
            network = self.network
            tight = torch.from_numpy(np.ceil(load.mean(axis=0).reshape(2, -1).max(axis=0) / network.gbps))
            loss = float(self.expected_loss(tight)) - always
            object.__setattr__(self, "weight", 0.25 * float(network.cost @ tight.numpy()) / max(loss, 1e-12))

    @property
    def linear(self) -> Array:
        """Prices of capacity."""
        return self.network.cost

    def expected_loss(self, x: Tensor) -> Tensor:
        """Expected lost Gbps over the states, [..., n] -> [...]."""
        plans = x.reshape(-1, x.shape[-1])
        offset, gbps = torch.from_numpy(self.network.offset).to(x), torch.from_numpy(self.network.gbps).to(x)
        capacity = (offset + gbps * plans).clamp_min(0.0).t()  # rows of arcs, so that a read is one piece of memory
        load = torch.from_numpy(self._load).to(x)[..., None]
        both = torch.cat([capacity, capacity])
        share = torch.where(load > 0, both / load.clamp_min(1e-12), torch.full_like(load, 2.0)).clamp_max(1.0)
        share = share.flatten(0, 1)  # [S 2 m, B]
        lost = torch.full_like(plans[:, 0], self._lost_always)
        worst: Tensor | None = None
        for level in self._levels:
            here = share.index_select(0, torch.from_numpy(level.arc).to(x.device))
            if worst is not None:
                parent = torch.from_numpy(level.parent).to(x.device)
                here = torch.minimum(here, worst.index_select(0, parent))
            worst = here
            lost = lost + torch.from_numpy(level.weight).to(x) @ (1.0 - worst)
        return lost.reshape(x.shape[:-1])

    def value(self, x: Tensor) -> Tensor:
        """Cost of plans x [..., n]."""
        assert self.weight is not None
        return x @ torch.from_numpy(self.network.cost).to(x) + self.weight * self.expected_loss(x)

    def integer_program(self) -> None:
        """The exact piecewise-linear program; see :class:`problems.planning.objectives.Objective`."""
        return None  # one continuous variable per demand and state: the monolith that this package avoids

    def metrics(self, x: Array) -> Mapping[str, float]:
        """Parts of the cost of one plan [n]."""
        loss = float(self.expected_loss(torch.from_numpy(np.ascontiguousarray(x))))
        return {"price": float(self.network.cost @ x), "expected_lost_gbps": loss}


def likeliest_pairs(network: Network, rate: float, most: int) -> list[tuple[float, int, int]]:
    """(probability, link, link) of the likeliest double failures."""
    lengths = np.array([link.length_km for link in network.instance.links])
    down = np.minimum(rate * lengths, 0.05)
    pairs = [
        (float(down[a] * down[b]), a, b)
        for a, b in itertools.combinations(range(network.n_links), 2)
        if down[a] * down[b] > 0
    ]
    return sorted(pairs, key=lambda p: (-p[0], p[1], p[2]))[:most]


def _failure_trees(network: Network, rate: float, most: int) -> tuple[Array, list[TreeLevel], float]:
    """Loads [S, 2 m] of shortest-path routing in each state, the trees by levels, and the loss that no plan avoids."""
    pairs = likeliest_pairs(network, rate, most)
    m, demand = network.n_links, network.scenarios[0].demand
    loads = np.zeros((len(pairs), 2 * m))
    arcs: list[list[int]] = []
    parents: list[list[int]] = []
    weights: list[list[float]] = []
    always = 0.0
    for s, (chance, a, b) in enumerate(pairs):
        alive = np.ones(m, dtype=bool)
        alive[[a, b]] = False
        places: dict[tuple[int, int], int] = {}  # (source, node) -> its place in its level
        for source, path, gbps in shortest_paths(network, alive, demand):
            if path is None:
                always += chance * gbps
                continue
            for depth, (arc, node) in enumerate(path):
                loads[s, arc] += gbps
                if (source, node) not in places:
                    if depth == len(arcs):
                        arcs.append([])
                        parents.append([])
                        weights.append([])
                    places[source, node] = len(arcs[depth])
                    arcs[depth].append(s * 2 * m + arc)
                    parents[depth].append(places[source, path[depth - 1][1]] if depth else 0)
                    weights[depth].append(0.0)
            weights[len(path) - 1][places[source, path[-1][1]]] += chance * gbps
    levels = [
        TreeLevel(np.array(a, dtype=np.int64), np.array(p, dtype=np.int64), np.array(w))
        for a, p, w in zip(arcs, parents, weights, strict=True)
    ]
    return loads, levels, always


def shortest_paths(
    network: Network, alive: NDArray[np.bool_], demand: Array
) -> list[tuple[int, list[tuple[int, int]] | None, float]]:
    """(source, path, Gbps) of every demand: (arc, node it leads to) from the source on, or None without a path.

    Arc l is link l forward, m + l backward.
    """
    m = network.n_links
    out: list[list[tuple[int, int, float]]] = [[] for _ in range(len(network.is_transit))]
    ends = network.link_ends.tolist()
    for i, (u, v) in enumerate(ends):
        if alive[i]:
            out[u].append((v, i, float(network.cost[i])))
            out[v].append((u, m + i, float(network.cost[i])))
    tail = [u for u, _ in ends] + [v for _, v in ends]
    found: list[tuple[int, list[tuple[int, int]] | None, float]] = []
    for source in range(len(out)):
        targets = np.flatnonzero(demand[source] > 0.0).tolist()
        if not targets:
            continue
        distance, arc_to = shortest_path_tree(source, out, network.is_transit)
        for target in targets:
            path: list[tuple[int, int]] | None = None
            if np.isfinite(distance[target]):
                path, node = [], target
                while node != source:
                    path.append((arc_to[node], node))
                    node = tail[arc_to[node]]
                path.reverse()
            found.append((source, path, float(demand[source, target])))
    return found
