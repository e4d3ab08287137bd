"""A photonic device as a combinatorial design problem."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from problems.photonics.border import Border
from problems.photonics.brush import Brush, Symmetry
from problems.photonics.geometry import Device
from problems.photonics.oracle import BrushOracle, broken
from problems.photonics.robust import etch_corners
from problems.photonics.simulator import Simulator
from problems.photonics.targets import Spec, spec_loss, spec_metric
from surco.errors import InvalidInputError
from surco.protocols import Verification

CORNERS = ("nominal", "grown", "shrunk")


class PhotonicProblem:
    """Find a design, paintable with a brush, whose S-parameters meet power windows.

    Variables: x [n] in {0, 1}, one for each pixel class (one pixel, or all mirror images of one under a symmetry);
    1 = solid (permittivity 12.25), 0 = void (2.25).

    Feasible set: solid and void can both be painted with the brush (see `problems.photonics.brush`, border rule
    included). Nothing else: the simulator takes any design.

    Objective (minimized): softplus loss of the windows, mean over wavelengths, worst over etch corners (one corner, the
    design itself, when ``etch_px`` is 0). 2D, E_z polarization, power from port 1.

    Metric (reported): minus the worst signed distance to a window over that window, all wavelengths and corners; > 0
    means the spec is met. A design that meets the spec still has a loss of 0.1 to 1.

    Args:
        device: geometry, ports and wavelengths.
        target: power windows.
        brush: what can be fabricated.
        symmetry: mirror symmetry to hold.
        etch_px: pixels by which edges move out and in, for robust designs.
        simulator: default a CPU simulator of ``device``.
        sweeps: rounds of local improvement of the oracle.
        border: what surrounds the design, for the fixed border; None for the free one.
        id: registered id.
        spec: JSON-able description.

    Note:
        The oracle is the greedy painter: fast and always feasible, not exact.
    """

    is_differentiable = True
    is_convex = False
    is_rowwise = True

    def __init__(
        self,
        device: Device,
        target: Spec,
        brush: Brush,
        *,
        symmetry: Symmetry = Symmetry.NONE,
        etch_px: int = 0,
        simulator: Simulator | None = None,
        sweeps: int = 0,
        border: Border | None = None,
        id: str = "",
        spec: Mapping[str, Any] | None = None,
    ) -> None:
        if etch_px < 0:
            raise InvalidInputError(f"Expected etch_px >= 0, got {etch_px}.")
        target.windows(len(device.wavelengths_nm))
        self.device, self.target, self.brush, self.symmetry, self.etch_px = device, target, brush, symmetry, etch_px
        self.simulator = simulator or Simulator(device)
        self.border = border
        self.oracle = BrushOracle(device.design_shape, brush, symmetry, sweeps=sweeps, border=border)
        self.id = id
        self.spec = dict(spec or {})
        self._classes = torch.from_numpy(self.oracle.painter.incidence.classes)
        self._known: dict[bytes, float] = {}
        self._depth = 0.0

    @property
    def n(self) -> int:
        """Number of variables."""
        return self.oracle.n

    def design(self, x: Tensor) -> Tensor:
        """[..., n] to pixels [..., H, W]."""
        return x[..., self._classes.to(x.device)]

    def s_parameters(self, x: Tensor) -> Tensor:
        """S [C, B, L, P, 1] of x [B, n] for every etch corner, port 1 excited."""
        corners = etch_corners(self.design(x), self.etch_px)
        s = self.simulator.s_parameters(corners.flatten(0, 1), ports_in=(0,))
        return s.unflatten(0, corners.shape[:2])

    def objective(self, x: Tensor) -> Tensor:
        """Loss [...] of x [..., n]; differentiable once. Values between 0 and 1 are simulated as they are."""
        if x.shape[-1] != self.n:
            raise InvalidInputError(f"Expected x of shape [..., {self.n}], got {list(x.shape)}.")
        flat = x.reshape(-1, self.n)
        if not len(flat):
            return x.sum(-1)
        s = self.s_parameters(flat)
        losses = torch.stack([spec_loss(corner, self.target) for corner in s]).amax(0)
        if self._depth and losses.requires_grad:
            aimed = torch.stack([spec_loss(corner, self.target, depth=self._depth) for corner in s]).amax(0)
            losses = losses.detach() + (aimed - aimed.detach())  # adds zero to the value, and the other slope
        with torch.no_grad():
            metric = torch.stack([spec_metric(corner, self.target) for corner in s]).amin(0).cpu()
            if len(self._known) > 4096:
                self._known.clear()
            for row, value in zip(flat.detach().cpu().double().numpy(), metric.tolist(), strict=True):
                self._known[row.tobytes()] = value
        return losses.to(x.device, x.dtype).reshape(x.shape[:-1])

    def aimed(self, depth: float) -> PhotonicProblem:
        """This problem with the same values of the objective but the slope of ``spec_loss(..., depth=depth)``.

        The literature's loss hardly pulls any more where a window is met; this one pulls further in. It shares the
        simulator, the oracle and what is remembered.
        """
        other = copy.copy(self)
        other._depth = depth
        return other

    def metric(self, x: Tensor) -> float:
        """Metric of one design x [n]; remembered from the objective where it was asked for before."""
        key = np.ascontiguousarray(x.detach().cpu().double().numpy()).tobytes()
        if key not in self._known:
            with torch.no_grad():
                self.objective(x[None])
        return self._known[key]

    def violation(self, x: Tensor) -> Tensor:
        """[..., n] -> [...]: unpaintable pixels by morphology, plus the distance from 0 and 1."""
        values = x.detach().cpu().double()
        rounding = (values - values.round().clamp(0, 1)).abs().amax(-1)
        rounding = torch.where(torch.isnan(rounding), torch.full_like(rounding, torch.inf), rounding)
        bad = broken(self.design(values).numpy(), self.brush, self.border).sum(axis=(-2, -1))
        return rounding + torch.from_numpy(np.asarray(bad, dtype=np.float64))

    def initial_costs(self) -> Tensor:
        """Gradient of the loss at the half-filled design, [n], scaled to a largest entry of 1."""
        x = torch.full((1, self.n), 0.5, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(self.objective(x).sum(), x)
        return gradient[0] / gradient.abs().max()

    def heuristics(self) -> Mapping[str, Tensor]:
        """Uniform designs: everything solid, nothing solid."""
        return {"solid": torch.ones(self.n, dtype=torch.float64), "void": torch.zeros(self.n, dtype=torch.float64)}

    @property
    def auto_method(self) -> str:
        """What ``auto`` should run: pass-through met the spec for 80 of 80 seeds where the portfolio met it for few."""
        return "pass_through"

    def methods(self) -> Mapping[str, Any]:
        """Methods of this domain by name, for `surco.solve`; pass-through as `problems.photonics.settings` has it.

        The painter's loops are compiled (or loaded) here, before any clock starts.
        """
        from problems.photonics.methods import latent_zero, pass_through
        from problems.photonics.settings import pass_through_options

        self.oracle.painter.compile()
        options = pass_through_options(self.id, self.brush.diameter)
        return {"pass_through": pass_through(**options), "latent_zero": latent_zero()}

    # ------------------------------------------------------------------ latent variables, for pass-through

    def latent_costs(self, latent: Tensor, *, sharpness: float = 8.0) -> Tensor:
        """Costs of latent designs: minus tanh(sharpness * mean of the latent under the brush), summed over each class.

        Args:
            latent: [R, n]; differentiable.
            sharpness: slope of the tanh.

        Returns:
            [R, n], each pixel's share between -1 and 1.

        Source: Schubert et al. 2022, the filter and threshold before the generator.
        """
        pixels = self.design(latent)[:, None]
        kernel = torch.from_numpy(self.brush.mask).to(latent.device, latent.dtype)
        low = self.brush.diameter // 2
        high = self.brush.diameter - 1 - low
        padded = torch.nn.functional.pad(pixels, (low, high, low, high), mode="replicate")
        smooth = torch.nn.functional.conv2d(padded, (kernel / kernel.sum())[None, None])[:, 0]
        rewards = torch.tanh(sharpness * smooth).flatten(1)
        return -torch.zeros_like(latent).index_add(1, self._classes.flatten().to(latent.device), rewards)

    def initial_latent(self, rows: int, *, generator: torch.Generator) -> Tensor:
        """[rows, n] random latents around a solid design: bias plus noise."""
        noise = torch.randn(rows, self.n, generator=generator, dtype=torch.float64)
        return 0.15 + 0.1 * noise

    # ------------------------------------------------------------------ reports

    def metrics(self, x: Tensor) -> Mapping[str, float]:
        """Reported quantities of one design x [n]."""
        with torch.no_grad():
            s = self.s_parameters(x[None])[:, 0]
        power_db = 20 * torch.log10(s[..., 0].abs().clamp_min(1e-9))
        out = {"metric": self.metric(x), "spec_met": float(self.metric(x) > 0)}
        for number in range(len(self.device.ports)):
            out[f"s{number + 1}1_db_min"] = float(power_db[..., number].min())
            out[f"s{number + 1}1_db_max"] = float(power_db[..., number].max())
        out["solid_share"] = float(self.design(x).mean())
        return out

    def describe(self, x: Tensor) -> str:
        """A few lines about one design."""
        height, width = self.device.design_shape
        numbers = self.metrics(x)
        lines = [
            f"{self.device.name}: {height} x {width} pixels of {self.device.grid_nm:g} nm, brush {self.brush.name}, "
            f"{100 * numbers['solid_share']:.0f} % solid",
            f"spec {'met' if numbers['spec_met'] else 'NOT met'}, metric {numbers['metric']:+.3f}"
            + (f", worst of {len(CORNERS)} etch corners" if self.etch_px else ""),
        ]
        lines += [
            f"|S{port}1|^2 from {numbers[f's{port}1_db_min']:.2f} to {numbers[f's{port}1_db_max']:.2f} dB"
            for port in range(1, len(self.device.ports) + 1)
        ]
        return "\n".join(lines)

    def figures(self, x: Tensor) -> Mapping[str, Any]:
        """Design, field and spectrum figures."""
        from problems.photonics import plots

        return plots.figures(self, x)

    def judges(self) -> Mapping[str, Callable[[Tensor], Verification]]:
        """``ceviche``, the unmodified package, and ``direct``, our sparse direct solver."""
        from problems.photonics.verify import verify

        return {name: partial(verify, self, judge=name) for name in ("ceviche", "direct")}

    def exports(self) -> Mapping[str, Callable[[Tensor, Path], None]]:
        """``gds``: a GDSII layout with the guides, read back and compared; ``npy``: the pixels, int8 [H, W]."""
        return {"gds": self._export_gds, "npy": self._export_npy}

    def _export_gds(self, x: Tensor, path: Path) -> None:
        from problems.photonics import gds

        design = self.design(x).numpy()
        gds.write_gds(path, self.device, design)
        if not np.array_equal(gds.read_gds(path, self.device), design):
            raise RuntimeError(f"The design read back from {path} differs from the one written; please report it.")

    def _export_npy(self, x: Tensor, path: Path) -> None:
        with open(path, "wb") as file:  # numpy would add a suffix to a bare path
            np.save(file, self.design(x).numpy().astype(np.int8), allow_pickle=False)


def loss_floor(problem: PhotonicProblem) -> float:
    """Loss below which the spec is certainly met: one bound at its edge at one wavelength costs this much."""
    return math.log(2.0) ** 2 / len(problem.device.wavelengths_nm)
