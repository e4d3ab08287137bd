"""Graphs to route on: the random grids of the SurCo paper, and real networks from topohub."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Hashable
from importlib import resources
from typing import Any

import networkx as nx
import numpy as np

from surco.errors import InvalidInputError, MissingExtraError, UnknownIdError
from surco.registry import closest

DEADLINES = {"loose": 1.1, "normal": 1.0, "tight": 0.9}
"""Deadlines by name, as multiples of the least expected time."""

MEAN_LIMITS = {"code": 0.2, "paper": 1.0}
"""Upper limit of the uniform means: 0.2 in the published code, 1 in the printed paper."""

GRID_SIZES = (5, 10, 15, 30, 50)
REFERENCE_SEED, REFERENCE_COUNT = 10, 25

DRAWN = frozenset({"india35"})  # drawing units that could pass for degrees; other drawings are seen by their range
LEAST_LENGTH = 1.0  # of a link between nodes at one place
VARIATION = (0.1, 0.5)  # standard deviation / mean of a link's time


def grid(size: int, distribution: str, seed: int) -> nx.Graph:
    """A random grid of size x size nodes (row, column), to be crossed from (0, 0) to (size - 1, size - 1).

    Each edge, node by node in row-major order and down before right, draws a mean from U(0.1, limit) and then a
    variance from U(0.1, 0.3) * (1 - mean), all from ``numpy.random.default_rng(seed)``: the order of draws of the
    published code, so that its instances come out equal.

    Args:
        size: nodes a side, >= 2.
        distribution: ``"code"`` (limit 0.2) or ``"paper"`` (limit 1).
        seed: of the draws, >= 0.

    Raises:
        InvalidInputError: an argument out of range.

    Source: Ferber et al. (ICML 2023), section 4.3, and its published code for the limit of the means.
    """
    if distribution not in MEAN_LIMITS:
        raise InvalidInputError(f"Expected `distribution` to be one of {sorted(MEAN_LIMITS)}, got {distribution!r}.")
    if size < 2:
        raise InvalidInputError(f"Expected a grid of at least 2 nodes a side, got {size}.")
    rng = np.random.default_rng(checked_seed(seed))
    graph = nx.Graph()
    graph.add_nodes_from(itertools.product(range(size), repeat=2))
    for row, column in itertools.product(range(size), repeat=2):
        for head in ((row + 1, column), (row, column + 1)):
            if max(head) < size:
                mean = rng.uniform(0.1, MEAN_LIMITS[distribution])
                variance = rng.uniform(0.1, 0.3) * (1.0 - mean)
                graph.add_edge((row, column), head, mean=mean, variance=variance)
    return graph


def reference_seeds(count: int = REFERENCE_COUNT) -> list[int]:
    """Seeds of the grids of the published experiment, in order."""
    return np.random.default_rng(REFERENCE_SEED).integers(0, 1000, size=count).tolist()


def checked_seed(seed: object) -> int:
    """A seed as int.

    Raises:
        InvalidInputError: not an integer >= 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InvalidInputError(f"Expected `seed` to be an integer >= 0, got {seed!r}.")
    return int(seed)


# ------------------------------------------------------------------ real networks


@functools.cache
def network_files() -> dict[tuple[str, str], str]:
    """(library, lower-case name) -> file of the SNDlib and Topology Zoo networks of topohub; empty without topohub."""
    try:
        root = resources.files("topohub")
    except ModuleNotFoundError:
        return {}
    return {
        (library, file.name[:-5].lower()): f"data/{library}/{file.name}"
        for library in ("sndlib", "topozoo")
        for file in sorted(root.joinpath("data", library).iterdir(), key=lambda file: file.name)
        if file.name.endswith(".json")
    }


def real_network(library: str, name: str, seed: int) -> nx.Graph:
    """A network of topohub with ``mean`` = link length and a seeded ``variance``.

    The length is in km (great circle); the unit of time is that of one km. Several SNDlib networks carry drawing units
    for coordinates, so topohub's distance is meaningless: there the length is the straight distance in the drawing, in
    its units. Links between nodes at one place get length 1. The standard deviation is the length times
    U(0.1, 0.5), drawn link by link. topohub merges parallel and antiparallel links.

    Args:
        library: ``"sndlib"`` or ``"topozoo"``.
        name: lower-case name, for example ``"germany50"``.
        seed: of the variances.

    Returns:
        Undirected graph; node attribute ``pos`` is (longitude, latitude) or the drawing's; graph attribute
        ``length_unit`` is ``"km"`` or ``"drawing unit"``.

    Raises:
        MissingExtraError: topohub is not installed.
        UnknownIdError: no such network.
    """
    files = network_files()
    if not files:
        raise MissingExtraError("Real networks need topohub. Try `pip install topohub`.")
    if (library, name) not in files:
        raise UnknownIdError(f"No network `{library}/{name}`.{closest(f'{library}/{name}', map('/'.join, files))}")
    # Read here, since topohub's own reader leaves its file open.
    data = json.loads(resources.files("topohub").joinpath(files[library, name]).read_text(encoding="utf-8"))
    labels = _labels(data["nodes"])
    positions = {node["id"]: tuple(map(float, node["pos"])) for node in data["nodes"]}
    is_drawing = name in DRAWN or any(abs(x) > 180.0 or abs(y) > 90.0 for x, y in positions.values())
    rng = np.random.default_rng(checked_seed(seed))
    graph = nx.Graph(name=name, length_unit="drawing unit" if is_drawing else "km")
    for node, label in labels.items():
        graph.add_node(label, pos=positions[node])
    for link in data["edges"]:
        u, v = link["source"], link["target"]
        length = math.dist(positions[u], positions[v]) if is_drawing else float(link["dist"])
        length = max(length, LEAST_LENGTH)
        deviation = length * rng.uniform(*VARIATION)
        graph.add_edge(labels[u], labels[v], mean=length, variance=deviation**2)
    return graph


def farthest_pair(graph: nx.Graph) -> tuple[Hashable, Hashable]:
    """The two nodes with the greatest least expected time between them; the first such pair in node order."""
    best: tuple[float, Any, Any] = (-1.0, None, None)
    for source, costs in nx.all_pairs_dijkstra_path_length(graph, weight="mean"):
        target = max(costs, key=lambda node: costs[node])
        if costs[target] > best[0]:
            best = (costs[target], source, target)
    return best[1], best[2]


def _labels(nodes: list[dict[str, Any]]) -> dict[int, str]:
    """Node id -> name, with the id added where a name is used twice."""
    names = [node["name"] for node in nodes]
    return {
        node["id"]: node["name"] if names.count(node["name"]) == 1 else f"{node['name']} #{node['id']}"
        for node in nodes
    }
