"""The bound on load and traffic together, against all plans and all partitions listed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import surco
from problems.moe import Cluster, ExpertPlacement, Routing
from problems.moe.grouping import cheapest_groupings
from problems.moe.traffic_bound import RANK, TrafficBound
from surco.bridge import to_torch
from tests.problems.moe import judge


def partitions(items):
    """All partitions of a list."""
    if not items:
        yield []
        return
    first, *rest = items
    for smaller in partitions(rest):
        yield [[first], *smaller]
        for k, group in enumerate(smaller):
            yield [*smaller[:k], [first, *group], *smaller[k + 1 :]]


def drawn(seed, *, experts=4, nodes=2, gpus=4, slots=2, size=3, weight=0.6, most=None):
    rng = np.random.default_rng(seed)
    loads = np.floor(rng.pareto(1.0, (1, experts)) * 100) + 1
    tokens = np.stack([np.sort(rng.choice(experts, size, replace=False)) for _ in range(8)])[None]
    routing = Routing(loads, tokens.astype(np.int64))
    return ExpertPlacement(routing, Cluster(gpus, nodes, slots), traffic_weight=weight, max_copies=most)


def bound_of(problem):
    routing = problem.routing
    return TrafficBound(
        routing.loads[0], routing.tokens[0], problem.cluster, problem.traffic_weight, problem.most,
        problem.load_bounds()[0],
    )  # fmt: skip


@pytest.mark.parametrize("size", [2, 3, 5])
def test_cheapest_grouping_is_that_of_all_partitions(size):
    rng = np.random.default_rng(size)
    pairs = list(itertools.combinations(range(size), 2))
    prices = rng.normal(0.2, 0.4, (20, len(pairs)))
    together = np.empty_like(prices)
    mean = cheapest_groupings(prices, size, together)
    best = []
    for row, joined in zip(prices, together, strict=True):
        cost = dict(zip(pairs, row, strict=True))
        values = [
            len(groups) + sum(cost[pair] for group in groups for pair in itertools.combinations(sorted(group), 2))
            for groups in partitions(list(range(size)))
        ]
        best.append(min(values))
        links = {pair for pair, is_in in zip(pairs, joined, strict=True) if is_in}
        groups = {frozenset([i]) | {j for pair in links if i in pair for j in pair} for i in range(size)}
        assert sum(map(len, groups)) == size  # what is together is a partition
        assert len(groups) + sum(cost[pair] for pair in links) == pytest.approx(best[-1], abs=1e-12)
    assert mean == pytest.approx(np.mean(best), abs=1e-12)


@pytest.mark.parametrize(
    ("seed", "shape"),
    [
        *((seed, {}) for seed in range(4)),
        (4, {"size": 2, "weight": 5.0}),
        (5, {"gpus": 2, "slots": 4, "weight": 2.0}),
        (6, {"gpus": 3, "nodes": 3, "slots": 3, "size": 4}),
        (7, {"gpus": 4, "nodes": 4, "slots": 1, "weight": 0.1}),
        (8, {"most": 1, "weight": 3.0}),
        (9, {"most": 2}),
    ],
)
def test_no_plan_is_below_the_bound_at_any_multipliers(seed, shape):
    problem = drawn(seed, **shape)
    cluster, most = problem.cluster, problem.most
    listed = judge.plans(4, cluster.gpus, cluster.slots, most).reshape(-1, 4 * cluster.gpus)
    best = float(problem.objective(to_torch(listed)).min())
    bound = bound_of(problem)
    rng = np.random.default_rng(seed)
    for scale in (0.0, 0.05, 0.3, 1.0):  # far from any optimum too: validity needs no convergence
        bound._variables |= {
            "prices": rng.normal(0.3, scale, bound._variables["prices"].shape),
            "slots": np.abs(rng.normal(0.0, scale, 4)),
            "loads": np.abs(rng.normal(0.0, scale, 4)),
            "factors": rng.normal(0.0, scale, (4, RANK)),
        }
        bound.run(1)
        assert bound.value <= best + 1e-9
    fresh = bound_of(problem)
    fresh.run(150)
    assert fresh.value <= best + 1e-9
    assert fresh.value > 1.0
    assert problem.cost_bound.run() <= best + 1e-9


def test_bound_is_tight_where_slots_force_experts_apart():
    """Four alike experts in two nodes with room for two each: two of the six pairs can be together."""
    tokens = np.array([list(itertools.combinations(range(4), 2))])
    problem = ExpertPlacement(Routing(np.ones((1, 4)), tokens), Cluster(4, 2, 1), traffic_weight=1.0)
    bound = bound_of(problem)
    optimum = 1.0 + (1 - 1 / 2) * (2 - 2 / 6)
    assert bound.run(200) == pytest.approx(optimum, rel=5e-3)
    assert bound.value <= optimum
    assert problem.lower_bound() == pytest.approx(1.5)  # what is known without


def test_load_forces_experts_apart_too():
    """Room for all in one node, but its GPUs would have twice the mean load."""
    tokens = np.array([list(itertools.combinations(range(4), 2))])
    problem = ExpertPlacement(Routing(np.ones((1, 4)), tokens), Cluster(4, 2, 2), traffic_weight=0.5, max_copies=1)
    listed = judge.plans(4, 4, 2, 1).reshape(-1, 16)
    best = float(problem.objective(to_torch(listed)).min())
    found = bound_of(problem).run(200)
    assert problem.lower_bound() + 0.5 * (best - problem.lower_bound()) < found <= best


def test_tokens_of_more_experts_than_are_grouped_keep_the_bound_valid(monkeypatch):
    problem = drawn(3, size=4, weight=2.0)
    best = float(problem.objective(to_torch(judge.plans(4, 4, 2).reshape(-1, 16))).min())
    full = bound_of(problem).run(100)
    monkeypatch.setattr("problems.moe.traffic_bound.MOST_GROUPED", 2)
    assert bound_of(problem).run(100) <= best + 1e-9
    assert full <= best + 1e-9


def test_auto_reports_the_bound_and_equal_calls_give_equal_bounds():
    id = "moe/16e-8g-2n-v0"
    first, second = (surco.solve(surco.make(id), objective_calls=6, seed=0) for _ in range(2))
    problem = surco.make(id)
    assert first.bound == second.bound
    assert problem.lower_bound() < first.bound <= first.value


def test_exact_raises_the_bound_within_its_seconds():
    problem = surco.make("moe/16e-8g-2n-v0")
    answer = problem.exact(seconds=1.0)
    assert problem.lower_bound() < answer.bound <= float(problem.objective(answer.x))


def test_without_traffic_there_is_nothing_to_raise():
    loads = Routing(np.ones((1, 4)), np.zeros((1, 0, 1), dtype=np.int64))
    for problem in (
        ExpertPlacement(loads, Cluster(2, 2, 2)),
        drawn(0, nodes=1),
        drawn(0, weight=0.0),
        ExpertPlacement(Routing(np.ones((1, 9)), loads.tokens), Cluster(2, 2, 2)),
    ):
        bound = problem.cost_bound
        assert not bound.applies
        assert bound.run() == problem.lower_bound()
