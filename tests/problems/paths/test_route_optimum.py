"""The exact method against enumeration of every simple path, a second formulation, and the published figures."""

import math

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from problems.paths import DEADLINES, OnTimeRoute, grid, reference_seeds
from problems.paths.hull import Supported, late_slope, search_hull
from problems.paths.labels import close_gap
from tests.problems.paths.judge import all_paths, grid_paths, least_objective, scip_objective


def corner_problem(size, distribution, seed):
    return OnTimeRoute(grid(size, distribution, seed), (0, 0), (size - 1, size - 1), 0.0)


def probability(value):
    return 0.5 * math.erfc(value / math.sqrt(2.0))


@pytest.mark.parametrize("distribution", ["code", "paper"])
def test_exact_equals_enumeration_on_all_reference_grids(distribution):
    paths = grid_paths(5)
    assert len(paths) == 8512
    for seed in reference_seeds():
        base = corner_problem(5, distribution, seed)
        for factor in DEADLINES.values():
            problem = base.with_deadline(factor * base.least_expected_time)
            answer = problem.exact()
            truth = least_objective(paths, base.network.mean, base.network.variance, problem.deadline)
            assert answer.is_optimal
            assert answer.bound == pytest.approx(truth, abs=1e-12)
            assert float(problem.objective(answer.x)) == pytest.approx(truth, abs=1e-12)
            assert float(problem.violation(answer.x)) == 0.0


def hard_grid(kind, seed, size=5):
    """Variances that parametric search alone cannot settle."""
    rng = np.random.default_rng(seed)
    graph = nx.grid_2d_graph(size, size)
    for edge in graph.edges:
        mean = rng.uniform(0.1, 1.0)
        match kind:
            case "heavy":
                variance = 0.2 * np.exp(rng.normal(0.0, 2.0))
            case "correlated":
                variance = (mean * rng.uniform(0.2, 0.8)) ** 2
            case _:
                variance = 0.1 * mean * rng.choice([0.1, 1.0, 8.0])
        graph.edges[edge].update(mean=mean, variance=variance)
    return graph


@pytest.mark.parametrize("kind", ["heavy", "correlated"])
def test_label_setting_equals_enumeration_at_any_deadline(kind):
    paths = grid_paths(5)
    labels = 0
    for seed in range(6):
        base = OnTimeRoute(hard_grid(kind, seed), (0, 0), (4, 4), 0.0)
        for factor in (-0.5, 0.0, 0.5, 0.8, 0.95, 0.999, 1.0, 1.001, 1.2, 3.0):
            problem = base.with_deadline(factor * base.least_expected_time)
            hull = search_hull(problem.query)
            truth = least_objective(paths, base.network.mean, base.network.variance, problem.deadline)
            assert hull.bound <= truth + 1e-9
            assert hull.best.value >= truth - 1e-9
            if factor >= 1.0:
                assert hull.is_optimal
            answer = problem.exact()
            labels += answer.work - hull.trees
            assert answer.is_optimal
            assert answer.bound == pytest.approx(truth, abs=1e-9)
    assert labels > 100  # the second stage was needed


@pytest.mark.parametrize("kind", ["heavy", "correlated", "mixed"])
def test_label_setting_alone_finds_the_optimum(kind):
    """From a bad route and slopes that prove little, so that bounds and dominance do the work."""
    paths = grid_paths(5)
    labels = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        base = OnTimeRoute(hard_grid(kind, seed), (0, 0), (4, 4), 0.0)
        mean, variance = base.network.mean, base.network.variance
        for factor in (0.4, 0.8, 0.95):
            query = base.with_deadline(factor * base.least_expected_time).query
            values = (paths @ mean - query.deadline) / np.sqrt(paths @ variance)
            order = np.argsort(values)
            bad = query.route(np.flatnonzero(paths[order[rng.integers(200, 2000)]]).tolist())
            tangent = values.min() / (2.0 * math.sqrt((paths @ variance)[order[0]]))
            slopes = [late_slope(query, tangent * rng.choice([0.05, 5.0]))[0] for _ in range(2)]
            found = Supported(bad, -math.inf, slopes=slopes)
            labels += close_gap(query, found)
            assert found.is_optimal
            assert found.best.value == pytest.approx(float(values.min()), abs=1e-9)
            assert found.bound == pytest.approx(float(values.min()), abs=1e-9)
    assert labels > 2500


def test_a_label_that_blocks_the_way_does_not_dominate():
    """At u, s-a-u is faster and more variable than s-u, but only s-u can go on through a."""
    graph = nx.DiGraph()
    for tail, head, mean, variance in [
        ("s", "a", 1.0, 5.0),
        ("a", "u", 1.0, 5.0),
        ("s", "u", 3.0, 1.0),
        ("u", "a", 0.1, 1000.0),
        ("a", "t", 1.0, 1.0),
    ]:
        graph.add_edge(tail, head, mean=mean, variance=variance)
    problem = OnTimeRoute(graph, "s", "t", 0.0)
    query = problem.query
    found = Supported(query.route_of(query.mean_tree), -math.inf, slopes=[late_slope(query, 0.001)[0]])
    close_gap(query, found)
    assert found.is_optimal
    assert found.best.value == pytest.approx(4.1 / math.sqrt(1002.0))
    assert problem.path(problem.exact().x) == ["s", "u", "a", "t"]


