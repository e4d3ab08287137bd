"""NeuroPlan's workbook: sheets Fibers, Leases, L3Nodes, L3Links, Flows, Spofs.

Columns: Fibers (name, src, dst, rtt, max_fp, spectrum_size_ghz_per_fp), Leases (name, src, dst, rtt,
min_capacity_gbps, max_capacity_gbps), L3Nodes (name, l1_node, stub), L3Links (name, src, dst, min_capacity_gbps,
max_capacity_gbps, fiber_name_map_spectrum = "fiber:GHz per Gbps;..."), Flows (name, src, dst, cos, capacity_gbps),
Spofs (fiber_names = "a;b", cos_to_protect = "GOLD;SILVER"). Fibers or Leases may be missing, not both.

The reference's rules: steps of 100 Gbps priced by the sum of "rtt" of the link's fibers, load factor 0.8, each single
owned fiber fails besides the listed groups, failures must carry all but BRONZE, demands are rounded up to whole Gbps.
Deviations: the load factor is not cut to whole Gbps; a link's largest capacity holds (the reference's integer program
forgets it); ``cos_to_protect`` is honored if ``protect_listed_classes`` (the reference reads and ignores it).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from problems.planning.instance import (
    Demand,
    Disconnection,
    Failure,
    Fiber,
    Link,
    Module,
    Node,
    PlanningInstance,
)
from surco.errors import InvalidInputError, MissingExtraError

_UNPROTECTED = "BRONZE"


def read_workbook(
    path: str | Path,
    *,
    adjust_factor: float = 1.0,
    load_factor: float = 0.8,
    step_gbps: float = 100.0,
    protect_listed_classes: bool = False,
) -> PlanningInstance:
    """Read a workbook.

    Args:
        path: ``.xlsx`` file.
        adjust_factor: share of each link's minimum capacity that is there already.
        load_factor: usable share of capacity.
        step_gbps: module size.
        protect_listed_classes: carry the classes of ``cos_to_protect`` in a listed failure, not all but BRONZE.

    Raises:
        MissingExtraError: openpyxl is not installed.
        InvalidInputError: a sheet or column is missing, or a cell does not fit.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise MissingExtraError('Reading workbooks needs openpyxl: pip install "surco[planning]".') from error
    book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    try:
        sheets = {sheet.title: _rows(sheet) for sheet in book.worksheets}
    finally:
        book.close()
    for name in ("L3Nodes", "L3Links", "Flows"):
        if name not in sheets:
            raise InvalidInputError(f"Expected a sheet {name!r} in {Path(path).name}, got {sorted(sheets)}.")
    fibers = _fibers(sheets)
    rtt = {fiber.name: fiber.length_km for fiber in fibers}
    links = tuple(_link(row, rtt, adjust_factor, step_gbps) for row in sheets["L3Links"])
    demands = tuple(
        Demand(
            _text(row, "src", "Flows"),
            _text(row, "dst", "Flows"),
            float(math.ceil(_number(row, "capacity_gbps", "Flows") - 1e-9)),
            _text(row, "cos", "Flows"),
        )
        for row in sheets["Flows"]
    )
    classes = {d.service for d in demands}
    protected = tuple(sorted(classes - {_UNPROTECTED}))
    failures = []
    for i, row in enumerate(sheets.get("Spofs", [])):
        listed = tuple(c for c in _words(row, "cos_to_protect") if c in classes)
        members = _words(row, "fiber_names")
        unknown = [m for m in members if m not in rtt]
        if unknown:
            raise InvalidInputError(f"Sheet 'Spofs', row {i + 2}: unknown fiber {unknown[0]!r}.")
        services = listed if protect_listed_classes else protected
        failures.append(Failure(f"spof {i + 1}", fibers=members, services=services))
    failures += [Failure(f"fiber {f.name}", fibers=(f.name,), services=protected) for f in fibers if not f.is_leased]
    nodes = tuple(
        Node(_text(row, "name", "L3Nodes"), has_transit=not _flag(row.get("stub"))) for row in sheets["L3Nodes"]
    )
    known = {node.name for node in nodes}
    sites = sorted({end for f in fibers for end in (f.source, f.target)} - known)
    return PlanningInstance(
        name=Path(path).stem,
        nodes=nodes + tuple(Node(site) for site in sites),
        links=links,
        demands=tuple(d for d in demands if d.source != d.target),
        failures=tuple(failures),
        fibers=fibers,
        load_factor=load_factor,
        on_disconnection=Disconnection.SKIP,
        provenance=f"NeuroPlan workbook; steps of {step_gbps:g} Gbps; protected: {', '.join(protected) or 'nothing'}",
    )


