"""The problem as the engine sees it: rules, talents, degenerate inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from problems.sharding import AdditiveCost, Constraints, Device, FusedCost, Optimizer, ShardingProblem, Table, Workload
from solvers.oracle import LinearOracle, Status
from surco.errors import InvalidInputError
from surco.protocols import (
    HasDescription,
    HasExact,
    HasHeuristics,
    HasLowerBound,
    HasMetrics,
    HasMoves,
    HasSpec,
    Problem,
)
from tests.problems.sharding.small_instances import MODELS, all_plans, small_problem


def test_protocols():
    problem = small_problem(0)
    for protocol in (Problem, HasSpec, HasLowerBound, HasMoves, HasHeuristics, HasExact, HasMetrics, HasDescription):
        assert isinstance(problem, protocol), protocol
    assert isinstance(problem.oracle, LinearOracle)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), unequal=st.booleans(), tightness=st.sampled_from([0.3, 0.85]))
def test_oracle_minimizes_over_the_plans_of_the_independent_check(seed, unequal, tightness):
    """Two definitions of the feasible set, one by brute force: the same best plan up to the names of alike devices."""
    problem = small_problem(seed, unequal=unequal, tightness=tightness, tables=5)
    plans = all_plans(problem)
    costs = np.random.default_rng(seed).normal(size=(4, problem.oracle.n))
    batch = problem.oracle.solve(costs)
    if not len(plans):
        assert set(batch.status) == {Status.INFEASIBLE}
        return
    canonical = torch.unique(problem.canonical(plans), dim=0).numpy()
    assert (problem.oracle.violation(canonical) == 0).all()
    np.testing.assert_allclose(batch.objective, (costs @ canonical.T).min(axis=1), rtol=1e-9, atol=1e-12)
    assert (problem.violation(torch.from_numpy(batch.x)) == 0).all()


def test_without_symmetry_breaking_the_oracle_has_all_labellings():
    problem = small_problem(3, break_symmetry=False)
    plans = all_plans(problem).numpy()
    assert (problem.oracle.violation(plans) == 0).all()
    costs = np.random.default_rng(0).normal(size=(5, problem.oracle.n))
    np.testing.assert_allclose(problem.oracle.solve(costs).objective, (costs @ plans.T).min(axis=1))


def test_violation_judges_each_rule():
    rules = Constraints(pin={"t0": "d1"}, forbid=[("t1", "d0")], colocate=[("t2", "t3")])
    problem = small_problem(4, constraints=rules, tightness=0.05)
    good = all_plans(problem)
    assert len(good) == 1 * 2 * 3 * 3 * 3
    plan = problem.plan(good[0]).clone()

    def moved(table, device):
        other = plan.clone()
        other[table] = 0.0
        other[table, device] = 1.0
        return other.reshape(-1)

    assert float(problem.violation(moved(0, 0))) > 0
    assert float(problem.violation(moved(1, 0))) > 0
    on = int(plan[2].argmax())
    assert float(problem.violation(moved(2, (on + 1) % 3))) > 0
    assert float(problem.violation(plan.reshape(-1) * 0.5)) > 0
    assert float(problem.violation(torch.full_like(good[0], torch.nan))) == math.inf
    nothing = plan.clone()
    nothing[5] = 0.0
    assert float(problem.violation(nothing.reshape(-1))) == 1.0
    assert problem.violation(good.reshape(2, -1, good.shape[1])).shape == (2, len(good) // 2)


def test_memory_violation_is_a_share_of_the_capacity():
    workload = Workload(batch_size=1, reserve=0.0, has_io_buffers=False, optimizer=Optimizer.SGD)
    tables = [Table("a", 100, 1, 1.0), Table("b", 50, 1, 1.0)]
    problem = ShardingProblem(tables, [Device("x", 400), Device("y", 400)], workload=workload)
    together = torch.tensor([1.0, 0, 1, 0], dtype=torch.float64)
    assert float(problem.violation(together)) == pytest.approx(0.5)
    assert float(problem.violation(torch.tensor([1.0, 0, 0, 1], dtype=torch.float64))) == 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(MODELS)), unequal=st.booleans())
def test_heuristics_and_moves_are_feasible(seed, name, unequal):
    rules = Constraints(forbid=[("t1", "d0")], colocate=[("t2", "t3")])
    problem = small_problem(seed, model=MODELS[name], unequal=unequal, tables=9, constraints=rules, tightness=0.5)
    generator = torch.Generator().manual_seed(seed)
    for x in problem.heuristics().values():
        assert float(problem.violation(x)) == 0
        assert problem.oracle.violation(x.numpy()) == 0
        moves = problem.moves(x, count=25, generator=generator)
        assert moves.shape[1] == problem.oracle.n
        assert 0 < len(moves) <= 25
        assert (problem.violation(moves) == 0).all()
        assert (problem.oracle.violation(moves.numpy()) == 0).all()
        assert len(torch.unique(moves, dim=0)) == len(moves)
        assert (moves != x).any(1).all()


def test_moves_reach_every_neighbor():
    """Shifts and swaps connect every pair of plans that differ by one shift."""
    problem = small_problem(1, tables=4, devices=2, tightness=0.05)
    x = problem.heuristics()["lpt"]
    generator = torch.Generator().manual_seed(0)
    seen = {tuple(row.tolist()) for _ in range(60) for row in problem.moves(x, count=8, generator=generator)}
    wanted = set()
    for table in range(4):
        other = problem.plan(x).clone()
        other[table] = 1.0 - other[table]
        wanted.add(tuple(problem.canonical(other.reshape(-1)).tolist()))
    assert wanted <= seen


def test_initial_costs_return_the_lpt_plan():
    for model in MODELS.values():
        problem = small_problem(11, tables=12, model=model)
        x = problem.oracle.solve(problem.initial_costs().numpy()[None]).x[0]
        np.testing.assert_array_equal(x, problem.heuristics()["lpt"].numpy())


def test_objective_depends_on_x_through_the_features_alone():
    problem = small_problem(2, model=FusedCost(), unequal=True)
    w = problem.feature_matrix()
    assert w.shape[1] == problem.oracle.n
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(problem.oracle.n, generator=generator, dtype=torch.float64)
    null = torch.linalg.svd(w)[2][int(torch.linalg.matrix_rank(w)) :]
    for direction in null[:5]:
        torch.testing.assert_close(problem.objective(x + 0.1 * direction), problem.objective(x), rtol=1e-9, atol=1e-12)


def test_greedy_rules_on_a_case_done_by_hand():
    workload = Workload(batch_size=1, reserve=0.0, has_io_buffers=False, optimizer=Optimizer.SGD)
    tables = [
        Table(f"t{i}", rows, 128, p) for i, (rows, p) in enumerate([(10, 9.0), (1000, 7.0), (20, 5.0), (30, 4.0)])
    ]
    problem = ShardingProblem(tables, [Device("x", 2**30), Device("y", 2**30)], workload=workload)
    on = {name: problem.plan(x).argmax(1).tolist() for name, x in problem.heuristics().items()}
    assert on["lpt"] == [0, 1, 1, 0]  # 9 | 7, then 5 to the lighter, then 4 to 9
    assert on["by_lookups"] == [0, 1, 1, 0]
    assert on["by_size"] == [0, 1, 0, 0]  # 1000 rows against all others
    assert on["by_dim"] == [0, 1, 0, 1]
    assert on["best_fit"] == [0, 0, 0, 0]


def test_metrics_and_words():
    problem = small_problem(6, constraints=Constraints(pin={"t0": "d2"}))
    x = problem.heuristics()["lpt"]
    metrics = problem.metrics(x)
    assert metrics["step_ms"] == pytest.approx(float(problem.objective(x)))
    assert metrics["slowest_device_ms"] == max(metrics[f"d{d}_ms"] for d in range(3))
    assert metrics["imbalance"] >= 1.0
    gib = sum(metrics[f"d{d}_gib"] for d in range(3))
    assert gib == pytest.approx(problem.table_bytes.sum() / 2**30)
    words = problem.describe(x)
    assert all(f"d{d}" in words for d in range(3))
    assert all(table.name in words for table in problem.tables)


def test_figures():
    pytest.importorskip("matplotlib")
    problem = small_problem(6, model=FusedCost())
    x = problem.heuristics()["lpt"]
    figures = problem.figures(x)
    bars = figures["Device loads by phase"].axes[0].patches
    heights = np.array([bar.get_height() for bar in bars]).reshape(4, 3)
    np.testing.assert_allclose(heights, problem.times_ms(x).numpy())
    assert len(figures["Device memory"].axes[0].patches) == 6


# ------------------------------------------------------------------ degenerate inputs


@pytest.mark.parametrize("name", MODELS)
def test_more_devices_than_tables(name):
    problem = small_problem(8, tables=2, devices=5, model=MODELS[name], tightness=0.05)
    answer = problem.exact(seconds=1)
    assert answer.x is not None
    assert float(problem.violation(answer.x)) == 0
    assert sorted(problem.plan(answer.x).argmax(1).tolist()) == [0, 1]  # each on its own, on the first two
    assert len(problem.moves(answer.x, count=10, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("name", MODELS)
def test_equal_tables_and_no_nan(name):
    tables = [Table(f"t{i}", 1000, 64, 3.0) for i in range(8)]
    problem = ShardingProblem(tables, [Device(f"d{i}", 2**34) for i in range(4)], MODELS[name])
    answer = problem.exact(seconds=2)
    assert answer.x is not None
    assert (problem.plan(answer.x).sum(0) == 2).all()
    assert answer.is_optimal or name != "additive"
    assert torch.isfinite(problem.initial_costs()).all()


@pytest.mark.parametrize("name", MODELS)
def test_zero_pooling_everywhere(name):
    tables = [Table(f"t{i}", 1000, 64, 0.0) for i in range(5)]
    problem = ShardingProblem(tables, [Device(f"d{i}", 2**34) for i in range(2)], MODELS[name])
    x = problem.heuristics()["lpt"]
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(problem.objective(leaf), leaf)
    assert torch.isfinite(grad).all()
    answer = problem.exact(seconds=1)
    assert answer.x is not None
    assert math.isfinite(answer.bound)
    assert problem.describe(x)
    assert problem.metrics(x)["imbalance"] >= 1.0


def test_memory_98_percent_full():
    rng = np.random.default_rng(0)
    sizes = rng.integers(20, 400, 24)
    workload = Workload(batch_size=1, reserve=0.0, has_io_buffers=False, optimizer=Optimizer.SGD)
    tables = [Table(f"t{i}", int(s), 16, float(rng.uniform(1, 20))) for i, s in enumerate(sizes)]
    capacity = int(sizes.sum() * 64 / 4 / 0.98)
    problem = ShardingProblem(tables, [Device(f"d{i}", capacity) for i in range(4)], workload=workload)
    batch = problem.oracle.solve(rng.normal(size=(3, problem.oracle.n)))
    assert all(status.has_point for status in batch.status)
    assert (problem.violation(torch.from_numpy(batch.x)) == 0).all()
    assert (batch.bound <= batch.objective + 1e-9).all()
    answer = problem.exact(seconds=3)
    assert answer.x is not None
    assert float(problem.violation(answer.x)) == 0
    assert float(problem.objective(answer.x)) <= answer.bound * 1.05


def test_one_table_one_device():
    problem = ShardingProblem([Table("a", 10, 4, 1.0)], [Device("d", 2**30)], FusedCost())
    answer = problem.exact(seconds=1)
    assert answer.is_optimal
    assert answer.x is not None
    assert answer.x.tolist() == [1.0]
    assert problem.moves(answer.x, count=5, generator=torch.Generator().manual_seed(0)).shape == (0, 1)


def test_bad_inputs_are_refused():
    table, device = Table("a", 10, 4, 1.0), Device("d", 100)
    with pytest.raises(InvalidInputError, match="at least one table"):
        ShardingProblem([], [device])
    with pytest.raises(InvalidInputError, match="at least one device"):
        ShardingProblem([table], [])
    with pytest.raises(InvalidInputError, match="two tables named 'a'"):
        ShardingProblem([table, table], [device])
    with pytest.raises(InvalidInputError, match="unknown table 'b'"):
        ShardingProblem([table], [device], AdditiveCost(), Constraints(pin={"b": "d"}))
    with pytest.raises(InvalidInputError, match="rows"):
        Table("a", 0, 4, 1.0)
    with pytest.raises(InvalidInputError, match="pooling_factor"):
        Table("a", 1, 4, math.nan)
    with pytest.raises(InvalidInputError, match="reserve"):
        Workload(reserve=15)
