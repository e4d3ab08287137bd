"""Pictures of a design: layout, field intensity, spectrum against the windows. Matplotlib is imported on use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from problems.photonics.geometry import Device, FloatArray
from problems.photonics.robust import etch_corners
from problems.photonics.simulator import Simulator

if TYPE_CHECKING:
    from problems.photonics.problem import PhotonicProblem

_SOLID, _VOID = "#1f3a5f", "#e9eef5"
_CORNER_LINES = (("-", " nominal"), ("--", " grown"), (":", " shrunk"))
_PORT_COLORS = ("#444444", "#1f77b4", "#d62728", "#2ca02c")


def _canvas(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _extent(device: Device) -> tuple[float, float, float, float]:
    """Domain edges (left, right, bottom, top) in um, origin at the design's lower-left corner."""
    um = device.grid_nm * 1e-3
    i0, j0 = device.box[0], device.box[1]
    return (-i0 * um, (device.shape[0] - i0) * um, -j0 * um, (device.shape[1] - j0) * um)


def _outline(axis: Any, device: Device, color: str = "#d08000") -> None:
    um = device.grid_nm * 1e-3
    height, width = device.design_shape
    x, y = height * um, width * um
    axis.plot([0, x, x, 0, 0], [0, 0, y, y, 0], color=color, lw=1.0, ls="--")


def layout_figure(device: Device, design: FloatArray) -> Any:
    """The whole device with its ports, design box and absorber."""
    from matplotlib.colors import ListedColormap

    figure, (axis,) = _canvas(5.2, 4.6)
    full = device.full_density(design)
    cmap = ListedColormap([_VOID, _SOLID]) if np.isin(full, (0, 1)).all() else "Blues"
    axis.imshow(full.T, origin="lower", extent=_extent(device), cmap=cmap, vmin=0, vmax=1, interpolation="nearest")
    _outline(axis, device)
    left, right, bottom, top = _extent(device)
    um = device.grid_nm * 1e-3
    frame = device.pml_cells * um
    axis.plot(
        [left + frame, right - frame, right - frame, left + frame, left + frame],
        [bottom + frame, bottom + frame, top - frame, top - frame, bottom + frame],
        color="#888888", lw=0.8, ls=":",
    )  # fmt: skip
    for number, port in enumerate(device.ports, 1):
        ii, jj = port.cells()
        x, y = (ii - device.box[0] + 0.5) * um, (jj - device.box[1] + 0.5) * um
        color = _PORT_COLORS[(number - 1) % len(_PORT_COLORS)]
        axis.plot(x, y, color=color, lw=2)
        axis.annotate(
            str(number), (x[-1], y[-1]), textcoords="offset points", xytext=(4, 2), color=color, weight="bold"
        )
    axis.set(xlabel="x (um)", ylabel="y (um)", title=f"{device.name}: layout (dotted: absorber)")
    return figure


def design_figure(device: Device, design: FloatArray) -> Any:
    """The design region alone."""
    from matplotlib.colors import ListedColormap

    figure, (axis,) = _canvas(4.4, 4.2)
    height, width = device.design_shape
    um = device.grid_nm * 1e-3
    axis.imshow(
        np.asarray(design).T, origin="lower", extent=(0, height * um, 0, width * um),
        cmap=ListedColormap([_VOID, _SOLID]), vmin=0, vmax=1, interpolation="nearest",
    )  # fmt: skip
    axis.set(xlabel="x (um)", ylabel="y (um)", title=f"design, {height} x {width} pixels of {device.grid_nm:g} nm")
    return figure


def field_figure(device: Device, design: FloatArray, wavelengths_nm: Sequence[float]) -> Any:
    """|E_z|^2 over the device, port 1 excited, one panel a wavelength."""
    from problems.photonics import direct

    figure, axes = _canvas(4.6 * len(wavelengths_nm), 4.4, len(wavelengths_nm))
    full = device.full_density(design)
    for axis, wavelength in zip(axes, wavelengths_nm, strict=True):
        field = direct.simulate(device, np.asarray(design, float), wavelength, (0,)).fields[0]
        power = np.abs(field) ** 2
        power /= np.quantile(power, 0.999)
        shown = axis.imshow(power.T, origin="lower", extent=_extent(device), cmap="magma", vmin=0, vmax=1)
        axis.contour(full.T, levels=[0.5], colors="white", linewidths=0.4, extent=_extent(device))
        _outline(axis, device, "#9ad0ff")
        axis.set(xlabel="x (um)", ylabel="y (um)", title=f"|E_z|^2 at {wavelength:g} nm")
        figure.colorbar(shown, ax=axis, shrink=0.8, label="relative to the 99.9 % quantile")
    return figure


