"""A trained prior beside REINS, which learns to round without a solver, on on-time routes over one grid.

    python -m benchmarks.amortized_reins --peer /path/to/venv/bin/python --prior DIR --out reins.json

``--peer`` is a Python with the package ``reins`` (0.1.0, with neuromancer), in a process of its own. REINS maps the
parameters of an instance (means and variances of all edges, the deadline) to binary flows on the two arcs of each edge,
with flow balance as a penalty and its own gradient projection at the end; it is given the seconds of ``--seconds`` and
as many instances as ``--train``. Its answer counts as it is where it is a route, and again repaired: the nearest route
by one oracle call. The prior answers by one forward pass and one oracle call. Regret is in percentage points of on-time
probability to the proven optimum (`exact`).
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import surco
from benchmarks.amortized import regret, summary
from problems.paths.route import OnTimeRoute
from solvers.oracle import Array
from surco import provenance
from surco.atomic import write_text
from surco.bridge import to_torch
from surco.training import Prior

FAMILY = "paths/grid-15-code-v0"

PEER = """
import importlib.metadata, json, sys, time
import numpy as np, torch
from torch.utils.data import DataLoader
from reins import DictDataset, LearnableSolver, MLPBnDrop, PenaltyLoss, TypeVariable, Variable
from reins.node import RelaxationNode
from reins.node.rounding import AdaptiveSelectionRounding
o = json.loads(sys.argv[1])
torch.set_num_threads(1)
torch.manual_seed(o["seed"])
data = np.load(o["file"])
balance, supply = (torch.from_numpy(data[k]).float() for k in ("balance", "supply"))  # [N, A], [N]
train, test = (torch.from_numpy(data[k]).float() for k in ("train", "test"))  # [B, 2 E + 1]
edges = (train.shape[1] - 1) // 2
arcs = 2 * edges
p, x = Variable("p"), TypeVariable("x", num_vars=arcs, binary_indices=list(range(arcs)))
used = x[:, :edges] + x[:, edges:]
mean = torch.sum(p[:, :edges] * used, dim=1)
variance = torch.sum(p[:, edges : 2 * edges] * used, dim=1)
objective = ((mean - p[:, 2 * edges]) / torch.sqrt(variance + 1e-3)).minimize(weight=1.0, name="f")
rule = o["penalty"] * (x @ balance.T == supply)
loss = PenaltyLoss(objectives=[objective], constraints=[rule])
width = 2 * edges + 1
relax = RelaxationNode(
    MLPBnDrop(insize=width, outsize=arcs, hsizes=[512] * 4, dropout=0.2, bnorm=True), [p], [x])
rounding = AdaptiveSelectionRounding(
    MLPBnDrop(insize=width + arcs, outsize=arcs, hsizes=[512] * 3, dropout=0.2, bnorm=True), [p], [x], stochastic=True)
solver = LearnableSolver(relaxation_node=relax, rounding_node=rounding, loss=loss, projection_steps=o["projection"])
half = len(train) * 9 // 10
sets = [DictDataset({"p": rows}, name=name) for rows, name in ((train[:half], "train"), (train[half:], "dev"))]
loaders = [DataLoader(s, batch_size=64, shuffle=k == 0, collate_fn=s.collate_fn) for k, s in enumerate(sets)]
optimizer = torch.optim.AdamW(solver.problem.parameters(), lr=1e-3)
begun, epochs = time.process_time(), 0
while time.process_time() - begun < o["seconds"]:
    solver.train(loaders[0], loaders[1], optimizer, epochs=o["epochs"], patience=o["epochs"], warmup=o["epochs"])
    epochs += o["epochs"]
