"""GraphML and GML: topology from the graph, numbers from attributes where it has them.

Edge attributes read: ``length_km``/``dist``/``length``/``distance`` (kilometers, kept to the meter), ``cost`` (price of
one unit instead of its kilometers), ``existing_gbps``, ``max_gbps``. Node attributes: ``Longitude``/``Latitude`` (or
``lon``/``lat``, ``x``/``y``), ``label``/``name``, ``population``. Demands are drawn by the gravity model, since neither
format has any; the spec keeps the result. A number that is none, negative or not finite is an error.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import networkx as nx

from problems.planning.demand_models import gravity
from problems.planning.distances import great_circle_km
from problems.planning.instance import Link, Module, PlanningInstance
from problems.planning.topologies import from_topology
from surco.errors import InvalidInputError

_LENGTH = ("length_km", "dist", "length", "distance")
_PRICED = ("cost", "existing_gbps", "max_gbps")


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
    """Instance of any NetworkX graph: its largest connected part, gravity demands, cost = km (or ``cost``) per unit.

    Raises:
        InvalidInputError: fewer than two nodes, an attribute that is no number >= 0, or edges without a length whose
            ends have no position; the message names the place.
    """
    graph = nx.MultiGraph(graph) if not graph.is_multigraph() else nx.MultiGraph(graph.to_undirected())
    graph.remove_edges_from(list(nx.selfloop_edges(graph, keys=True)))  # pyright: ignore[reportArgumentType]
    if graph.number_of_nodes() < 2 or not graph.number_of_edges():
        raise InvalidInputError(f"`{name}`: expected a graph with nodes and edges, got {graph}.")
    part = graph.subgraph(max(nx.connected_components(graph), key=len))
    places = {node: _place(data, f"`{name}`: node {node}") for node, data in part.nodes(data=True)}
    edges, is_measured = [], True
    for u, v, data in part.edges(data=True):
        where = f"`{name}`: edge {u}-{v}"
        length = next((_number(data, key, where) for key in _LENGTH if key in data), None)
        if length is None:
            lost = next((node for node in (u, v) if places[node] is None), None)
            if lost is not None:
                raise InvalidInputError(
                    f"{where} has no length and node {lost} has no position. Give the edge `length_km`, or the node "
                    "`Longitude` and `Latitude`."
                )
            is_measured = False
            length = great_circle_km(places[u], places[v])  # type: ignore[arg-type]
        edges.append({"source": u, "target": v, "dist": length})
    nodes = [
        {"id": node, "name": str(data.get("label") or data.get("name") or node), "pos": places[node] or (0.0, 0.0)}
        for node, data in part.nodes(data=True)
    ]
    topology = {"graph": {"name": name}, "nodes": nodes, "edges": edges}
    mass = {
        node: _number(data, "population", f"`{name}`: node {node}") or float(part.degree(node))
        for node, data in part.nodes(data=True)
    }
    instance = from_topology(
        topology,
        demands=gravity(topology, mass=mass),
        is_two_way=True,
        mean_load_units=mean_load_units,
        allow_drawing_units=True,
        has_lengths=is_measured,
        has_whole_lengths=False,
        name=name,
        note="GraphML or GML; gravity demands"
        + ("" if len(part) == len(graph) else f"; only the largest part, {len(part)} of {len(graph)} nodes"),
    )
    attributes = [data for _, _, data in part.edges(data=True)]
    lost = {row["name"] for row in nodes if places[row["id"]] is None}
    return replace(
        instance,
        links=tuple(_with_attributes(link, data, name) for link, data in zip(instance.links, attributes, strict=True)),
        nodes=tuple(
            replace(node, x=None, y=None) if places[row["id"]] is None else node
            for node, row in zip(instance.nodes, nodes, strict=True)
        ),
        is_geographic=instance.is_geographic and not lost,
        provenance=instance.provenance
        + "".join(f"; {key} of edges as given" for key in _PRICED if any(key in data for data in attributes)),
    )


def _with_attributes(link: Link, data: Mapping[str, Any], name: str) -> Link:
    """The link with the price and capacities that its edge has."""
    cost, existing, most = (_number(data, key, f"`{name}`: edge {link.name}") for key in _PRICED)
    (module,) = link.modules
    return replace(
        link,
        modules=(module if cost is None else Module(module.capacity_gbps, cost),),
        existing_gbps=existing or 0.0,
        max_gbps=most,
    )


def _number(data: Mapping[str, Any], key: str, where: str) -> float | None:
    """Attribute ``key`` as a finite number >= 0; None without it."""
    if data.get(key) is None:
        return None
    value = _float(data[key], key, where)
    if value < 0.0:
        raise InvalidInputError(f"{where}: expected `{key}` >= 0, got {value:g}.")
    return value


def _float(value: Any, key: str, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InvalidInputError(f"{where}: expected a number in `{key}`, got {value!r}.") from None
    if not math.isfinite(number):
        raise InvalidInputError(f"{where}: expected a finite number in `{key}`, got {value!r}.")
    return number


def _place(data: Mapping[str, Any], where: str) -> tuple[float, float] | None:
    for x, y in (("Longitude", "Latitude"), ("longitude", "latitude"), ("lon", "lat"), ("x", "y")):
        if data.get(x) is not None and data.get(y) is not None:
            return _float(data[x], x, where), _float(data[y], y, where)
    return None
