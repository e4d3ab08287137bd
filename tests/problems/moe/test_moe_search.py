"""EPLB from its description against its published example; the annealing against the objective."""

from __future__ import annotations

import numba as nb
import numpy as np
import pytest

import surco
from problems.moe import Cluster, grouping, kernel
from problems.moe.eplb import duplicate, eplb_global, eplb_hierarchical, lpt, pack
from problems.moe.search import LayerSearch
from surco.bridge import to_torch
from surco.ledger import Ledger

# the worked example of EPLB's README: 12 experts in 4 groups, 16 copies, 8 GPUs in 2 nodes, two layers
LOADS = np.array(
    [[90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86], [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27]]
)
PUBLISHED = np.array(
    [[5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1], [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1]]
)


@pytest.mark.parametrize("layer", [0, 1])
def test_hierarchical_eplb_gives_the_published_plan(layer):
    counts = eplb_hierarchical(LOADS[layer].astype(float), Cluster(8, 2, 2), 4)
    ours = [sorted(np.repeat(np.arange(12), counts[:, g]).tolist()) for g in range(8)]
    published = [sorted(pair) for pair in PUBLISHED[layer].reshape(8, 2).tolist()]
    for node in (slice(0, 4), slice(4, 8)):
        assert sorted(ours[node]) in (sorted(published[:4]), sorted(published[4:]))
    assert sorted(ours) == sorted(published)


def test_duplication_minimizes_the_largest_load_per_copy():
    rng = np.random.default_rng(0)
    for _ in range(20):
        loads = rng.pareto(1.0, 5) + 0.1
        copies = np.bincount(duplicate(loads, 9))
        grids = np.array(np.meshgrid(*[range(1, 6)] * 5)).reshape(5, -1).T
        grids = grids[grids.sum(1) == 9]
        assert copies.sum() == 9
        assert (loads / copies).max() == pytest.approx((loads / grids).max(1).min())


def test_packing_fills_every_bin():
    bins = pack(np.arange(12.0), 4, 3)
    assert np.bincount(bins, minlength=4).tolist() == [3, 3, 3, 3]


def test_rules_fill_slots_and_lpt_never_doubles():
    loads = np.random.default_rng(3).pareto(0.7, 64) + 0.01
    cluster = Cluster(16, 2, 5)
    assert eplb_global(loads, cluster).sum() == 80
    assert eplb_hierarchical(loads, cluster, 3) is None
    plan = lpt(loads, cluster)
    assert plan is not None
    assert plan.max() == 1
    assert plan.sum(0).max() <= 5
    assert plan.sum(1).min() >= 1


@pytest.mark.parametrize("cap", [None, 5])
def test_annealing_knows_the_value_of_what_it_returns(cap):
    problem = surco.make("moe/64e-16g-2n-v0", seed=2)
    search = LayerSearch(problem.routing, 0, problem.cluster, problem.traffic_weight, 3)
    start = lpt(problem.routing.loads[0], problem.cluster, most=3).astype(bool)
    plan, value = search.anneal(start, moves=30_000, seed=4, held=start, cap=cap)
    again, _ = search.anneal(start, moves=30_000, seed=4, held=start, cap=cap)
    np.testing.assert_array_equal(plan, again)
    x = to_torch(plan.reshape(-1))
    assert float(problem.objective(x)) == pytest.approx(value, rel=1e-9)
    assert value < float(problem.objective(to_torch(start.reshape(-1))))
    assert plan.sum(1).max() <= 3
    assert plan.sum(1).min() >= 1
    assert plan.sum(0).max() <= 5
    if cap is not None:
        assert 0 < (plan & ~start).sum() <= cap


def test_more_migration_never_hurts_much_and_none_changes_nothing():
    first = surco.make("moe/16e-8g-2n-v0")
    running = first.replan(moves=20_000)
    spec = surco.make("moe/16e-8g-2n-v0", window=4).spec
    lists = [[np.flatnonzero(running[0][:, g]).tolist() for g in range(8)]]
    values = []
    for cap in (0, 2, 24):
        problem = surco.from_spec({**spec, "current": lists, "migration_cap": cap})
        plan = problem.replan(moves=50_000)
        assert (plan & ~running).sum() <= cap
        values.append(float(problem.objective(to_torch(plan.reshape(-1)))))
        if cap == 0:  # copies may still be dropped, which moves nothing
            stay = float(problem.objective(to_torch(running.reshape(-1))))
            assert values[0] <= stay
    assert values[2] < values[1] < values[0]


def test_cap_is_shared_by_layers():
    first = surco.make("moe/64e-16g-2n-4l-v0")
    running = first.plan_of(first.heuristics()["lpt"])
    lists = [[np.flatnonzero(layer[:, g]).tolist() for g in range(16)] for layer in running]
    problem = surco.make("moe/64e-16g-2n-4l-v0", window=2, current=lists, migration_cap=10)
    plan = problem.replan(moves=40_000)
    assert 0 < (plan & ~running).sum() <= 10


def test_auto_is_the_annealing_and_repeats_under_a_budget_in_calls(tmp_path):
    problem = surco.make("moe/16e-8g-2n-v0", seed=4)
    first, again = (surco.solve(problem, objective_calls=6, seed=1) for _ in range(2))
    np.testing.assert_array_equal(first.x, again.x)
    assert first.method == "annealing"
    assert first.value < float(problem.objective(problem.heuristics()["lpt"]))
    surco.solve(problem, objective_calls=5, seed=1, checkpoint=tmp_path)
    resumed = surco.solve(problem, objective_calls=6, seed=1, checkpoint=tmp_path, resume=True)
    np.testing.assert_array_equal(first.x, resumed.x)


@pytest.mark.parametrize("method", ["auto", "exact"])
def test_loops_are_compiled_before_the_clock_starts(method, monkeypatch):
    problem = surco.make("moe/16e-8g-2n-v0")
    order = []
    for module, name in ((kernel, "anneal"), (grouping, "cheapest_groupings")):
        loop = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, loop=loop, name=name: (order.append((name, a)), loop(*a))[1])
    start = Ledger.__init__
    monkeypatch.setattr(Ledger, "__init__", lambda self, *a: (order.append(("clock", a)), start(self, *a))[1])
    surco.solve(problem, method, seconds=0.5, seed=0)
    names = [name for name, _ in order]
    clock = names.index("clock")
    assert set(names[:clock]) == {"anneal", "cheapest_groupings"}
    types = {name: [nb.typeof(a) for a in arguments] for name, arguments in order[:clock]}
    later = [(name, [nb.typeof(a) for a in arguments]) for name, arguments in order[clock + 1 :]]
    assert "anneal" in names[clock + 1 :]
    assert all(types[name] == found for name, found in later)  # so that no other version is compiled within
