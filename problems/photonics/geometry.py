"""Devices: where the silicon is, where the ports are, and which box may be designed.

All lengths of a `Device` are in grid cells; the builders below take nanometers and refuse lengths that are not a whole
number of cells. The first array axis is x (index i), the second is y (index j).

Source: layouts of Schubert et al., ACS Photonics 9, 2327 (2022), with the dimensions of the public benchmark problems
built on it (waveguide 400 nm, mode padding 520 nm, guide length 720 nm, 20 absorbing cells at any resolution).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from surco.errors import InvalidInputError

FloatArray = NDArray[np.float64]

PAPER_WAVELENGTHS_NM = (1265.0, 1270.0, 1275.0, 1285.0, 1290.0, 1295.0)
LIGHT_WAVELENGTHS_NM = (1270.0, 1290.0)
EPS_SOLID = 12.25
EPS_VOID = 2.25
PML_CELLS = 20


class Direction(enum.StrEnum):
    """Direction in which a port sends light into the device."""

    X_POS = "x+"
    X_NEG = "x-"
    Y_POS = "y+"
    Y_NEG = "y-"

    @property
    def is_along_x(self) -> bool:
        """Whether the port line is a column of constant x."""
        return self in (Direction.X_POS, Direction.X_NEG)

    @property
    def sign(self) -> int:
        """+1 for a port that looks along a growing coordinate, else -1."""
        return 1 if self in (Direction.X_POS, Direction.Y_POS) else -1


@dataclass(frozen=True, slots=True)
class Port:
    """A line of cells that carries one guided mode.

    Attributes:
        x, y: center of the line, cells.
        width: length of the line, cells, even.
        direction: into the device.
        order: transverse order of the mode, 1 = fundamental.
        offset: distance from the source line to the monitor line, cells, along ``direction``.
    """

    x: int
    y: int
    width: int
    direction: Direction
    order: int = 1
    offset: int = 1

    def cells(self, shift: int = 0) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Index arrays (i, j) of the line, moved by ``shift`` cells along the axis of propagation."""
        half = self.width // 2
        line = np.arange(-half, half)
        if self.direction.is_along_x:
            return np.full(2 * half, self.x + shift), self.y + line
        return self.x + line, np.full(2 * half, self.y + shift)


@dataclass(frozen=True, slots=True, eq=False)
class Device:
    """A planar device in the x-y plane, with one rectangular design region. 2D, E_z polarization only.

    Attributes:
        name: short name, for messages and titles.
        grid_nm: cell size, nm.
        wavelengths_nm: free-space wavelengths, nm.
        density: [Nx, Ny] float64, 1 = solid, 0 = void, outside the design region; inside it is ignored.
        box: design region (i0, j0, i1, j1), half open.
        ports: the ports, port 1 first.
        pml_cells: absorbing cells on every side.
        eps_solid, eps_void: relative permittivities of density 1 and 0.
    """

    name: str
    grid_nm: float
    wavelengths_nm: tuple[float, ...]
    density: FloatArray
    box: tuple[int, int, int, int]
    ports: tuple[Port, ...]
    pml_cells: int = PML_CELLS
    eps_solid: float = EPS_SOLID
    eps_void: float = EPS_VOID
    spec: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nx, ny = self.density.shape
        i0, j0, i1, j1 = self.box
        margin = self.pml_cells + 2
        if not (margin < i0 < i1 < nx - margin and margin < j0 < j1 < ny - margin):
            raise InvalidInputError(
                f"Expected a design box inside the absorbing frame of the {nx}x{ny} domain, got {self.box}. "
                "Try a longer guide or more padding."
            )
        if not self.wavelengths_nm or min(self.wavelengths_nm) <= 0:
            raise InvalidInputError(f"Expected positive wavelengths_nm, got {self.wavelengths_nm}.")
        for number, port in enumerate(self.ports, 1):
            ii, jj = port.cells(port.offset * port.direction.sign)
            if port.width % 2 or port.width < 4:
                raise InvalidInputError(
                    f"Expected an even width of port {number} of at least 4 cells, got {port.width}."
                )
            if ii.min() < 1 or jj.min() < 1 or ii.max() >= nx or jj.max() >= ny:
                raise InvalidInputError(f"Port {number} leaves the {nx}x{ny} domain. Try a smaller mode padding.")

    @property
    def shape(self) -> tuple[int, int]:
        """(Nx, Ny), cells."""
        return (int(self.density.shape[0]), int(self.density.shape[1]))

    @property
    def design_shape(self) -> tuple[int, int]:
        """(H, W) of a design, cells along x and y."""
        i0, j0, i1, j1 = self.box
        return (i1 - i0, j1 - j0)

    def full_density(self, design: FloatArray) -> FloatArray:
        """Density of the whole domain [Nx, Ny] with ``design`` [H, W] in place."""
        if design.shape != self.design_shape:
            raise InvalidInputError(f"Expected a design of shape {self.design_shape}, got {design.shape}.")
        i0, j0, i1, j1 = self.box
        full = self.density.copy()
        full[i0:i1, j0:j1] = design
        return full

    def permittivity(self, density: FloatArray) -> FloatArray:
        """Relative permittivity of a density, same shape."""
        return self.eps_void + (self.eps_solid - self.eps_void) * density


