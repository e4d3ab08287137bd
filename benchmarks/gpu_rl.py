"""Environment steps per second of a training run of the planning policy: learner and rollouts on a GPU and the CPU.

    python -m benchmarks.gpu_rl --devices cpu cuda --cpu-threads 2 --out gpu_rl.json

Every row runs the same configuration of the native trainer (same seed, environments and settings) in a process of its
own: one iteration to warm up, then ``--iterations`` timed ones (``--cpu-iterations`` on the CPU, where one takes long),
by wall clock, as the GPU's work costs no CPU seconds. Environments stay on the CPU. A device that is missing is an
error: nothing is estimated. The file is written again after every row.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surco import provenance
from surco.atomic import write_text


def measure(device: str, *, threads: int, envs: int, iterations: int, per_iteration: int, nodes: int) -> dict[str, Any]:
    """One row, in this process.

    Args:
        device: of policy, rollouts and learner.
        threads: of torch on the CPU.
        envs: environments stepped together.
        iterations: timed ones.
        per_iteration: environment steps of an iteration.
        nodes: most nodes of the random networks.

    Returns:
        ``steps``, ``wall_s``, ``sampling_share`` of the CPU seconds, and the device's name.
    """
    import torch

    from rl.config import parse
    from rl.train import train

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("error: torch sees no GPU here.")
    config = parse(
        {
            "env": {
                "id": "surco/NetworkPlanning-v0",
                "num_envs": envs,
                "options": {"generated": {"count": 8, "seed": 1, "nodes": [8, nodes]}, "proof_share": 0.1},
            },
            "trainer": {
                "steps": (iterations + 1) * per_iteration,
                "backend": "native",
                "device": device,
                "threads": threads,
                "tensorboard": False,
                "checkpoint_every": 10**6,
                "target_kl": 1e9,
            },
            "ppo": {"steps_per_iteration": per_iteration, "minibatch": max(64, per_iteration // 8)},
            "evaluation": {"every": 0},
        }
    )
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        train(config, folder, progress=lines.append)
    timed = lines[1:]
    return {
        "steps": timed[-1]["steps"] - lines[0]["steps"],
        "wall_s": sum(line["wall_s"] for line in timed),
        "sampling_share": sum(line["sampling_cpu_s"] for line in timed) / sum(line["cpu_s"] for line in timed),
        "device_name": torch.cuda.get_device_name(device) if device.startswith("cuda") else provenance.machine(),
        "torch": torch.__version__,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every device and store the rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_rl", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--devices", nargs="+", default=["cpu", "cuda"])
    parser.add_argument("--cpu-threads", type=int, default=2)
    parser.add_argument("--envs", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--cpu-iterations", type=int, help="timed ones on the CPU; default as many as on the GPU")
    parser.add_argument("--per-iteration", type=int, default=8192)
    parser.add_argument("--nodes", type=int, default=24)
    parser.add_argument("--row", default="", help="measure this device alone, in this process, and print it")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    if options.row:
        row = measure(
            options.row,
            threads=options.cpu_threads,
            envs=options.envs[0],
            iterations=options.iterations,
            per_iteration=options.per_iteration,
            nodes=options.nodes,
        )
        sys.stdout.write(json.dumps(row) + "\n")
        return 0
    report: dict[str, Any] = {
        "what": "environment steps per wall second, whole training loop of the native trainer",
        "rows": [],
        "provenance": provenance.origin(_command(options), "python -m benchmarks.gpu_rl"),
    }
    for envs in options.envs:
        for device in options.devices:
            is_cpu = device == "cpu"
            iterations = options.cpu_iterations if is_cpu and options.cpu_iterations else options.iterations
            command = [sys.executable, "-m", "benchmarks.gpu_rl", "--row", device, "--envs", str(envs)]
            command += ["--iterations", str(iterations)]
            for name in ("cpu_threads", "per_iteration", "nodes"):
                command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
            threads = {"OMP_NUM_THREADS": str(options.cpu_threads)}
            load = os.getloadavg()[0]
            done = subprocess.run(
                command, env={**os.environ, **threads}, stdout=subprocess.PIPE, text=True, check=True, timeout=3600
            )
            row = {"device": device, "envs": envs, **json.loads(done.stdout.splitlines()[-1]), "load_before": load}
            row["steps_per_s"] = row["steps"] / row["wall_s"]
            report["rows"].append(row)
            sys.stderr.write(f"{device}, {envs} environments: {row['steps_per_s']:,.0f} steps/s\n")
            if options.out is not None:
                write_text(options.out, json.dumps(report, indent=1) + "\n")
    if options.out is None:
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0


def _command(options: argparse.Namespace) -> list[str]:
    """The options as arguments, with a placeholder for the file."""
    words = []
    for name, value in vars(options).items():
        if name not in ("row", "out") and value is not None:
            words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return [*words, "--out", "FILE"]


if __name__ == "__main__":
    raise SystemExit(main())
