"""Invariants of the native oracles on drawn instances, each against a method that shares no code with it."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

import solvers
from solvers import Status

few = settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def draw_costs(rng: np.random.Generator, rows: int, n: int) -> np.ndarray:
    """Floats, or small whole numbers full of ties."""
    return rng.standard_normal((rows, n)) if rng.random() < 0.5 else rng.integers(-3, 4, (rows, n)).astype(float)


def draw_graph(rng: np.random.Generator, kind: type) -> nx.Graph:
    graph = kind()
    nodes = int(rng.integers(2, 12))
    graph.add_nodes_from(range(nodes))
    for _ in range(int(rng.integers(1, 4 * nodes))):
        graph.add_edge(*rng.integers(0, nodes, 2).tolist())
    return graph


@few
@given(seeds, st.sampled_from([nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph]))
def test_paths_are_those_of_networkx(seed: int, kind: type) -> None:
    rng = np.random.default_rng(seed)
    graph = draw_graph(rng, kind)
    target = len(graph) - 1
    oracle = solvers.shortest_path(graph, 0, target)
    costs = np.abs(draw_costs(rng, 3, oracle.n))
    batch = oracle.solve(costs)
    for row, cost in enumerate(costs):
        for edge, value in zip(oracle.edges, cost, strict=True):
            graph.edges[edge]["cost"] = value
        if not nx.has_path(graph, 0, target):
            assert batch.status[row] is Status.INFEASIBLE
            continue
        assert batch.status[row] is Status.OPTIMAL
        np.testing.assert_allclose(batch.objective[row], nx.dijkstra_path_length(graph, 0, target, "cost"), atol=1e-12)
        nodes = oracle.path(batch.x[row])
        assert nodes[0] == 0
        assert nodes[-1] == target
        assert len(set(nodes)) == len(nodes) == batch.x[row].sum() + 1
        assert oracle.violation(batch.x[row]) == 0


@few
@given(seeds)
def test_acyclic_graphs_take_any_cost(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes = int(rng.integers(2, 10))
    graph = nx.DiGraph()
    graph.add_nodes_from(rng.permutation(nodes).tolist())
    graph.add_edges_from([(i, j) for i, j in itertools.combinations(range(nodes), 2) if rng.random() < 0.5])
    graph.add_edge(0, nodes - 1)
    oracle = solvers.shortest_path(graph, 0, nodes - 1)
    assert oracle.is_acyclic
    assert not oracle.needs_nonnegative_costs
    costs = draw_costs(rng, 3, oracle.n)
    batch = oracle.solve(costs)
    assert set(batch.status) == {Status.OPTIMAL}
    for row, cost in enumerate(costs):
        value = dict(zip(oracle.edges, cost, strict=True))
        lengths = [
            sum(value[arc] for arc in itertools.pairwise(path)) for path in nx.all_simple_paths(graph, 0, nodes - 1)
        ]
        np.testing.assert_allclose(batch.objective[row], min(lengths), atol=1e-12)


@few
@given(seeds)
def test_negative_costs_on_cycles_are_solved_or_labelled(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = draw_graph(rng, nx.DiGraph)
    target = len(graph) - 1
    oracle = solvers.shortest_path(graph, 0, target)
    costs = rng.integers(-1, 9, (4, oracle.n)).astype(float)
    batch = oracle.solve(costs)
    paths = list(nx.all_simple_edge_paths(graph, 0, target))
    useful = graph.subgraph({node for path in paths for arc in path for node in arc})
    for row, cost in enumerate(costs):
        value = dict(zip(oracle.edges, cost, strict=True))
        if not paths:
            assert batch.status[row] is Status.INFEASIBLE
        elif batch.status[row] is Status.ERROR:
            assert "negative" in batch.message[row]
            assert any(
                sum(value[arc] for arc in itertools.pairwise([*cycle, cycle[0]])) < 0
                for cycle in nx.simple_cycles(useful)
            ) or (not oracle.is_acyclic and (cost < 0).any())
        else:
            best = min(sum(value[arc] for arc in path) for path in paths)
            np.testing.assert_allclose(batch.objective[row], best, atol=1e-9)


def test_a_negative_cycle_off_the_route_does_no_harm() -> None:
    graph = nx.DiGraph([(0, 1), (1, 2), (2, 0), (2, 3), (7, 8), (8, 7)])
    oracle = solvers.shortest_path(graph, 0, 3)
    index = {edge: j for j, edge in enumerate(oracle.edges)}
    costs = np.ones((2, oracle.n))
    costs[0, index[7, 8]] = -9.0
    costs[1, index[1, 2]] = -9.0
    batch = oracle.solve(costs)
    # The cycle 0-1-2-0 needs an arc back into the source, which no simple path uses.
    assert batch.status == (Status.OPTIMAL, Status.OPTIMAL)
    assert oracle.path(batch.x[1]) == [0, 1, 2, 3]
    undirected = solvers.shortest_path(graph.to_undirected(), 0, 3)
    costs = np.ones((2, undirected.n))
    costs[0, undirected.edges.index((0, 1))] = -1.0
    costs[1, undirected.edges.index((7, 8))] = -1.0
    batch = undirected.solve(costs)
    assert batch.status == (Status.ERROR, Status.OPTIMAL)
    assert "undirected edge of negative cost" in batch.message[0]


def test_a_route_with_a_separate_cycle_is_not_a_path() -> None:
    graph = nx.DiGraph([(0, 1), (2, 3), (3, 4), (4, 2), (1, 2), (2, 1)])
    oracle = solvers.shortest_path(graph, 0, 1)
    chosen = {(0, 1), (2, 3), (3, 4), (4, 2)}
    x = np.array([float(edge in chosen) for edge in oracle.edges])
    assert oracle.violation(x) == 3.0
    with pytest.raises(ValueError, match="simple path"):
        oracle.path(np.ones(oracle.n))
    for wrong in ((0, 9), (0, 0)):
        with pytest.raises(ValueError, match="Expected"):
            solvers.shortest_path(graph, *wrong)


@few
@given(seeds)
def test_assignments_are_those_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 9))
    columns = rows + int(rng.integers(0, 4))
    allowed = rng.random((rows, columns)) < 0.7
    oracle = solvers.assignment(rows, columns, allowed=allowed)
    costs = draw_costs(rng, 4, oracle.n)
    batch = oracle.solve(costs)
    for row, cost in enumerate(costs):
        table = np.where(allowed, cost.reshape(rows, columns), np.inf)
        try:
            best = table[linear_sum_assignment(table)].sum()
        except ValueError:
            assert batch.status[row] is Status.INFEASIBLE
            continue
        np.testing.assert_allclose(batch.objective[row], best, atol=1e-12)
        assert oracle.violation(batch.x[row]) == 0


@few
@given(seeds)
def test_trees_are_those_of_networkx(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = draw_graph(rng, nx.MultiGraph if rng.random() < 0.5 else nx.Graph)
    oracle = solvers.spanning_tree(graph)
    costs = draw_costs(rng, 3, oracle.n)
    batch = oracle.solve(costs)
    for row, cost in enumerate(costs):
        for edge, value in zip(oracle.edges, cost, strict=True):
            graph.edges[edge]["cost"] = value
        if not nx.is_connected(graph):
            assert batch.status[row] is Status.INFEASIBLE
            continue
        best = nx.minimum_spanning_tree(graph, "cost").size("cost")
        np.testing.assert_allclose(batch.objective[row], best, atol=1e-12)
        assert oracle.violation(batch.x[row]) == 0


@few
@given(seeds)
def test_selections_are_those_of_sorting(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 30))
    k = int(rng.integers(0, n + 1))
    costs = draw_costs(rng, 5, n)
    exact, most = solvers.cardinality(n, k).solve(costs), solvers.cardinality(n, k, at_most=True).solve(costs)
    ordered = np.sort(costs, axis=1)[:, :k]
    np.testing.assert_allclose(exact.objective, ordered.sum(axis=1), atol=1e-12)
    np.testing.assert_allclose(most.objective, np.minimum(ordered, 0).sum(axis=1), atol=1e-12)
    np.testing.assert_array_equal(exact.x.sum(axis=1), k)
    groups = rng.integers(0, 4, n)
    limits = np.array([rng.integers(0, size + 1) for size in np.bincount(groups, minlength=4)])
    batch = solvers.partition_matroid(groups, limits).solve(costs)
    parts = [np.sort(costs[:, groups == g], axis=1)[:, : limits[g]].sum(axis=1) for g in range(4)]
    np.testing.assert_allclose(batch.objective, np.sum(parts, axis=0), atol=1e-12)


@few
@given(seeds)
def test_knapsacks_of_both_methods_agree(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, dimensions = int(rng.integers(1, 14)), int(rng.integers(1, 4))
    unit = (1.0, 0.1, 0.25, 3.0)[rng.integers(4)]
    weights = rng.integers(0, 7, (dimensions, n)) * unit
    capacities = weights.sum(axis=1) * rng.uniform(0, 1.1, dimensions)
    costs = draw_costs(rng, 4, n)
    table = solvers.knapsack(weights, capacities)
    shifted = weights + 1e-5 * (weights > 0) / np.pi  # no whole unit
    search = solvers.knapsack(shifted, capacities + 1e-4)
    assert table.method == "dynamic program" or n > 8
    assert search.method == "branch and bound" or (weights == 0).all()
    points = np.array(list(itertools.product((0.0, 1.0), repeat=min(n, 10))))
    points = np.pad(points, ((0, 0), (0, n - points.shape[1])))
    for oracle in (table, search):
        batch = oracle.solve(costs)
        assert set(batch.status) == {Status.OPTIMAL}
        assert (oracle.violation(batch.x) == 0).all()
        feasible = points[oracle.violation(points) == 0]
        best = (costs @ feasible.T).min(axis=1)
        assert (batch.objective <= best + 1e-9).all()
        if n <= 10:
            np.testing.assert_allclose(batch.objective, best, atol=1e-9)


@few
@given(seeds)
def test_flows_are_those_of_networkx(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = draw_graph(rng, nx.DiGraph)
    nodes = len(graph)
    for edge in graph.edges:
        graph.edges[edge]["capacity"] = int(rng.integers(0, 6))
    demand = rng.integers(-2, 3, nodes)
    demand[0] -= demand.sum()
    nx.set_node_attributes(graph, dict(enumerate(demand.tolist())), "demand")
    oracle = solvers.min_cost_flow(graph)
    costs = rng.integers(-4, 9, (3, oracle.n)).astype(float)
    batch = oracle.solve(costs)
    for row, cost in enumerate(costs):
        for edge, value in zip(oracle.edges, cost, strict=True):
            graph.edges[edge]["weight"] = int(value)
        try:
            best = nx.min_cost_flow_cost(graph)
        except nx.NetworkXUnfeasible:
            assert batch.status[row] is Status.INFEASIBLE
            continue
        assert batch.status[row] is Status.OPTIMAL
        assert batch.objective[row] == best
        assert oracle.violation(batch.x[row]) == 0


def test_an_unlimited_cycle_of_negative_cost_is_unbounded() -> None:
    graph = nx.DiGraph([(0, 1), (1, 2), (2, 0), (0, 3)])
    graph.add_edge(3, 1, capacity=4)
    graph.add_node(0, demand=-2)
    graph.add_node(3, demand=2)
    oracle = solvers.min_cost_flow(graph)
    index = {edge: j for j, edge in enumerate(oracle.edges)}
    costs = np.ones((3, oracle.n))
    costs[1, index[1, 2]] = -5.0
    costs[2, index[3, 1]] = -5.0
    batch = oracle.solve(costs)
    assert batch.status == (Status.OPTIMAL, Status.UNBOUNDED, Status.OPTIMAL)
    assert batch.x[2, index[3, 1]] == 4.0
    empty = nx.DiGraph([(0, 1)])
    empty.add_node(0, demand=1)
    empty.add_node(1, demand=-1)
    assert solvers.min_cost_flow(empty).solve(np.ones((1, 1))).status == (Status.INFEASIBLE,)


def test_float_costs_of_a_flow_keep_a_valid_bound() -> None:
    graph = nx.gnp_random_graph(12, 0.4, seed=3, directed=True)
    rng = np.random.default_rng(0)
    for edge in graph.edges:
        graph.edges[edge]["capacity"] = int(rng.integers(1, 9))
    graph.add_node(0, demand=-5)
    graph.add_node(11, demand=5)
    oracle = solvers.min_cost_flow(graph)
    tails, heads = np.array(oracle.edges).T
    incidence = np.zeros((12, oracle.n))
    incidence[heads, np.arange(oracle.n)] += 1
    incidence[tails, np.arange(oracle.n)] -= 1
    demand = np.array([graph.nodes[node].get("demand", 0) for node in range(12)], float)
    upper = [graph.edges[edge]["capacity"] for edge in oracle.edges]
    program = solvers.milp(matrix=incidence, row_lower=demand, row_upper=demand, upper=upper, backend="highs")
    costs = rng.standard_normal((6, oracle.n)) * 10.0 ** rng.integers(-6, 7, (6, 1))
    batch, wanted = oracle.solve(costs), program.solve(costs)
    assert set(batch.status) == {Status.OPTIMAL}
    size = np.abs(costs).sum(axis=1)
    assert (np.abs(batch.objective - wanted.objective) <= 1e-9 * size).all()


def test_they_say_what_is_wrong() -> None:
    for make in (
        lambda: solvers.cardinality(3, 4),
        lambda: solvers.partition_matroid([0, 0, 1], [3, 1]),
        lambda: solvers.partition_matroid([0.5], [1]),
        lambda: solvers.assignment(3, 2),
        lambda: solvers.assignment(2, allowed=np.ones((2, 3))),
        lambda: solvers.knapsack([1.0, -1.0], 2),
        lambda: solvers.knapsack([[1.0, 2.0]], [1.0, 2.0]),
        lambda: solvers.spanning_tree(nx.DiGraph([(0, 1)])),
        lambda: solvers.spanning_tree(nx.empty_graph(1)),
        lambda: solvers.min_cost_flow(nx.path_graph(3)),
        lambda: solvers.min_cost_flow(nx.DiGraph([(0, 1, {"capacity": 0.5})])),
        lambda: solvers.generalized_assignment([1.0, -2.0], [3.0]),
        lambda: solvers.generalized_assignment(np.ones((2, 3)), [3.0, 3.0]),
        lambda: solvers.generalized_assignment([1.0], [3.0], allowed=np.ones((2, 1))),
        lambda: solvers.multiple_choice([0, 2], np.ones((1, 2)), [1.0]),
        lambda: solvers.multiple_choice([0, 1], np.ones((1, 3)), [1.0]),
        lambda: solvers.multiple_choice([0, 1], np.ones((1, 2)), [1.0, 2.0]),
        lambda: solvers.cached(solvers.cardinality(2, 1), size=0),
        lambda: solvers.pool(0),
    ):
        with pytest.raises(ValueError, match=r"Expected|asks for more"):
            make()
