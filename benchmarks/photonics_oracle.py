"""The brush oracle against CP-SAT by size and brush, and against rewards made to break it.

    python -m benchmarks.photonics_oracle --seconds 10 --out oracle.json
    python -m benchmarks.photonics_oracle --large --out large.json   # only the painter's time on large designs

Value: reward . x over the sum of positive rewards (1 = every pixel as its reward wants, which no brush allows on
noise). CP-SAT starts from the painter's answer and runs on one thread for ``--seconds`` of its own deterministic time,
which the load of the machine does not change. Times are process CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from problems.photonics.brush import Symmetry, parse_brush, unpaintable
from problems.photonics.exact import paint_exact
from problems.photonics.oracle import BrushOracle
from problems.photonics.painter import Painter
from surco.errors import InvalidInputError

Array = NDArray[np.float64]
CASES = ((12, "cross"), (20, "cross"), (30, "cross"), (40, "cross"), (12, "circle-5px"), (20, "circle-5px"),
         (30, "circle-5px"), (40, "circle-5px"), (40, "circle-9px"))  # fmt: skip
LARGE = ((80, "cross", 5.0), (80, "circle-9px", 5.0), (160, "circle-9px", 50.0))  # pixels, brush, goal in milliseconds
ADVERSARIAL = ((16, 16, "cross", Symmetry.NONE), (13, 21, "cross", Symmetry.NONE), (18, 18, "circle-4px", Symmetry.XY),
               (20, 20, "circle-5px", Symmetry.DIAGONAL), (16, 22, "notched-6px", Symmetry.NONE))  # fmt: skip


def smooth(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Sum of a few random waves of periods from 8 pixels up."""
    x, y = np.mgrid[: shape[0], : shape[1]]
    waves = rng.normal(size=(12, 2)) * (2 * np.pi / 16)
    phases = rng.uniform(0, 2 * np.pi, 12)
    return np.cos(waves[:, 0, None, None] * x + waves[:, 1, None, None] * y + phases[:, None, None]).sum(0)


def paintings(size: int, brush: str, kind: str, seed: int, repeat: int) -> tuple[dict[str, Any], Painter, Array, Array]:
    """Painter without and with local improvement on one reward: row, painter, reward [1, n], improved design [1, n]."""
    rng = np.random.default_rng([seed, size])
    shape = (size, size)
    pixels = rng.standard_normal(shape) if kind == "rough" else smooth(rng, shape)
    painter = Painter(shape, parse_brush(brush, 40.0))
    better = Painter(shape, parse_brush(brush, 40.0), sweeps=4)
    reward = painter.collapse(pixels[None])
    total = float(np.maximum(reward, 0).sum())
    for one in (painter, better):  # compile first
        one.paint(reward)
    row: dict[str, Any] = {"size": size, "brush": brush, "reward": kind, "seed": seed}
    x = np.zeros((1, painter.n))
    for name, one in (("painter", painter), ("improved", better)):
        begin = time.process_time()
        for _ in range(repeat):
            x = one.paint(reward)
        row[f"{name}_ms"] = 1e3 * (time.process_time() - begin) / repeat
        row[name] = float(reward[0] @ x[0]) / total
    return row, painter, reward, x.astype(float)


def against_exact(size: int, brush: str, kind: str, seed: int, seconds: float) -> dict[str, Any]:
    """Painter, painter with local improvement, and CP-SAT on one reward."""
    row, painter, reward, x = paintings(size, brush, kind, seed, max(3, int(20_000 / size**2)))
    total = float(np.maximum(reward, 0).sum())
    begin = time.process_time()
    certificate = paint_exact(painter.incidence, reward[0], seconds=40 * seconds, work=seconds, hint=x[0])
    row |= {
        "cp_sat": None if certificate.x is None else certificate.value / total,
        "cp_sat_bound": certificate.bound / total,
        "cp_sat_status": str(certificate.status), "cp_sat_seconds": time.process_time() - begin,
    }  # fmt: skip
    if certificate.x is not None:
        row["cp_sat_unpaintable"] = int(unpaintable(painter.expand(certificate.x), painter.brush).sum())
        for name in ("painter", "improved"):
            row[f"{name}_gap_percent"] = 100 * (1 - row[name] / row["cp_sat"])
    return row


def large(seeds: int, repeat: int) -> list[dict[str, Any]]:
    """The painter alone on large designs, beside the goal for one painting."""
    rows = []
    for size, brush, goal_ms in LARGE:
        for kind in ("rough", "smooth"):
            for seed in range(seeds):
                row, painter, _, x = paintings(size, brush, kind, seed, repeat)
                row |= {"goal_ms": goal_ms, "unpaintable": int(unpaintable(painter.expand(x), painter.brush).sum())}
                rows.append(row)
                sys.stdout.write(
                    f"{size:3d} {brush:11s} {kind:7s} painter {row['painter']:.4f} ({row['painter_ms']:.2f} ms, goal "
                    f"{goal_ms:g})  improved {row['improved']:.4f} ({row['improved_ms']:.2f} ms)\n"
                )
                sys.stdout.flush()
    return rows


