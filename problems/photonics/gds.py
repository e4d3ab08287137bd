"""GDSII export and reimport of designs, with the guides that lead to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from problems.photonics.geometry import Device, FloatArray
from surco.errors import InvalidInputError, MissingExtraError

DESIGN_LAYER = (1, 0)
GUIDE_LAYER = (2, 0)
BOX_LAYER = (10, 0)


def _gdstk() -> Any:
    try:
        import gdstk
    except ImportError as error:
        raise MissingExtraError("GDSII needs gdstk: pip install 'surco[photonics]'") from error
    return gdstk


def _rectangles(mask: NDArray[np.bool_]) -> list[tuple[int, int, int, int]]:
    """Cover a mask exactly by rectangles (i0, j0, i1, j1): runs along j, merged along i while equal."""
    open_runs: dict[tuple[int, int], int] = {}
    done = []
    for i in range(mask.shape[0] + 1):
        row = mask[i] if i < mask.shape[0] else np.zeros(mask.shape[1], bool)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
        runs = set(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
        closed = [run for run in open_runs if run not in runs]
        done += [(open_runs.pop(run), run[0], i, run[1]) for run in closed]
        for run in runs - set(open_runs):
            open_runs[run] = i
    return done


def write_gds(path: str | Path, device: Device, design: FloatArray, *, name: str = "DESIGN") -> int:
    """Write a design to a GDSII file, micrometers, origin at the design's lower-left corner.

    Layers: 1/0 the solid of the design, 2/0 the guides and other solid around it, 10/0 the outline of the design box.
    The solid of the design is written as merged polygons; holes are cut by key holes.

    Args:
        path: file to write.
        device: gives the grid and the guides.
        design: [H, W], 1 = solid.
        name: of the cell.

    Returns:
        Number of polygons on the design layer.

    Raises:
        MissingExtraError: gdstk is not installed.
        InvalidInputError: the design's shape does not fit, or it is not binary.
    """
    gdstk = _gdstk()
    design = np.asarray(design)
    if design.shape != device.design_shape or not np.isin(design, (0, 1)).all():
        raise InvalidInputError(f"Expected a binary design of shape {device.design_shape}, got {design.shape}.")
    um = device.grid_nm * 1e-3
    library = gdstk.Library(unit=1e-6, precision=1e-9)
    cell = library.new_cell(name)
    i0, j0, i1, j1 = device.box

    def polygons(mask: NDArray[np.bool_], shift: tuple[int, int]) -> list[Any]:
        pieces = [
            gdstk.rectangle(((a + shift[0]) * um, (b + shift[1]) * um), ((c + shift[0]) * um, (d + shift[1]) * um))
            for a, b, c, d in _rectangles(mask)
        ]
        return gdstk.boolean(pieces, [], "or", precision=1e-4) if pieces else []

    solid = polygons(design > 0.5, (0, 0))
    for polygon in solid:
        polygon.layer, polygon.datatype = DESIGN_LAYER
        cell.add(polygon)
    around = device.density > 0.5
    around[i0:i1, j0:j1] = False
    for polygon in polygons(around, (-i0, -j0)):
        polygon.layer, polygon.datatype = GUIDE_LAYER
        cell.add(polygon)
    outline = gdstk.rectangle((0, 0), ((i1 - i0) * um, (j1 - j0) * um), layer=BOX_LAYER[0], datatype=BOX_LAYER[1])
    cell.add(outline)
    library.write_gds(str(path))
    return len(solid)


def read_gds(path: str | Path, device: Device, *, name: str | None = None) -> FloatArray:
    """Read the design layer back to pixels [H, W]; a pixel is solid where its center is inside a polygon.

    Raises:
        MissingExtraError: gdstk is not installed.
        InvalidInputError: no such file or cell, or nothing on the outline layer that fits the device.
    """
    gdstk = _gdstk()
    if not Path(path).is_file():
        raise InvalidInputError(f"Expected a GDSII file, but there is no file `{path}`.")
    cells = {cell.name: cell for cell in gdstk.read_gds(str(path)).cells}
    if not cells or (name is not None and name not in cells):
        raise InvalidInputError(f"Expected a cell `{name}` in `{path}`, found {sorted(cells)}.")
    cell = cells[name] if name is not None else next(iter(cells.values()))
    um = device.grid_nm * 1e-3
    height, width = device.design_shape
    outline: Any = cell.get_polygons(layer=BOX_LAYER[0], datatype=BOX_LAYER[1])
    if outline:
        corners = np.asarray(outline[0].points, dtype=np.float64)
        size = corners.max(axis=0) - corners.min(axis=0)
        if not np.allclose(size, [height * um, width * um], atol=um / 10):
            raise InvalidInputError(
                f"Expected a design box of {height * um:g} x {width * um:g} um, `{path}` has {size[0]:g} x {size[1]:g}."
            )
    x, y = (np.arange(height) + 0.5) * um, (np.arange(width) + 0.5) * um
    points: Any = np.stack(np.meshgrid(x, y, indexing="ij"), -1).reshape(-1, 2)
    solid = cell.get_polygons(layer=DESIGN_LAYER[0], datatype=DESIGN_LAYER[1])
    inside = np.zeros(len(points), bool)
    if solid:
        inside = np.asarray(gdstk.inside(points, solid))
    return inside.reshape(height, width).astype(float)
