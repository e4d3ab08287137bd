"""End to end: train a click model, export its tables, shard them on 8 devices with Adam and with GaLore states.

    python -m benchmarks.galore_sharding --out runs/galore_sharding.json

Tables have the shape of MLPerf's DLRM-DCNv2, scaled; device memory is the least that fits Adam's states, and 60
percent of that. Data are
synthetic (planted factors).
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import surco
from problems.sharding import Device, ShardingProblem, Table, Workload
from problems.sharding.embeddings import ModelConfig, TrainConfig, tables_from_model, train
from problems.sharding.embeddings.export import table_entries
from problems.sharding.embeddings.planted import mlperf_like
from problems.sharding.embeddings.ranks import choose_ranks
from problems.sharding.spec import spec_from_json
from surco.provenance import origin

DEVICES = 8
OPTIMIZERS = {
    "SparseAdam": "sparse-adam",
    "GaLore": "galore",
    "GaLore 8-bit": "galore-8bit",
    "GaLore rowwise": "galore-rowwise",
    "Adagrad": "rowwise-adagrad",
}


def sharding_problem(tables: tuple[Table, ...], memory_bytes: int, batch_size: int) -> ShardingProblem:
    """Tables on eight alike devices."""
    devices = [Device(f"gpu{d}", memory_bytes) for d in range(DEVICES)]
    return ShardingProblem(tables, devices, workload=Workload(batch_size=batch_size, reserve=0.0))


def main() -> None:
    """Train, export, shard, write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("runs/galore_sharding.json"))
    parser.add_argument("--total-rows", type=int, default=200_000)
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of every solve")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = mlperf_like(arguments.total_rows).draw(arguments.samples, seed=1)
    batch_size = 64  # on each device
    exports: dict[str, list[dict[str, Any]]] = {}
    quality = {}
    for label, name in OPTIMIZERS.items():
        config = TrainConfig(optimizer=name, lr=0.01, rank=4, epochs=1)
        result = train(data, config, ModelConfig(dim=32))
        batches = itertools.islice(data.batches(batch_size * DEVICES), 20)
        exports[label] = tables_from_model(result.model, result.optimizer, batches, energy=True)
        quality[label] = result.best["test_auc"]
    spec = {"domain": "sharding", "devices": [{"name": "gpu", "count": DEVICES, "memory_bytes": 2**40}]}
    tables = {
        label: spec_from_json(spec | {"tables": table_entries(entries)}).tables for label, entries in exports.items()
    }
    least = {label: least_memory(entries, batch_size) for label, entries in tables.items()}
    print(json.dumps({"least_device_memory_bytes": least}), flush=True)
    rows: list[dict[str, Any]] = [{"least_device_memory_bytes": least}]
    best: dict[tuple[float, str], dict[str, Any]] = {}
    for share in (1.0, 0.6):
        memory = int(share * least["SparseAdam"])
        for label, entries in tables.items():
            row = {"optimizer": label, "device_memory_bytes": memory, "test_auc": quality[label]}
            row["state_bytes"] = sum(entry["state_bytes"] for entry in exports[label])
            row |= solved(sharding_problem(entries, memory, batch_size), arguments.seconds)
            rows.append(row)
            print(json.dumps(row), flush=True)
            if label in ("GaLore", "GaLore rowwise") and "plan" in row:
                best[share, label] = row
    for (share, label), row in best.items():
        memory = row["device_memory_bytes"]
        problem = sharding_problem(tables[label], memory, batch_size)
        limit = 1.02 * row["latency_ms"]
        plan = choose_ranks(problem, exports[label], latency_ms=limit, start=row["plan"], seconds=3 * arguments.seconds)
        decision = {"rank decision at memory share": share, "optimizer": label, "latency_limit_ms": limit}
        rows.append(decision | asdict(plan))
        print(json.dumps(rows[-1]), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    size = ["--total-rows", str(arguments.total_rows), "--samples", str(arguments.samples)]
    source = origin([*size, "--out", "FILE"], "python -m benchmarks.galore_sharding")
    content = {"provenance": source, "rows": rows}
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")


def solved(problem: ShardingProblem, seconds: float) -> dict[str, Any]:
    """The best plan found, or that there is none."""
    try:
        result = surco.solve(problem, seconds=seconds, seed=0)
    except surco.InfeasibleError as error:
        return {"infeasible": str(error)}
    if result.x is None:
        return {"status": str(result.status)}
    return {
        "latency_ms": result.value,
        "bound_ms": result.bound,
        "plan": plan_of(result.x),
        "device_bytes": device_bytes(problem, result.x),
    }


def least_memory(tables: tuple[Table, ...], batch_size: int) -> int:
    """About the least device memory with a placement: steps of 1 percent from a bound below it."""
    problem = sharding_problem(tables, 2**40, batch_size)
    memory = max(float(problem.table_bytes.max()), float(problem.table_bytes.sum()) / DEVICES)
    while True:
        tried = sharding_problem(tables, int(memory), batch_size)
        if np.isfinite(tried.oracle.solve(np.zeros((1, tried.oracle.n))).x).all():
            return int(memory)
        memory *= 1.01


def plan_of(x: np.ndarray) -> list[int]:
    """Device of each table."""
    return np.asarray(x).reshape(-1, DEVICES).argmax(axis=1).tolist()


def device_bytes(problem: ShardingProblem, x: np.ndarray) -> list[float]:
    """Bytes on each device."""
    return (problem.table_bytes @ np.asarray(x).reshape(-1, DEVICES)).tolist()


if __name__ == "__main__":
    main()