def _cells(length_nm: float, grid_nm: float, what: str) -> int:
    count = length_nm / grid_nm
    if abs(count - round(count)) > 1e-6:
        raise InvalidInputError(
            f"Expected {what} to be a whole number of {grid_nm:g} nm cells, got {length_nm:g} nm. "
            f"Try {round(count) * grid_nm:g} nm."
        )
    return round(count)


@dataclass(frozen=True, slots=True)
class _Common:
    grid_nm: float
    guide_nm: float
    mode_padding_nm: float
    guide_length_nm: float
    padding_nm: float
    pml_cells: int = PML_CELLS
    port_offset_nm: float = 40.0
    monitor_offset_nm: float = 40.0

    def px(self, length_nm: float, what: str) -> int:
        return _cells(length_nm, self.grid_nm, what)


def _common(grid_nm: float, given: dict[str, float]) -> _Common:
    base = {"guide_nm": 400.0, "mode_padding_nm": 520.0, "guide_length_nm": 720.0, "padding_nm": 400.0}
    unknown = set(given) - set(base) - {"port_offset_nm", "monitor_offset_nm", "pml_cells"}
    if unknown:
        raise InvalidInputError(f"Unknown device option {sorted(unknown)}. Known: {sorted(base)}.")
    return _Common(grid_nm=float(grid_nm), **(base | given))  # type: ignore[arg-type]


def waveguide_bend(
    *,
    grid_nm: float = 40.0,
    wavelengths_nm: Sequence[float] = LIGHT_WAVELENGTHS_NM,
    size_nm: float = 1600.0,
    **options: float,
) -> Device:
    """90 degree bend: port 1 enters from the left (x+), port 2 from below (y+)."""
    c = _common(grid_nm, options)
    size, length, pml = c.px(size_nm, "size_nm"), c.px(c.guide_length_nm, "guide_length_nm"), c.pml_cells
    n = 2 * pml + length + size + c.px(c.padding_nm, "padding_nm")
    middle_nm = c.guide_length_nm + size_nm / 2
    lo = pml + c.px(middle_nm - c.guide_nm / 2, "the guide's lower edge")
    hi = pml + c.px(middle_nm + c.guide_nm / 2, "the guide's upper edge")
    density = np.zeros((n, n))
    density[lo:hi, : pml + length] = 1.0
    density[: pml + length, lo:hi] = 1.0
    width = c.px(c.guide_nm + 2 * c.mode_padding_nm, "the port line")
    near, middle = pml + c.px(c.port_offset_nm, "port_offset_nm"), pml + c.px(middle_nm, "the guide's center")
    offset = c.px(c.monitor_offset_nm, "monitor_offset_nm")
    ports = (
        Port(near, middle, width, Direction.X_POS, 1, offset),
        Port(middle, near, width, Direction.Y_POS, 1, offset),
    )
    start = pml + length
    spec = {"device": "bend", "grid_nm": grid_nm, "wavelengths_nm": list(wavelengths_nm), "size_nm": size_nm, **options}
    box = (start, start, start + size, start + size)
    return Device("waveguide bend", c.grid_nm, tuple(wavelengths_nm), density, box, ports, pml, spec=spec)