def adversarial_reward(rng: np.random.Generator, number: int, shape: tuple[int, int]) -> Array:
    """One of six kinds of rewards."""
    x, y = np.mgrid[: shape[0], : shape[1]]
    kind = number % 6
    if kind == 0:
        return rng.standard_normal(shape) * 10.0 ** rng.integers(-12, 13)
    if kind == 1:  # checkerboards of any period
        period = int(rng.integers(1, 5))
        return np.where((x // period + y // period) % 2, 1.0, -1.0) * rng.uniform(0.5, 2.0)
    if kind == 2:
        return np.full(shape, float(rng.choice([0.0, 1.0, -1.0, 1e300, -1e-300])))
    if kind == 3:  # spikes on a flat ground
        out = np.full(shape, float(rng.choice([0.0, 1.0, -1.0])))
        out[rng.integers(0, shape[0], 8), rng.integers(0, shape[1], 8)] = rng.choice([-1e6, 1e6], 8)
        return out
    if kind == 4:  # ties everywhere
        return rng.integers(-1, 2, shape).astype(float)
    stripes = np.where((x * int(rng.integers(0, 3)) + y * int(rng.integers(0, 3))) % int(rng.integers(2, 6)), 1.0, -1.0)
    return stripes * np.linspace(0.0, 1.0, shape[1])


def adversarial(count: int) -> dict[str, Any]:
    """Paint ``count`` adversarial rewards, with and without local improvement; morphology judges."""
    infeasible, asymmetric, begin = 0, 0, time.process_time()
    for number in range(count):
        height, width, brush, symmetry = ADVERSARIAL[number % len(ADVERSARIAL)]
        rng = np.random.default_rng([7, number])
        key = (height, width, brush, symmetry, number % 2)
        if key not in _PAINTERS:
            _PAINTERS[key] = Painter((height, width), parse_brush(brush, 40.0), symmetry, sweeps=4 * (number % 2))
        painter = _PAINTERS[key]
        reward = painter.collapse(adversarial_reward(rng, number // len(ADVERSARIAL), (height, width))[None])
        design = painter.expand(painter.paint(reward))[0]
        infeasible += bool(unpaintable(design, painter.brush).any())
        if symmetry is Symmetry.DIAGONAL:
            asymmetric += not np.array_equal(design, design.T)
    refused = 0
    for bad in (np.nan, np.inf, -np.inf):
        painter = next(iter(_PAINTERS.values()))
        reward = np.zeros((1, painter.n))
        reward[0, 5] = bad
        try:
            painter.paint(reward)
        except InvalidInputError:
            refused += 1
    seconds = time.process_time() - begin
    return {
        "rewards": count, "infeasible": infeasible, "asymmetric": asymmetric, "refused_not_finite": f"{refused} of 3",
        "cpu_seconds": seconds,
    }  # fmt: skip


_PAINTERS: dict[tuple[Any, ...], Painter] = {}


def certificate_example() -> dict[str, Any]:
    """The exact mode of the oracle on a smooth reward: what a certificate looks like."""
    oracle = BrushOracle((16, 16), parse_brush("cross", 40.0), exact_seconds=30.0)
    costs = -smooth(np.random.default_rng(3), (16, 16)).reshape(1, -1)
    batch = oracle.solve(costs)
    greedy = BrushOracle((16, 16), parse_brush("cross", 40.0)).solve(costs)
    return {
        "status": str(batch.status[0]), "objective": float(batch.objective[0]), "bound": float(batch.bound[0]),
        "painter_objective": float(greedy.objective[0]),
    }  # fmt: skip


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--adversarial", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--large", action="store_true", help="only the painter's time at 80 x 80 and 160 x 160")
    options = parser.parse_args()
    if options.large:
        rows = large(seeds=3, repeat=20)
        if options.out:
            options.out.write_text(json.dumps({"rows": rows}, indent=1), encoding="utf-8")
        return
    report: dict[str, Any] = {"seconds_each": options.seconds, "rows": []}
    for size, brush in CASES:
        for kind in ("rough", "smooth"):
            row = against_exact(size, brush, kind, 0, options.seconds)
            report["rows"].append(row)
            sys.stdout.write(
                f"{size:3d} {brush:11s} {kind:7s} painter {row['painter']:.4f} ({row['painter_ms']:.2f} ms)  improved "
                f"{row['improved']:.4f} ({row['improved_ms']:.2f} ms)  CP-SAT {row['cp_sat']} bound "
                f"{row['cp_sat_bound']:.4f} {row['cp_sat_status']} {row['cp_sat_seconds']:.1f} s\n"
            )
            sys.stdout.flush()
            if options.out:
                options.out.write_text(json.dumps(report, indent=1), encoding="utf-8")
    report["certificate"] = certificate_example()
    report["adversarial"] = adversarial(options.adversarial)
    sys.stdout.write(json.dumps({key: report[key] for key in ("certificate", "adversarial")}) + "\n")
    if options.out:
        options.out.write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
