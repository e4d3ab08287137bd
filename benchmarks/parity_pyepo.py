"""PyEPO's own two tasks side by side with PyEPO: noisy linear costs on 5x5 paths and on a two-dimensional knapsack.

    python -m benchmarks.parity_pyepo --peer /path/to/venv/bin/python --out parity.json

``--peer`` is a Python with ``pyepo`` and its free backends; it runs in processes of its own, since one of its backends
cannot live in a process with OR-Tools. PyEPO draws the data; both train the same linear regression with the perturbed
Fenchel-Young loss (sigma 1, 10 samples, batch 32, Adam 1e-2), ours through :class:`surco.estimators.FenchelYoung` and
the native oracles. Normalized regret on 1000 test points is computed for both by our oracle; CPU seconds an epoch
count the process alone. Several data seeds give the standard error.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import solvers
import surco
from solvers.oracle import Array, LinearOracle
from surco import provenance
from surco.atomic import write_text
from surco.bridge import to_numpy, to_torch
from surco.estimators import FenchelYoung
from surco.training.adam import Adam

GRID = (5, 5)
ITEMS, DIMENSIONS, CAPACITY = 32, 2, 20
FEATURES, DEGREE, NOISE = 5, 4, 0.5
SAMPLES, SIGMA, BATCH, STEP = 10, 1.0, 32, 1e-2

PEER = """
import json, sys, time
import numpy as np, torch, pyepo
from pyepo.data import shortestpath, knapsack
from pyepo.data.dataset import optDataset
from pyepo.model import ort
from torch.utils.data import DataLoader
torch.set_num_threads(1)
o = json.loads(sys.argv[1])
total = o["train"] + o["test"]
drawn = {"deg": o["degree"], "noise_width": o["noise"], "seed": o["seed"]}
if o["task"] == "paths":
    x, c = shortestpath.genData(total, o["features"], tuple(o["grid"]), **drawn)
    model, w = ort.shortestPathModel(tuple(o["grid"])), np.zeros((0, 0))
else:
    w, x, c = knapsack.genData(total, o["features"], o["items"], dim=o["dimensions"], **drawn)
    model = ort.knapsackModel(weights=w, capacity=[o["capacity"]] * o["dimensions"])
train = optDataset(model, x[: o["train"]], c[: o["train"]])
targets = np.asarray(train.sols)
torch.manual_seed(o["seed"])
net = torch.nn.Linear(x.shape[1], c.shape[1])
first = [p.detach().numpy().copy() for p in net.parameters()]
loss_of = pyepo.func.perturbedFenchelYoung(model, n_samples=o["samples"], sigma=o["sigma"], processes=1)
adam = torch.optim.Adam(net.parameters(), lr=o["step"])
loader = DataLoader(train, batch_size=o["batch"], shuffle=True)
seconds = []
for epoch in range(o["epochs"]):
    begun = time.process_time()
    for features, costs, sols, objectives in loader:
        loss = loss_of(net(features), sols)
        adam.zero_grad(); loss.backward(); adam.step()
    seconds.append(time.process_time() - begun)
last = [p.detach().numpy() for p in net.parameters()]
np.savez(o["out"], x=x, c=c, w=w, targets=targets, w0=first[0], b0=first[1], w1=last[0], b1=last[1],
         seconds=np.array(seconds), arcs=np.array(getattr(model, "arcs", []), dtype=np.int64))
