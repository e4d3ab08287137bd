"""The measured cost as an objective: contract of cost models, certified bounds, refusals, and the planners on it."""

from __future__ import annotations

import itertools
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import surco
from problems.sharding import DataType, Device, Optimizer, ShardingProblem, Table, Workload
from problems.sharding.measured import Comms, CostNetworks, Head, MeasuredCost, planners
from problems.sharding.measured.inputs import draw_pool
from problems.sharding.measured.records import Campaign
from problems.sharding.measured.training import fit
from problems.sharding.search import PlanSearch
from surco.checks import check_problem
from surco.errors import InvalidInputError
from tests.problems.sharding_measured.synthetic import truth_ms


def problem_of(file: Path, *, tables: int = 12, devices: int = 2, seed: int = 3, **options: object) -> ShardingProblem:
    rng = np.random.default_rng(seed)
    drawn = draw_pool(tables, rng=rng, rows=(1e2, 1e6), dims=(4, 16, 64, 128), pooling=(0.5, 40.0))
    comms = options.pop("comms", "measured" if devices == 2 else "bandwidth")
    return ShardingProblem(
        drawn,
        [Device(f"gpu{d}", 2**36) for d in range(devices)],
        MeasuredCost(str(file), comms=comms, **options),  # type: ignore[arg-type]
        workload=Workload(batch_size=4096 // devices),
    )


def random_plans(problem: ShardingProblem, count: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    choice = rng.integers(len(problem.devices), size=(count, len(problem.tables)))
    return torch.from_numpy(np.eye(len(problem.devices))[choice]).reshape(count, -1)


def test_objective_is_the_network_on_sums_of_each_device(trained: CostNetworks, network_file: Path) -> None:
    from problems.sharding.measured.features import logarithms, quantities, sums

    problem = problem_of(network_file, temperature_ms=0.0)
    x = random_plans(problem, 5)
    got = problem.objective(x)
    for row, value in zip(problem.plan(x), got, strict=True):
        compute, sent = [], []
        for d in range(2):
            here = [table for table, on in zip(problem.tables, row[:, d], strict=True) if on > 0.5]
            plain = quantities(here, 4096)
            embedded = trained.compute.embed(
                torch.from_numpy(logarithms(plain)).float(), torch.from_numpy(sums(plain)).float()
            )
            compute.append(trained.compute.times_ms(embedded.sum(0)))
            sent.append(float(plain[:, 8].sum()))
        assert trained.comms is not None
        expected = torch.stack(compute).amax(0).sum() + trained.comms.times_ms(torch.tensor(sent)).sum()
        assert float(value) == pytest.approx(float(expected), rel=1e-4)


def test_network_predicts_devices_it_never_saw(network_file: Path) -> None:
    from problems.sharding.measured.features import quantities, sums

    problem = problem_of(network_file, tables=20, seed=11, temperature_ms=0.0)
    x = random_plans(problem, 20)
    predicted = problem.times_ms(x)[:, [0, 3]]
    numbers = torch.from_numpy(sums(quantities(problem.tables, 4096)))
    truth = truth_ms(torch.einsum("tk,btd->bdk", numbers, problem.plan(x)).numpy())
    error = np.abs(predicted.transpose(-1, -2).numpy() / truth - 1.0)
    assert error.mean() < 0.2  # some of these tables are at the edge of the pool


@pytest.mark.parametrize("temperature", [0.0, 0.01])
def test_bounds_hold_for_every_plan(network_file: Path, temperature: float) -> None:
    problem = problem_of(network_file, tables=9, devices=3, temperature_ms=temperature)
    plans = np.array([(0, *rest) for rest in itertools.product(range(3), repeat=8)])
    x = torch.from_numpy(np.eye(3)[plans]).reshape(len(plans), -1)
    best = float(problem.objective(x).min())
    assert problem.lower_bound() <= best * (1 + 1e-9)
    assert problem.lower_bound() > 0.5 * best
    loads = problem.cost.loads_ms(torch.einsum("ftd,btd->bfd", torch.from_numpy(problem.cost.weights), problem.plan(x)))
    single = torch.einsum("ptd,btd->bpd", torch.from_numpy(problem.cost.single_ms()), problem.plan(x))
    assert (loads >= single - 1e-9).all()
    search = PlanSearch(problem, problem.rule_choices["lpt"], rng=np.random.default_rng(0))
    search.run(seconds=60.0, rounds=8)
    assert search.best_value == pytest.approx(best, rel=1e-6)
    assert problem.exact(seconds=5.0).bound <= best * (1 + 1e-9)


def test_objective_is_convex_and_differentiable_on_fractional_plans(network_file: Path) -> None:
    problem = problem_of(network_file)
    ends = random_plans(problem, 40).reshape(2, 20, -1)
    middle = problem.objective(ends.mean(0))
    assert (middle <= problem.objective(ends).mean(0) + 1e-9).all()
    x = torch.full((24,), 0.5, dtype=torch.float64) + 0.1 * random_plans(problem, 1)[0]
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(problem.objective(x), x)
    step = 1e-6
    for k in (0, 7, 23):
        move = torch.zeros(24, dtype=torch.float64)
        move[k] = step
        with torch.no_grad():
            slope = (problem.objective(x + move) - problem.objective(x - move)) / (2 * step)
        assert float(gradient[k]) == pytest.approx(float(slope), rel=1e-4, abs=1e-7)


def test_problem_contract_and_spec(network_file: Path) -> None:
    problem = problem_of(network_file, tables=6)
    check_problem(problem)
    again = ShardingProblem.from_spec(problem.spec)
    assert again.cost_model == problem.cost_model
    x = random_plans(problem, 4)
    assert torch.equal(again.objective(x), problem.objective(x))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network": "no such network"}, "file or one of"),
        ({"comms": "wireless"}, "comms"),
        ({"temperature_ms": -1.0}, "temperature_ms"),
        ({"networks": "x"}, "network"),
    ],
)
def test_bad_settings_are_named(network_file: Path, change: dict[str, object], words: str) -> None:
    spec = dict(problem_of(network_file).spec)
    spec["cost_model"] = {**spec["cost_model"], **change}
    with pytest.raises(InvalidInputError, match=words):
        ShardingProblem.from_spec(spec)