def test_a_stopped_search_keeps_a_valid_bound():
    paths = grid_paths(5)
    stopped = 0
    for seed in range(8):
        base = OnTimeRoute(hard_grid("heavy", seed), (0, 0), (4, 4), 0.0)
        query = base.with_deadline(0.3 * base.least_expected_time).query
        truth = least_objective(paths, base.network.mean, base.network.variance, query.deadline)
        for limit in (1, 300, 1000):
            found = search_hull(query)
            if found.is_optimal:
                continue
            close_gap(query, found, label_limit=limit)
            stopped += not found.is_optimal
            assert found.bound <= truth + 1e-9 <= found.best.value + 2e-9
    assert stopped > 3


def test_exact_respects_its_seconds_and_uses_a_start():
    graph = hard_grid("heavy", 1, size=20)
    problem = OnTimeRoute(graph, (0, 0), (19, 19), 0.3)
    answer = problem.exact(seconds=0.2)
    assert not answer.is_optimal
    assert answer.bound < float(problem.objective(answer.x))
    assert not problem.exact_is_fast
    better = problem.moves(answer.x, count=40, generator=_generator())
    start = better[int(problem.objective(better).argmin())]
    again = problem.exact(seconds=0.05, start=start)
    assert float(problem.objective(again.x)) <= float(problem.objective(start))


def _generator():
    import torch

    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("distribution", "factor"), [("code", 0.9), ("code", 1.1), ("paper", 0.9), ("paper", 1.1)])
def test_exact_equals_scip_on_ten_by_ten(distribution, factor):
    for seed in reference_seeds()[:3]:
        base = corner_problem(10, distribution, seed)
        problem = base.with_deadline(factor * base.least_expected_time)
        answer = problem.exact()
        k, network = answer.bound, problem.network
        if k > 0:  # the model may hold cycles, which must not pay
            steadiest = problem.query.route_of(problem.query.variance_tree).variance
            assert (network.mean > k * network.variance / (2.0 * math.sqrt(steadiest))).all()
        status, truth = scip_objective(problem)
        assert status == "optimal"
        assert answer.bound == pytest.approx(truth, abs=1e-6)


# Mean on-time probability over 25 grids by the reference's own generator: heuristic mean + 0.5 sd, and the optimum.
PUBLISHED = {
    (5, "loose"): (0.5188, 0.5350),
    (5, "normal"): (0.4806, 0.5000),
    (5, "tight"): (0.4426, 0.4651),
    (10, "loose"): (0.5246, 0.5524),
    (10, "normal"): (0.4678, 0.5000),
    (10, "tight"): (0.4116, 0.4482),
    (15, "loose"): (0.5275, 0.5634),
    (15, "normal"): (0.4575, 0.5000),
    (15, "tight"): (0.3889, 0.4372),
}
PRINTED = {(5, "loose"): (0.6137, 0.6186), (5, "normal"): (0.4917, 0.5), (5, "tight"): (0.3710, 0.3814)}


@pytest.mark.parametrize(("distribution", "anchors"), [("code", PUBLISHED), ("paper", PRINTED)])
def test_averages_match_the_reference_tables(distribution, anchors):
    bases = {n: [corner_problem(n, distribution, seed) for seed in reference_seeds()] for n in {k[0] for k in anchors}}
    for (size, name), (heuristic, optimum) in anchors.items():
        problems = [base.with_deadline(DEADLINES[name] * base.least_expected_time) for base in bases[size]]
        rule = np.mean([p.metrics(p.heuristics()["mean_plus_half_sd"])["probability"] for p in problems])
        best = np.mean([probability(p.exact().bound) for p in problems])
        assert rule == pytest.approx(heuristic, abs=6e-5)
        assert best == pytest.approx(optimum, abs=6e-5)


@st.composite
def small_graphs(draw):
    """Random graphs of every kind with a path from 0 to 1, and a deadline."""
    kind = draw(st.sampled_from([nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph]))
    seed = draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    graph = kind()
    graph.add_nodes_from(range(int(rng.integers(2, 7))))
    graph.add_edge(0, 1)
    for _ in range(int(rng.integers(0, 14))):
        graph.add_edge(*rng.integers(0, len(graph), size=2).tolist())  # loops and parallel edges included
    for *_, attributes in graph.edges(data=True):
        attributes["mean"] = float(rng.choice([0.0, rng.uniform(0.0, 2.0)], p=[0.1, 0.9]))
        attributes["variance"] = float(rng.choice([1e-6, 1.0, rng.uniform(0.01, 4.0)]))
    return graph, float(rng.uniform(-1.0, 6.0))


@settings(max_examples=150, deadline=None)
@given(small_graphs())
def test_exact_equals_enumeration_on_every_kind_of_graph(case):
    graph, deadline = case
    problem = OnTimeRoute(graph, 0, 1, deadline)
    paths = all_paths(graph, 0, 1, problem.oracle.edges)
    truth = least_objective(paths, problem.network.mean, problem.network.variance, deadline)
    answer = problem.exact()
    assert answer.is_optimal
    assert answer.bound == pytest.approx(truth, abs=1e-9, rel=1e-9)
    assert float(problem.violation(answer.x)) == 0.0
    assert problem.lower_bound() <= truth + 1e-9 * (1.0 + abs(truth))
    for x in problem.heuristics().values():
        assert float(problem.violation(x)) == 0.0
