"""Environment steps per CPU second of three trainers: native, RLlib, and MaskablePPO of sb3-contrib.

    python -m benchmarks.rl_throughput --sb3-python PYTHON --out benchmarks/reference/rl_throughput.json

All have the same vector environment, the same network, and the same settings of PPO (4096 steps, 512 a minibatch, 4
epochs, one torch thread). Each row runs in a process of its own; its CPU seconds are those of that process over whole
iterations after one to warm up: sampling and learning, without start-up, and for RLlib without Ray's own processes.
sb3-contrib must not come into the project's environment (it has a torch of its own): make a venv, install
stable-baselines3 and sb3-contrib with --no-deps, and let a .pth file there name the project's site-packages.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl.config import PpoSettings, RunConfig, parse
from surco import provenance
from surco.atomic import write_text

ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "sharding": {"id": "surco/TableSharding-v0", "options": {"instances": 64}},
    "planning": {"id": "surco/NetworkPlanning-v0", "options": {"problems": ["planning/nobel-germany-v0"]}},
}
ROWS = ("native", "sb3", "rllib")
WARM, MEASURED = 1, 2


def config_of(environment: str, backend: str, envs: int) -> RunConfig:
    """The run of a row."""
    return parse(
        {
            "env": {**ENVIRONMENTS[environment], "num_envs": envs},
            "trainer": {
                "steps": (WARM + MEASURED) * PpoSettings().steps_per_iteration,
                "backend": backend,
                "tensorboard": False,
                "checkpoint_every": 10**6,
                "target_kl": 1e9,  # all epochs, as the others
            },
            "evaluation": {"every": 0},
        }
    )


PATHS = {"--sb3-python": "PYTHON", "--out": "FILE"}  # options whose values are not stored


def measure(row: str, environment: str, envs: int) -> dict[str, float]:
    """One row, in this process."""
    import torch

    torch.set_num_threads(1)
    if row == "sb3":
        return _sb3(environment, envs)
    from rl.train import train

    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        train(config_of(environment, row, envs), folder, progress=lines.append)
    kept = lines[WARM : WARM + MEASURED]  # whole iterations, as of the others: the native trainer's last is a rest
    steps = kept[-1]["steps"] - lines[WARM - 1]["steps"]
    return {"steps": steps, "cpu_s": sum(line["cpu_s"] for line in kept)}


def _sb3(environment: str, envs: int) -> dict[str, float]:
    from benchmarks.rl_throughput_sb3 import model_of

    config = config_of(environment, "native", envs)
    model = model_of(config)
    batch = model.n_steps * envs
    model.learn(WARM * batch)
    begun = time.process_time()
    model.learn(MEASURED * batch, reset_num_timesteps=False)
    return {"steps": MEASURED * batch, "cpu_s": time.process_time() - begun}


def main(argv: Sequence[str] | None = None) -> int:
    """Run all rows, one after the other, and store the medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rl_throughput")
    parser.add_argument("--row", choices=ROWS, help="measure one row in this process and print it")
    parser.add_argument("--environments", nargs="*", default=list(ENVIRONMENTS), choices=list(ENVIRONMENTS))
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS, help="rows of the table")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--sb3-python", default="", help="interpreter that has sb3-contrib; without it that row is left out"
    )
    parser.add_argument("--out", type=Path)
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(words)
    if arguments.row:
        sys.stdout.write(json.dumps(measure(arguments.row, arguments.environments[0], arguments.envs)) + "\n")
        return 0
    rows = [row for row in arguments.rows if row != "sb3" or arguments.sb3_python]
    found: dict[str, dict[str, list[float]]] = {name: {row: [] for row in rows} for name in arguments.environments}
    for name in arguments.environments:
        for _ in range(arguments.repeats):
            for row in rows:  # taking turns, so that a busy machine hurts all alike
                python = arguments.sb3_python if row == "sb3" else sys.executable
                value = _run(python, row, name, arguments.envs)
                found[name][row].append(value)
                sys.stderr.write(f"{name} {row}: {value:,.0f} steps per CPU second\n")
    table = {
        name: {row: {"median": statistics.median(v), "all": v} for row, v in by_row.items()}
        for name, by_row in found.items()
    }
    report = {
        "what": "environment steps per CPU second, whole training loop",
        "environments": {name: ENVIRONMENTS[name] for name in arguments.environments},
        "envs": arguments.envs,
        "iterations": {"warm": WARM, "measured": MEASURED},
        "rows": table,
        "provenance": {
            **provenance.origin(provenance.without_paths(words, PATHS), "python -m benchmarks.rl_throughput"),
            "load_average": os.getloadavg(),
        },
    }
    text = json.dumps(report, indent=1) + "\n"
    if arguments.out is None:
        sys.stdout.write(text)
    else:
        write_text(arguments.out, text)
    return 0


def _run(python: str, row: str, environment: str, envs: int) -> float:
    command = [python, "-m", "benchmarks.rl_throughput", "--row", row]
    command += ["--environments", environment, "--envs", str(envs)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return found["steps"] / found["cpu_s"]


if __name__ == "__main__":
    raise SystemExit(main())