def test_what_was_not_measured_is_refused(network_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = MeasuredCost(str(network_file))
    table = Table("a", 1000, 16, 2.0)
    two = [Device("d0", 2**34), Device("d1", 2**34)]
    with pytest.raises(InvalidInputError, match="one speed"):
        ShardingProblem([table], [two[0], Device("d1", 2**34, hbm_gib_per_s=10.0)], model)
    with pytest.raises(InvalidInputError, match="float32"):
        ShardingProblem([Table("a", 1000, 16, 2.0, DataType.FLOAT16)], two, model)
    with pytest.raises(InvalidInputError, match="rowwise_adagrad"):
        ShardingProblem([table], two, model, workload=Workload(optimizer=Optimizer.SGD))
    with pytest.raises(InvalidInputError, match='comms "bandwidth"'):
        ShardingProblem([table], [*two, Device("d2", 2**34)], model)
    with caplog.at_level(logging.WARNING):
        ShardingProblem([Table("huge", 10**9, 16, 2.0)], two, model)
    assert "rows of table 'huge' is outside" in caplog.text


def test_equal_tables_and_more_devices_than_tables_give_numbers(network_file: Path) -> None:
    tables = [Table(f"t{k}", 1000, 16, 2.0) for k in range(3)]
    problem = ShardingProblem(
        tables, [Device(f"d{d}", 2**34) for d in range(5)], MeasuredCost(str(network_file), Comms.NONE)
    )
    result = surco.solve(problem, "auto", seconds=0.5, seed=0)
    assert math.isfinite(result.value)
    assert result.is_feasible


@pytest.fixture(scope="module")
def additive_file(synthetic: Campaign, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("networks") / "additive.safetensors"
    fit(synthetic, head=Head.ADDITIVE, steps=300).save(path)
    return path


def test_planners_give_feasible_plans_and_ours_is_best(network_file: Path, additive_file: Path) -> None:
    problem = problem_of(network_file, tables=16, devices=3)
    ours = surco.solve(problem, "auto", seconds=2.0, seed=0).value
    for found in (
        planners.longest_first(problem),
        planners.dim_grid(problem),
        planners.additive_milp(problem, str(additive_file), seconds=2.0),
        planners.additive_milp(problem, None, seconds=2.0),
    ):
        assert found.choice is not None
        x = problem.design(found.choice)
        assert float(problem.violation(x)) == 0.0
        assert ours <= float(problem.objective(x)) * (1 + 1e-9)
    with pytest.raises(InvalidInputError, match="additive head"):
        planners.additive_milp(problem, str(network_file), seconds=1.0)


def test_additive_milp_is_optimal_on_its_own_model(network_file: Path, additive_file: Path) -> None:
    problem = problem_of(network_file, tables=7, devices=2, comms="none")
    found = planners.additive_milp(problem, str(additive_file), seconds=3.0)
    own = planners.additive_stand_in(problem, str(additive_file))
    plans = np.array([(0, *rest) for rest in itertools.product(range(2), repeat=6)])
    x = torch.from_numpy(np.eye(2)[plans]).reshape(len(plans), -1)
    assert found.choice is not None
    assert float(own.objective(own.design(found.choice))) == pytest.approx(float(own.objective(x).min()), rel=1e-4)


def test_free_head_is_refused_as_an_objective(synthetic: Campaign, tmp_path: Path) -> None:
    fit(synthetic, head=Head.FREE, steps=20).save(tmp_path / "free.safetensors")
    with pytest.raises(InvalidInputError, match="convex or additive"):
        problem_of(tmp_path / "free.safetensors")
