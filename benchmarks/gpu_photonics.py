"""Throughput and latency of the simulator on a GPU, with errors against complex128 references of the CPU.

    python -m benchmarks.gpu_photonics --out "$OUT/gpu_photonics.json"

Needs torch, numpy and scipy only (numba is detected, for the painter). One simulation is one design at one wavelength
with all S entries (every port excited) and the gradient of a scalar of all of them. Everything is computed on the spot:
the condensed exteriors of bend 40 nm, WDM 40 nm and bend 10 nm take a few seconds of CPU each. References come from the
direct sparse solver on the CPU. Variants (plain, CUDA graph; batched block
elimination, pivoted LU of torch.linalg) that fail are reported, not hidden. Complex128 throughout.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from problems.photonics import direct, geometry
from problems.photonics.boxsolve import Backend
from problems.photonics.graphs import GraphedStep
from problems.photonics.simulator import Simulator

logger = logging.getLogger("gpu_photonics")
CASES: dict[str, tuple[str, float, tuple[int, ...], int]] = {
    "bend-40nm": ("bend", 40.0, (16, 512, 2048, 4096), 3),
    "wdm-40nm": ("wdm", 40.0, (16, 256, 1024, 1536), 2),
    "bend-10nm": ("bend", 10.0, (4, 32, 64, 128), 1),
}
GOALS = {"bend-40nm": 60_000, "wdm-40nm": 15_000, "bend-10nm": 2_500}


def scalar(s: torch.Tensor) -> torch.Tensor:
    """A scalar that depends on magnitude and phase of every S entry."""
    entries = s.shape[1] * s.shape[2] * s.shape[3]
    weight = torch.linspace(0.5, 1.5, entries, dtype=torch.float64, device=s.device)
    weight = weight.reshape(s.shape[1:]).to(s.real.dtype)
    return (weight * (s.abs() ** 2 + 0.3 * s.real)).sum()


def wall_seconds(function: Callable[[], Any], *, repeat: int) -> float:
    """Median wall seconds of a call, the device drained before and after."""
    times = []
    for _ in range(repeat):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        function()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def step(simulator: Simulator, design: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """S and gradient of a batch."""
    x = design.detach().requires_grad_()
    s = simulator.s_parameters(x)
    (gradient,) = torch.autograd.grad(scalar(s), x)
    return s.detach(), gradient


def reference(device: geometry.Device, design: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """S [L, P, P] and gradient [H, W] by the direct solver on the CPU."""
    results = [direct.simulate(device, design, wavelength) for wavelength in device.wavelengths_nm]
    s = torch.from_numpy(np.stack([result.s for result in results]))[None].requires_grad_()
    (grad_s,) = torch.autograd.grad(scalar(s), s)
    gradient = sum(result.gradient(g.numpy()) for result, g in zip(results, grad_s[0], strict=True))
    return s.detach()[0].numpy(), np.asarray(gradient)


def errors(s: torch.Tensor, gradient: torch.Tensor, judge: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Largest relative errors over the judged designs (the first of the batch)."""
    pairs = list(zip(s.cpu().numpy(), gradient.cpu().numpy(), judge, strict=False))
    return {
        "s_error": max(float(np.abs(a - r[0]).max() / np.abs(r[0]).max()) for a, _, r in pairs),
        "gradient_error": max(float(np.abs(g - r[1]).max() / np.abs(r[1]).max()) for _, g, r in pairs),
    }


def measure(name: str, deadline: float, report: dict[str, Any]) -> None:
    """All batches of one case."""
    kind, grid, batches, judged = CASES[name]
    device = geometry.BUILDERS[kind](grid_nm=grid, wavelengths_nm=geometry.LIGHT_WAVELENGTHS_NM)
    begin = time.perf_counter()
    cpu = Simulator(device)
    setup = time.perf_counter() - begin
    generator = torch.Generator().manual_seed(1)
    designs = (torch.rand(max(batches), *device.design_shape, generator=generator) > 0.5).double()
    judge = [reference(device, designs[b].numpy()) for b in range(judged)]
    row: dict[str, Any] = {"setup_s": setup, "goal_sims_per_s": GOALS[name], "runs": []}
    report["cases"][name] = row
    wavelengths = len(device.wavelengths_nm)
    for backend in (Backend.BLOCK, Backend.LAPACK):
        simulator = Simulator(device, torch_device="cuda", backend=backend, memory_gb=60.0)
        for batch in (1, *batches):
            for is_graph in (False, True):
                if time.perf_counter() > deadline or (is_graph and (batch > batches[1] or backend is Backend.LAPACK)):
                    continue
                label = f"{name} {backend} B={batch}{' graph' if is_graph else ''}"
                try:
                    row["runs"].append(_one(simulator, designs[:batch].cuda(), is_graph, judge) | {
                        "backend": str(backend), "batch": batch, "is_graph": is_graph,
                    })  # fmt: skip
                except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
                    row["runs"].append({"label": label, "failed": str(error)[:300]})
                    logger.warning("%s failed: %s", label, str(error)[:300])
                    torch.cuda.empty_cache()
                    continue
                run = row["runs"][-1]
                run["sims_per_s"] = batch * wavelengths / run["seconds"]
                logger.info(
                    "%-32s %9.3f ms  %9.0f sims/s  S %.1e  grad %.1e  %.1f GB", label, 1e3 * run["seconds"],
                    run["sims_per_s"], run["s_error"], run["gradient_error"], run["peak_gb"],
                )  # fmt: skip
        del simulator
        torch.cuda.empty_cache()
    del cpu


