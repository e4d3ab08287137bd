"""Ranks and placements against enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from problems.sharding import Device, ShardingProblem, Table, Workload
from problems.sharding.embeddings.export import _pricing, rank_choices
from problems.sharding.embeddings.ranks import _memory, choose_ranks
from surco.errors import InfeasibleError, InvalidInputError
from surco.optim import GaLore, spectrum
from tests.surco.optim.reference import decaying, spectrum_matrix


def instance(seed: int, memory_bytes: int) -> tuple[ShardingProblem, list[dict]]:
    rng = np.random.default_rng(seed)
    tables, exported = [], []
    for t in range(4):
        rows = int(rng.integers(2000, 9000))
        tables.append(Table(f"t{t}", rows, 8, float(rng.integers(1, 20))))
        shares = spectrum(spectrum_matrix(40, 8, decaying(8, float(rng.uniform(0.2, 2.0))), seed=t))
        lookups = float(rng.integers(10, 1000))
        exported.append({"name": f"t{t}", "ranks": rank_choices(shares, rows, 8), "lookups_per_batch": lookups})
    devices = [Device(f"gpu{d}", memory_bytes) for d in range(2)]
    return ShardingProblem(tables, devices, workload=Workload(batch_size=64, reserve=0.0)), exported


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("memory_bytes", [700_000, 1_100_000])
def test_equals_enumeration(seed, memory_bytes):
    problem, exported = instance(seed, memory_bytes)
    load = problem.cost.single_ms().sum(axis=0)
    limit = 0.7 * load.sum(axis=0).max()
    weights = np.array([entry["lookups_per_batch"] for entry in exported])
    best = -1.0
    for places in itertools.product(range(2), repeat=4):
        if max(sum(load[t, d] for t in range(4) if places[t] == d) for d in range(2)) > limit:
            continue
        for ranks in itertools.product(range(4), repeat=4):
            used = [0, 0]
            for t in range(4):
                used[places[t]] += _memory(problem, t, exported[t]["ranks"][ranks[t]]["state_bytes"])
            if max(used) <= memory_bytes:
                energy = [exported[t]["ranks"][ranks[t]]["captured_energy"] for t in range(4)]
                best = max(best, float(np.dot(weights, energy) / weights.sum()))
    if best < 0:
        with pytest.raises(InfeasibleError):
            choose_ranks(problem, exported, latency_ms=limit)
        return
    plan = choose_ranks(problem, exported, latency_ms=limit, start=(0, 1, 0, 1))
    assert plan.captured_energy == pytest.approx(best, abs=1e-6)
    assert plan.bound >= best - 1e-12
    assert plan.latency_ms <= limit
    assert max(plan.memory_bytes) <= memory_bytes


@pytest.mark.parametrize("inner", ["adamw", "adamw8bit"])
@pytest.mark.parametrize("mode", ["galore", "rowwise"])
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_prices_are_the_bytes_of_the_state(mode: str, inner: str, decay: float):
    weight = torch.nn.Parameter(torch.zeros(50, 8))
    optimizer = GaLore([weight], rank=4, mode=mode, inner=inner, covariance_decay=decay)
    index = torch.arange(20)[None]
    weight.grad = torch.sparse_coo_tensor(index, torch.randn(20, 8), (50, 8), check_invariants=True)
    optimizer.step()
    walked = sum(v.numel() * v.element_size() for v in optimizer.state[weight].values() if isinstance(v, torch.Tensor))
    shares = spectrum(torch.randn(20, 8))
    (choice,) = [c for c in rank_choices(shares, 50, 8, **_pricing(optimizer, weight)) if c["rank"] == 4]
    assert choice["state_bytes_8bit" if inner == "adamw8bit" else "state_bytes"] == walked
    bytes_of = {
        ("galore", "adamw"): 4 * (2 * 50 * 4 + 8 * 4),
        ("rowwise", "adamw"): 4 * (50 * (4 + 1) + 8 * 4),
        ("galore", "adamw8bit"): 50 * (2 * 4 + 1) + 4 * 8 * 4,
        ("rowwise", "adamw8bit"): 50 * (4 + 2) + 4 * 8 * 4,
    }
    assert walked == bytes_of[mode, inner] + (4 * 8 * 8 if decay else 0)


def test_unmeasured_spectra_are_named():
    problem, exported = instance(0, 10**7)
    del exported[1]["ranks"]
    with pytest.raises(InvalidInputError, match="energy=True"):
        choose_ranks(problem, exported, latency_ms=1.0)