print(pyepo.__version__)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run both sides and print the table."""
    arguments = _parser().parse_args(argv)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    version = ""
    for task, train, epochs in (("paths", 200, arguments.epochs), ("knapsack", 100, max(1, arguments.epochs // 4))):
        for seed in range(arguments.seeds):
            options = {
                "task": task, "train": train, "test": 1000, "epochs": epochs, "seed": 135 + seed, "grid": GRID,
                "features": FEATURES, "degree": DEGREE, "noise": NOISE, "items": ITEMS, "dimensions": DIMENSIONS,
                "capacity": CAPACITY, "samples": SAMPLES, "sigma": SIGMA, "batch": BATCH, "step": STEP,
            }  # fmt: skip
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "peer.npz"
                command = [str(arguments.peer), "-c", PEER, json.dumps({**options, "out": str(file)})]
                done = subprocess.run(command, capture_output=True, text=True, timeout=arguments.timeout)
                if done.returncode:
                    raise RuntimeError(f"PyEPO failed: {done.stderr[-2000:]}")
                version = done.stdout.split()[-1]
                with np.load(file, allow_pickle=False) as data:
                    peer = {name: data[name] for name in data.files}
            rows.append(compare(options, peer))
            print(json.dumps(rows[-1]), file=sys.stderr)
    table = {task: judged([row for row in rows if row["task"] == task]) for task in ("paths", "knapsack")}
    result = {
        "pyepo": version,
        "rows": rows,
        "table": table,
        **provenance.origin(argv, "python -m benchmarks.parity_pyepo"),
    }
    if arguments.out is not None:
        write_text(arguments.out, json.dumps(result, indent=1))
    print(json.dumps(table, indent=1))
    return 0


def compare(options: dict[str, Any], peer: dict[str, Array]) -> dict[str, Any]:
    """Train ours on the peer's data from the peer's first weights; judge both by our oracle."""
    is_path = options["task"] == "paths"
    sign = 1.0 if is_path else -1.0  # a knapsack maximizes
    oracle = grid_oracle(peer["arcs"]) if is_path else solvers.knapsack(peer["w"], [CAPACITY] * DIMENSIONS)
    count = options["train"]
    x, c = peer["x"], sign * peer["c"]
    optimum = oracle.solve(c)
    targets = optimum.x[:count]
    agreement = np.abs((c[:count] * peer["targets"]).sum(1) - optimum.objective[:count]).max()
    network = torch.nn.Linear(x.shape[1], c.shape[1])
    with torch.no_grad():
        network.weight.copy_(torch.from_numpy(sign * peer["w0"]))
        network.bias.copy_(torch.from_numpy(sign * peer["b0"]))
    seconds = fit(network, oracle, x[:count], targets, options)
    weight, bias = to_numpy(network.weight), to_numpy(network.bias)
    test, truth, best = x[count:], c[count:], optimum.objective[count:]

    def regret(w: Array, b: Array) -> float:
        chosen = oracle.solve(test @ w.T + b).x
        return float(((truth * chosen).sum(1) - best).sum() / np.abs(best).sum())

    return {
        "task": options["task"],
        "seed": options["seed"],
        "epochs": options["epochs"],
        "regret": regret(weight, bias),
        "peer_regret": regret(sign * peer["w1"], sign * peer["b1"]),
        "untrained_regret": regret(sign * peer["w0"], sign * peer["b0"]),
        "seconds_per_epoch": float(np.median(seconds)),
        "peer_seconds_per_epoch": float(np.median(peer["seconds"])),
        "largest_difference_of_optima": float(agreement),
    }


def fit(
    network: torch.nn.Linear, oracle: LinearOracle, x: Array, targets: Array, options: dict[str, Any]
) -> list[float]:
    """Our training loop; CPU seconds of each epoch."""
    problem = surco.problem(oracle, lambda design: design.sum(-1), is_differentiable=True)
    loss = FenchelYoung(sigma=SIGMA, samples=SAMPLES, is_relative=False)
    adam = Adam(network.parameters(), clip=math.inf, decays=(0.9, 0.999), least=1e-8)
    generator = torch.Generator().manual_seed(options["seed"])
    features, designs = to_torch(x).float(), to_torch(targets)
    seconds = []
    for _ in range(options["epochs"]):
        begun = time.process_time()
        for rows in torch.randperm(len(features), generator=generator).split(BATCH):
            costs = network(features[rows])
            found = loss(problem, costs.double(), targets=designs[rows], generator=generator)
            costs.backward(found.grad.float() / len(rows))
            adam.step(STEP)
        seconds.append(time.process_time() - begun)
    return seconds


class _Ordered:
    """An oracle whose variables stand in another order."""

    def __init__(self, inner: LinearOracle, place: Array) -> None:
        self.inner, self.place = inner, place.astype(np.int64)  # ours -> theirs
        self.n = inner.n

    def solve(self, costs: Array) -> Any:
        """In the other order."""
        import dataclasses

        found = self.inner.solve(np.ascontiguousarray(costs[:, self.place]))
        x = np.empty_like(found.x)
        x[:, self.place] = found.x
        return dataclasses.replace(found, x=x)

    def violation(self, x: Array) -> Array:
        """Of the inner oracle."""
        return self.inner.violation(x[..., self.place])


def grid_oracle(arcs: Array) -> LinearOracle:
    """Our shortest-path oracle with the peer's arcs as variables."""
    import networkx as nx

    graph = nx.DiGraph([tuple(arc) for arc in arcs.tolist()])
    oracle = solvers.shortest_path(graph, 0, GRID[0] * GRID[1] - 1)
    index = {tuple(arc): k for k, arc in enumerate(arcs.tolist())}
    return _Ordered(oracle, np.array([index[tuple(edge)] for edge in oracle.edges]))


def judged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means, the peer's standard error, and the two verdicts."""
    ours, theirs = (np.array([row[name] for row in rows]) for name in ("regret", "peer_regret"))
    error = float(theirs.std(ddof=1) / math.sqrt(len(theirs))) if len(theirs) > 1 else math.nan
    fast, slow = (np.array([row[n] for row in rows]) for n in ("seconds_per_epoch", "peer_seconds_per_epoch"))
    return {
        "regret": float(ours.mean()),
        "peer_regret": float(theirs.mean()),
        "peer_standard_error": error,
        "is_no_worse": bool(ours.mean() <= theirs.mean() + error),
        "untrained_regret": float(np.mean([row["untrained_regret"] for row in rows])),
        "cpu_seconds_per_epoch": float(fast.mean()),
        "peer_cpu_seconds_per_epoch": float(slow.mean()),
        "times_faster": float(slow.mean() / fast.mean()),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.parity_pyepo", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--peer", type=Path, required=True, help="a Python that has pyepo")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20, help="on paths; a quarter on the knapsack")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one training of the peer")
    parser.add_argument("--out", type=Path)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
