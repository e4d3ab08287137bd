"""Two gloo processes train a step under our plan; the unsharded model, written in plain torch, must agree."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import surco
from problems.sharding.handover import shards
from surco.bridge import to_torch

ROOT = Path(__file__).parents[3]
WORLD = 2
BATCH = 6  # samples per rank
RATE = 0.3
TIMEOUT_SECONDS = 240

TABLES = [
    {"name": "user", "rows": 23, "dim": 8, "features": ["user"], "pooling": "sum"},
    {"name": "item", "rows": 17, "dim": 16, "features": ["item", "item2"], "pooling": "sum"},
    {"name": "shop", "rows": 31, "dim": 8, "features": ["shop"], "pooling": "sum"},
    {"name": "city", "rows": 5, "dim": 4, "features": ["city"], "pooling": "sum"},
    {"name": "ads", "rows": 41, "dim": 12, "features": ["ads"], "pooling": "mean"},
    {"name": "hour", "rows": 12, "dim": 8, "features": ["hour"], "pooling": "sum"},
]


TYPES = {  # every type that makes sense on two ranks of one host
    "user": "table_wise",
    "item": "column_wise",
    "shop": "row_wise",
    "city": "data_parallel",
    "ads": "table_wise",
    "hour": "table_row_wise",
}


def mixed_problem():
    """The joint problem of these tables, each with its type: ranks, widths and kernels are the engine's choice."""
    tables = [{"name": t["name"], "rows": t["rows"], "dim": t["dim"], "pooling_factor": 1.5} for t in TABLES]
    constraints = {"types": {name: [kind] for name, kind in TYPES.items()}, "min_width": 4}
    devices = [{"name": "cpu", "count": WORLD, "per_host": WORLD, "memory_bytes": 2**30}]
    spec = {"domain": "sharding", "kind": "joint", "tables": tables, "devices": devices, "constraints": constraints}
    return surco.from_spec(spec)


def drawn_case(tables, *, seed=0):
    """Weights, a ragged batch for each rank with empty bags, and a head that makes every output count differently."""
    generator = torch.Generator().manual_seed(seed)
    weights = {t["name"]: torch.randn(t["rows"], t["dim"], generator=generator) for t in tables}
    parts = []
    for _ in range(WORLD):
        keys, values, lengths = [], [], []
        for table in tables:
            for feature in table["features"]:
                length = torch.randint(0, 4, (BATCH,), generator=generator)
                keys.append(feature)
                lengths.append(length)
                values.append(torch.randint(0, table["rows"], (int(length.sum()),), generator=generator))
        parts.append({"keys": keys, "values": torch.cat(values), "lengths": torch.cat(lengths).to(torch.int32)})
    width = sum(t["dim"] * len(t["features"]) for t in tables)
    head = torch.randn(width, generator=generator)
    return {"tables": tables, "weights": weights, "parts": parts, "head": head, "learning_rate": RATE}


def unsharded_step(case):
    """Outputs of each rank's batch, and the weights after a step of SGD on the mean loss, in plain torch."""
    weights = {name: w.clone().requires_grad_() for name, w in case["weights"].items()}
    outputs = []
    for part in case["parts"]:
        bags, place, at = [], 0, 0
        for table in case["tables"]:
            for _ in table["features"]:
                lengths = part["lengths"][place : place + BATCH].tolist()
                place += BATCH
                rows = []
                for length in lengths:
                    picked = weights[table["name"]][part["values"][at : at + length]]
                    at += length
                    total = picked.sum(0)
                    rows.append(total / length if table["pooling"] == "mean" and length else total)
                bags.append(torch.stack(rows))
        outputs.append(torch.cat(bags, dim=1))
    loss = torch.stack([(out * case["head"]).sum(1).mean() for out in outputs]).mean()
    loss.backward()
    return [out.detach() for out in outputs], {n: (w - RATE * w.grad).detach() for n, w in weights.items()}


def run_ranks(folder):
    """Both ranks as processes of their own; none is left behind, whatever happens."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    module = "tests.problems.sharding_handover.train_step"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(folder), str(rank)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        told = [process.communicate(timeout=TIMEOUT_SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
    for process, text in zip(processes, told, strict=True):
        assert process.returncode == 0, text[-4000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.optional
@pytest.mark.skipif(importlib.util.find_spec("torchrec") is None, reason="torchrec is not installed")
def test_a_step_under_our_mixed_plan_equals_the_unsharded_model(tmp_path):
    problem = mixed_problem()
    x = to_torch(surco.solve(problem, "level_sweep", calls=1).x)
    plan, tables = problem.plan(x), problem.joint_spec.tables
    assert {p.table: p.sharding_type for p in plan.placements} == TYPES
    problem.exports()["torchrec_cpu"](x, tmp_path / "plan.json")
    case = drawn_case(TABLES)
    torch.save(case, tmp_path / "case.pt")
    found = run_ranks(tmp_path)
    outputs, weights = unsharded_step(case)
    for rank in range(WORLD):
        torch.testing.assert_close(found[rank]["outputs"], outputs[rank], rtol=1e-5, atol=1e-5)
    for table, placement in zip(tables, plan.placements, strict=True):
        before, after = case["weights"][table.name], weights[table.name]
        assert (before - after).abs().max() > 1e-3  # the step does something
        held = [[b for b in found[rank]["blocks"].get(table.name, ()) if b[2].numel()] for rank in range(WORLD)]
        expected = [s for s in shards(placement, table, WORLD) if s.rows]
        for rank in range(WORLD):
            blocks = {(row, column, *block.shape) for row, column, block in held[rank]}
            assert blocks == {(s.row, s.column, s.rows, s.columns) for s in expected if s.rank == rank}
            for row, column, block in held[rank]:
                rows, columns = block.shape
                part = after[row : row + rows, column : column + columns]
                torch.testing.assert_close(block, part, rtol=1e-5, atol=1e-5)