def mode_converter(
    *,
    grid_nm: float = 40.0,
    wavelengths_nm: Sequence[float] = LIGHT_WAVELENGTHS_NM,
    size_nm: float = 1600.0,
    left_guide_nm: float = 400.0,
    right_guide_nm: float = 400.0,
    right_order: int = 2,
    **options: float,
) -> Device:
    """Fundamental mode from the left to the second mode on the right."""
    c = _common(grid_nm, options)
    size, length, pml = c.px(size_nm, "size_nm"), c.px(c.guide_length_nm, "guide_length_nm"), c.pml_cells
    left_port = left_guide_nm + 2 * c.mode_padding_nm
    right_port = right_guide_nm + 2 * c.mode_padding_nm
    height_nm = 2 * pml * c.grid_nm + max(size_nm + 2 * c.padding_nm, left_port, right_port)
    nx, ny = 2 * pml + 2 * length + size, c.px(height_nm, "the domain height")
    density = np.zeros((nx, ny))

    def rows(guide_nm: float) -> slice:
        return slice(
            c.px((height_nm - guide_nm) / 2, "a guide's edge"), c.px((height_nm + guide_nm) / 2, "a guide's edge")
        )

    density[: pml + length, rows(left_guide_nm)] = 1.0
    density[-(pml + length) - 1 :, rows(right_guide_nm)] = 1.0
    near, offset = c.px(c.port_offset_nm, "port_offset_nm"), c.px(c.monitor_offset_nm, "monitor_offset_nm")
    middle = c.px(height_nm / 2, "the guide's center")
    ports = (
        Port(pml + near, middle, c.px(left_port, "the left port line"), Direction.X_POS, 1, offset),
        Port(nx - pml - near, middle, c.px(right_port, "the right port line"), Direction.X_NEG, right_order, offset),
    )
    j0 = c.px((height_nm - size_nm) / 2, "the design's edge")
    box = (pml + length, j0, pml + length + size, j0 + size)
    spec = {
        "device": "mode-converter", "grid_nm": grid_nm, "wavelengths_nm": list(wavelengths_nm), "size_nm": size_nm,
        "left_guide_nm": left_guide_nm, "right_guide_nm": right_guide_nm, "right_order": right_order, **options,
    }  # fmt: skip
    return Device("mode converter", c.grid_nm, tuple(wavelengths_nm), density, box, ports, pml, spec=spec)


def beam_splitter(
    *,
    grid_nm: float = 40.0,
    wavelengths_nm: Sequence[float] = LIGHT_WAVELENGTHS_NM,
    length_nm: float = 3200.0,
    height_nm: float = 2000.0,
    separation_nm: float = 1120.0,
    **options: float,
) -> Device:
    """2x2 splitter: ports 1 (upper left), 2 (upper right), 3 (lower right), 4 (lower left)."""
    c = _common(grid_nm, options)
    pml, guide = c.pml_cells, c.px(c.guide_length_nm, "guide_length_nm")
    size = (c.px(length_nm, "length_nm"), c.px(height_nm, "height_nm"))
    margin = c.px(c.mode_padding_nm, "mode_padding_nm")
    nx, ny = 2 * pml + 2 * guide + size[0], 2 * pml + 2 * margin + size[1]
    middle_nm = ny * c.grid_nm / 2
    density = np.zeros((nx, ny))
    centers_nm = [middle_nm + sign * (separation_nm + c.guide_nm) / 2 for sign in (-1, 1)]
    for center_nm in centers_nm:
        rows = [c.px(center_nm + sign * c.guide_nm / 2, "a guide's edge") for sign in (-1, 1)]
        density[:, rows[0] : rows[1]] = 1.0
    lower, upper = (c.px(center_nm, "a guide's center") for center_nm in centers_nm)
    near, offset = c.px(c.port_offset_nm, "port_offset_nm"), c.px(c.monitor_offset_nm, "monitor_offset_nm")
    width = c.px(c.guide_nm + 2 * c.mode_padding_nm, "the port line")
    left, right = pml + near, nx - pml - near
    ports = (
        Port(left, upper, width, Direction.X_POS, 1, offset),
        Port(right, upper, width, Direction.X_NEG, 1, offset),
        Port(right, lower, width, Direction.X_NEG, 1, offset),
        Port(left, lower, width, Direction.X_POS, 1, offset),
    )
    box = (pml + guide, pml + margin, pml + guide + size[0], pml + margin + size[1])
    spec = {
        "device": "beam-splitter", "grid_nm": grid_nm, "wavelengths_nm": list(wavelengths_nm), "length_nm": length_nm,
        "height_nm": height_nm, "separation_nm": separation_nm, **options,
    }  # fmt: skip
    return Device("beam splitter", c.grid_nm, tuple(wavelengths_nm), density, box, ports, pml, spec=spec)


