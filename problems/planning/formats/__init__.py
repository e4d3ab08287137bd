"""Network files in, plans out. ``read_instance`` knows a format by its content, not by its name alone."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from problems.planning.instance import FORMAT, PlanningInstance
from surco.errors import InvalidInputError

_MOST_BYTES = 200_000_000


def read_instance(path: str | Path) -> PlanningInstance | None:
    """An instance from a file; None if it is of no known format.

    Known: SNDlib native, XML and JSON; GraphML and GML; NeuroPlan's workbook (``.xlsx``); this package's own JSON.

    Raises:
        InvalidInputError: the format is known, but the content is wrong; the message names the place.
    """
    path = Path(path)
    if path.stat().st_size > _MOST_BYTES:
        raise InvalidInputError(f"`{path}` has {path.stat().st_size:,} bytes; expected at most {_MOST_BYTES:,}.")
    if path.suffix.lower() == ".xlsx" and zipfile.is_zipfile(path):
        from problems.planning.formats.neuroplan import read_workbook

        return read_workbook(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        text = path.read_text(encoding="latin-1")
    return _read_text(text, path)


def _read_text(text: str, path: Path) -> PlanningInstance | None:
    head = text[:2000].lstrip("\ufeff").lstrip()
    name = path.stem
    if head.startswith("?SNDlib native format"):
        from problems.planning.formats.sndlib import read_native

        return read_native(text, name=name)
    if head.startswith("<"):
        from problems.planning.formats import graphs, sndlib

        if "graphml" in head:
            return graphs.read_graphml(text, name=name)
        return sndlib.read_xml(text, name=name) if "sndlib.zib.de" in head or "<network" in head else None
    if head.startswith("{"):
        return _read_json(text, name)
    if path.suffix.lower() == ".gml" or head.startswith(("graph [", "graph[", "Creator")):
        from problems.planning.formats.graphs import read_gml

        return read_gml(text, name=name)
    return None


def _read_json(text: str, name: str) -> PlanningInstance | None:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InvalidInputError(f"`{name}` is not JSON: {error}.") from error
    if data.get("format") == FORMAT:
        return PlanningInstance.from_spec(data)
    if {"nodes", "links", "demands"} <= set(data):
        from problems.planning.formats.sndlib import read_json

        return read_json(data, name=name)
    if {"nodes", "edges", "graph"} <= set(data):
        from problems.planning.topologies import from_topology

        return from_topology(data)
    return None


__all__ = ["read_instance"]
