"""Instances from topohub's SNDlib networks, and how wrong drawing-unit distances are told from kilometers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from problems.planning.instance import (
    Demand,
    Disconnection,
    Fiber,
    Link,
    Module,
    Node,
    PlanningInstance,
    single_link_failures,
)
from problems.planning.routing import shortest_path_loads
from surco.errors import InvalidInputError, UnknownIdError

UNIT_GBPS = 100.0
DRAWN_MEAN_KM = 100.0


@cache
def sndlib_names() -> tuple[str, ...]:
    """Names of the SNDlib networks of topohub."""
    import importlib.resources

    folder = importlib.resources.files("topohub") / "data" / "sndlib"
    return tuple(sorted(item.name.removesuffix(".json") for item in folder.iterdir() if item.name.endswith(".json")))


@cache
def zoo_names() -> tuple[str, ...]:
    """Names of the Topology Zoo's networks in topohub; they have positions, and no demands."""
    import importlib.resources

    folder = importlib.resources.files("topohub") / "data" / "topozoo"
    return tuple(sorted(item.name.removesuffix(".json") for item in folder.iterdir() if item.name.endswith(".json")))


def topology(key: str) -> dict[str, Any]:
    """Node-link dictionary of topohub, ``key`` such as ``sndlib/polska`` or ``topozoo/Abilene``."""
    import importlib.resources

    file = importlib.resources.files("topohub").joinpath("data", *f"{key}.json".split("/"))
    if ".." in key or not file.is_file():
        raise UnknownIdError(f"topohub has no network {key!r}; try one such as 'sndlib/polska'.")
    return json.loads(file.read_text(encoding="utf-8"))  # topohub.get leaves the file open


def has_drawing_units(data: Mapping[str, Any]) -> bool:
    """Whether positions are places on a drawing, so that topohub's ``dist`` is no distance on the Earth.

    Told by positions off the globe, or by coordinates that are all whole numbers (degrees of real sites are not).
    """
    position = np.array([node["pos"] for node in data["nodes"]], dtype=np.float64)
    outside = (np.abs(position[:, 0]) > 180.0).any() or (np.abs(position[:, 1]) > 90.0).any()
    return bool(outside or (position == np.round(position)).all())


@cache
def sane_names() -> tuple[str, ...]:
    """SNDlib networks of topohub whose distances are kilometers; the others are ``drawn_names``."""
    return tuple(name for name in sndlib_names() if not has_drawing_units(topology(f"sndlib/{name}")))


@cache
def drawn_names() -> tuple[str, ...]:
    """SNDlib networks of topohub whose distances are haversines of drawing units, hence meaningless."""
    return tuple(name for name in sndlib_names() if name not in sane_names())


def link_lengths_km(
    data: Mapping[str, Any], *, is_drawing: bool, has_whole_lengths: bool = True
) -> NDArray[np.float64]:
    """[m] whole kilometers, at least 1: topohub's ``dist``, or scaled straight lines where positions are a drawing.

    Without ``has_whole_lengths``, ``dist`` is kept to the meter (at least one), since links of a city are short. A
    drawing has no scale, so its mean link counts as 100 km; topohub's ``dist`` of a drawing is a great circle between
    numbers that are no degrees, and not even its order is right.
    """
    if not is_drawing:
        length = np.array([float(edge["dist"]) for edge in data["edges"]])
        if not has_whole_lengths:
            return np.maximum(np.round(length, 3), 1e-3)
    else:
        place = {node["id"]: np.array(node["pos"], dtype=np.float64) for node in data["nodes"]}
        length = np.array([np.hypot(*(place[edge["source"]] - place[edge["target"]])) for edge in data["edges"]])
        length *= DRAWN_MEAN_KM / max(float(length.mean()), 1e-12)
    return np.maximum(np.round(length), 1.0)


