"""Loss + gradient of one design on one CPU thread: ours, unmodified ceviche, and a tuned reused LU, in one run.

    OMP_NUM_THREADS=1 python -m benchmarks.photonics_speed --devices bend mode-converter beam-splitter wdm --repeat 5
    OMP_NUM_THREADS=1 python -m benchmarks.photonics_speed --devices bend --grid 10 --repeat 3

Two wavelengths, port 1 excited, a random binary design, process CPU seconds (median of repeats). Also reported: setup
of the condensed exterior, its share in a 200-step run, and the painter's milliseconds by size and brush.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from problems.photonics import direct, geometry
from problems.photonics.brush import circle, cross, notched_square
from problems.photonics.painter import Painter
from problems.photonics.simulator import Simulator
from problems.photonics.targets import SPECS, spec_loss


def cpu_seconds(function: Callable[[], Any], repeat: int) -> float:
    """Median process CPU seconds."""
    times = []
    for _ in range(repeat):
        begin = time.process_time()
        function()
        times.append(time.process_time() - begin)
    return statistics.median(times)


def time_device(kind: str, grid_nm: float, repeat: int, ceviche_repeat: int) -> dict[str, Any]:
    """One row of the table."""
    device = geometry.BUILDERS[kind](grid_nm=grid_nm, wavelengths_nm=geometry.LIGHT_WAVELENGTHS_NM)
    spec = SPECS[kind]
    design = (np.random.default_rng(0).random(device.design_shape) > 0.5).astype(float)
    begin = time.process_time()
    simulator = Simulator(device, cache_dir=False)
    setup = time.process_time() - begin
    found: dict[str, Any] = {}

    def ours() -> None:
        x = torch.from_numpy(design)[None].requires_grad_()
        loss = spec_loss(simulator.s_parameters(x, ports_in=(0,)), spec)
        loss.sum().backward()
        assert x.grad is not None
        found["ours"] = (float(loss.detach()), x.grad[0].numpy())

    def single_lu() -> None:
        results = [direct.simulate(device, design, w, (0,)) for w in device.wavelengths_nm]
        s = torch.from_numpy(np.stack([r.s for r in results]))[None].requires_grad_()
        loss = spec_loss(s, spec)
        loss.sum().backward()
        assert s.grad is not None
        gradient = sum(r.gradient(g.numpy()) for r, g in zip(results, s.grad[0], strict=True))
        found["lu"] = (float(loss.detach()), gradient)

    ours()
    row = {"device": kind, "grid_nm": grid_nm, "setup_s": setup, "ours_s": cpu_seconds(ours, 5 * repeat)}
    row["lu_s"] = cpu_seconds(single_lu, repeat)
    row["ratio_lu"] = row["lu_s"] / row["ours_s"]
    row["loss_error_lu"], row["gradient_error_lu"] = _errors(found["ours"], found["lu"])
    if ceviche_repeat:
        from problems.photonics import ceviche_bridge

        model = ceviche_bridge.challenge_model(device)
        low, high = (bound.numpy()[:, None] for bound in spec.windows(len(device.wavelengths_nm)))

        def theirs() -> None:
            found["ceviche"] = ceviche_bridge.loss_and_gradient(
                model, design, lambda s: _loss_in_autograd(s, low, high)
            )

        row["ceviche_s"] = cpu_seconds(theirs, ceviche_repeat)
        row["ratio_ceviche"] = row["ceviche_s"] / row["ours_s"]
        row["loss_error_ceviche"], row["gradient_error_ceviche"] = _errors(found["ours"], found["ceviche"])
        row["ratio_200_steps"] = 200 * row["ceviche_s"] / (setup + 200 * row["ours_s"])
    return row


def _errors(ours: tuple[float, Any], theirs: tuple[float, Any]) -> tuple[float, float]:
    return abs(ours[0] / theirs[0] - 1), float(np.abs(ours[1] - theirs[1]).max() / np.abs(theirs[1]).max())


def _loss_in_autograd(s: Any, low: Any, high: Any) -> Any:
    """The spec loss written in autograd.numpy, for S [wavelength, port_in, port_out]."""
    import autograd.numpy

    anp: Any = autograd.numpy

    power = anp.abs(s) ** 2
    below = anp.where(low > 0, low - power, -1.0)
    above = anp.where(high < 1, power - high, -1.0)
    scaled = anp.maximum(below, above) / (high - low).min()
    softplus = anp.maximum(scaled, 0.0) + anp.log1p(anp.exp(-anp.abs(scaled)))
    return anp.mean(anp.sum(softplus**2, axis=(1, 2)))


def time_painter(repeat: int) -> list[dict[str, Any]]:
    """Milliseconds a painting, rough and smooth rewards."""
    from scipy.ndimage import gaussian_filter

    rows = []
    cases = [((40, 40), cross()), ((80, 50), cross()), ((80, 80), cross()), ((160, 160), circle(9))]
    cases += [((160, 160), notched_square(11)), ((160, 160), circle(20)), ((320, 320), circle(8))]
    for shape, brush in cases:
        painter = Painter(shape, brush)
        rng = np.random.default_rng(0)
        rough = rng.standard_normal((repeat, painter.n))
        smooth = gaussian_filter(rng.standard_normal((repeat, *shape)), (0, 3, 3)).reshape(repeat, -1)
        painter.paint(rough[:1])
        row = {"shape": shape, "brush": brush.name}
        for name, reward in (("rough", rough), ("smooth", smooth)):
            times = []
            for one in reward:
                begin = time.process_time()
                painter.paint(one[None])
                times.append(time.process_time() - begin)
            row[f"{name}_ms"] = 1e3 * statistics.median(times)
        rows.append(row)
    return rows


def main() -> None:
    """Print the table; ``--out`` keeps it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", nargs="*", default=list(SPECS)[:4])
    parser.add_argument("--grid", type=float, default=40.0)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--ceviche", type=int, default=3, help="repeats of ceviche; 0 leaves it out")
    parser.add_argument("--painter", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for kind in options.devices:
        row = time_device(kind, options.grid, options.repeat, options.ceviche)
        rows.append(row)
        shown = {key: (f"{value:.3g}" if isinstance(value, float) else value) for key, value in row.items()}
        sys.stdout.write(f"{shown}\n")
        sys.stdout.flush()
    painter = time_painter(9) if options.painter else []
    for row in painter:
        sys.stdout.write(
            f"{row['shape']} {row['brush']}: rough {row['rough_ms']:.2f} ms, smooth {row['smooth_ms']:.2f} ms\n"
        )
    if options.out:
        options.out.write_text(json.dumps({"devices": rows, "painter": painter}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
