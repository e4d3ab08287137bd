"""Families of on-time routes: grids and real networks of different sizes, as features for the edge network."""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from problems.paths.instances import DEADLINES, GRID_SIZES, MEAN_LIMITS, grid, network_files, real_network
from problems.paths.route import OnTimeRoute
from surco.bridge import to_torch
from surco.errors import InvalidInputError, MissingExtraError
from surco.instance_family import Family, Features, Schema, Split
from surco.protocols import Problem

EDGE_CHANNELS = 6
NODE_CHANNELS = 4
CONTEXT_CHANNELS = 4
MOST_EDGES = 400  # of a real network in a family, so that a padded batch stays small
LEAST_HOPS = 3
SPLIT_SHARES = ((Split.TRAIN, 70), (Split.VALIDATION, 85), (Split.TEST, 100))  # of the networks, cumulated percent


@dataclass(frozen=True, slots=True)
class Distribution:
    """What is drawn: a grid of one of the ``sizes``, or (``sizes`` empty) a real network."""

    sizes: tuple[int, ...]
    kind: str = "code"


class RouteFamily(Family):
    """On-time routes on undirected graphs; the deadline is loose, normal or tight with equal odds.

    Grids are crossed from corner to corner; on a real network the ends are drawn among pairs that are at least three
    edges apart, and a network belongs to one split.

    Features of an instance with N nodes and E edges, made dimensionless by the least expected time t0 and the mean
    edge time m0: ``weights`` [2, E], mean / m0 and variance / (mean variance); ``edge`` [E, 6]; ``node`` [N, 4];
    ``ends`` [2, E], positions of the ends of the edges; ``context`` [4], of the deadline and the least-expected-time
    route; ``slope`` [], weight of the variances in the linearization of f at that route; ``moments`` [2, E] and
    ``deadline`` [], the raw numbers of the objective; ``variables`` [E] and ``exists`` [N], ones.

    The least-expected-time route costs two shortest-path trees. No value of the objective enters the features.

    Args:
        id: name of the family.
        distribution: what is drawn.
    """

    gradient = "perturbed"

    def __init__(self, id: str, distribution: Distribution) -> None:
        self.id = id
        self.distribution = distribution
        self.schema = Schema("routes-1", {"edge": EDGE_CHANNELS, "node": NODE_CHANNELS, "context": CONTEXT_CHANNELS})

    def draw(self, split: Split, rng: np.random.Generator) -> OnTimeRoute:
        """Draw a graph, its ends, and a deadline."""
        d = self.distribution
        seed = int(rng.integers(2**62))
        if d.sizes:
            size = int(rng.choice(d.sizes))
            graph = grid(size, d.kind, seed)
            source, target = (0, 0), (size - 1, size - 1)
        else:
            library, name = _networks(split)[int(rng.integers(len(_networks(split))))]
            graph = real_network(library, name, seed)
            source, target = _ends(graph, rng)
        factor = float(rng.choice(list(DEADLINES.values())))
        problem = OnTimeRoute(graph, source, target, 0.0, id=self.id)
        return problem.with_deadline(factor * problem.least_expected_time, id=self.id)

    def features(self, problem: Problem) -> Features:
        """Describe an on-time route on an undirected graph.

        Raises:
            InvalidInputError: another domain, or a directed graph.
        """
        if not isinstance(problem, OnTimeRoute):
            raise InvalidInputError(f"Expected an on-time route for `{self.id}`, got {type(problem).__name__}.")
        network, query = problem.network, problem.query
        if network.is_directed:
            raise InvalidInputError(f"Expected an undirected graph for `{self.id}`, got a directed one.")
        mean, variance = network.mean, network.variance
        to_target = query.mean_tree.cost
        to_source = network.tree(mean[network.arc_column], query.source).cost
        least = float(to_target[query.source])
        route = network.follow(query.mean_tree, query.source)
        spread = float(variance[route].sum())
        mean_scale = max(float(mean.mean()), 1e-12)
        variance_scale = float(variance.mean())
        u, v = network.tail, network.head
        through = np.minimum(to_source[u] + to_target[v], to_source[v] + to_target[u]) + mean
        detour = np.where(np.isfinite(through), (through - least) / mean_scale, 1e3)  # 0 on a shortest route
        on_route = np.zeros(len(mean))
        on_route[route] = 1.0
        reach = np.stack([np.nan_to_num(to_source, posinf=1e9), np.nan_to_num(to_target, posinf=1e9)], axis=1)
        is_end = np.zeros((len(network.nodes), 2))
        is_end[query.source, 0] = is_end[query.target, 1] = 1.0
        slack = (problem.deadline - least) / math.sqrt(spread)
        context = [
            slack,
            math.log(len(route)),
            spread / len(route) / variance_scale,
            math.log(mean_scale**2 / variance_scale),
        ]
        ratio = variance / variance_scale
        edge = np.stack(
            [
                mean / mean_scale,
                np.log(np.maximum(mean / mean_scale, 1e-3)),
                ratio,
                np.log(np.maximum(ratio, 1e-3)),
                np.log1p(np.maximum(detour, 0.0)),
                on_route,
            ],
            axis=1,
        )
        # f = (m - T) / sqrt v has the gradient m_e + (T - m) / (2 v) v_e, up to a factor.
        slope = (problem.deadline - least) / (2.0 * spread) * variance_scale / mean_scale
        return {
            "weights": to_torch(np.stack([mean / mean_scale, ratio])),
            "edge": to_torch(edge),
            "node": to_torch(np.concatenate([np.log1p(np.minimum(reach / mean_scale, 1e6)), is_end], axis=1)),
            "ends": torch.from_numpy(np.stack([u, v]).astype(np.int64)),
            "context": torch.tensor(context, dtype=torch.float64),
            "slope": torch.tensor(slope, dtype=torch.float64),
            "moments": problem.weights.clone(),
            "deadline": torch.tensor(problem.deadline, dtype=torch.float64),
            "variables": torch.ones(len(mean), dtype=torch.float64),
            "exists": torch.ones(len(network.nodes), dtype=torch.float64),
        }

    def objective(self, features: Features, x: Tensor) -> Tensor:
        """F of padded routes [B, ..., E] -> [B, ...]; inf where x is zero (no route)."""
        moments = torch.einsum("bke,b...e->b...k", features["moments"].to(x), x)
        deadline = features["deadline"].to(x).reshape(-1, *[1] * (x.ndim - 2))
        mean, variance = moments[..., 0], moments[..., 1]
        has_route = variance > 0
        value = (mean - deadline) / torch.where(has_route, variance, 1.0).sqrt()
        return torch.where(has_route, value, torch.inf)

    def network(self, **config: Any) -> torch.nn.Module:
        """The edge network for this schema."""
        from surco.networks import EdgeNetwork

        channels = self.schema.channels
        return EdgeNetwork(edges=channels["edge"], nodes=channels["node"], context=channels["context"], **config)

    def reference(self, problem: Problem) -> float:
        """Value of the best rule: parametric search, which is optimal where some route is on time in the mean."""
        assert isinstance(problem, OnTimeRoute)
        return min(float(problem.objective(x)) for x in problem.heuristics().values())


