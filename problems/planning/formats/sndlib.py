"""SNDlib networks in their three formats, with their own modules, prices and demands.

Demands and capacities of SNDlib are undirected here: a demand may go in both directions over shared capacity, which
is the same as carrying it in each direction over a full-duplex link. Every single link fails. Routing costs and the
price of pre-installed capacity have no place here; where a file has any, ``provenance`` says that they were left out.

Source: Orlowski, Pioro, Tomaszewski, Wessaely 2010, "SNDlib 1.0 - Survivable Network Design Library", Networks 55(3).
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from problems.planning.instance import (
    Demand,
    Disconnection,
    Link,
    Module,
    Node,
    PlanningInstance,
    single_link_failures,
)
from surco.errors import InvalidInputError

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_NODE = re.compile(rf"(\S+)\s*(?:\(\s*({_NUMBER})\s+({_NUMBER})\s*\))?\s*$")
_LINK = re.compile(
    rf"(\S+)\s*\(\s*(\S+)\s+(\S+)\s*\)\s*({_NUMBER})\s+({_NUMBER})\s+({_NUMBER})\s+({_NUMBER})\s*\(\s*((?:{_NUMBER}\s*)*)\)\s*$"
)
_DEMAND = re.compile(rf"(\S+)\s*\(\s*(\S+)\s+(\S+)\s*\)\s*({_NUMBER})\s+({_NUMBER})\s+(\S+)\s*$")


@dataclass(frozen=True, slots=True)
class _Raw:
    """What the three formats say alike."""

    nodes: tuple[tuple[str, float | None, float | None], ...]
    links: tuple[tuple[str, str, str, float, float, float, float, tuple[tuple[float, float], ...]], ...]
    demands: tuple[tuple[str, str, float], ...]
    is_geographic: bool | None = None


def read_native(text: str, *, name: str = "network") -> PlanningInstance:
    """Read the native text format.

    Raises:
        InvalidInputError: a section is missing, or a line does not fit; the message holds the line.
    """
    match = re.search(r"^#\s*network\s+(\S+)", text, re.MULTILINE)
    lines = [line.split("#", 1)[0].strip() for line in text.splitlines()]
    nodes = [_match(_NODE, line, "NODES") for line in _section(lines, "NODES")]
    links = [_match(_LINK, line, "LINKS") for line in _section(lines, "LINKS")]
    demands = [_match(_DEMAND, line, "DEMANDS") for line in _section(lines, "DEMANDS")]
    raw = _Raw(
        tuple((n[1], None if n[2] is None else float(n[2]), None if n[3] is None else float(n[3])) for n in nodes),
        tuple(
            (x[1], x[2], x[3], float(x[4]), float(x[5]), float(x[6]), float(x[7]), _pairs(x[8].split(), x[1]))
            for x in links
        ),
        tuple((d[2], d[3], float(d[5])) for d in demands),
    )
    return _instance(raw, match[1] if match else name)


def read_xml(text: str, *, name: str = "network") -> PlanningInstance:
    """Read the XML format; entities and document types are refused.

    Raises:
        InvalidInputError: not well formed, or an element is missing.
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InvalidInputError(f"`{name}`: document types and entities are not read.")
    try:
        root = ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text.lstrip("\ufeff")))
    except ElementTree.ParseError as error:
        raise InvalidInputError(f"`{name}` is not XML: {error}.") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    holder = root.find("networkStructure/nodes")
    if holder is None or root.find("networkStructure/links") is None:
        raise InvalidInputError(f"`{name}`: expected networkStructure with nodes and links.")
    nodes = []
    for node in holder.findall("node"):
        x, y = node.findtext("coordinates/x"), node.findtext("coordinates/y")
        nodes.append((node.get("id", ""), None if x is None else float(x), None if y is None else float(y)))
    links = []
    for link in root.findall("networkStructure/links/link"):
        modules = [(_number(m, "capacity"), _number(m, "cost")) for m in link.findall("additionalModules/addModule")]
        links.append(
            (
                link.get("id", ""),
                link.findtext("source", ""),
                link.findtext("target", ""),
                _number(link, "preInstalledModule/capacity", 0.0),
                _number(link, "preInstalledModule/cost", 0.0),
                _number(link, "routingCost", 0.0),
                _number(link, "setupCost", 0.0),
                tuple(modules),
            )
        )
    demands = tuple(
        (d.findtext("source", ""), d.findtext("target", ""), _number(d, "demandValue"))
        for d in root.findall("demands/demand")
    )
    raw = _Raw(tuple(nodes), tuple(links), demands, holder.get("coordinatesType") == "geographical")
    return _instance(raw, root.findtext("name") or name)


