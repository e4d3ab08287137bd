"""Bounds below every plan, exact at the best plan: enumeration is the judge."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import surco
from problems.sharding import (
    DOMAIN,
    AdditiveCost,
    Constraints,
    Device,
    FusedCost,
    Optimizer,
    ShardingProblem,
    Table,
    Workload,
)
from problems.sharding.bounds import makespan_bound, quick_bound
from problems.sharding.branch_bound import BranchBound
from problems.sharding.level_bound import LevelProgram
from problems.sharding.makespan_cpsat import solve_makespan
from problems.sharding.search import PlanSearch
from surco.protocols import Exact
from tests.problems.sharding.small_instances import MODELS, all_plans, small_problem

CASES = {
    "seed": st.integers(0, 10**6),
    "tables": st.integers(1, 7),
    "devices": st.integers(1, 3),
    "unequal": st.booleans(),
    "tightness": st.sampled_from([0.2, 0.8]),
}


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(MODELS)), **CASES)
def test_quick_bound_is_below_every_plan(name, seed, tables, devices, unequal, tightness):
    problem = small_problem(
        seed, tables=tables, devices=devices, model=MODELS[name], unequal=unequal, tightness=tightness
    )
    plans = all_plans(problem)
    if len(plans):
        assert problem.lower_bound() <= float(problem.objective(plans).min()) * (1 + 1e-12)


@settings(max_examples=12, deadline=None)
@given(**CASES)
def test_level_bound_is_below_every_plan_and_above_nothing_better(seed, tables, devices, unequal, tightness):
    problem = small_problem(
        seed, tables=tables, devices=devices, model=FusedCost(), unequal=unequal, tightness=tightness
    )
    plans = all_plans(problem)
    if not len(plans):
        return
    values = problem.objective(plans)
    best = float(values.min())
    worst_plan = problem.oracle.choice(plans[int(values.argmax())].numpy()[None])[0]
    bound = LevelProgram(problem, worst_plan).run(seconds=1.0)  # told of the worst plan, so that nothing caps it
    assert bound <= best * (1 + 1e-9)


@settings(max_examples=25, deadline=None)
@given(has_rules=st.booleans(), cache_mib=st.sampled_from([0.05, 1.0, 50.0]), **CASES)
def test_branch_bound_is_below_every_plan(seed, tables, devices, unequal, tightness, has_rules, cache_mib):
    constraints = None
    if has_rules and tables > 2 and devices > 1:
        constraints = Constraints(pin={"t1": "d1"}, forbid=[("t0", "d0")])
    problem = small_problem(
        seed,
        tables=tables,
        devices=devices,
        model=FusedCost(cache_mib=cache_mib),
        unequal=unequal,
        tightness=tightness,
        constraints=constraints,
    )
    plans = all_plans(problem)
    if not len(plans):
        return
    values = problem.objective(plans)
    best = float(values.min())
    worst_plan = problem.oracle.choice(plans[int(values.argmax())].numpy()[None])[0]
    program = BranchBound(problem, worst_plan)  # told of the worst plan, so that nothing caps it
    before = -math.inf
    for _ in range(2):
        bound = program.run(seconds=0.3)
        assert before <= bound <= best * (1 + 1e-9)
        before = bound


def test_branch_bound_closes_a_gap_that_heavy_groups_leave():
    """Four heavy tables on eight devices: no weights of the phases help while they may be cut into pieces."""
    problem = DOMAIN.make("sharding/dlrm-50t-8d-nonlinear-v0", seed=2)
    search = PlanSearch(problem, problem.rule_choices["marginal"], rng=np.random.default_rng(0))
    search.run(seconds=30, rounds=5)
    program = BranchBound(problem, search.best)
    program.run(seconds=60, gap=0.01)  # a few programs
    assert quick_bound(problem) * 1.016 < search.best_value
    assert program.bound <= search.best_value <= program.bound * 1.0101


def test_level_bound_beats_the_quick_bound_where_the_cache_matters():
    problem = DOMAIN.make("sharding/dlrm-50t-4d-nonlinear-v0", seed=1)
    search = PlanSearch(problem, problem.rule_choices["lpt"], rng=np.random.default_rng(0))
    search.run(seconds=30, rounds=5)
    bound = LevelProgram(problem, search.best).run(seconds=30, gap=2e-3)
    quick = quick_bound(problem)
    assert quick < bound <= search.best_value
    assert search.best_value / bound - 1 < 0.002
    assert search.best_value / quick - 1 > 0.003


@settings(max_examples=15, deadline=None)
@given(name=st.sampled_from(sorted(MODELS)), **CASES)
def test_exact_finds_the_enumerated_optimum(name, seed, tables, devices, unequal, tightness):
    problem = small_problem(
        seed, tables=tables, devices=devices, model=MODELS[name], unequal=unequal, tightness=tightness
    )
    plans = all_plans(problem)
    answer = problem.exact(seconds=1.5)
    if not len(plans):
        assert answer.x is None
        assert answer.bound == math.inf
        return
    best = float(problem.objective(plans).min())
    assert answer.x is not None
    assert float(problem.violation(answer.x)) == 0
    assert problem.oracle.violation(answer.x.numpy()) == 0
    value = float(problem.objective(answer.x))
    assert value == pytest.approx(best, rel=2e-5)
    assert answer.bound <= best * (1 + 1e-9)
    assert not answer.is_optimal or value <= best * (1 + 1e-8)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), groups=st.integers(1, 9), devices=st.integers(1, 4), kind=st.integers(0, 2))
def test_makespan_bound_is_valid(seed, groups, devices, kind):
    rng = np.random.default_rng(seed)
    loads = np.repeat(rng.lognormal(0, 1, (groups, 1)), devices, axis=1)
    if kind:
        loads = loads / rng.uniform(0.5, 2.0, devices)
    if kind == 2:
        loads[rng.random(loads.shape) < 0.2] = np.inf
        loads[~np.isfinite(loads).any(axis=1), 0] = 1.0
    best = math.inf

    def place(g, totals):
        nonlocal best
        if max(totals) >= best:
            return
        if g == groups:
            best = max(totals)
            return
        for d in range(devices):
            if np.isfinite(loads[g, d]):
                place(g + 1, [v + (loads[g, d] if e == d else 0.0) for e, v in enumerate(totals)])

    place(0, [0.0] * devices)
    assert makespan_bound(loads) <= best * (1 + 1e-9)


def test_pigeonhole_bound():
    # Five unit groups on two devices: three share one.
    assert makespan_bound(np.ones((5, 2))) == 3.0
    # Three groups of 3 on two devices: two share one, whatever the mean says.
    assert makespan_bound(np.full((3, 2), 3.0)) == 6.0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), unequal=st.booleans())
def test_cp_sat_makespan_equals_enumeration(seed, unequal):
    problem = small_problem(seed, unequal=unequal, tightness=0.7)
    plans = all_plans(problem)
    answer = solve_makespan(problem.oracle, problem.single_ms.sum(0), seconds=10, start=None, upper=math.inf, gap=0.0)
    if not len(plans):
        assert answer.choice is None
        assert answer.is_infeasible
        return
    best = float(problem.objective(plans).min())
    assert answer.choice is not None
    assert float(problem.objective(problem.design(answer.choice))) == pytest.approx(best, rel=1e-5)
    assert answer.bound <= best * (1 + 1e-12)


@pytest.mark.parametrize("id", ["mlperf-dlrm-v2-8gpu", "mlperf-dlrm-v2-16gpu", "dlrm-50t-4d", "dlrm-200t-8d"])
def test_additive_instances_are_solved_to_a_hundredth_of_a_percent(id):
    problem = DOMAIN.make(f"sharding/{id}-v0")
    answer = problem.exact(seconds=4)
    assert answer.x is not None
    assert float(problem.violation(answer.x)) == 0
    assert float(problem.objective(answer.x)) <= answer.bound * (1 + 1e-4)


def test_search_scores_moves_as_the_objective_does():
    """The incremental score of a candidate is the value of the moved plan, from scratch."""
    for model in MODELS.values():
        problem = small_problem(3, tables=8, model=model, unequal=True)
        search = PlanSearch(problem, problem.rule_choices["lpt"], rng=np.random.default_rng(0))
        first, second, target = search._candidates(None)
        merit = search._try(first, second, target)
        assert len(first) > 20
        for k in range(len(first)):
            choice = search.choice.copy()
            if second[k] >= 0:
                choice[second[k]] = choice[first[k]]
            choice[first[k]] = target[k]
            fresh = PlanSearch(problem, choice, rng=np.random.default_rng(0))
            assert float(merit[k]) == pytest.approx(fresh.merit, rel=1e-9)
            assert float(problem.violation(problem.design(choice))) == 0


def test_search_respects_memory_and_rules():
    problem = small_problem(
        7, tables=8, devices=3, tightness=0.5, constraints=Constraints(forbid=[("t0", "d0"), ("t3", "d2")])
    )
    start = problem.rule_choices["best_fit"]
    search = PlanSearch(problem, start, rng=np.random.default_rng(1))
    search.run(seconds=20, rounds=30)
    assert float(problem.violation(problem.design(search.best))) == 0
    assert search.best_value <= float(problem.objective(problem.design(start)))
    assert search.best_value == pytest.approx(float(problem.objective(all_plans(problem)).min()), rel=1e-9)


def test_exact_where_greedy_rules_find_no_packing():
    """Two devices of 10 units and groups of 5, 5, 4, 3, 3: only 5 + 5 and 4 + 3 + 3 fit."""
    sizes = [5, 5, 4, 3, 3]
    tables = [Table(f"t{i}", size * 1000, 1, 1.0 + i) for i, size in enumerate(sizes)]
    workload = Workload(batch_size=1, reserve=0.0, has_io_buffers=False, optimizer=Optimizer.SGD)
    devices = [Device(f"d{i}", 40_000) for i in range(2)]
    problem = ShardingProblem(tables, devices, AdditiveCost(), workload=workload)
    plans = all_plans(problem)
    assert len(plans) == 2  # one partition, two labellings
    answer = problem.exact(seconds=3)
    assert answer.x is not None
    assert float(problem.violation(answer.x)) == 0
    batch = problem.oracle.solve(torch.randn(4, problem.oracle.n, dtype=torch.float64).numpy())
    assert (batch.x == answer.x.numpy()).all()


def test_auto_gives_exact_its_share_at_once(monkeypatch):
    problem = small_problem(4, tables=5, devices=2, model=FusedCost())
    plans = all_plans(problem)
    values = problem.objective(plans)
    best = plans[int(values.argmin())]
    given_seconds = []

    def exact(*, seconds, start):
        assert start is not None  # the plans of the greedy rules come first
        given_seconds.append(seconds)
        return Exact(best, float(values.min()), True, 1)

    monkeypatch.setattr(problem, "exact", exact)
    result = surco.solve(problem, "auto", seconds=60)
    assert result.value == float(values.min())
    assert len(given_seconds) <= 1  # none if the greedy rules already met the bound
    assert all(seconds > 30 for seconds in given_seconds)  # the first of its two parts
    assert given_seconds or result.gap == 0
