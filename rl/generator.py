"""Random networks to train on: planar-like, two-edge-connected, with distances on the Earth and gravity demands."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np

from problems.planning.demand_models import gravity
from problems.planning.distances import great_circle_km
from problems.planning.instance import PlanningInstance
from problems.planning.topologies import from_topohub, from_topology
from surco.errors import InvalidInputError

HELD_OUT = ("polska", "nobel-germany", "geant", "janos-us", "cost266", "germany50")
"""SNDlib networks that no policy of this project has been trained on."""

TRAINED_ON = ("abilene", "dfn-bwin", "dfn-gwin", "nobel-us", "nobel-eu", "pdh")
"""SNDlib networks of the training mixture. (janos-us-ca contains the held-out janos-us, so it is in neither list.)"""


def random_topology(n_nodes: int, *, links_per_node: float, rng: np.random.Generator) -> dict[str, Any]:
    """Node-link dictionary (topohub's form) of a random network.

    Sites are drawn in a box of the globe; links are those of the Gabriel graph, with long ones of the Delaunay
    triangulation added until it is two-edge-connected, and random ones taken away while it stays so.

    Args:
        n_nodes: at least 4.
        links_per_node: aimed at; planar graphs that survive a failure lie between 1 and 3.
        rng: draws everything.

    Raises:
        InvalidInputError: the sizes do not fit.
    """
    if n_nodes < 4 or not 1.0 <= links_per_node <= 3.0:
        raise InvalidInputError(f"Expected >= 4 nodes and 1 to 3 links a node, got {n_nodes} and {links_per_node}.")
    from scipy.spatial import Delaunay

    extent = np.exp(rng.uniform(np.log(4.0), np.log(35.0)))  # degrees: a country to a continent
    middle = np.array([rng.uniform(-120.0, 120.0), rng.uniform(-45.0, 55.0)])
    place = middle + rng.uniform(-0.5, 0.5, (n_nodes, 2)) * extent * np.array([1.0, rng.uniform(0.5, 0.9)])
    triangles = Delaunay(place).simplices.tolist()
    pairs = {(min(t[i], t[i - 1]), max(t[i], t[i - 1])) for t in triangles for i in range(3)}
    ordered = sorted(pairs)
    gap = {(u, v): float(((place[u] - place[v]) ** 2).sum()) for u, v in ordered}
    square = ((place[:, None] - place[None]) ** 2).sum(axis=-1)
    graph = nx.Graph()
    graph.add_nodes_from(range(n_nodes))
    for u, v in ordered:
        blocked = square[u] + square[v] < gap[u, v] - 1e-12
        if not blocked.any():
            graph.add_edge(u, v)
    for u, v in sorted(ordered, key=lambda p: gap[p]):
        if nx.is_connected(graph) and not nx.has_bridges(graph):
            break
        graph.add_edge(u, v)
    aim = round(links_per_node * n_nodes)
    missing = [p for p in ordered if not graph.has_edge(*p)]
    for i in rng.permutation(len(missing))[: max(0, aim - graph.number_of_edges())]:
        graph.add_edge(*missing[i])
    edges = sorted(tuple(sorted(e)) for e in graph.edges)
    for i in rng.permutation(len(edges)):
        if graph.number_of_edges() <= aim:
            break
        graph.remove_edge(*edges[i])
        if not nx.is_connected(graph) or nx.has_bridges(graph):
            graph.add_edge(*edges[i])
    return {
        "graph": {"name": f"random-{n_nodes}", "demands": {}},
        "nodes": [{"id": i, "name": f"n{i}", "pos": place[i].tolist()} for i in range(n_nodes)],
        "edges": [
            {"source": u, "target": v, "dist": great_circle_km(tuple(place[u]), tuple(place[v]))}
            for u, v in sorted(tuple(sorted(e)) for e in graph.edges)
        ],
    }


def random_demands(topology: dict[str, Any], *, rng: np.random.Generator) -> dict[tuple[int, int], float]:
    """Gravity demands with log-normal node weights, some pairs left out; at least one a node."""
    ids = [node["id"] for node in topology["nodes"]]
    weights = rng.lognormal(0.0, rng.uniform(0.2, 1.0), len(ids))
    table = gravity(topology, mass=dict(zip(ids, weights.tolist(), strict=True)), power=float(rng.uniform(0.0, 1.0)))
    share = rng.uniform(0.4, 1.0)
    kept = {pair: value for pair, value in table.items() if rng.random() < share}
    seen = {node for pair in kept for node in pair}
    for pair, value in sorted(table.items(), key=lambda item: -item[1]):
        if not set(pair) <= seen:
            kept[pair] = value
            seen |= set(pair)
    return kept


def random_instance(seed: int, *, nodes: tuple[int, int] = (8, 30)) -> PlanningInstance:
    """A random survivable planning instance; the same seed gives the same instance.

    Args:
        seed: of every draw.
        nodes: fewest and most; smaller networks are more frequent (log-uniform).
    """
    rng = np.random.default_rng([seed, 20_061])
    low, high = nodes
    n_nodes = round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))
    topology = random_topology(n_nodes, links_per_node=float(rng.uniform(1.25, 2.0)), rng=rng)
    return from_topology(
        topology,
        demands=random_demands(topology, rng=rng),
        is_two_way=True,
        mean_load_units=float(np.exp(rng.uniform(np.log(2.0), np.log(10.0)))),
        name=f"random-{seed}",
        note=f"random network of seed {seed}",
    )


def training_instances(count: int, *, seed: int, nodes: tuple[int, int] = (8, 30)) -> list[PlanningInstance]:
    """The training mixture: ``count`` random networks and the SNDlib networks of :data:`TRAINED_ON`."""
    drawn = [random_instance(1000 * seed + i, nodes=nodes) for i in range(count)]
    return [*drawn, *(from_topohub(name) for name in TRAINED_ON)]
