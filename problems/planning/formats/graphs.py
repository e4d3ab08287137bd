"""GraphML and GML: topology from the graph, numbers from attributes where it has them.

Edge attributes read: ``dist``/``length``/``length_km``/``distance`` (kilometers), ``cost``, ``existing_gbps``,
``max_gbps``. Node attributes: ``Longitude``/``Latitude`` (or ``lon``/``lat``, ``x``/``y``), ``label``/``name``,
``population``. Demands are drawn by the gravity model, since neither format has any; the spec keeps the result.
"""

from __future__ import annotations

import io
from typing import Any

import networkx as nx

from problems.planning.demand_models import gravity
from problems.planning.distances import great_circle_km
from problems.planning.instance import PlanningInstance
from problems.planning.topologies import from_topology
from surco.errors import InvalidInputError

_LENGTH = ("length_km", "dist", "length", "distance")


def read_graphml(text: str, *, name: str = "network") -> PlanningInstance:
    """Read GraphML; see the module."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InvalidInputError(f"`{name}`: document types and entities are not read.")
    try:
        graph = nx.read_graphml(io.BytesIO(text.encode()), force_multigraph=True)
    except (nx.NetworkXError, SyntaxError, ValueError, KeyError) as error:
        raise InvalidInputError(f"`{name}` is not GraphML: {error}.") from error
    return from_graph(graph, name=name)


def read_gml(text: str, *, name: str = "network") -> PlanningInstance:
    """Read GML; see the module. Labels that occur twice are told apart by their ids."""
    try:
        graph = nx.parse_gml(text, label="id")
    except (nx.NetworkXError, ValueError) as error:
        raise InvalidInputError(f"`{name}` is not GML: {error}.") from error
    return from_graph(graph, name=name)


def from_graph(graph: nx.Graph, *, name: str = "network", mean_load_units: float = 5.0) -> PlanningInstance:
    """Instance of any NetworkX graph: its largest connected part, gravity demands, cost = km per unit.

    Raises:
        InvalidInputError: fewer than two nodes, or edges without a length whose ends have no position.
    """
    graph = nx.MultiGraph(graph) if not graph.is_multigraph() else nx.MultiGraph(graph.to_undirected())
    graph.remove_edges_from(list(nx.selfloop_edges(graph, keys=True)))  # pyright: ignore[reportArgumentType]
    if graph.number_of_nodes() < 2 or not graph.number_of_edges():
        raise InvalidInputError(f"`{name}`: expected a graph with nodes and edges, got {graph}.")
    part = graph.subgraph(max(nx.connected_components(graph), key=len))
    places = {node: _place(data) for node, data in part.nodes(data=True)}
    has_places = all(place is not None for place in places.values())
    edges, is_measured = [], True
    for u, v, data in part.edges(data=True):
        length = next((float(data[key]) for key in _LENGTH if key in data), None)
        if length is None:
            if not has_places:
                raise InvalidInputError(f"`{name}`: edge {u}-{v} has no length and its ends have no position.")
            is_measured = False
            length = great_circle_km(places[u], places[v])  # type: ignore[arg-type]
        edges.append({"source": u, "target": v, "dist": length})
    nodes = [
        {"id": node, "name": str(data.get("label") or data.get("name") or node), "pos": places[node] or (0.0, 0.0)}
        for node, data in part.nodes(data=True)
    ]
    topology = {"graph": {"name": name}, "nodes": nodes, "edges": edges}
    mass = {node: float(data.get("population") or part.degree(node)) for node, data in part.nodes(data=True)}
    return from_topology(
        topology,
        demands=gravity(topology, mass=mass),
        is_two_way=True,
        mean_load_units=mean_load_units,
        allow_drawing_units=True,
        has_lengths=is_measured,
        name=name,
        note="GraphML or GML; gravity demands"
        + ("" if len(part) == len(graph) else f"; only the largest part, {len(part)} of {len(graph)} nodes"),
    )


def _place(data: dict[str, Any]) -> tuple[float, float] | None:
    for x, y in (("Longitude", "Latitude"), ("longitude", "latitude"), ("lon", "lat"), ("x", "y")):
        if data.get(x) is not None and data.get(y) is not None:
            return float(data[x]), float(data[y])
    return None
