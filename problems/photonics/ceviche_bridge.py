"""The same devices in the ceviche-challenges package: parity tests, speed comparison, re-verification.

Optional: ``pip install surco[compare]``. Nothing here is used by the simulator.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from problems.photonics.geometry import Device, FloatArray
from problems.photonics.operators import ComplexArray, angular_frequency, guided_mode, stencil
from surco.errors import MissingExtraError


def _packages() -> tuple[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ceviche_challenges
            from ceviche_challenges import units
    except ImportError as error:
        raise MissingExtraError("Comparing with ceviche needs: pip install 'surco[compare]'") from error
    return ceviche_challenges, units


def challenge_model(device: Device) -> Any:
    """The ceviche-challenges model of a device that was made by one of our builders.

    Raises:
        MissingExtraError: the package is not installed.
        KeyError: ``device.spec`` names no builder.
    """
    cc, u = _packages()
    spec: Mapping[str, Any] = device.spec
    nm = u.nm
    guide, padding = spec.get("guide_nm", 400.0) * nm, spec.get("mode_padding_nm", 520.0) * nm
    length, clear = spec.get("guide_length_nm", 720.0) * nm, spec.get("padding_nm", 400.0) * nm
    params = cc.params.CevicheSimParams(
        resolution=device.grid_nm * nm, wavelengths=u.Array(list(device.wavelengths_nm), nm)
    )
    common = {
        "port_pml_offset": spec.get("port_offset_nm", 40.0) * nm,
        "cladding_permittivity": device.eps_void,
        "slab_permittivity": device.eps_solid,
        "input_monitor_offset": spec.get("monitor_offset_nm", 40.0) * nm,
        "pml_width": device.pml_cells,
    }
    kind = spec["device"]
    if kind == "bend":
        size = spec["size_nm"] * nm
        described = cc.waveguide_bend.spec.WaveguideBendSpec(
            wg_width=guide,
            wg_length=length,
            wg_mode_padding=padding,
            padding=clear,
            variable_region_size=(size, size),
            **common,
        )
        return cc.waveguide_bend.model.WaveguideBendModel(params, described)
    if kind == "mode-converter":
        size = spec["size_nm"] * nm
        described = cc.mode_converter.spec.ModeConverterSpec(
            left_wg_width=spec["left_guide_nm"] * nm, left_wg_mode_padding=padding, left_wg_mode_order=1,
            right_wg_width=spec["right_guide_nm"] * nm, right_wg_mode_padding=padding,
            right_wg_mode_order=spec["right_order"], wg_length=length, padding=clear,
            variable_region_size=(size, size), **common,
        )  # fmt: skip
        return cc.mode_converter.model.ModeConverterModel(params, described)
    if kind == "beam-splitter":
        described = cc.beam_splitter.spec.BeamSplitterSpec(
            wg_width=guide, wg_length=length, wg_separation=spec["separation_nm"] * nm, wg_mode_padding=padding,
            variable_region_size=(spec["length_nm"] * nm, spec["height_nm"] * nm), design_symmetry=None, **common,
        )  # fmt: skip
        return cc.beam_splitter.model.BeamSplitterModel(params, described)
    i0, j0, i1, j1 = (device.grid_nm * index for index in device.box)
    extent = [device.grid_nm * cells for cells in device.shape]
    centers = [device.grid_nm * port.y for port in device.ports]
    described = cc.wdm.spec.WdmSpec(
        extent_ij=u.Array(extent, nm), input_wg_j=centers[0] * nm, output_wgs_j=u.Array(centers[1:], nm),
        wg_width=guide, wg_mode_padding=padding, input_mode_i=device.grid_nm * device.ports[0].x * nm,
        output_mode_i=device.grid_nm * device.ports[1].x * nm,
        variable_region=(u.Array([i0, j0], nm), u.Array([i1, j1], nm)),
        cladding_permittivity=device.eps_void, slab_permittivity=device.eps_solid,
        input_monitor_offset=40 * nm, pml_width=device.pml_cells,
    )  # fmt: skip
    return cc.wdm.model.WdmModel(params, described)


def simulate(model: Any, design: FloatArray, ports_in: Sequence[int] = (0,)) -> ComplexArray:
    """S [wavelength, port_out, port_in] of one design [H, W] by the unmodified package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        s, _ = model.simulate(np.asarray(design, float), excite_port_idxs=tuple(ports_in), max_parallelizm=1)
    return np.swapaxes(s, 1, 2)


def loss_and_gradient(
    model: Any, design: FloatArray, loss: Any, ports_in: Sequence[int] = (0,)
) -> tuple[float, FloatArray]:
    """Value and gradient [H, W] of ``loss(S)`` by autograd through the package; ``loss`` is written in autograd.numpy.

    ``loss`` gets S [wavelength, port_in, port_out], the package's own order.
    """
    import autograd

    def total(x: FloatArray) -> Any:
        return loss(model.simulate(x, excite_port_idxs=tuple(ports_in), max_parallelizm=1)[0])

    differentiate: Any = autograd.value_and_grad
    value_and_grad = differentiate(total)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value, gradient = value_and_grad(np.asarray(design, float))
    return float(value), np.asarray(gradient)


def mode_phases(device: Device, wavelength_nm: float) -> ComplexArray:
    """[P] unit phases z with S_theirs[o, i] = +-conj(z[o]) z[i] S_ours[o, i].

    Sparse eigensolvers return vectors with an arbitrary phase, undone here. The sign that remains is the package's own:
    it takes the square root of a negative normalization, whose branch follows a rounding error that differs from call
    to call. Magnitudes are not affected by either.
    """
    _packages()
    from ceviche_challenges import modes

    background = device.permittivity(device.density)
    k0h = stencil(device, wavelength_nm).k0h
    phases = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for port in device.ports:
            line = background[port.cells()]
            theirs, _, _ = modes.solve_modes(line, angular_frequency(wavelength_nm), device.grid_nm * 1e-9, port.order)
            phases.append(guided_mode(line, k0h, port.order)[0] @ theirs)
    return np.asarray(phases)
