"""The direct solver: one sparse LU of the whole domain a wavelength, reused for every port and for the adjoint.

The independent judge of the fast simulator, the source of full-domain fields, and the "tuned single LU" baseline of
the speed table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse.linalg as spl

from problems.photonics.geometry import Device, FloatArray
from problems.photonics.operators import ComplexArray, matrix, port_functionals, stencil


@dataclass(frozen=True, slots=True)
class DirectResult:
    """S-parameters and fields of one design at one wavelength.

    Attributes:
        s: [P, Q] complex, S[out, in] for the Q excited ports.
        fields: [Q, Nx, Ny] complex, E_z for a unit-norm mode source.
        adjoint: callable that turns dL/dS (torch convention, [P, Q]) into dL/d density [H, W].
    """

    s: ComplexArray
    fields: ComplexArray
    _factor: object
    _columns: ComplexArray
    _device: Device
    _kappa: float
    _ports: tuple[int, ...]

    def gradient(self, grad_s: ComplexArray) -> FloatArray:
        """dL/d density [H, W] for dL/dS [P, Q] (dL = Re sum conj(grad_s) dS)."""
        device, count = self._device, len(self._device.ports)
        i0, j0, i1, j1 = device.box
        total = np.zeros(device.design_shape)
        for q, p in enumerate(self._ports):
            field = self.fields[q].ravel()
            incident = self._columns[:, count + p] @ field
            outgoing = self._columns[:, 2 * count :].T @ field
            weight = grad_s[:, q].conj()
            functional = self._columns[:, 2 * count :] @ (weight / incident)
            functional = functional - self._columns[:, count + p] * (weight @ outgoing) / incident**2
            dual = self._factor.solve(functional)  # type: ignore[attr-defined]
            product = (dual * field).reshape(device.shape)[i0:i1, j0:j1]
            total += (self._kappa * (device.eps_solid - device.eps_void) * product).real
        return total


def simulate(
    device: Device, design: FloatArray, wavelength_nm: float, ports_in: Sequence[int] | None = None
) -> DirectResult:
    """Solve one design [H, W] at one wavelength; ``ports_in`` are 0-based, default all."""
    parts = stencil(device, wavelength_nm)
    columns = port_functionals(device, parts)
    count = len(device.ports)
    ports = tuple(range(count)) if ports_in is None else tuple(ports_in)
    system = matrix(device, parts, device.permittivity(device.full_density(design)))
    factor = spl.splu(
        system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.001, options={"SymmetricMode": True, "Equil": False}
    )
    fields = factor.solve(np.ascontiguousarray(columns[:, list(ports)]))
    outgoing = columns[:, 2 * count :].T @ fields
    incident = np.einsum("nq,nq->q", columns[:, [count + p for p in ports]], fields)
    stacked = np.ascontiguousarray(fields.T).reshape(len(ports), *device.shape)
    return DirectResult(outgoing / incident, stacked, factor, columns, device, parts.kappa, ports)