@functools.cache
def _networks(split: Split) -> list[tuple[str, str]]:
    """Real networks of a split: connected, of 6 to 400 edges; a name decides its split for good."""
    if not network_files():
        raise MissingExtraError("Real networks need topohub. Try `pip install topohub`.")
    chosen = []
    for library, name in network_files():
        share = zlib.crc32(f"{library}/{name}".encode()) % 100
        if next(s for s, limit in SPLIT_SHARES if share < limit) is not split:
            continue
        graph = real_network(library, name, 0)
        if 8 <= graph.number_of_edges() <= MOST_EDGES and _far_pairs(graph):
            chosen.append((library, name))
    return chosen


def _far_pairs(graph: Any) -> list[tuple[Any, Any]]:
    """Pairs of nodes at least `LEAST_HOPS` edges apart, in node order."""
    import networkx as nx

    return [
        (source, target)
        for source, lengths in nx.all_pairs_shortest_path_length(graph)
        for target, hops in lengths.items()
        if hops >= LEAST_HOPS
    ]


def _ends(graph: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    pairs = _far_pairs(graph)
    return pairs[int(rng.integers(len(pairs)))]


@functools.cache
def catalog() -> Mapping[str, tuple[str, Distribution]]:
    """Id -> (description, distribution)."""
    entries: dict[str, tuple[str, Distribution]] = {}
    for kind, limit in MEAN_LIMITS.items():
        for size in GRID_SIZES:
            line = f"{size}x{size} grids, means U(0.1, {limit:g}), three deadlines"
            entries[f"paths/grid-{size}-{kind}-v0"] = (line, Distribution((size,), kind))
        line = f"grids of 5 to 20 nodes a side, means U(0.1, {limit:g}), three deadlines"
        entries[f"paths/grid-mixed-{kind}-v0"] = (line, Distribution(tuple(range(5, 21)), kind))
    if network_files():
        line = "real networks of SNDlib and the Topology Zoo, drawn ends and variances, three deadlines"
        entries["paths/topohub-v0"] = (line, Distribution(()))
    return entries


def family(id: str) -> RouteFamily:
    """The family of an id of `catalog`."""
    return RouteFamily(id, catalog()[id][1])
