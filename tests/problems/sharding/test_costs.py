"""Cost models: formulas, shape, derivatives, invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from problems.sharding import AdditiveCost, Device, FusedCost, Optimizer, ShardingProblem, Table, Workload
from problems.sharding.costs import features_of, table_wise_ms
from surco.errors import InvalidInputError
from tests.problems.sharding.small_instances import MODELS, all_plans, small_problem


def test_additive_estimate_by_hand():
    # 128 columns, float32, 10 lookups, batch 1000 on each of 2 devices of one host.
    table, devices = Table("a", 10**6, 128, 10.0), [Device(f"d{i}", 2**33) for i in range(2)]
    forward, comms, comms_back, backward = table_wise_ms([table], devices, Workload(batch_size=1000))[:, 0, 0]
    moved = 8 * 20000 + 20000 * 512 + 2000 * 512
    assert forward == pytest.approx(moved / (897 * 2**30 / 1000), rel=1e-14)
    assert backward == pytest.approx(2 * forward, rel=1e-14)
    assert comms == comms_back == pytest.approx(2000 * 512 / (600 * 2**30 / 1000), rel=1e-14)


def test_narrow_and_empty_tables():
    devices = [Device("a", 2**33, host=0), Device("b", 2**33, host=1)]
    narrow, wide, none = Table("n", 10, 4, 1.0), Table("w", 10, 64, 1.0), Table("z", 10, 64, 0.0)
    phases = table_wise_ms([narrow, wide, none], devices, Workload(batch_size=1))
    assert (phases[:, 2] == 0).all()
    hbm = 897 * 2**30 / 1000
    assert phases[0, 0, 0] == pytest.approx((16 + 2 * 32 * 4 + 2 * 16) * 1.75 / hbm)
    assert phases[0, 1, 0] == pytest.approx((16 + 2 * 256 + 2 * 256) * 1.15 / hbm)
    assert phases[1, 1, 0] == pytest.approx(512 / (12.5 * 2**30 / 1000))  # two hosts: the slow link


@pytest.mark.parametrize("name", MODELS)
def test_value_of_a_plan_is_that_of_its_devices(name):
    problem = small_problem(1, model=MODELS[name])
    plans = all_plans(problem)
    batch = problem.objective(plans)
    assert batch.shape == (len(plans),)
    single = torch.stack([problem.objective(x) for x in plans[::50]])
    torch.testing.assert_close(batch[::50], single, rtol=1e-12, atol=0)
    shaped = problem.objective(plans[:6].reshape(2, 3, -1))
    torch.testing.assert_close(shaped.reshape(-1), batch[:6], rtol=1e-12, atol=0)


def test_additive_value_by_hand():
    problem = small_problem(2)
    single = table_wise_ms(problem.tables, problem.devices, problem.workload).sum(0)
    for x in all_plans(problem)[::97]:
        loads = (problem.plan(x).numpy() * single).sum(0)
        assert float(problem.objective(x)) == pytest.approx(loads.max(), rel=1e-13)


def test_fused_value_by_hand():
    """The formula of the docstring once more, in plain Python, for a two-device plan."""
    model = FusedCost()
    devices = [Device(f"d{i}", 2**40, hbm_gib_per_s=3120.0, intra_host_gib_per_s=419.0) for i in range(2)]
    tables = [Table("a", 10**6, 128, 10.0), Table("b", 5000, 64, 3.0), Table("c", 10**5, 16, 40.0)]
    batch = 4096
    problem = ShardingProblem(tables, devices, model, workload=Workload(batch_size=batch))
    on = [[0, 1], [2]]
    per_ms, times = 3120 * 2**30 / 1000 * 0.6, []
    for members in on:
        forward = backward = again = again_back = working = sent = 0.0
        for t in members:
            r, n = tables[t].dim * 4, tables[t].pooling_factor * batch * 2
            u = tables[t].rows * (1 - (1 - 1 / tables[t].rows) ** n)
            o = batch * 2 * r
            forward += (8 * n + u * r + o) / per_ms
            backward += (64 * n + 2 * u * r + o) / per_ms
            again += (n - u) * r / per_ms
            again_back += max(n * r - o, 0) / per_ms
            working += u * r / (50 * 2**20)
            sent += o * 0.5 / (419 * 2**30 / 1000)
        factor = 0.25 + 0.75 * working / (1 + working)
        f = (0.18**1.5 + (forward + again * factor) ** 1.5) ** (1 / 1.5)
        b = (0.42**1.5 + (backward + again_back * factor) ** 1.5) ** (1 / 1.5)
        times.append((f, sent + 0.03, sent + 0.03, b))
    expected = sum(0.01 * math.log(sum(math.exp(v / 0.01) for v in phase)) for phase in zip(*times, strict=True))
    x = torch.tensor([1, 0, 1, 0, 0, 1], dtype=torch.float64)
    assert float(problem.objective(x)) == pytest.approx(expected, rel=1e-9)


def test_fused_model_is_near_the_published_single_device_figures():
    """1M x 128 tables, batch 8192, pooling 10, forward + backward on one H100: measured ms, model within a quarter."""
    measured = {1: 0.56, 2: 0.71, 4: 0.90, 8: 1.05, 16: 1.59}
    device = Device("h100", 2**37, hbm_gib_per_s=3120.0)
    for count, milliseconds in measured.items():
        tables = [Table(f"t{i}", 10**6, 128, 10.0) for i in range(count)]
        problem = ShardingProblem(tables, [device], FusedCost(), workload=Workload(batch_size=8192))
        assert float(problem.objective(torch.ones(count, dtype=torch.float64))) == pytest.approx(milliseconds, rel=0.25)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(MODELS)), unequal=st.booleans())
def test_gradient_equals_finite_differences(seed, name, unequal):
    problem = small_problem(seed, model=MODELS[name], unequal=unequal)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(problem.oracle.n, generator=generator, dtype=torch.float64) + 0.05
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(problem.objective(leaf), leaf)
    step = 1e-6
    eye = torch.eye(len(x), dtype=torch.float64) * step
    numeric = (problem.objective(x + eye) - problem.objective(x - eye)) / (2 * step)
    torch.testing.assert_close(grad, numeric, rtol=2e-4, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(MODELS)))
def test_renaming_alike_devices_changes_nothing(seed, name):
    problem = small_problem(seed, model=MODELS[name])
    rng = np.random.default_rng(seed)
    plans = all_plans(problem)
    x = plans[int(rng.integers(len(plans)))]
    renamed = problem.plan(x)[:, torch.from_numpy(rng.permutation(3))].reshape(-1)
    torch.testing.assert_close(problem.objective(renamed), problem.objective(x), rtol=1e-12, atol=0)
    assert torch.equal(problem.canonical(renamed), problem.canonical(x))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(MODELS)), unequal=st.booleans())
def test_loads_are_monotone_and_at_least_the_sum_of_singles(seed, name, unequal):
    problem = small_problem(seed, model=MODELS[name], unequal=unequal)
    cost, single = problem.cost, torch.from_numpy(problem.cost.single_ms())
    weights = torch.from_numpy(problem.cost.weights)
    assert (weights >= 0).all()
    plan = problem.plan(all_plans(problem)[::40])
    loads = cost.loads_ms(features_of(weights, plan))
    sums = torch.einsum("ptd,ktd->kpd", single, plan)
    assert (loads >= sums * (1 - 1e-12)).all()
    times = cost.times_ms(loads)
    assert (times >= loads * (1 - 1e-12)).all()
    assert (cost.times_ms(loads * 1.1) >= times).all()


def test_convexity_claims():
    """Convex models pass the midpoint test on fractional plans; sharing a cache makes the fused one fail."""
    worst = {}
    for name, model in MODELS.items():
        problem = small_problem(5, tables=8, model=model)
        generator = torch.Generator().manual_seed(0)
        a, b = torch.rand(2, 4000, problem.oracle.n, generator=generator, dtype=torch.float64) * 2
        middle = problem.objective((a + b) / 2) - (problem.objective(a) + problem.objective(b)) / 2
        worst[name] = float(middle.max())
        assert problem.is_convex == (name != "fused")
    assert worst["additive"] <= 1e-12
    assert worst["convex"] <= 1e-12
    # A table of few, often repeated rows, and one of many rows: together they cost more than half of each, twice.
    tables = [Table("small", 1000, 128, 100.0), Table("large", 10**7, 128, 10.0)]
    problem = ShardingProblem(tables, [Device("d", 2**40)], FusedCost())
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], dtype=torch.float64) * 20
    first, second, middle = problem.objective(x).tolist()
    assert middle > (first + second) / 2 + 1e-3


def test_optimizer_and_dtype_decide_memory():
    from problems.sharding.memory import table_memory_bytes
    from problems.sharding.tables import DataType

    table = Table("a", 1000, 16, 2.0)
    plain = Workload(batch_size=10, optimizer=Optimizer.SGD, has_io_buffers=False)
    assert table_memory_bytes(table, plain, 4) == 64000
    adam = Workload(batch_size=10, optimizer=Optimizer.ADAM, has_io_buffers=True)
    assert table_memory_bytes(table, adam, 4) == 3 * 64000 + 2 * 10 * 4 * 8 + 40 * 64
    half = Table("a", 1000, 16, 2.0, DataType.FLOAT16)
    assert table_memory_bytes(half, plain, 4) == 32000


def test_settings_are_checked():
    with pytest.raises(InvalidInputError, match="efficiency"):
        FusedCost(efficiency=1.5)
    with pytest.raises(InvalidInputError, match="sharpness"):
        FusedCost(sharpness=0.5)
    with pytest.raises(InvalidInputError, match="temperature_ms"):
        FusedCost(temperature_ms=0.0)
    with pytest.raises(InvalidInputError, match="backward_multiplier"):
        AdditiveCost(backward_multiplier=-1.0)