trained = time.process_time() - begun
begun = time.process_time()
found = solver.predict({"p": test, "name": "test"})["x"].detach().numpy()
np.savez(o["out"], x=found, trained=trained, answered=time.process_time() - begun, epochs=epochs)
print(importlib.metadata.version("reins"))
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, train the peer, judge both."""
    arguments = _parser().parse_args(argv)
    torch.set_num_threads(1)
    family = surco.family(FAMILY)
    prior = Prior.load(arguments.prior)
    train = [_problem(family.sample("train", seed=seed).problem) for seed in range(arguments.train)]
    test = [_problem(family.sample("test", seed=seed).problem) for seed in range(arguments.instances)]
    options = {
        "seed": arguments.seed, "seconds": arguments.seconds, "penalty": arguments.penalty,
        "epochs": arguments.epochs, "projection": arguments.projection,
    }  # fmt: skip
    found, version = peer(arguments.peer, train, test, options)
    rows: dict[str, list[float]] = {"reins, as it is": [], "reins, repaired": [], "prior": []}
    is_route = []
    clock = 0.0
    for problem, flow in zip(test, found["x"], strict=True):
        edges = problem.oracle.n
        best = problem.exact(seconds=30.0)
        if best.x is None or not best.is_optimal:
            raise RuntimeError("The exact method did not prove the optimum of a 15 x 15 grid in 30 s.")
        least = float(problem.objective(best.x))
        x = to_torch(flow[:edges] + flow[edges:])
        is_route.append(float(problem.violation(x)) <= 1e-6)
        if is_route[-1]:
            rows["reins, as it is"].append(regret(float(problem.objective(x)), least, is_route=True))
        nearest = problem.oracle.solve((1.0 + 1e-6 - np.clip(flow[:edges] + flow[edges:], 0.0, 1.0))[None])
        rows["reins, repaired"].append(_regret(problem, to_torch(nearest.x[0]), least))
        begun = time.process_time()
        answer = surco.solve(problem, "prior", prior=prior, calls=1, objective_calls=1, seed=0)
        clock += time.process_time() - begun
        rows["prior"].append(_regret(problem, to_torch(answer.x), least))
    result: dict[str, Any] = {
        "family": FAMILY,
        "instances": len(test),
        "regret": "percentage points of on-time probability to the proven optimum",
        "table": {name: summary(values) if values else None for name, values in rows.items()},
        "routes_among_the_peer's_answers": float(np.mean(is_route)),
        "cpu_seconds_of_training": {"reins": float(found["trained"]), "prior": prior.training["seconds"]},
        "cpu_ms_an_answer": {
            "reins": 1e3 * float(found["answered"]) / len(test),
            "prior": 1e3 * clock / len(test),
        },
        "epochs": int(found["epochs"]),
        "peer": {**options, "version": version, "train": len(train)},
        **provenance.origin(argv, "python -m benchmarks.amortized_reins"),
    }
    if arguments.out is not None:
        write_text(arguments.out, json.dumps(result, indent=1))
    print(json.dumps({k: v for k, v in result.items() if k not in ("versions", "machine", "command")}, indent=1))
    return 0


def peer(
    python: Path, train: list[OnTimeRoute], test: list[OnTimeRoute], options: dict[str, Any]
) -> tuple[dict[str, Array], str]:
    """What REINS answers on the test instances, and its version."""
    network = test[0].network
    count, edges = len(network.nodes), len(network.mean)
    balance = np.zeros((count, 2 * edges))
    column = np.arange(edges)
    for ends, sign in ((network.tail, 1.0), (network.head, -1.0)):
        balance[ends, column] += sign
        balance[ends, edges + column] -= sign
    supply = np.zeros(count)
    supply[test[0].query.source], supply[test[0].query.target] = 1.0, -1.0
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "data.npz", Path(folder) / "found.npz"
        np.savez(file, balance=balance, supply=supply, train=_parameters(train), test=_parameters(test))
        command = [str(python), "-c", PEER, json.dumps({**options, "file": str(file), "out": str(out)})]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10 * options["seconds"] + 1200)
        if done.returncode:
            raise RuntimeError(f"REINS failed: {done.stderr[-2000:]}")
        with np.load(out, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}, done.stdout.split()[-1]


def _parameters(problems: list[OnTimeRoute]) -> Array:
    """[B, 2 E + 1]: means, variances, deadline, in units of the family (all of about one size)."""
    scale = float(np.mean([p.network.mean.mean() for p in problems[:100]]))
    rows = [
        np.concatenate([p.network.mean / scale, p.network.variance / scale**2, [p.deadline / scale]]) for p in problems
    ]
    return np.array(rows)


def _problem(problem: Any) -> OnTimeRoute:
    if not isinstance(problem, OnTimeRoute):
        raise TypeError(f"Expected an on-time route, got {type(problem).__name__}.")
    return problem


def _regret(problem: OnTimeRoute, x: torch.Tensor, least: float) -> float:
    return regret(float(problem.objective(x)), least, is_route=True) if math.isfinite(float(x.sum())) else math.inf


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.amortized_reins", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--peer", type=Path, required=True, help="a Python that has reins")
    parser.add_argument("--prior", type=Path, required=True, help=f"trained on {FAMILY}")
    parser.add_argument("--train", type=int, default=2000, help="instances that REINS trains on")
    parser.add_argument("--instances", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=120.0, help="CPU seconds of REINS's training, about")
    parser.add_argument("--epochs", type=int, default=10, help="of REINS between two looks at the clock")
    parser.add_argument("--penalty", type=float, default=10.0, help="weight of a violated balance")
    parser.add_argument("--projection", type=int, default=1000, help="most steps of its projection")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