def from_topology(
    data: Mapping[str, Any],
    *,
    demands: Mapping[tuple[int, int], float] | None = None,
    is_two_way: bool | None = None,
    mean_load_units: float = 5.0,
    unit_gbps: float = UNIT_GBPS,
    allow_drawing_units: bool = False,
    has_lengths: bool = False,
    has_whole_lengths: bool = True,
    name: str | None = None,
    note: str = "topohub",
) -> PlanningInstance:
    """Instance of a topohub network: one link, one fiber and one module size per edge, cost = whole km per unit.

    Args:
        data: node-link dictionary.
        demands: (source id, target id) -> relative size; default the network's own.
        is_two_way: whether each demand stands for both directions; default: exactly if no pair is listed both ways.
        mean_load_units: demands are scaled so that shortest-path routing loads a link direction with this many units
            on average.
        unit_gbps: size of one unit.
        allow_drawing_units: build it even if the distances are not kilometers; lengths are then straight lines on the
            drawing, scaled to a mean link of 100 km.
        has_lengths: whether ``dist`` of the edges is a length in km whatever the positions are.
        has_whole_lengths: whether lengths that are no drawing's are rounded to whole km; else to meters.
        name: of the instance.
        note: where it comes from, first words of ``provenance``.

    Raises:
        InvalidInputError: drawing units, or no demands.
    """
    name = name or str(data["graph"].get("name", "network"))
    geographic = not has_drawing_units(data)
    is_nominal = not geographic and not has_lengths
    if is_nominal and not allow_drawing_units:
        raise InvalidInputError(
            f"The positions of {name!r} are drawing units, so its distances are not kilometers. Read the SNDlib file "
            "with its own costs, or pass allow_drawing_units=True."
        )
    table = demands if demands is not None else _own_demands(data)
    if not table:
        raise InvalidInputError(f"{name!r} has no demands. Pass some, for example of `demand_models.gravity`.")
    if is_two_way is None:
        is_two_way = not any((v, u) in table for u, v in table)
    ids = [node["id"] for node in data["nodes"]]
    row = {key: i for i, key in enumerate(ids)}
    matrix = np.zeros((len(ids), len(ids)))
    for (u, v), value in table.items():
        matrix[row[u], row[v]] += value
    full = matrix + matrix.T if is_two_way else matrix
    ends = np.array([[row[e["source"]], row[e["target"]]] for e in data["edges"]], dtype=np.int64)
    length = link_lengths_km(data, is_drawing=is_nominal, has_whole_lengths=has_whole_lengths)
    price = "whole km" if has_whole_lengths or is_nominal else "km"
    scale = mean_load_units * unit_gbps / shortest_path_loads(len(ids), ends, length, full).mean()
    drawing = f"drawing units, scaled to a mean link of {DRAWN_MEAN_KM:g} km; " if is_nominal else ""
    labels = _labels(data)
    nodes = tuple(Node(labels[i], float(node["pos"][0]), float(node["pos"][1])) for i, node in enumerate(data["nodes"]))
    links, fibers = [], []
    seen: dict[str, int] = {}
    for (u, v), km in zip(ends.tolist(), length.tolist(), strict=True):
        label = f"{labels[u]}-{labels[v]}"
        seen[label] = seen.get(label, 0) + 1
        label = label if seen[label] == 1 else f"{label}#{seen[label]}"
        fibers.append(Fiber(label, labels[u], labels[v], length_km=km))
        links.append(Link(label, labels[u], labels[v], (Module(unit_gbps, km),), fibers=(label,), length_km=km))
    instance = PlanningInstance(
        name=name,
        nodes=nodes,
        links=tuple(links),
        fibers=tuple(fibers),
        demands=tuple(
            Demand(labels[u], labels[v], float(matrix[u, v] * scale)) for u, v in np.argwhere(matrix > 0.0).tolist()
        ),
        is_two_way=is_two_way,
        on_disconnection=Disconnection.SKIP,
        is_geographic=geographic,
        provenance=f"{note}; {drawing}"
        f"demands scaled to a mean shortest-path load of {mean_load_units:g} units of "
        f"{unit_gbps:g} Gbps per link direction; cost = {price} x units; every single link fails",
    )
    return instance.with_failures(single_link_failures(instance))


def from_topohub(key: str, *, model: str | None = None, seed: int | None = None, **options: Any) -> PlanningInstance:
    """``from_topology`` of a network of topohub by key (``sndlib/polska``) or SNDlib name (``polska``).

    Args:
        key: in topohub.
        model: of :data:`problems.planning.demand_models.MODELS` instead of the network's own demands; needed where it
            has none, as in Topology Zoo.
        seed: of the model, where it draws.
        options: of ``from_topology``.
    """
    from problems.planning.demand_models import MODELS

    key = key if "/" in key else f"sndlib/{key}"
    data = topology(key)
    if model is not None:
        if model not in MODELS:
            raise InvalidInputError(f"Expected a demand model of {sorted(MODELS)}, got {model!r}.")
        drawn = {} if seed is None else {"seed": seed}
        options |= {
            "demands": MODELS[model](data, **drawn),
            "is_two_way": True,
            "note": f"topohub with {model} demands" + ("" if seed is None else f", seed {seed}"),
        }
    return from_topology(data, name=options.pop("name", key.split("/", 1)[1]), **options)


def _own_demands(data: Mapping[str, Any]) -> dict[tuple[int, int], float]:
    """Positive demands of the graph; keys of topohub's table may be text or numbers."""
    ids = {str(node["id"]): node["id"] for node in data["nodes"]}
    return {
        (ids[str(u)], ids[str(v)]): float(value)
        for u, row in data["graph"].get("demands", {}).items()
        for v, value in row.items()
        if value > 0.0 and str(u) != str(v)
    }


def _labels(data: Mapping[str, Any]) -> list[str]:
    """Distinct names of the nodes; the id is added where names are missing or twice."""
    names = [str(node.get("name") or node["id"]) for node in data["nodes"]]
    return [
        label if names.count(label) == 1 else f"{label}#{node['id']}"
        for label, node in zip(names, data["nodes"], strict=True)
    ]