def read_json(data: Mapping[str, Any], *, name: str = "network") -> PlanningInstance:
    """Read the JSON form of the public copy of SNDlib.

    Raises:
        InvalidInputError: a key is missing.
    """
    try:
        raw = _Raw(
            tuple((n["id"], _optional(n.get("longitude")), _optional(n.get("latitude"))) for n in data["nodes"]),
            tuple(
                (
                    x["id"],
                    x["source"],
                    x["target"],
                    float(x.get("pre_installed_capacity", 0.0)),
                    float(x.get("pre_installed_capacity_cost", 0.0)),
                    float(x.get("routing_cost", 0.0)),
                    float(x.get("setup_cost", 0.0)),
                    tuple((float(m["module_capacity"]), float(m["module_cost"])) for m in x["modules"]),
                )
                for x in data["links"]
            ),
            tuple((d["source"], d["target"], float(d["demand_value"])) for d in data["demands"]),
        )
    except (KeyError, TypeError) as error:
        raise InvalidInputError(f"`{name}`: not SNDlib's JSON, {type(error).__name__} {error}.") from error
    return _instance(raw, name)


def _instance(raw: _Raw, name: str) -> PlanningInstance:
    left_out = []
    if any(link[4] for link in raw.links):
        left_out.append("prices of pre-installed capacity")
    if any(link[5] for link in raw.links):
        left_out.append("routing costs")
    place = [(x, y) for _, x, y in raw.nodes if x is not None and y is not None]
    on_globe = bool(place) and all(abs(x) <= 180 and abs(y) <= 90 for x, y in place)
    whole = all(x == round(x) and y == round(y) for x, y in place)
    geographic = raw.is_geographic if raw.is_geographic is not None else on_globe and not whole
    instance = PlanningInstance(
        name=name,
        nodes=tuple(Node(*node) for node in raw.nodes),
        links=tuple(
            Link(
                link[0],
                link[1],
                link[2],
                tuple(Module(capacity, cost) for capacity, cost in link[7]),
                existing_gbps=link[3],
                setup_cost=link[6],
            )
            for link in raw.links
        ),
        demands=tuple(Demand(u, v, value) for u, v, value in raw.demands if u != v),
        is_two_way=True,
        is_geographic=geographic and on_globe,
        on_disconnection=Disconnection.SKIP,
        provenance="SNDlib file, own modules and prices, undirected demands; every single link fails"
        + (f"; left out: {' and '.join(left_out)}" if left_out else ""),
    )
    return instance.with_failures(single_link_failures(instance))


def _section(lines: list[str], name: str) -> Iterable[str]:
    """Entries of a section, one a line, between ``NAME (`` and the closing parenthesis of its own line."""
    start = next((i for i, line in enumerate(lines) if re.fullmatch(rf"{name}\s*\(", line)), None)
    if start is None:
        raise InvalidInputError(f"Expected a section `{name} (` in the SNDlib file, found none.")
    for line in lines[start + 1 :]:
        if line == ")":
            return
        if line:
            yield line
    raise InvalidInputError(f"Section `{name}` of the SNDlib file has no closing parenthesis.")


def _match(pattern: re.Pattern[str], line: str, section: str) -> re.Match[str]:
    found = pattern.match(line)
    if found is None:
        raise InvalidInputError(f"Section `{section}` of the SNDlib file: cannot read the line {line[:120]!r}.")
    return found


def _pairs(words: list[str], link: str) -> tuple[tuple[float, float], ...]:
    if len(words) % 2:
        raise InvalidInputError(f"Link {link!r}: expected pairs of module capacity and cost, got {len(words)} numbers.")
    return tuple((float(words[i]), float(words[i + 1])) for i in range(0, len(words), 2))


def _number(element: Any, path: str, default: float | None = None) -> float:
    text = element.findtext(path)
    if text is None:
        if default is None:
            raise InvalidInputError(f"Expected an element `{path}` in `{element.tag}` {element.get('id', '')}.")
        return default
    try:
        return float(text)
    except ValueError:
        raise InvalidInputError(f"Expected a number in `{path}` of `{element.get('id', '')}`, got {text!r}.") from None


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)
