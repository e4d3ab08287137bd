"""Values, rules, oracle and bound against judges that list everything; the shipped contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import surco
from problems.moe import Cluster, ExpertOracle, ExpertPlacement, Migration, Routing
from problems.moe.bound import load_bound
from solvers.oracle import Status
from surco.bridge import to_torch
from surco.checks import check_problem
from tests.problems.moe import judge


def tiny(seed=0, *, experts=4, gpus=4, nodes=2, slots=2, tokens=6, weight=0.25, **options):
    rng = np.random.default_rng(seed)
    loads = np.floor(rng.pareto(1.0, (1, experts)) * 100) + 1
    recorded = np.stack([np.sort(rng.choice(experts, 2, replace=False)) for _ in range(tokens)])[None]
    routing = Routing(loads, recorded.astype(np.int64))
    return ExpertPlacement(routing, Cluster(gpus, nodes, slots), traffic_weight=weight, **options)


def flat(plan):
    return to_torch(np.asarray(plan, dtype=float).reshape(-1))


@pytest.mark.parametrize("id", ["moe/8e-4g-2n-v0", "moe/64e-16g-2n-4l-v0"])
def test_contract(id):
    check_problem(surco.make(id))


def test_contract_with_a_plan_that_runs():
    first = surco.make("moe/16e-8g-2n-v0")
    running = first.plan_of(first.heuristics()["lpt"])
    spec = {**surco.make("moe/16e-8g-2n-v0", window=3).spec, "migration_cap": 3}
    spec["current"] = [[np.flatnonzero(running[0][:, g]).tolist() for g in range(8)]]
    problem = surco.from_spec(spec)
    check_problem(problem)
    assert set(problem.heuristics()) == {"stay", "annealed"}
    x = problem.heuristics()["annealed"]
    assert problem.metrics(x)["moved_copies"] <= 3
    assert float(problem.objective(x)) < float(problem.objective(problem.heuristics()["stay"]))


@pytest.mark.parametrize("seed", range(4))
def test_value_is_the_expectation_over_all_choices_of_copies(seed):
    problem = tiny(seed)
    rng = np.random.default_rng(seed)
    all_plans = judge.plans(4, 4, 2)
    for plan in all_plans[rng.permutation(len(all_plans))[:6]]:
        imbalance, further, value = judge.value(plan, problem.routing.loads[0], problem.routing.tokens[0], 2, 0.25)
        assert float(problem.objective(flat(plan))) == pytest.approx(value, rel=1e-12)
        metrics = problem.metrics(flat(plan))
        assert metrics["largest_over_mean_load"] == pytest.approx(imbalance, rel=1e-12)
        assert metrics["further_nodes_per_token"] == pytest.approx(further, rel=1e-12)


def test_value_of_layers_is_their_mean():
    many = surco.make("moe/64e-16g-2n-4l-v0")
    x = many.heuristics()["lpt"]
    ones = []
    for layer in range(4):
        routing = Routing(many.routing.loads[layer : layer + 1], many.routing.tokens[layer : layer + 1])
        ones.append(float(ExpertPlacement(routing, many.cluster).objective(x.reshape(4, -1)[layer])))
    assert float(many.objective(x)) == pytest.approx(np.mean(ones), rel=1e-12)


def test_expected_traffic_does_not_depend_on_the_plan_without_co_activation():
    """Tokens of one expert each: whatever the plan, a token reaches one node, another than its own with 1 - 1/N."""
    routing = Routing(np.array([[5.0, 3.0, 2.0, 1.0]]), np.arange(4).reshape(1, 4, 1))
    problem = ExpertPlacement(routing, Cluster(4, 2, 2))
    for plan in judge.plans(4, 4, 2)[::40]:
        assert problem.metrics(flat(plan))["further_nodes_per_token"] == pytest.approx(0.5, rel=1e-12)


def test_violation_and_oracle_accept_exactly_the_listed_plans():
    held = np.zeros((3, 3), dtype=bool)
    held[np.arange(3), np.arange(3)] = True
    problem = tiny(experts=3, gpus=3, nodes=1, weight=0.0, max_copies=2, migration=Migration(held[None], 2))
    bits = ((np.arange(512)[:, None] >> np.arange(9)) & 1).astype(float)
    listed = {tuple(plan.reshape(-1)) for plan in judge.plans(3, 3, 2, most=2, held=held, cap=2)}
    ours = problem.violation(to_torch(bits)).numpy() <= 0
    theirs = problem.oracle.violation(bits) <= 0
    assert [tuple(row) in listed for row in bits] == ours.tolist() == theirs.tolist()
    assert 0 < len(listed) < 512


@pytest.mark.parametrize("cap", [None, 0, 1, 3])
def test_oracle_against_all_plans(cap):
    held = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 1]], dtype=bool)
    migration = None if cap is None else Migration(held[None], cap)
    oracle = ExpertOracle(1, 3, Cluster(3, 3, 2), 2, migration)
    costs = np.random.default_rng(1).standard_normal((60, 9))
    listed = judge.plans(3, 3, 2, 2, held, cap).reshape(-1, 9) if cap is not None else judge.plans(3, 3, 2, 2)
    best = (costs @ listed.reshape(-1, 9).T).min(axis=1)
    found = oracle.solve(costs)
    assert found.has_point.all()
    assert (oracle.violation(found.x) == 0).all()
    is_optimal = np.array([status is Status.OPTIMAL for status in found.status])
    assert is_optimal.mean() == 1.0 if cap in (None, 0) else is_optimal.mean() > 0.8
    np.testing.assert_allclose(found.objective[is_optimal], best[is_optimal], atol=1e-9)
    assert (found.bound <= best + 1e-9).all()
    assert (found.objective >= best - 1e-9).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=4, max_size=4), st.integers(2, 3), st.integers(1, 3))
def test_load_bound_holds_for_all_plans(loads, slots, most):
    listed = judge.plans(4, 3, slots, most)
    loads = np.array(loads, dtype=float)
    best = np.inf
    if len(listed):
        shares = listed / listed.sum(2, keepdims=True)
        best = (np.einsum("e,keg->kg", loads, shares).max(1) / loads.sum() * 3).min()
    assert load_bound(loads, Cluster(3, 1, slots), most) <= best + 1e-12


def test_load_bound_is_tight_where_one_expert_dominates():
    cluster = Cluster(4, 1, 2)
    # 97 of 100 on one expert, at most two copies: the better of its GPUs has 48.5 of a mean of 25
    assert load_bound(np.array([97.0, 1.0, 1.0, 1.0]), cluster, 2) == pytest.approx(48.5 / 25, rel=1e-6)
    assert load_bound(np.array([25.0, 25.0, 25.0, 25.0]), cluster, 4) == 1.0
    # eight equal experts in eight slots cannot be copied: two on each GPU
    assert load_bound(np.array([7.0] * 7 + [1.0]), cluster, 4) >= 14 / 50 * 4 - 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_exact_finds_the_best_of_all_plans(seed):
    problem = tiny(seed)
    best = float(problem.objective(to_torch(judge.plans(4, 4, 2).reshape(-1, 16))).min())
    answer = problem.exact(seconds=0.5)
    assert answer.bound <= best + 1e-9
    assert float(problem.objective(answer.x)) == pytest.approx(best, rel=1e-9)


def test_auto_proves_nothing_it_cannot_and_beats_the_rules():
    problem = surco.make("moe/64e-16g-2n-v0", seed=1)
    result = surco.solve(problem, objective_calls=6, seed=0)
    rules = problem.heuristics()
    assert result.value < min(float(problem.objective(x)) for name, x in rules.items() if name != "annealed")
    assert result.bound < result.value
    assert float(problem.objective(rules["annealed"])) < 0.97 * float(problem.objective(rules["eplb_global"]))


def test_infeasible_sets_are_named():
    crowded = tiny(experts=6, gpus=2, nodes=1, weight=0.0)
    batch = crowded.oracle.solve(np.zeros((1, crowded.oracle.n)))
    assert batch.status == (Status.INFEASIBLE,)
    assert "3 slots on every GPU" in crowded.explain_infeasibility()
    assert crowded.heuristics() == {}
    with pytest.raises(surco.errors.InfeasibleError):
        surco.solve(crowded, calls=5)
    lost = np.zeros((1, 4, 4), dtype=bool)
    lost[0, [0, 1], [0, 1]] = True  # two experts run nowhere
    problem = tiny(migration=Migration(lost, 1))
    assert problem.oracle.solve(np.ones((1, 16))).status == (Status.INFEASIBLE,)
    assert "migration_cap of 2" in problem.explain_infeasibility()
    repaired = tiny(migration=Migration(lost, 2))
    assert float(repaired.violation(repaired.heuristics()["annealed"])) == 0.0


def test_gradient_at_a_plan_fits_differences():
    problem = tiny(3)
    x = flat(judge.plans(4, 4, 2)[100]) * 0.9 + 0.05
    problem.cost.tokens = problem.cost.tokens.clone()
    assert torch.autograd.gradcheck(lambda y: problem.cost.value(y), x.requires_grad_())


def test_the_judge_confirms_plans_and_refuses_wrong_numbers(monkeypatch):
    problem = surco.make("moe/64e-16g-2n-4l-v0")
    x = problem.heuristics()["eplb_hierarchical"]
    found = problem.judges()["draws"](x)
    assert found.is_confirmed
    assert found.facts["found"] == pytest.approx(float(problem.objective(x)), rel=1e-12)
    monkeypatch.setattr(problem.cost, "weight", 0.2)  # an objective that has gone wrong
    assert not problem.judges()["draws"](x).is_confirmed
    empty = x.clone()
    empty[:16] = 0.0  # expert 0 of layer 0 is gone
    assert "layer 0: an expert has no copy" in problem.judges()["draws"](empty).facts["problems"]