def _one_to_two(
    name: str,
    *,
    grid_nm: float,
    wavelengths_nm: Sequence[float],
    size_nm: float,
    edge_nm: float,
    input_shift_nm: float,
    output_shift_nm: float,
    **options: float,
) -> Device:
    c = _common(grid_nm, options)
    pml, guide = c.pml_cells, c.px(c.guide_length_nm, "guide_length_nm")
    size, padding = c.px(size_nm, "size_nm"), c.px(c.padding_nm, "padding_nm")
    nx, ny = size + 2 * guide + 2 * pml, size + 2 * padding + 2 * pml
    middle_nm = ny * c.grid_nm / 2
    reach_nm = size_nm / 2 - c.guide_nm / 2 - edge_nm
    box = (pml + guide, pml + padding, pml + guide + size, pml + padding + size)
    density = np.zeros((nx, ny))

    def rows(center_nm: float) -> slice:
        return slice(
            c.px(center_nm - c.guide_nm / 2, "a guide's edge"), c.px(center_nm + c.guide_nm / 2, "a guide's edge")
        )

    width = c.px(c.guide_nm + 2 * c.mode_padding_nm, "the port line")
    near = c.px(c.port_offset_nm, "port_offset_nm")
    density[: box[0], rows(middle_nm + input_shift_nm)] = 1.0
    ports = [Port(pml + near, c.px(middle_nm + input_shift_nm, "the input guide"), width, Direction.X_POS, 1, 5)]
    for center_nm in (middle_nm - reach_nm + output_shift_nm, middle_nm + reach_nm + output_shift_nm):
        density[box[2] :, rows(center_nm)] = 1.0
        ports.append(Port(nx - pml - near, c.px(center_nm, "an output guide"), width, Direction.X_NEG, 1, 5))
    return Device(name, c.grid_nm, tuple(wavelengths_nm), density, box, tuple(ports), pml)


def wavelength_demultiplexer(
    *,
    grid_nm: float = 40.0,
    wavelengths_nm: Sequence[float] = LIGHT_WAVELENGTHS_NM,
    size_nm: float = 3200.0,
    edge_nm: float = 400.0,
    input_shift_nm: float = 0.0,
    output_shift_nm: float = 0.0,
    **options: float,
) -> Device:
    """1x2 demultiplexer (WDM): the lower band leaves by port 2 (below), the upper band by port 3 (above).

    The monitors stand 5 cells from the source lines at any resolution, as in the published model.
    """
    spec = {
        "device": "wdm", "grid_nm": grid_nm, "wavelengths_nm": list(wavelengths_nm), "size_nm": size_nm,
        "edge_nm": edge_nm, "input_shift_nm": input_shift_nm, "output_shift_nm": output_shift_nm, **options,
    }  # fmt: skip
    device = _one_to_two(
        "wavelength demultiplexer", grid_nm=grid_nm, wavelengths_nm=wavelengths_nm, size_nm=size_nm, edge_nm=edge_nm,
        input_shift_nm=input_shift_nm, output_shift_nm=output_shift_nm, **options,
    )  # fmt: skip
    return _with_spec(device, spec)


def power_splitter(
    *,
    grid_nm: float = 40.0,
    wavelengths_nm: Sequence[float] = LIGHT_WAVELENGTHS_NM,
    size_nm: float = 1600.0,
    edge_nm: float = 120.0,
    **options: float,
) -> Device:
    """1x2 power splitter: the layout of the demultiplexer with a smaller box, half the power to each output."""
    spec = {
        "device": "power-splitter", "grid_nm": grid_nm, "wavelengths_nm": list(wavelengths_nm), "size_nm": size_nm,
        "edge_nm": edge_nm, **options,
    }  # fmt: skip
    device = _one_to_two(
        "power splitter", grid_nm=grid_nm, wavelengths_nm=wavelengths_nm, size_nm=size_nm, edge_nm=edge_nm,
        input_shift_nm=0.0, output_shift_nm=0.0, **options,
    )  # fmt: skip
    return _with_spec(device, spec)


def _with_spec(device: Device, spec: Mapping[str, object]) -> Device:
    return Device(
        device.name, device.grid_nm, device.wavelengths_nm, device.density, device.box, device.ports, device.pml_cells,
        device.eps_solid, device.eps_void, spec,
    )  # fmt: skip


BUILDERS: Mapping[str, Callable[..., Device]] = {
    "bend": waveguide_bend,
    "mode-converter": mode_converter,
    "beam-splitter": beam_splitter,
    "wdm": wavelength_demultiplexer,
    "power-splitter": power_splitter,
}
