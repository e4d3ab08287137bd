"""The parts of the route problem: objective, rules, moves, errors, invariance, pictures."""

import itertools
import math
import statistics

import networkx as nx
import numpy as np
import pytest
import torch

import surco
from problems.paths import OnTimeRoute, grid
from surco.errors import InfeasibleError, InvalidInputError
from tests.problems.paths.judge import all_paths, grid_paths


@pytest.fixture(scope="module")
def problem():
    base = OnTimeRoute(grid(5, "code", 3), (0, 0), (4, 4), 0.0)
    return base.with_deadline(1.1 * base.least_expected_time)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_objective_gradient_agrees_with_finite_differences(problem):
    x = torch.rand(4, problem.oracle.n, dtype=torch.float64, generator=generator()) + 0.05
    assert torch.autograd.gradcheck(problem.objective, x.requires_grad_())


def test_objective_orders_as_the_probability_of_the_metrics(problem):
    x = torch.from_numpy(grid_paths(5)[::400])
    values = problem.objective(x).tolist()
    for value, design in zip(values, x, strict=True):
        metrics = problem.metrics(design)
        normal = statistics.NormalDist(metrics["mean"], metrics["standard_deviation"])
        assert metrics["probability"] == pytest.approx(normal.cdf(problem.deadline), abs=1e-12)
        assert metrics["probability"] == pytest.approx(statistics.NormalDist().cdf(-value), abs=1e-12)


def test_aggregates_carry_the_objective(problem):
    x = torch.from_numpy(grid_paths(5)[:50])
    mean, variance = (problem.aggregates() @ x.T).unbind()
    assert torch.allclose((mean - problem.deadline) / variance.sqrt(), problem.objective(x))


def test_every_path_is_feasible_and_oracle_and_rules_agree(problem):
    paths = grid_paths(5)
    assert float(problem.violation(torch.from_numpy(paths)).max()) == 0.0
    assert problem.violation(torch.from_numpy(paths[:6].reshape(2, 3, -1))).shape == (2, 3)


def test_violation_sees_what_is_wrong(problem):
    rng = np.random.default_rng(0)
    paths = grid_paths(5)
    feasible = {row.tobytes() for row in paths}
    for path in paths[rng.integers(len(paths), size=200)]:
        for flips in (1, 2, 4):
            near = path.copy()
            columns = rng.integers(len(near), size=flips)
            near[columns] = 1.0 - near[columns]
            assert (float(problem.violation(torch.from_numpy(near))) == 0.0) == (near.tobytes() in feasible)
    path = torch.from_numpy(paths[0])
    assert float(problem.violation(0.75 * path)) >= 0.25
    assert float(problem.violation(1.5 * path)) >= 0.5
    assert float(problem.violation(torch.zeros_like(path))) == 1.0
    assert math.isinf(float(problem.violation(path * math.nan)))


def test_violation_sees_a_separate_cycle_in_both_kinds_of_graph():
    for kind in (nx.Graph, nx.DiGraph):
        graph = kind([(0, 1), (2, 3), (3, 4), (4, 2), (1, 2)])
        nx.set_edge_attributes(graph, 1.0, "mean")
        nx.set_edge_attributes(graph, 1.0, "variance")
        problem = OnTimeRoute(graph, 0, 1, 2.0)
        x = torch.tensor([float(tuple(sorted(e[:2])) != (1, 2)) for e in problem.oracle.edges], dtype=torch.float64)
        assert float(problem.violation(x)) == 3.0
        alone = torch.tensor([float(e[:2] == (0, 1)) for e in problem.oracle.edges], dtype=torch.float64)
        assert float(problem.violation(alone)) == 0.0


def test_moves_are_new_feasible_and_reproducible(problem):
    x = problem.exact().x
    found = problem.moves(x, count=30, generator=generator(1))
    assert 10 <= len(found) <= 30
    assert float(problem.violation(found).max()) == 0.0
    assert len({row.numpy().tobytes() for row in found} | {x.numpy().tobytes()}) == len(found) + 1
    assert torch.equal(found, problem.moves(x, count=30, generator=generator(1)))


def test_moves_reach_every_path_of_a_small_grid():
    base = OnTimeRoute(grid(3, "paper", 0), (0, 0), (2, 2), 1.0)
    seen, front = set(), [base.exact().x]
    for step in range(200):
        for row in base.moves(front[step % len(front)], count=8, generator=generator(step)):
            if row.numpy().tobytes() not in seen:
                seen.add(row.numpy().tobytes())
                front.append(row)
        if len(seen) == len(grid_paths(3)):
            break
    assert len(seen) == 12


def test_a_path_without_a_detour_has_no_moves():
    graph = nx.path_graph(3)
    nx.set_edge_attributes(graph, 1.0, "mean")
    nx.set_edge_attributes(graph, 1.0, "variance")
    problem = OnTimeRoute(graph, 0, 2, 2.0)
    assert problem.moves(problem.exact().x, count=5, generator=generator()).shape == (0, 2)


def test_path_and_vector_are_inverse(problem):
    for row in grid_paths(5)[::700]:
        path = problem.path(torch.from_numpy(row))
        assert path[0] == (0, 0)
        assert path[-1] == (4, 4)
        assert all(problem.graph.has_edge(u, v) for u, v in itertools.pairwise(path))
        assert torch.equal(problem.vector(path), torch.from_numpy(row))
    with pytest.raises(InvalidInputError, match="simple path"):
        problem.path(torch.ones(problem.oracle.n, dtype=torch.float64))
    with pytest.raises(InvalidInputError, match="an edge from"):
        problem.vector([(0, 0), (4, 4)])


