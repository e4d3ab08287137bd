"""A prior across devices: trained for a few minutes on one family, tried on unseen instances against pass-through.

    python -m benchmarks.photonics_prior --device bend --steps 1500 --out runs/prior-bend

Tried on ``--tests`` distinct geometries of the test split: ``prior`` (the network's costs, one generator call),
``latent_hybrid`` (pass-through from the network's latent pixels), ``pass_through`` (from around the solid design); all
stop at the spec, or after ``--calls`` generator calls.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import surco
from problems.photonics.family import family as photonic_family
from problems.photonics.methods import latent_hybrid, pass_through
from surco.instance_family import Split

STEP_SIZES = (0.05,)


def tried(problem: Any, method: Any, calls: int, seed: int, **options: Any) -> dict[str, Any]:
    """One run on one instance."""
    begin = time.process_time()
    result = surco.solve(problem, method, calls=calls, seed=seed, **options)
    metric = problem.metric(torch.from_numpy(result.x))
    return {
        "is_met": metric > 0, "metric": metric, "calls": result.stats.oracle_calls, "loss": result.value,
        "violation": float(problem.violation(torch.from_numpy(result.x))),
        "cpu_seconds": time.process_time() - begin,
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Successes and calls to spec."""
    met = sorted(row["calls"] for row in rows if row["is_met"])
    return {
        "met": len(met), "runs": len(rows), "calls_to_spec": met,
        "median_calls_to_spec": float(np.median(met)) if met else None,
        "median_loss": float(np.median([row["loss"] for row in rows])),
        "mean_cpu_seconds": float(np.mean([row["cpu_seconds"] for row in rows])),
        "infeasible": sum(row["violation"] > 0 for row in rows),
    }  # fmt: skip


def show(line: dict[str, Any]) -> None:
    """A line of the training's log."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Train, then try."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="bend", choices=("bend", "mode-converter", "beam-splitter", "wdm"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--step-size", type=float, default=3e-3)
    parser.add_argument("--tests", type=int, default=25)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    family = photonic_family(f"photonics/{options.device}-40nm-random-v0")
    begin = time.process_time()
    prior = surco.train(
        family, steps=options.steps, batch=options.batch, step_size=options.step_size, instances=64, validation=8,
        validate_every=50, patience=10_000, out=options.out, resume=True,
        progress=show,
    )  # fmt: skip
    report: dict[str, Any] = {
        "family": family.id, "steps": options.steps, "batch": options.batch, "step_size": options.step_size,
        "training_cpu_seconds": time.process_time() - begin, "best_step": prior.training["best_step"],
        "validation_regret": prior.training["validation_regret"], "methods": {},
    }  # fmt: skip
    tests = family.parts[Split.TEST]
    chosen = [tests[k] for k in np.random.default_rng(0).permutation(len(tests))[: options.tests]]
    rows: dict[str, list[dict[str, Any]]] = {}
    for number, geometry in enumerate(chosen):
        problem = family.problem(geometry)
        runs = {
            "prior": lambda p=problem: tried(p, "prior", 1, 0, prior=prior),
            "pass_through": lambda p=problem, s=number: tried(p, pass_through(), options.calls, s),
        }
        for size in STEP_SIZES:
            runs[f"latent_hybrid, step {size:g}"] = lambda p=problem, s=number, z=size: tried(
                p, latent_hybrid(prior, step_size=z), options.calls, s
            )
        for name, run in runs.items():
            rows.setdefault(name, []).append({"geometry": geometry} | run())
    for name, found in rows.items():
        report["methods"][name] = summary(found)
        sys.stdout.write(f"{name:24s} {json.dumps(report['methods'][name])}\n")
    (options.out / "report.json").write_text(json.dumps(report | {"rows": rows}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
