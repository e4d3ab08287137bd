"""The family of measured instances: its batched objective is the problem's own, and a prior learns on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import surco
from problems.sharding.measured import Comms
from problems.sharding.measured.instances import MeasuredFamily, cost_of, numbered
from surco.errors import InvalidInputError
from surco.instance_family import Split, collate


def test_cost_takes_measured_exchanges_where_that_many_took_part(network_file: Path) -> None:
    assert cost_of(str(network_file), 2).comms == Comms.MEASURED
    assert cost_of(str(network_file), 4).comms == Comms.BANDWIDTH


def test_instances_follow_their_seed_and_the_limits(network_file: Path) -> None:
    file = str(network_file)
    first, again, other = (numbered(file, 8, 2, seed) for seed in (0, 0, 1))
    assert first.spec == again.spec
    assert first.tables != other.tables
    small = numbered(file, 8, 2, 0, samples=64)
    assert small.workload.batch_size == 32
    assert small.tables == first.tables
    with pytest.raises(InvalidInputError, match="no_such"):
        numbered("no_such", 8, 2, 0)


@pytest.mark.parametrize("devices", [2, 4])
def test_batched_objective_and_single_moves_are_those_of_the_problem(network_file: Path, devices: int) -> None:
    family = MeasuredFamily(str(network_file), (5, 9), devices)
    problems = [family.draw(Split.TEST, np.random.default_rng(seed)) for seed in range(3)]
    rng = np.random.default_rng(0)
    plans = [rng.integers(devices, size=len(p.tables)) for p in problems]
    batch = collate([family.features(p) for p in problems])
    x = torch.zeros(3, 9, devices, dtype=torch.float64)[:, : batch.variables.shape[1]]
    for b, plan in enumerate(plans):
        x[b, torch.arange(len(plan)), torch.from_numpy(plan)] = 1.0
    features = {name: value.double() for name, value in batch.features.items()}
    got = family.objective(features, x)
    for b, (problem, plan) in enumerate(zip(problems, plans, strict=True)):
        own = torch.eye(devices, dtype=torch.float64)[torch.from_numpy(plan)].reshape(-1)
        assert float(got[b]) == pytest.approx(float(problem.objective(own)), rel=1e-6)
    moved = family.local_values(features, x)
    plan = plans[0].copy()
    plan[2] = (plan[2] + 1) % devices
    own = torch.eye(devices, dtype=torch.float64)[torch.from_numpy(plan)].reshape(-1)
    assert float(moved[0, 2, plan[2]]) == pytest.approx(float(problems[0].objective(own)), rel=1e-6)


def test_a_prior_trains_and_starts_a_search(network_file: Path) -> None:
    family = MeasuredFamily(str(network_file), (6, 6), 2)
    prior = surco.train(family, steps=3, instances=4, validation=2, batch=2)
    problem = numbered(str(network_file), 6, 2, 0)
    for method in ("prior", "hybrid"):
        result = surco.solve(problem, method, prior=prior, objective_calls=20, seed=0)
        assert float(problem.violation(torch.from_numpy(result.x))) == 0.0
        assert result.value == pytest.approx(float(problem.objective(torch.from_numpy(result.x))))
