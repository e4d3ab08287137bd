"""The discrete Maxwell operator of a device: stretched five-point stencil, modes, sources and monitors.

E_z on a square grid, periodic behind the absorber, with a frequency-dependent coordinate stretch. In cells
(h = grid, k0 = omega / c), with each row scaled by the forward stretch factors s_x s_y, it is complex symmetric:

    A[p, q] = -s / t                          for neighbors p, q
    A[p, p] = sum of s / t over 4 links  -  s_x s_y (k0 h)^2 eps[p]

so one factorization serves sources and adjoints alike. Constants are those of the ceviche package, so that S-parameters
agree with it to rounding.

Source: W. Shin and S. Fan, J. Comput. Phys. 231, 3406 (2012) for the stretch; R. Rumpf, PIER B 36, 221 (2012) for the
discretization.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from problems.photonics.geometry import Device, Port
from surco.errors import InvalidInputError

ComplexArray = NDArray[np.complex128]
FloatArray = NDArray[np.float64]

EPSILON_0 = 8.85418782e-12
MU_0 = 1.25663706e-6
SPEED_NM_PER_S = 299792458.0e9
_PROFILE_ORDER = 3
_LOG_REFLECTION = -30.0


@dataclass(frozen=True, slots=True)
class Stencil:
    """The stencil without the permittivity, and what multiplies it.

    Attributes:
        link_x: [Nx, Ny] complex, -A[(i-1, j), (i, j)], periodic.
        link_y: [Nx, Ny] complex, -A[(i, j-1), (i, j)], periodic.
        scale: [Nx, Ny] complex, s_x s_y.
        stretch_x, stretch_y: [Nx], [Ny] complex, backward stretch (magnetic field points).
        kappa: (k0 h)^2.
        k0h: k0 h.
    """

    link_x: ComplexArray
    link_y: ComplexArray
    scale: ComplexArray
    stretch_x: ComplexArray
    stretch_y: ComplexArray
    kappa: float
    k0h: float

    @property
    def diagonal(self) -> ComplexArray:
        """[Nx, Ny], A[p, p] for eps = 0."""
        return self.link_x + np.roll(self.link_x, -1, 0) + self.link_y + np.roll(self.link_y, -1, 1)


def angular_frequency(wavelength_nm: float) -> float:
    """Angular frequency in rad/s of a free-space wavelength in nm."""
    return 2 * np.pi * SPEED_NM_PER_S / wavelength_nm


def _stretch(cells: int, pml_cells: int, grid_m: float, omega: float) -> tuple[ComplexArray, ComplexArray]:
    """Forward and backward stretch factors, [cells] each."""
    width = pml_cells * grid_m
    impedance = np.sqrt(MU_0 / EPSILON_0)
    sigma_max = -(_PROFILE_ORDER + 1) * _LOG_REFLECTION / (2 * impedance * width)
    index = np.arange(cells)
    factors = []
    for half in (0.5, 1.0):
        depth = np.where(index <= pml_cells, pml_cells - index + half, index - (cells - pml_cells) - half)
        inside = (index <= pml_cells) | (index > cells - pml_cells)
        sigma = sigma_max * (np.where(inside, depth, 0) * grid_m / width) ** _PROFILE_ORDER
        factors.append(1 - 1j * np.where(inside, sigma, 0) / (omega * EPSILON_0))
    return factors[0], factors[1]


def stencil(device: Device, wavelength_nm: float) -> Stencil:
    """The stencil of ``device`` at one wavelength."""
    omega, grid_m = angular_frequency(wavelength_nm), device.grid_nm * 1e-9
    nx, ny = device.shape
    forward_x, backward_x = _stretch(nx, device.pml_cells, grid_m, omega)
    forward_y, backward_y = _stretch(ny, device.pml_cells, grid_m, omega)
    k0h = omega * grid_m * np.sqrt(EPSILON_0 * MU_0)
    return Stencil(
        link_x=forward_y[None, :] / backward_x[:, None],
        link_y=forward_x[:, None] / backward_y[None, :],
        scale=forward_x[:, None] * forward_y[None, :],
        stretch_x=backward_x,
        stretch_y=backward_y,
        kappa=float(k0h**2),
        k0h=float(k0h),
    )


def matrix(device: Device, parts: Stencil, eps: FloatArray) -> Any:
    """The complex symmetric matrix A [N, N] for a permittivity [Nx, Ny]; used by the direct solver only."""
    nx, ny = device.shape
    index = np.arange(nx * ny).reshape(nx, ny)
    diagonal = parts.diagonal - parts.scale * parts.kappa * eps
    rows = [index, index, np.roll(index, 1, 0), index, np.roll(index, 1, 1)]
    cols = [index, np.roll(index, 1, 0), index, np.roll(index, 1, 1), index]
    values = [diagonal, -parts.link_x, -parts.link_x, -parts.link_y, -parts.link_y]
    flat = [np.concatenate([a.ravel() for a in arrays]) for arrays in (values, rows, cols)]
    return sp.coo_matrix((flat[0], (flat[1], flat[2])), shape=(nx * ny, nx * ny)).tocsc()


def guided_mode(eps: FloatArray, k0h: float, order: int) -> tuple[FloatArray, float]:
    """Transverse mode of a line of permittivity.

    Args:
        eps: [n], relative permittivity across the guide.
        k0h: k0 times the cell size.
        order: 1 = fundamental.

    Returns:
        E_z profile [n] of unit 2-norm (sign: the first sizeable lobe is positive), and beta times the cell size.

    Raises:
        InvalidInputError: the guide carries fewer than ``order`` modes.
    """
    n = len(eps)
    operator = np.diag(k0h**2 * eps - 2.0) + np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1)
    operator[0, -1] += 1.0
    operator[-1, 0] += 1.0
    values, vectors = np.linalg.eigh(operator)
    value, profile = values[-order], vectors[:, -order]
    if value <= 0:
        raise InvalidInputError(f"Expected a guide that carries {order} modes, found fewer. Try a wider guide.")
    lobe = int(np.argmax(np.abs(profile) > 0.5 * np.abs(profile).max()))
    return profile * np.sign(profile[lobe]), float(np.sqrt(value))


def port_functionals(device: Device, parts: Stencil) -> ComplexArray:
    """Sources and monitors as columns [N, 3 P]: P sources, P incident rows, P outgoing rows.

    A source column is the scaled right-hand side of one port. A monitor column w gives a mode amplitude as w.E; the
    amplitudes of all ports share one unit, so that their ratios are S-parameters.
    """
    nx, ny = device.shape
    count = len(device.ports)
    columns = np.zeros((3 * count, nx, ny), complex)
    background = device.permittivity(device.density)
    for p, port in enumerate(device.ports):
        line = port.cells()
        profile, beta = guided_mode(background[line], parts.k0h, port.order)
        columns[p][line] = profile * parts.scale[line]
        columns[count + p] = _amplitude(device, parts, port, profile, beta, incident=True)
        columns[2 * count + p] = _amplitude(device, parts, port, profile, beta, incident=False)
    return columns.reshape(3 * count, -1).T


def _amplitude(
    device: Device, parts: Stencil, port: Port, profile: FloatArray, beta: float, *, incident: bool
) -> ComplexArray:
    """Row [Nx, Ny] that reads the forward or backward amplitude one ``offset`` behind the source line."""
    row = np.zeros(device.shape, complex)
    shift = port.offset * port.direction.sign
    here, before = port.cells(shift), port.cells(shift - 1)
    stretch = parts.stretch_x[here[0]] if port.direction.is_along_x else parts.stretch_y[here[1]]
    electric = beta * profile / 2
    if (port.direction.sign > 0) != incident:
        electric = -electric
    magnetic = 1j * profile / stretch
    row[here] += (magnetic + electric) / np.sqrt(beta)
    row[before] += (electric - magnetic) / np.sqrt(beta)
    return row
