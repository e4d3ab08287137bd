"""A route problem as a JSON object, and back."""

from __future__ import annotations

import math
import numbers
from collections.abc import Hashable, Mapping
from typing import Any

import networkx as nx

from problems.paths.hull import Query
from surco.errors import InvalidInputError

KEYS = ("nodes", "edges", "source", "target", "deadline")
_KINDS: dict[tuple[bool, bool], type[nx.Graph]] = {
    (False, False): nx.Graph,
    (False, True): nx.MultiGraph,
    (True, False): nx.DiGraph,
    (True, True): nx.MultiDiGraph,
}


def write(graph: nx.Graph, query: Query) -> dict[str, Any]:
    """Write the whole problem out, but for the deadline.

    Numbers, strings and (nested) tuples of them stay node names; other names are replaced by their text, or all names
    by their positions where two texts are the same. A node attribute ``pos``, a pair of numbers, is kept for drawing.

    Args:
        graph: the graph, for its kind and positions.
        query: its arrays and the ends.
    """
    network = query.network
    names = [_plain(node) for node in network.nodes]
    if len({repr(name) for name in names}) < len(names):
        names = list(range(len(names)))
    spec: dict[str, Any] = {
        "domain": "paths",
        "directed": graph.is_directed(),
        "multigraph": graph.is_multigraph(),
        "nodes": names,
        "edges": [
            [names[u], names[v], mean, variance, *(_plain(part) for part in edge[2:])]
            for edge, u, v, mean, variance in zip(
                network.edges,
                network.tail.tolist(),
                network.head.tolist(),
                network.mean.tolist(),
                network.variance.tolist(),
                strict=True,
            )
        ],
        "source": names[query.source],
        "target": names[query.target],
    }
    positions = nx.get_node_attributes(graph, "pos")
    if len(positions) == len(names):
        spec["positions"] = [[float(number) for number in positions[node]] for node in network.nodes]
    return spec


def read(spec: Mapping[str, Any]) -> tuple[nx.Graph, Hashable, Hashable, float]:
    """Graph, source, target and deadline of a JSON object as :func:`write` makes it.

    ``nodes``, ``directed``, ``multigraph`` and ``positions`` may be left out.

    Raises:
        InvalidInputError: a key is missing or unknown, or an edge is not [u, v, mean, variance].
    """
    known = {"domain", "id", "directed", "multigraph", "positions", *KEYS}
    unknown = sorted(set(spec) - known)
    missing = [key for key in KEYS[1:] if key not in spec]
    if unknown or missing:
        wrong = f"`{unknown[0]}` is not one of them" if unknown else f"`{missing[0]}` is missing"
        raise InvalidInputError(
            f"Expected a paths spec with the keys edges ([u, v, mean, variance] each), source, target, deadline, and "
            f"optionally nodes, directed, multigraph, positions; {wrong}."
        )
    is_multigraph, is_directed = (_flag(spec, key) for key in ("multigraph", "directed"))
    graph = _KINDS[is_directed, is_multigraph]()
    graph.add_nodes_from(_name(node) for node in _list(spec, "nodes", ()))
    for edge in _list(spec, "edges"):
        if not isinstance(edge, list | tuple) or not 4 <= len(edge) <= 4 + is_multigraph:
            raise InvalidInputError(f"Expected an edge as [u, v, mean, variance], got {edge!r}.")
        u, v = _name(edge[0]), _name(edge[1])
        attributes = {
            name: _number(edge[i], f"the {name} of edge {edge!r}") for i, name in ((2, "mean"), (3, "variance"))
        }
        if is_multigraph:
            graph.add_edge(u, v, key=_name(edge[4]) if len(edge) == 5 else None, **attributes)
        elif graph.has_edge(u, v):
            raise InvalidInputError(f'Expected one edge between {u!r} and {v!r}, got two. Try `"multigraph": true`.')
        else:
            graph.add_edge(u, v, **attributes)
    if spec.get("positions") is not None:
        positions = _list(spec, "positions")
        if len(positions) != len(graph):
            raise InvalidInputError(f"Expected {len(graph)} positions, one a node, got {len(positions)}.")
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in positions):
            raise InvalidInputError("Expected every position to be [x, y].")
        points = [tuple(_number(number, f"the position {pair!r}") for number in pair) for pair in positions]
        nx.set_node_attributes(graph, dict(zip(graph, points, strict=True)), "pos")
    deadline = _number(spec["deadline"], "the `deadline`")
    return graph, _name(spec["source"]), _name(spec["target"]), deadline


def _flag(spec: Mapping[str, Any], key: str) -> bool:
    value = spec.get(key, False)
    if not isinstance(value, bool):
        raise InvalidInputError(f"Expected `{key}` to be true or false, got {value!r}.")
    return value


def _list(spec: Mapping[str, Any], key: str, default: Any = None) -> Any:
    value = spec.get(key, default)
    if not isinstance(value, list | tuple):
        raise InvalidInputError(f"Expected `{key}` to be a list, got {value!r}.")
    return value


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInputError(f"Expected {what} to be a number, got {value!r}.")
    return value


def _plain(node: object) -> Any:
    """A node name as JSON: tuples become lists, what JSON has no word for becomes text."""
    if isinstance(node, tuple):
        return [_plain(part) for part in node]
    if node is None or isinstance(node, str | bool):
        return node
    if isinstance(node, numbers.Integral):
        return int(node)
    if isinstance(node, numbers.Real) and math.isfinite(node):
        return float(node)
    return str(node)


def _name(node: Any) -> Hashable:
    """A node name from JSON: lists become tuples."""
    return tuple(_name(part) for part in node) if isinstance(node, list | tuple) else node
