import json

import pytest
import torch

from surco.bridge import to_numpy
from surco.errors import InvalidInputError, UnknownIdError
from surco.instance_family import Split, collate, families, family
from surco.registry import make

SHARDING = ["sharding/dlrm-mixed-nonlinear-v0", "sharding/dlrm-mixed-v0"]
PATHS = ["paths/grid-mixed-code-v0", "paths/topohub-v0"]


def random_designs(source, instances, count=3):
    """Feasible designs of a batch, from random costs: padded x [B, M, ...], and the batch."""
    batch = collate([instance.features for instance in instances])
    generator = torch.Generator().manual_seed(0)
    shape = (len(batch), count, *batch.variables.shape[1:])
    costs = torch.rand(shape, generator=generator, dtype=torch.float64) * batch.variables[:, None]
    x, ok = source.solve(batch, instances, costs)
    assert bool(ok.all())
    return batch, x, costs


@pytest.mark.parametrize("id", SHARDING + PATHS)
def test_the_batched_objective_is_that_of_each_problem(id):
    source = family(id)
    instances = [source.sample("train", seed=seed) for seed in range(5)]
    batch, x, _ = random_designs(source, instances)
    values = source.objective(batch.features, x)
    for b, (instance, rows) in enumerate(zip(instances, batch.rows(x), strict=True)):
        expected = instance.problem.objective(rows)
        torch.testing.assert_close(values[b], expected, rtol=1e-9, atol=1e-9)
        assert float(instance.problem.violation(rows).max()) <= 1e-6
    assert len({len(rows[0]) for rows in batch.rows(x)}) > 1  # sizes are mixed
    assert torch.equal(batch.padded(batch.rows(x)), x)


@pytest.mark.parametrize("id", SHARDING + PATHS)
def test_the_batched_oracle_is_exact(id):
    source = family(id)
    instances = [source.sample("validation", seed=seed) for seed in range(4)]
    batch, x, costs = random_designs(source, instances)
    for instance, found, asked in zip(instances, batch.rows(x), batch.rows(costs), strict=True):
        problem = instance.problem
        if id.startswith("sharding"):  # canonical names bind the oracle, not the family: ask one without them
            from problems.sharding.problem import ShardingProblem

            problem = ShardingProblem(
                problem.tables, problem.devices, problem.cost_model, workload=problem.workload, break_symmetry=False
            )
        exact = problem.oracle.solve(to_numpy(asked))
        torch.testing.assert_close((found * asked).sum(-1), torch.from_numpy(exact.objective), rtol=2e-3, atol=1e-9)


@pytest.mark.parametrize("id", SHARDING)
def test_local_values_are_those_of_moved_designs(id):
    source = family(id)
    instances = [source.sample("train", seed=seed) for seed in range(3)]
    batch, x, _ = random_designs(source, instances, count=1)
    values = source.local_values(batch.features, x[:, 0])
    for b, instance in enumerate(instances):
        tables, devices = instance.features["variables"].shape
        plan = x[b, 0, :tables, :devices]
        for t in range(0, tables, 3):
            moved = plan.repeat(devices, 1, 1)
            moved[:, t] = torch.eye(devices, dtype=torch.float64)
            expected = instance.problem.objective(moved.flatten(1))
            torch.testing.assert_close(values[b, t, :devices], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("id", [SHARDING[0], *PATHS])
def test_splits_share_no_instance_and_seeds_repeat(id):
    source = family(id)

    def key(split, seed):
        spec = dict(source.sample(split, seed=seed).problem.spec)
        return json.dumps(spec, sort_keys=True)

    keys = [key(split, seed) for split in Split for seed in range(12)]
    assert len(set(keys)) == len(keys)
    assert key("test", 3) == key("test", 3)


def test_a_real_network_belongs_to_one_split():
    from problems.paths.family import _networks

    names = [set(_networks(split)) for split in Split]
    assert all(names)
    assert len(set.union(*names)) == sum(map(len, names))


def test_relabeled_costs_reach_the_plan_that_they_mean():
    source = family("sharding/dlrm-50t-8d-nonlinear-v0")
    instance = source.sample("test", seed=0)
    problem = instance.problem
    generator = torch.Generator().manual_seed(0)
    costs = to_numpy(torch.rand(6, problem.oracle.n, generator=generator, dtype=torch.float64))
    plans = costs.reshape(6, 50, 8).argmin(-1)
    from surco.instance_family import ask

    x, ok = ask(source, problem, costs)
    assert ok.all()
    assert (x.reshape(6, 50, 8).argmax(-1) == plans).all()
    plain = problem.oracle.solve(costs).x.reshape(6, 50, 8).argmax(-1)
    assert (plain != plans).any()  # without new names the oracle reads other plans


def test_features_refuse_what_they_cannot_describe():
    nonlinear = family("sharding/dlrm-50t-8d-nonlinear-v0")
    with pytest.raises(InvalidInputError, match="cost model"):
        nonlinear.features(make("sharding/dlrm-50t-8d-v0"))
    with pytest.raises(InvalidInputError, match="sharding problem"):
        nonlinear.features(make("paths/grid-5-code-v0"))


def test_unknown_names_are_refused():
    with pytest.raises(UnknownIdError, match="Did you mean `paths/grid-5-code-v0`"):
        family("paths/grid-5-cod-v0")
    with pytest.raises(InvalidInputError, match="split"):
        family("paths/grid-5-code-v0").sample("exam")
    assert set(SHARDING + PATHS) <= set(families())