def spectrum_figure(problem: PhotonicProblem, x: Tensor, *, points: int | None = None) -> Any:
    """Power in dB over the wavelength with the windows that the spec demands; beside it the same near 0 dB.

    Etch corners, where the problem has them, are drawn dashed (grown) and dotted (shrunk).

    Args:
        problem: with the windows.
        x: [n].
        points: wavelengths besides the device's own; by default 25, and 7 on fine grids, where each has to be set up
            for a second.
    """
    device = problem.device
    points = points or (25 if device.grid_nm >= 20 else 7)
    low, high = min(device.wavelengths_nm), max(device.wavelengths_nm)
    margin = max(5.0, 0.25 * (high - low))
    wavelengths = np.unique(np.concatenate([np.linspace(low - margin, high + margin, points), device.wavelengths_nm]))
    simulator = Simulator(device, wavelengths_nm=wavelengths.tolist(), cache_dir=False)
    corners = etch_corners(problem.design(x)[None], problem.etch_px)[:, 0]
    with torch.no_grad():
        s = torch.stack([simulator.s_parameters(corner[None], ports_in=(0,))[0, :, :, 0] for corner in corners])
    power_db = 20 * torch.log10(s.abs().clamp_min(1e-6)).cpu().numpy()
    lower, upper = (bound.numpy() for bound in problem.target.windows(len(device.wavelengths_nm)))
    with np.errstate(divide="ignore"):
        lower_db, upper_db = 10 * np.log10(lower), 10 * np.log10(upper)
    wanted = lower_db[lower > 0]
    figure, axes = _canvas(10.4 if len(wanted) else 6.4, 4.6, 2 if len(wanted) else 1)
    floor = min(-45.0, float(power_db.min()) - 3)
    ranges = [(floor, 2.0), (min(float(wanted.min()) * 1.6, -1.0), 0.1)] if len(wanted) else [(floor, 2.0)]
    for axis, limits, title in zip(axes, ranges, ("spectrum and spec", "near 0 dB"), strict=False):
        for port in range(len(device.ports)):
            color = _PORT_COLORS[port % len(_PORT_COLORS)]
            for corner, (line, word) in zip(power_db, _CORNER_LINES, strict=False):
                label = f"$|S_{{{port + 1}1}}|^2${word if len(power_db) > 1 else ''}"
                axis.plot(wavelengths, corner[:, port], color=color, ls=line, label=label)
            for bound, marker, is_set in ((lower_db, "^", lower > 0), (upper_db, "v", upper < 1)):
                shown = is_set[:, port]
                axis.plot(
                    np.asarray(device.wavelengths_nm)[shown],
                    bound[shown, port],
                    marker,
                    color=color,
                    ms=7,
                    clip_on=True,
                )
        axis.set(xlabel="wavelength (nm)", ylabel="power (dB)", ylim=limits, title=f"{device.name}: {title}")
        axis.grid(alpha=0.3)
    axes[0].plot([], [], "k^", label="must be above", ms=6)
    axes[0].plot([], [], "kv", label="must be below", ms=6)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=min(len(labels), 5), fontsize=8, loc="outside lower center")
    return figure


def figures(problem: PhotonicProblem, x: Tensor) -> Mapping[str, Any]:
    """Title -> figure of one design x [n], for a report."""
    design = problem.design(x).detach().cpu().double().numpy()
    device = problem.device
    wavelengths = [device.wavelengths_nm[0], device.wavelengths_nm[-1]]
    return {
        "layout": layout_figure(device, design),
        "design": design_figure(device, design),
        "field": field_figure(device, design, wavelengths),
        "spectrum": spectrum_figure(problem, x),
    }


def save_figures(problem: PhotonicProblem, x: Tensor, folder: str | Path) -> list[Path]:
    """Write every figure as PNG; returns the paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for title, figure in figures(problem, x).items():
        path = folder / f"{title}.png"
        figure.savefig(path, dpi=110)
        paths.append(path)
    return paths
