"""Share of seeds that meet the spec, by device and method, at equal oracle calls.

    python -m benchmarks.photonics_reliability --seeds 20 --calls 200 --out results.json

One oracle call is one painted design. A run ends when its best design meets the spec at all wavelengths, or when the
calls are spent. Reported: successes, calls to spec (quartiles), CPU seconds a run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import surco
from problems.photonics import DOMAIN, PhotonicProblem
from problems.photonics.methods import latent_zero, pass_through

DEVICES = ("bend", "mode-converter", "beam-splitter", "wdm")
METHODS: dict[str, Callable[[], Any]] = {
    "pass_through": pass_through,
    "pass_through_slow": lambda: pass_through(step_size=0.01),
    "zero": lambda: "zero",
    "latent_zero": lambda: latent_zero(strength=1.0, step_size=0.1, betas=(0.9, 0.999)),
    "auto": lambda: "auto",
    "local_search": lambda: "local_search",
    "slp": lambda: "slp",
    "random": lambda: "random",
}


def one_run(problem: PhotonicProblem, method: Any, *, calls: int, seed: int) -> dict[str, Any]:
    """One seed; stops at the spec."""
    begin = time.process_time()
    result = surco.solve(
        problem, method, calls=calls, seed=seed, callback=lambda ledger: problem.metric(torch.from_numpy(ledger.x)) > 0
    )
    x = torch.from_numpy(result.x)
    metric = problem.metric(x)
    return {
        "seed": seed,
        "is_met": metric > 0,
        "calls": result.stats.oracle_calls,
        "objective_calls": result.stats.objective_calls,
        "loss": result.value,
        "metric": metric,
        "violation": float(problem.violation(x)),
        "cpu_seconds": time.process_time() - begin,
        "x": np.packbits(result.x.astype(bool)).tobytes().hex(),
    }


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", nargs="+", default=list(DEVICES))
    parser.add_argument("--methods", nargs="+", default=["pass_through", "zero"], choices=sorted(METHODS))
    parser.add_argument("--grid", default="40nm", choices=("40nm", "10nm", "family"))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--brush")
    parser.add_argument("--border", choices=("free", "fixed"), help="default that of the id")
    parser.add_argument("--torch-device", default="cpu", help="of the simulator")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    for device in options.devices:
        overrides = {key: getattr(options, key) for key in ("brush", "border") if getattr(options, key)}
        problem = DOMAIN.make(f"photonics/{device}-{options.grid}-v0", torch_device=options.torch_device, **overrides)
        for name in options.methods:
            rows = [
                one_run(problem, METHODS[name](), calls=options.calls, seed=seed)
                for seed in range(options.first_seed, options.first_seed + options.seeds)
            ]
            met = sorted(row["calls"] for row in rows if row["is_met"])
            quartiles = np.quantile(met, (0.25, 0.5, 0.75)).round(1).tolist() if met else []
            cpu = float(np.mean([row["cpu_seconds"] for row in rows]))
            table.append({"device": device, "method": name, "met": len(met), "runs": len(rows), "rows": rows})
            sys.stdout.write(
                f"{device:15s} {name:18s} {len(met):3d}/{len(rows)}  calls to spec {quartiles}  max "
                f"{met[-1] if met else '-'}  CPU s/run {cpu:.2f}  infeasible {sum(r['violation'] > 0 for r in rows)}\n"
            )
            sys.stdout.flush()
            if options.out:
                options.out.write_text(json.dumps({"calls": options.calls, "table": table}), encoding="utf-8")


if __name__ == "__main__":
    main()
