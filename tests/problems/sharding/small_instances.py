"""Small random instances and their enumeration, shared by the tests of this room."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from problems.sharding import (
    AdditiveCost,
    Device,
    FusedCost,
    Optimizer,
    ReuseHistogram,
    ShardingProblem,
    Table,
    Uniform,
    Workload,
    ZipfMandelbrot,
)

HISTOGRAM = (0.473, 0.152, 0.139, 0.112, 0.072, 0.032, 0.011, 0.005, 0.002, 0.002) + (0.0,) * 7


def small_tables(rng: np.random.Generator, count: int) -> list[Table]:
    tables = []
    for t in range(count):
        rows = int(np.clip(rng.lognormal(11, 2), 2, 10**7))
        access = [
            Uniform(),
            ZipfMandelbrot(max(1, rows // 3), 1.1, float(rng.uniform(0, 50))),
            ReuseHistogram(HISTOGRAM),
        ][int(rng.integers(3))]
        tables.append(
            Table(
                f"t{t}",
                rows,
                int(rng.choice([4, 16, 64, 128])),
                float(np.round(rng.lognormal(1.5, 1.2), 3)),
                access=access,
            )
        )
    return tables


def small_problem(
    seed: int, *, tables: int = 6, devices: int = 3, model=None, unequal: bool = False, tightness: float = 0.3, **kwargs
) -> ShardingProblem:
    """Random problem whose tables fill ``tightness`` of the memory."""
    rng = np.random.default_rng(seed)
    drawn = small_tables(rng, tables)
    workload = Workload(batch_size=1024, optimizer=Optimizer.ROWWISE_ADAGRAD, reserve=0.0)
    from problems.sharding.memory import memory_bytes

    total = memory_bytes(drawn, workload, devices).sum()
    made = []
    for d in range(devices):
        factor = 1.0 + (d % 2) * 0.7 if unequal else 1.0
        made.append(
            Device(
                f"d{d}", int(total / tightness / devices * factor), host=d // 2 if unequal else 0,
                hbm_gib_per_s=900.0 * factor,
            )
        )  # fmt: skip
    return ShardingProblem(drawn, made, model or AdditiveCost(), workload=workload, **kwargs)


MODELS = {"additive": AdditiveCost(), "fused": FusedCost(), "convex": FusedCost(cache_speedup=1.0)}


def all_plans(problem: ShardingProblem) -> torch.Tensor:
    """Every feasible plan, all labellings, by brute force and the independent check."""
    count, devices = len(problem.tables), len(problem.devices)
    choice = torch.tensor(list(itertools.product(range(devices), repeat=count)))
    plans = torch.nn.functional.one_hot(choice, devices).to(torch.float64).reshape(len(choice), -1)
    return plans[problem.violation(plans) <= 0]