def test_renaming_nodes_and_flipping_edges_changes_nothing(problem):
    rng = np.random.default_rng(5)
    names = {node: f"n{k}" for node, k in zip(problem.graph, rng.permutation(25), strict=True)}
    edges = list(problem.graph.edges(data=True))
    other = nx.Graph()
    for k in rng.permutation(len(edges)):
        u, v, attributes = edges[k]
        if rng.random() < 0.5:
            u, v = v, u
        other.add_edge(names[u], names[v], **attributes)
    for factor in (0.9, 1.0, 1.1):
        deadline = factor * problem.least_expected_time
        ours = problem.with_deadline(deadline)
        theirs = OnTimeRoute(other, names[0, 0], names[4, 4], deadline)
        back = OnTimeRoute(other, names[4, 4], names[0, 0], deadline)
        first, second, third = ours.exact(), theirs.exact(), back.exact()
        assert first.bound == pytest.approx(second.bound, abs=1e-12)
        assert first.bound == pytest.approx(third.bound, abs=1e-12)
        assert [names[node] for node in ours.path(first.x)] == theirs.path(second.x) == back.path(third.x)[::-1]


def test_the_unit_of_time_changes_nothing(problem):
    for factor in (1e-3, 1e4):
        graph = nx.Graph()
        for u, v, data in problem.graph.edges(data=True):
            graph.add_edge(u, v, mean=factor * data["mean"], variance=factor**2 * data["variance"])
        scaled = OnTimeRoute(graph, (0, 0), (4, 4), factor * problem.deadline)
        assert scaled.exact().bound == pytest.approx(problem.exact().bound, abs=1e-10)
        assert scaled.exact().is_optimal


def test_with_deadline_leaves_the_first_problem_alone(problem):
    before = problem.lower_bound()
    other = problem.with_deadline(0.5 * problem.least_expected_time)
    assert other.lower_bound() > 0.0 > before
    assert problem.lower_bound() == before
    assert other.spec["deadline"] != problem.spec["deadline"]


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda g: g.edges[0, 1].pop("variance"), InvalidInputError, "`variance`"),
        (lambda g: g.edges[0, 1].update(variance=0.0), InvalidInputError, "positive"),
        (lambda g: g.edges[0, 1].update(variance=-1.0), InvalidInputError, r"edge \(0, 1\)"),
        (lambda g: g.edges[0, 1].update(mean=-0.1), InvalidInputError, "non-negative"),
        (lambda g: g.edges[0, 1].update(mean=math.nan), InvalidInputError, "finite"),
        (lambda g: g.edges[0, 1].update(mean="soon"), InvalidInputError, "'soon'"),
        (lambda g: g.remove_edge(0, 1), InfeasibleError, "there is none"),
    ],
)
def test_bad_graphs_are_named(change, error, text):
    graph = nx.path_graph(4)
    nx.set_edge_attributes(graph, 1.0, "mean")
    nx.set_edge_attributes(graph, 1.0, "variance")
    change(graph)
    with pytest.raises(error, match=text):
        OnTimeRoute(graph, 0, 3, 2.0)


def test_bad_ends_and_deadlines_are_named():
    graph = nx.Graph()
    graph.add_edge("Berlin", "Hamburg", mean=1.0, variance=1.0)
    with pytest.raises(InvalidInputError, match="Did you mean 'Berlin'"):
        OnTimeRoute(graph, "berlin", "Hamburg", 1.0)
    with pytest.raises(InvalidInputError, match="target"):
        OnTimeRoute(graph, "Berlin", "Berlin", 1.0)
    for deadline in (math.nan, math.inf, "late", None):
        with pytest.raises(InvalidInputError, match="deadline"):
            OnTimeRoute(graph, "Berlin", "Hamburg", deadline)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="networkx"):
        OnTimeRoute([(0, 1)], 0, 1, 1.0)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="shape"):
        OnTimeRoute(graph, "Berlin", "Hamburg", 1.0).violation(torch.zeros(3, dtype=torch.float64))


def test_parallel_edges_are_chosen_by_the_deadline():
    graph = nx.MultiDiGraph()
    graph.add_edge("a", "b", key="sure", mean=2.0, variance=0.01)
    graph.add_edge("a", "b", key="risky", mean=2.1, variance=4.0)
    early, late = (OnTimeRoute(graph, "a", "b", deadline) for deadline in (1.0, 3.0))
    assert early.oracle.edges[int(early.exact().x.argmax())][2] == "risky"
    assert late.oracle.edges[int(late.exact().x.argmax())][2] == "sure"
    assert len(all_paths(graph, "a", "b", early.oracle.edges)) == 2


def test_describe_and_figures(problem):
    x = problem.exact().x
    text = problem.describe(x)
    assert "probability" in text
    assert f"{problem.metrics(x)['probability']:.4f}" in text
    figures = problem.figures(x)
    assert set(figures) == {"Route", "Arrival time"}
    for figure in figures.values():
        figure.canvas.draw()
    named = nx.relabel_nodes(problem.graph, {node: str(node) for node in problem.graph})
    for node in named:
        named.nodes[node].pop("pos", None)
    other = OnTimeRoute(named, "(0, 0)", "(4, 4)", 1.0)
    other.figures(other.exact().x)["Route"].canvas.draw()


def test_auto_proves_the_optimum_and_counts(problem):
    result = surco.solve(problem, seed=0)
    assert result.status == "optimal"
    assert result.value == pytest.approx(problem.exact().bound, abs=1e-12)
    assert result.is_feasible
    assert result.metrics["probability"] > 0.5
    again = surco.solve(problem, "zero", calls=60, seed=0)
    assert again.value == pytest.approx(result.value, abs=1e-9)
