"""The fast simulator: exact S-parameters of many designs at many wavelengths, with gradients, on a CPU or a GPU.

2D, E_z polarization. Everything outside the design box is eliminated once a wavelength (see `condense`); a design costs
one regular nested dissection of the box in real arithmetic (see `boxsolve`) and one complex solve on its ring. A single
factorization serves every port, every S entry and the whole gradient.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from problems.photonics import cache, direct
from problems.photonics.boxsolve import Backend, BoxPlan, factor_box, solve_symmetric, sweep_box
from problems.photonics.condense import condense
from problems.photonics.dissection import Plan, box_levels, make_plan
from problems.photonics.geometry import Device, FloatArray
from problems.photonics.operators import ComplexArray, port_functionals, stencil
from surco.errors import InvalidInputError

logger = logging.getLogger(__name__)
_SETUP_VERSION = "photonics-setup-1"


class Simulator:
    """S-parameters of designs for one device.

    Args:
        device: what surrounds the design.
        wavelengths_nm: default the device's own.
        torch_device: where designs are solved; default the CPU.
        backend: default by torch device.
        memory_gb: bound on the factors held at once; larger batches are cut into chunks.
        cache_dir: where condensed exteriors are kept; default the user's cache folder; False for no cache.

    Note:
        Double precision only. In single precision blocks near a resonance can spoil a design, and the gain on a CPU is
        small: on the bend at 40 nm loss and gradient of a design at two wavelengths took 9.0 CPU-ms in double and 6.9
        in single precision (60 random painted designs; largest error of S 1.5e-6, of the gradient 7e-4, none spoiled).

    Example:
        >>> from problems.photonics.geometry import waveguide_bend
        >>> simulator = Simulator(waveguide_bend())                            # doctest: +SKIP
        >>> s = simulator.s_parameters(torch.ones(1, 40, 40))                  # doctest: +SKIP
        >>> s.shape                                                            # doctest: +SKIP
        torch.Size([1, 2, 2, 2])
    """

    def __init__(
        self,
        device: Device,
        *,
        wavelengths_nm: Sequence[float] | None = None,
        torch_device: torch.device | str = "cpu",
        backend: Backend | None = None,
        memory_gb: float = 4.0,
        cache_dir: Path | str | bool = True,
    ) -> None:
        self.device = device
        self.wavelengths_nm = tuple(device.wavelengths_nm if wavelengths_nm is None else wavelengths_nm)
        self.torch_device = torch.device(torch_device)
        self.dtype, self.complex_dtype = torch.float64, torch.complex128
        self.backend = backend or (Backend.LAPACK if self.torch_device.type == "cpu" else Backend.BLOCK)
        self.memory_gb = memory_gb
        self.port_count = len(device.ports)
        leaf, levels = box_levels(device.design_shape)
        self.plan = make_plan(leaf, levels)
        self.corner = _box_corner(device, self.plan)
        folder = cache.cache_folder() if cache_dir is True else (Path(str(cache_dir)) if cache_dir else None)
        setups = [_setup(device, wavelength, self.plan, self.corner, folder) for wavelength in self.wavelengths_nm]
        self._box = BoxPlan.of(self.plan, device=self.torch_device, dtype=self.dtype)
        ring = len(self.plan.ring)
        reduced = torch.from_numpy(np.stack([setup["reduced"] for setup in setups]))
        place = {"device": self.torch_device, "dtype": self.complex_dtype}
        self._ring_matrix = reduced[:, :ring, :ring].to(**place).contiguous()
        self._columns = reduced[:, :ring, ring:].to(**place).contiguous()
        self._constant = reduced[:, ring:, ring:].to(**place).contiguous()
        kappa = [float(setup["kappa"]) for setup in setups]
        self._kappa = torch.tensor(kappa, dtype=self.dtype, device=self.torch_device)
        self._background = torch.from_numpy(self._box_permittivity()).to(self.torch_device, self.dtype)

    def _box_permittivity(self) -> FloatArray:
        """[cells] permittivity of the box outside the design, flat; zero inside the design."""
        device = self.device
        density = device.density.copy()
        i0, j0, i1, j1 = device.box
        eps = device.permittivity(density)
        eps[i0:i1, j0:j1] = 0.0
        a, b = self.corner
        return np.ascontiguousarray(eps[a : a + self.plan.shape[0], b : b + self.plan.shape[1]]).ravel()

    @property
    def bytes_per_row(self) -> int:
        """Estimated peak bytes for one design at one wavelength, gradient included."""
        boundary = sum(
            m.cells.size // m.separator * (m.separator * m.boundary + 2 * m.boundary**2) for m in self.plan.merges
        )
        return 8 * (boundary + 6 * len(self.plan.ring) ** 2 + 40 * self._background.numel())

    def s_parameters(self, design: Tensor, *, ports_in: Sequence[int] | None = None) -> Tensor:
        """S-parameters of a batch of designs.

        Args:
            design: [B, H, W] real, 1 = solid and 0 = void; values between are allowed. Moved to the simulator's device.
            ports_in: 0-based ports to excite; default all.

        Returns:
            S [B, wavelength, port_out, port_in], complex; differentiable once in ``design``. S is outgoing over
            incident mode amplitude, the incident one measured in the same simulation, at the monitor lines; its phase
            refers to these lines and to modes of positive first lobe.

        Raises:
            InvalidInputError: wrong shape or values that are not finite.
        """
        if design.ndim != 3 or tuple(design.shape[1:]) != self.device.design_shape:
            hint = " Try `design[None]`." if tuple(design.shape) == self.device.design_shape else ""
            raise InvalidInputError(
                f"Expected `design` of shape [B, {self.device.design_shape[0]}, {self.device.design_shape[1]}], "
                f"got {list(design.shape)}.{hint}"
            )
        design = design.to(self.torch_device, self.dtype)
        if self.torch_device.type == "cpu" and not bool(torch.isfinite(design).all()):
            raise InvalidInputError("Expected finite design values, got NaN or infinity.")
        ports = tuple(range(self.port_count)) if ports_in is None else tuple(ports_in)
        if not ports or len(set(ports)) != len(ports) or min(ports) < 0 or max(ports) >= self.port_count:
            raise InvalidInputError(f"Expected distinct `ports_in` from 0 to {self.port_count - 1}, got {ports}.")
        rows = max(1, int(min(self.memory_gb * 1e9, 1e18) / self.bytes_per_row / len(self.wavelengths_nm)))
        if len(design) <= rows:
            return self._batch(design, ports)
        return torch.cat([self._batch(chunk, ports) for chunk in design.split(rows)])

    def _batch(self, design: Tensor, ports: tuple[int, ...]) -> Tensor:
        return self.from_amplitudes(self.amplitudes(design, ports), ports)

    def amplitudes(self, design: Tensor, ports: tuple[int, ...]) -> Tensor:
        """Incident amplitudes of the Q excited ports, then all outgoing ones, [B, L, Q + P, Q], for unit sources."""
        amplitudes: Tensor = _Amplitudes.apply(design, self, ports)  # type: ignore[assignment]
        return amplitudes

    def from_amplitudes(self, amplitudes: Tensor, ports: tuple[int, ...]) -> Tensor:
        """S [B, L, P, Q] from amplitudes [B, L, Q + P, Q]."""
        incident = torch.stack([amplitudes[..., q, q] for q in range(len(ports))], -1)
        return amplitudes[..., len(ports) :, :] / incident[..., None, :]

    def tiled(self, exterior: Tensor, batch: int) -> Tensor:
        """[L, ...] of the exterior for each of ``batch`` designs, [batch L, ...]."""
        return exterior.repeat(batch, *[1] * (exterior.ndim - 1))

    def exterior(self) -> dict[str, Tensor]:
        """The condensed exterior as tensors: what one device differs by from another with the same box.

        Returns:
            ``ring_matrix`` [L, R, R], ``columns`` [L, R, 3 P] and ``constant`` [L, 3 P, 3 P], complex128, and
            ``background`` [cells] float64.
        """
        return {
            "ring_matrix": self._ring_matrix, "columns": self._columns, "constant": self._constant,
            "background": self._background,
        }  # fmt: skip

    def box_diagonal(self, design: Tensor) -> Tensor:
        """4 - kappa eps [B L, cells] in the order of the plan; on the ring -kappa eps (the rest is in K)."""
        device, batch = self.device, len(design)
        height, width = device.design_shape
        a, b = device.box[0] - self.corner[0], device.box[1] - self.corner[1]
        eps = self._background.reshape(-1, *self.plan.shape).expand(batch, -1, -1).clone()
        eps[:, a : a + height, b : b + width] = device.eps_void + (device.eps_solid - device.eps_void) * design
        ordered = eps.reshape(batch, -1).index_select(1, self._box.order)
        diagonal = -self._kappa[None, :, None] * ordered[:, None, :]
        diagonal[..., : -len(self.plan.ring)] += 4.0
        return diagonal.reshape(batch * len(self._kappa), -1)

    def residual(self, fields: Tensor, diagonal: Tensor, ring_matrix: Tensor, sources: Tensor) -> Tensor:
        """Right-hand side minus the true operator, on every cell of the box.

        Args:
            fields: [T, cells, k] complex, in the order of the plan.
            diagonal: [T, cells] real, as `box_diagonal`.
            ring_matrix: [T, R, R] complex, exterior and ring without the box's interior.
            sources: [T, R, k] complex.

        Returns:
            [T, cells, k] complex.
        """
        rows, _, width = fields.shape
        ring = len(self.plan.ring)
        grid = fields.index_select(1, self._box.place).reshape(rows, *self.plan.shape, width)
        around = torch.zeros_like(grid)  # sum over neighbors, of links inside the box's interior or across to the ring
        inner = slice(1, -1)
        around[:, inner, inner] = grid[:, :-2, inner] + grid[:, 2:, inner] + grid[:, inner, :-2] + grid[:, inner, 2:]
        around[:, 0, inner], around[:, -1, inner] = grid[:, 1, inner], grid[:, -2, inner]
        around[:, inner, 0], around[:, inner, -1] = grid[:, inner, 1], grid[:, inner, -2]
        residual = around.reshape(rows, -1, width).index_select(1, self._box.order)
        residual[:, :-ring] -= diagonal[:, :-ring, None] * fields[:, :-ring]
        residual[:, -ring:] += sources - ring_matrix @ fields[:, -ring:]
        return residual

    def fields(self, design: FloatArray, wavelength_nm: float, ports_in: Sequence[int] | None = None) -> ComplexArray:
        """E_z [Q, Nx, Ny] of one design over the whole domain, by the direct solver."""
        return direct.simulate(self.device, np.asarray(design, float), wavelength_nm, ports_in).fields


class StackedSimulator(Simulator):
    """One design for each of B devices that share the box: the rows of a batch have different exteriors.

    Args:
        like: simulator of one of the devices.
        exterior: stacked `Simulator.exterior`, [B, ...].
    """

    def __init__(self, like: Simulator, exterior: Mapping[str, Tensor]) -> None:
        for name in ("device", "wavelengths_nm", "torch_device", "dtype", "complex_dtype", "backend", "memory_gb",
                     "port_count", "plan", "corner", "_box", "_kappa"):  # fmt: skip
            setattr(self, name, getattr(like, name))
        self._rows = len(exterior["background"])
        self._background = exterior["background"].to(self.torch_device, self.dtype)
        for name in ("ring_matrix", "columns", "constant"):
            setattr(self, f"_{name}", exterior[name].to(self.torch_device, self.complex_dtype).flatten(0, 1))

    def s_parameters(self, design: Tensor, *, ports_in: Sequence[int] | None = None) -> Tensor:
        """As `Simulator.s_parameters`, row b of [B, H, W] in device b.

        Raises:
            InvalidInputError: as there, or another number of rows.
        """
        if len(design) != self._rows:
            raise InvalidInputError(f"Expected {self._rows} designs, one a device, got {len(design)}.")
        whole, self.memory_gb = self.memory_gb, float("inf")  # rows and devices belong together: never cut
        try:
            return super().s_parameters(design, ports_in=ports_in)
        finally:
            self.memory_gb = whole

    def tiled(self, exterior: Tensor, batch: int) -> Tensor:
        """Every row has its own already."""
        return exterior


def _take(tensor: Tensor, ports: tuple[int, ...]) -> Tensor:
    """Columns of a tensor without an index tensor, so that a CUDA graph can hold it."""
    if ports == tuple(range(ports[0], ports[0] + len(ports))):
        return tensor[..., ports[0] : ports[0] + len(ports)]
    return torch.stack([tensor[..., port] for port in ports], -1)


class _Amplitudes(torch.autograd.Function):
    """Mode amplitudes of the bordered system, corrected by the adjoint, with the adjoint gradient.

    Regions of the box that happen to be near a resonance cost the dissection digits. With the computed fields u and
    duals v, and the residual r = b - A u of the true operator, each amplitude w.u becomes w.u + v.r, whose error is
    the product of both errors instead of one of them.
    """

    @staticmethod
    def forward(ctx: Any, design: Tensor, simulator: Simulator, ports: tuple[int, ...]) -> Tensor:
        batch, wavelengths, count = len(design), len(simulator.wavelengths_nm), simulator.port_count
        diagonal = simulator.box_diagonal(design)
        ring = len(simulator.plan.ring)
        factors, schur = factor_box(diagonal, simulator._box, simulator.backend)
        bare = simulator.tiled(simulator._ring_matrix, batch).clone()
        bare.diagonal(dim1=-2, dim2=-1).add_(diagonal[:, -ring:])
        system = bare.clone()
        system[:, :-4, :-4] += schur
        readers = tuple(count + port for port in ports) + tuple(range(2 * count, 3 * count))
        columns = torch.cat([_take(simulator._columns, ports), _take(simulator._columns, readers)], -1)
        solution = solve_symmetric(system, simulator.tiled(columns, batch), simulator.backend)
        swept = sweep_box(torch.cat([solution.real, solution.imag], -1), factors, simulator._box)
        both = torch.complex(*swept.chunk(2, -1))
        fields, duals = both[..., : len(ports)], both[..., len(ports) :]
        sources, monitors = columns[..., : len(ports)], columns[..., len(ports) :]
        constant = torch.stack([simulator._constant[:, reader] for reader in readers], 1)
        constant = _take(constant, ports)
        amplitudes = simulator.tiled(monitors.mT, batch) @ fields[:, -ring:] - simulator.tiled(constant, batch)
        residual = simulator.residual(fields, diagonal, bare, simulator.tiled(sources, batch))
        amplitudes += duals.mT @ residual
        ctx.simulator = simulator
        if design.requires_grad:
            ctx.save_for_backward(fields, duals)
        return amplitudes.reshape(batch, wavelengths, len(readers), len(ports))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        simulator = ctx.simulator
        fields, duals = ctx.saved_tensors
        device, plan = simulator.device, simulator.plan
        batch, wavelengths, readers, width = grad.shape
        weights = grad.reshape(batch * wavelengths, readers, width).conj()
        product = ((duals @ weights) * fields).real.sum(-1).reshape(batch, wavelengths, -1)
        contrast = device.eps_solid - device.eps_void
        gradient = (product * (simulator._kappa[:, None] * contrast)).sum(1)
        gradient = gradient.index_select(1, simulator._box.place).reshape(batch, *plan.shape)
        a, b = device.box[0] - simulator.corner[0], device.box[1] - simulator.corner[1]
        height, width_cells = device.design_shape
        return gradient[:, a : a + height, b : b + width_cells].contiguous(), None, None


def _box_corner(device: Device, plan: Plan) -> tuple[int, int]:
    """First cell (i, j) of the ring in the domain: the box covers the design and touches neither port nor absorber."""
    blocked = np.zeros(device.shape, bool)
    edge = device.pml_cells + 1
    blocked[:edge], blocked[-edge:], blocked[:, :edge], blocked[:, -edge:] = True, True, True, True
    for port in device.ports:
        for shift in (0, port.offset * port.direction.sign, port.offset * port.direction.sign - 1):
            blocked[port.cells(shift)] = True
    design = device.design_shape
    starts = [range(device.box[a] + design[a] - plan.shape[a], device.box[a] + 1) for a in (0, 1)]
    for i in sorted(starts[0], key=lambda v: abs(v - (device.box[0] - (plan.shape[0] - design[0]) / 2))):
        for j in sorted(starts[1], key=lambda v: abs(v - (device.box[1] - (plan.shape[1] - design[1]) / 2))):
            if i >= 0 and j >= 0 and not blocked[i : i + plan.shape[0], j : j + plan.shape[1]].any():
                return (i, j)
    raise InvalidInputError(
        f"Expected room for a {plan.shape} box around the design of {device.name}, but ports or the absorber are in "
        "the way. Try longer guides or more padding."
    )


def _setup(
    device: Device, wavelength_nm: float, plan: Plan, corner: tuple[int, int], folder: Path | None
) -> dict[str, Any]:
    """Condensed exterior at one wavelength, from the cache where it is there."""
    parts = stencil(device, wavelength_nm)
    density = device.density.copy()
    i0, j0, i1, j1 = device.box
    density[i0:i1, j0:j1] = 0.0
    key = cache.content_key(
        _SETUP_VERSION, density, device.grid_nm, wavelength_nm, device.pml_cells, device.eps_solid, device.eps_void,
        device.ports, device.box, plan.shape, corner, plan.ring,
    )  # fmt: skip
    size = len(plan.ring) + 3 * len(device.ports)
    if folder is not None:
        found = cache.load(key, folder)
        if found is not None and found.get("reduced", np.empty(0)).shape == (size, size):
            return dict(found)
    a, b = corner
    height, width = plan.shape
    inside = np.zeros(device.shape, bool)
    inside[a + 1 : a + height - 1, b + 1 : b + width - 1] = True
    x, y = np.divmod(plan.ring, width)
    ring = (x + a) * device.shape[1] + (y + b)
    eps = device.permittivity(device.density)
    eps.ravel()[ring] = 0.0
    diagonal = parts.diagonal - parts.scale * parts.kappa * eps
    reduced = condense(parts, diagonal, ring, inside, port_functionals(device, parts))
    arrays = {"reduced": reduced, "kappa": np.asarray(parts.kappa)}
    if folder is not None:
        cache.store(key, arrays, folder)
        logger.info("condensed %s at %g nm", device.name, wavelength_nm)
    return dict(arrays)