def _fibers(sheets: Mapping[str, list[dict[str, Any]]]) -> tuple[Fiber, ...]:
    fibers = [
        Fiber(
            _text(row, "name", "Fibers"),
            _text(row, "src", "Fibers"),
            _text(row, "dst", "Fibers"),
            length_km=_number(row, "rtt", "Fibers"),
            spectrum_ghz=_number(row, "max_fp", "Fibers") * _number(row, "spectrum_size_ghz_per_fp", "Fibers"),
        )
        for row in sheets.get("Fibers", [])
    ]
    fibers += [
        Fiber(
            _text(row, "name", "Leases"),
            _text(row, "src", "Leases"),
            _text(row, "dst", "Leases"),
            length_km=_number(row, "rtt", "Leases"),
            is_leased=True,
            lease_gbps=_number(row, "max_capacity_gbps", "Leases"),
        )
        for row in sheets.get("Leases", [])
    ]
    if not fibers:
        raise InvalidInputError("Expected rows in a sheet 'Fibers' or 'Leases', found none.")
    return tuple(fibers)


def _link(row: dict[str, Any], rtt: Mapping[str, float], adjust_factor: float, step_gbps: float) -> Link:
    name = _text(row, "name", "L3Links")
    fibers, rates = [], []
    for item in _words(row, "fiber_name_map_spectrum"):
        fiber, colon, rate = item.rpartition(":")
        if not colon or fiber not in rtt:
            raise InvalidInputError(f"Sheet 'L3Links', link {name!r}: expected 'fiber:GHz per Gbps', got {item!r}.")
        fibers.append(fiber)
        rates.append(float(rate))
    length = sum(rtt[fiber] for fiber in fibers)
    return Link(
        name,
        _text(row, "src", "L3Links"),
        _text(row, "dst", "L3Links"),
        (Module(step_gbps, length * step_gbps),),
        fibers=tuple(fibers),
        existing_gbps=float(int(_number(row, "min_capacity_gbps", "L3Links") * adjust_factor)),
        max_gbps=_number(row, "max_capacity_gbps", "L3Links"),
        length_km=length,
        fiber_ghz_per_gbps=tuple(rates),
    )


def _rows(sheet: Any) -> list[dict[str, Any]]:
    """Rows below the header as dictionaries; empty rows are skipped."""
    rows = sheet.iter_rows(values_only=True)
    header = [str(cell).strip() if cell is not None else "" for cell in next(rows, ())]
    return [dict(zip(header, row, strict=False)) for row in rows if any(cell is not None for cell in row)]


def _text(row: Mapping[str, Any], column: str, sheet: str) -> str:
    value = row.get(column)
    if value is None:
        raise InvalidInputError(
            f"Sheet {sheet!r}: expected a column {column!r} with a value, got {sorted(map(str, row))}."
        )
    return str(value).strip()


def _number(row: Mapping[str, Any], column: str, sheet: str) -> float:
    text = _text(row, column, sheet)
    try:
        value = float(text)
    except ValueError:
        raise InvalidInputError(f"Sheet {sheet!r}, column {column!r}: expected a number, got {text!r}.") from None
    if not math.isfinite(value):
        raise InvalidInputError(f"Sheet {sheet!r}, column {column!r}: expected a finite number, got {text!r}.")
    return value


def _words(row: Mapping[str, Any], column: str) -> tuple[str, ...]:
    value = row.get(column)
    return tuple(word.strip() for word in str(value).split(";") if word.strip()) if value is not None else ()


def _flag(value: Any) -> bool:
    return str(value).strip().lower() in ("true", "1", "yes") if value is not None else False
