"""How many capacity vectors a second the cut pool screens, on CPU and GPU. Needs torch and numpy alone.

    python -m benchmarks.gpu_planning_evaluator benchmarks/reference/planning_pool_*.npz --out FILE

A pool file comes from ``python -m benchmarks.planning pool``: rows [K, m] float32, rhs [K], best [m] (a survivable
plan's capacities), unit [1] (Gbps of a module). Batches are random plans around ``best``. Every device and dtype is
checked against float64 on the CPU: a plan that float64 accepts by a relative margin of 1e-5 may not be refused, nor the
other way round.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from surco import provenance


def screen(plans: torch.Tensor, rows: torch.Tensor, rhs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Worst ratio of left to right-hand side [B] and the number of that cut [B]."""
    ratio, which = ((plans @ rows.T) / rhs).min(dim=1)
    return ratio, which


def draw_plans(best: np.ndarray, unit: float, batch: int, seed: int) -> np.ndarray:
    """[batch, m] whole plans: one unit less to four more than ``best`` on each link."""
    steps = np.random.default_rng(seed).integers(-1, 5, (batch, len(best)))
    return np.maximum(best + unit * steps, 0.0)


def rate(plans: torch.Tensor, rows: torch.Tensor, rhs: torch.Tensor, seconds: float) -> tuple[float, float]:
    """Plans per second with the batch on the device, and microseconds per batch (median of rounds of ten)."""

    def wait() -> None:
        if plans.is_cuda:
            torch.cuda.synchronize()

    for _ in range(10):
        screen(plans, rows, rhs)
    wait()
    times, begin = [], time.perf_counter()
    while time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        for _ in range(10):
            screen(plans, rows, rhs)
        wait()
        times.append((time.perf_counter() - start) / 10)
    each = float(np.median(times))
    return len(plans) / each, 1e6 * each


def measure(path: Path, *, batches: list[int], seconds: float) -> list[dict[str, Any]]:
    """All devices, dtypes and batch sizes for one pool."""
    with np.load(path, allow_pickle=False) as data:
        rows, rhs, best, unit = (np.asarray(data[key], dtype=np.float64) for key in ("rows", "rhs", "best", "unit"))
    figures = []
    for batch in batches:
        plans = draw_plans(best, float(unit[0]), batch, seed=batch)
        truth, _ = screen(*(torch.from_numpy(a) for a in (plans, rows, rhs)))
        sure = (truth - 1.0).abs() > 1e-5
        for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
            for dtype in (torch.float64, torch.float32):
                tensors = [torch.from_numpy(a).to(device=device, dtype=dtype) for a in (plans, rows, rhs)]
                ratio, _ = screen(*tensors)
                agrees = ((ratio.cpu().double() < 1.0) == (truth < 1.0)) | ~sure
                if not bool(agrees.all()):
                    raise SystemExit(f"{path.name}: {device} {dtype} decides {int((~agrees).sum())} plans differently.")
                per_second, microseconds = rate(*tensors, seconds)  # pyright: ignore[reportCallIssue]
                figures.append(
                    {
                        "pool": path.stem, "cuts": len(rhs), "links": len(best), "batch": batch, "device": device,
                        "dtype": str(dtype).removeprefix("torch."), "plans_per_second": per_second,
                        "microseconds_per_batch": microseconds,
                        "refused_percent": 100 * float((truth < 1.0).double().mean()),
                    }
                )  # fmt: skip
                print(json.dumps(figures[-1]), flush=True)
    return figures


def main() -> None:
    """Measure the pools named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore[reportOptionalMemberAccess]
    parser.add_argument("pools", type=Path, nargs="+")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 256, 4096, 65536])
    parser.add_argument("--seconds", type=float, default=1.0, help="per figure")
    parser.add_argument("--out", type=Path, default=None)
    chosen = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False  # three digits would not do
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor(),
        "provenance": provenance.origin(
            [*(path.name for path in chosen.pools), "--batches", *map(str, chosen.batches), "--out", "FILE"],
            "python -m benchmarks.gpu_planning_evaluator",
        ),
        "rows": [],
    }
    for path in chosen.pools:
        report["rows"] += measure(path, batches=chosen.batches, seconds=chosen.seconds)
        if chosen.out is not None:
            chosen.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