def _one(simulator: Simulator, design: torch.Tensor, is_graph: bool, judge: list[Any]) -> dict[str, Any]:
    torch.cuda.reset_peak_memory_stats()
    if is_graph:
        graphed = GraphedStep(simulator, design, scalar)

        def call() -> tuple[torch.Tensor, torch.Tensor]:
            return graphed(design)
    else:

        def call() -> tuple[torch.Tensor, torch.Tensor]:
            return step(simulator, design)

    for _ in range(3):
        s, gradient = call()
    found = errors(s, gradient, judge)
    first = wall_seconds(call, repeat=2)
    repeat = max(3, min(200, int(1.5 / max(first, 1e-5))))
    seconds = wall_seconds(call, repeat=repeat)
    return found | {"seconds": seconds, "repeat": repeat, "peak_gb": torch.cuda.max_memory_allocated() / 1e9}


def profile(report: dict[str, Any]) -> None:
    """Where the time goes at a large batch: seconds by part, for tuning."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    for name, batch in (("bend-40nm", 512), ("bend-10nm", 16)):
        kind, grid, _, _ = CASES[name]
        device = geometry.BUILDERS[kind](grid_nm=grid, wavelengths_nm=geometry.LIGHT_WAVELENGTHS_NM)
        simulator = Simulator(device, torch_device="cuda", backend=Backend.BLOCK, memory_gb=60.0)
        design = (torch.rand(batch, *device.design_shape, generator=torch.Generator().manual_seed(0)) > 0.5).double()
        design = design.cuda()
        step(simulator, design)
        with torch_profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as run:
            step(simulator, design)
            torch.cuda.synchronize()
        rows = sorted(run.key_averages(), key=lambda e: -e.self_device_time_total)[:12]
        report["profile"][name] = [(e.key[:80], e.count, e.self_device_time_total / 1e3) for e in rows]
        for key, count, ms in report["profile"][name]:
            logger.info("%s B=%d  %8.2f ms  %5d x  %s", name, batch, ms, count, key)


def painter_speed(report: dict[str, Any]) -> None:
    """Painter milliseconds on this host, where numba is there."""
    try:
        import numba
    except ImportError:
        report["painter"] = "numba is not installed here: painter not measured"
        logger.info(report["painter"])
        return
    from problems.photonics.brush import circle, cross
    from problems.photonics.painter import Painter

    report["painter"] = {"numba": numba.__version__}
    for shape, brush in (((40, 40), cross()), ((80, 80), cross()), ((160, 160), circle(9))):
        painter = Painter(shape, brush, threads=8)
        reward = np.random.default_rng(0).standard_normal((64, painter.n))
        painter.paint(reward[:2])
        begin = time.perf_counter()
        painter.paint(reward)
        report["painter"][f"{shape} {brush.name}, 8 threads, ms a design"] = 1e3 * (time.perf_counter() - begin) / 64
    logger.info("%s", report["painter"])


def main() -> int:
    """Run everything within ``--seconds``; the JSON is written after every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--seconds", type=float, default=330.0)
    parser.add_argument("--out", type=Path, default=Path("gpu_photonics.json"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if not torch.cuda.is_available():
        logger.error("No CUDA device is visible to torch %s.", torch.__version__)
        return 2
    begin = time.perf_counter()
    report: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(0), "torch": torch.__version__, "cuda": torch.version.cuda,
        "python": platform.python_version(), "cases": {}, "profile": {},
    }  # fmt: skip
    logger.info("%s, torch %s, CUDA %s", report["gpu"], report["torch"], report["cuda"])
    share = options.seconds / len(options.cases)
    for number, name in enumerate(options.cases, 1):
        measure(name, begin + share * number, report)
        options.out.write_text(json.dumps(report, indent=1), encoding="utf-8")
    painter_speed(report)
    profile(report)
    report["wall_s"] = time.perf_counter() - begin
    options.out.write_text(json.dumps(report, indent=1), encoding="utf-8")
    logger.info("best complex128 throughput:")
    for name, row in report["cases"].items():
        exact = [r for r in row["runs"] if r.get("s_error", 1.0) <= 1e-8]
        if exact:
            best = max(exact, key=lambda r: r["sims_per_s"])
            single = min((r["seconds"] for r in exact if r["batch"] == 1), default=float("nan"))
            logger.info(
                "%-10s %8.0f sims/s at B=%d (goal %d), B=1 %.2f ms, S error %.1e",
                name, best["sims_per_s"], best["batch"], row["goal_sims_per_s"], 1e3 * single, best["s_error"],
            )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
