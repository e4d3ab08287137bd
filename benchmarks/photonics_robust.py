"""Devices that meet their spec though every edge of the design may move by 10 nm, by pass-through on the worst corner.

    python -m benchmarks.photonics_robust --devices bend power-splitter --out runs/robust

The grid is 10 nm, so that an etch error of 10 nm is exactly one pixel; guides outside the design region keep their
width. Learning looks at two wavelengths, the ends of the band; a run ends when its best design also meets the spec at
all six wavelengths in all three corners. Written for each device: ``result.json`` (of the problem with six
wavelengths, for ``surco verify``), figures, and a line in ``robust.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import surco
from problems.photonics import DOMAIN, plots
from problems.photonics.methods import pass_through
from problems.photonics.problem import CORNERS
from problems.photonics.targets import spec_metric

EDGE_WAVELENGTHS_NM = [1265.0, 1295.0]


def design_one(device: str, options: argparse.Namespace) -> dict[str, Any]:
    """Learn one device and write it down."""
    id = f"photonics/{device}-10nm-v0"
    full = DOMAIN.make(id, brush=options.brush, robust=1)
    edges = DOMAIN.make(id, brush=options.brush, robust=1, wavelengths_nm=EDGE_WAVELENGTHS_NM)
    begin = time.process_time()
    seen: dict[bytes, float] = {}

    def is_done(ledger: Any) -> bool:
        x = torch.from_numpy(ledger.x)
        if edges.metric(x) <= 0:
            return False
        key = ledger.x.tobytes()
        if key not in seen:
            seen[key] = full.metric(x)
        return seen[key] > options.margin

    method = pass_through(stops_at_spec=False, step_size=options.step_size)
    result = surco.solve(edges, method, calls=options.calls, seed=options.seed, callback=is_done)
    seconds = time.process_time() - begin
    x = torch.from_numpy(result.x)
    with torch.no_grad():
        corners = {
            name: float(spec_metric(s, full.target))
            for name, s in zip(CORNERS, full.s_parameters(x[None]), strict=True)
        }
        value = float(full.objective(x))
    folder = options.out / device
    dataclasses.replace(result, value=value, spec=full.spec, id=id).save(folder)
    plots.save_figures(full, x, folder)
    return {
        "id": id, "overrides": {"brush": options.brush, "robust": 1}, "seed": options.seed,
        "is_met": full.metric(x) > 0, "metric": full.metric(x), "metric_by_corner": corners, "loss": value,
        "calls": result.stats.oracle_calls, "simulations": 3 * len(EDGE_WAVELENGTHS_NM) * result.stats.objective_calls,
        "cpu_seconds": seconds, "violation": float(full.violation(x)),
        "x_packbits_hex": np.packbits(result.x.astype(bool)).tobytes().hex(),
    }  # fmt: skip


def main() -> None:
    """Design every device asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", nargs="+", default=["bend", "power-splitter"])
    parser.add_argument("--brush", default="circle-10px")
    parser.add_argument("--calls", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step-size", type=float, default=0.05)
    parser.add_argument("--margin", type=float, default=0.0, help="metric to reach at six wavelengths")
    parser.add_argument("--out", type=Path, default=Path("runs/robust"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "robust.json"
    rows = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    for device in options.devices:
        row = design_one(device, options)
        rows.append(row)
        file.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        shown = {key: value for key, value in row.items() if key != "x_packbits_hex"}
        sys.stdout.write(json.dumps(shown) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
