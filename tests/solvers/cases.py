"""Every kind of oracle on a set small enough to enumerate, and the enumerator that knows nothing of oracles."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np

import solvers


@dataclass(frozen=True)
class Case:
    """``points`` [P, n]: every feasible point, listed by a rule that shares no code with the oracle."""

    name: str
    make: Callable[[], Any]
    points: Callable[[], np.ndarray]
    only_nonnegative: bool = False


def all_binary(n: int) -> np.ndarray:
    return np.array(list(itertools.product((0.0, 1.0), repeat=n)))


def keep(points: np.ndarray, rule: Callable[[np.ndarray], bool]) -> np.ndarray:
    return points[[bool(rule(point)) for point in points]]


def path_points(graph: Any, source: Any, target: Any) -> np.ndarray:
    """All simple paths, by networkx."""
    if graph.is_multigraph():
        edges = list(graph.edges(keys=True))
        found = [[tuple(e) for e in path] for path in nx.all_simple_edge_paths(graph, source, target)]
    else:
        edges = list(graph.edges)
        found = [list(itertools.pairwise(path)) for path in nx.all_simple_paths(graph, source, target)]
    index = {edge: j for j, edge in enumerate(edges)}
    if not graph.is_directed():
        index |= {(edge[1], edge[0], *edge[2:]): j for edge, j in list(index.items())}
    points = np.zeros((len(found), len(edges)))
    for row, path in enumerate(found):
        points[row, [index[edge] for edge in path]] = 1.0
    return points


def grid() -> nx.DiGraph:
    graph = nx.DiGraph()
    for i, j in itertools.product(range(3), repeat=2):
        if i < 2:
            graph.add_edge((i, j), (i + 1, j))
        if j < 2:
            graph.add_edge((i, j), (i, j + 1))
    return graph


def ring_with_chords() -> nx.DiGraph:
    graph = nx.DiGraph([(0, 1), (1, 2), (2, 3), (3, 1), (0, 2), (2, 0), (3, 4), (1, 4), (4, 2), (3, 3)])
    graph.add_edge(9, 8)  # far from every route
    return graph


def parallel_edges(make: type) -> Any:
    graph = make()
    graph.add_edges_from([(0, 1), (0, 1), (1, 2), (1, 2), (0, 2), (2, 3), (1, 3), (2, 1)])
    return graph


def tree_points(graph: Any) -> np.ndarray:
    edges = list(graph.edges)

    def is_tree(x: np.ndarray) -> bool:
        chosen = nx.Graph()
        chosen.add_nodes_from(graph)
        chosen.add_edges_from(edge[:2] for edge, take in zip(edges, x, strict=True) if take)
        return x.sum() == len(graph) - 1 and nx.is_connected(chosen)

    return keep(all_binary(len(edges)), is_tree)


SIZES = np.array([[3.0, 2.5], [2.0, 2.0], [4.0, 3.0], [1.0, 1.5], [2.0, 2.5]])
LIMITS = np.array([6.0, 7.0])
ALLOWED = np.array([[1, 1], [1, 1], [1, 0], [1, 1], [0, 1]], bool)


def bin_points(minimum: int = 0) -> np.ndarray:
    def rule(x: np.ndarray) -> bool:
        table = x.reshape(5, 2)
        return bool(
            (table.sum(1) == 1).all()
            and ((table * SIZES).sum(0) <= LIMITS).all()
            and not table[~ALLOWED].any()
            and (table.sum(0) >= minimum).all()
        )

    return keep(all_binary(10), rule)


WEIGHTS = np.array([3, 5, 2, 7, 4, 1, 6])
TWO_WEIGHTS = np.array([[3.0, 5.5, 2.0, 7.1, 4.0, 1.0, 6.0], [2.0, 1.0, 4.5, 3.0, 3.0, 2.5, 1.0]])
MATRIX = np.array([[2.0, 3.0, 1.0, 0.0], [-1.0, 1.0, 0.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
ROW_LOWER, ROW_UPPER = np.array([-np.inf, -1.0, 2.0]), np.array([9.0, 4.0, 5.0])
LOWER, UPPER = np.array([0.0, -1.0, 0.0, 0.0]), np.array([3.0, 2.0, 2.0, 1.0])


def integer_points() -> np.ndarray:
    ranges = [range(int(low), int(high) + 1) for low, high in zip(LOWER, UPPER, strict=True)]
    points = np.array(list(itertools.product(*ranges)), dtype=np.float64)
    activity = points @ MATRIX.T
    return points[((activity >= ROW_LOWER) & (activity <= ROW_UPPER)).all(axis=1)]


def binary_rows_points() -> np.ndarray:
    return keep(all_binary(6), lambda x: x[:3].sum() <= 2 and x[2:].sum() >= 2 and x @ np.arange(1, 7) <= 12)


BINARY_MATRIX = np.array([[1, 1, 1, 0, 0, 0], [0, 0, -1, -1, -1, -1], [1, 2, 3, 4, 5, 6]], float)


def small_flow() -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_node(0, demand=-3)
    graph.add_node(3, demand=3)
    graph.add_edge(0, 1, capacity=2)
    graph.add_edge(0, 2, capacity=2)
    graph.add_edge(1, 2, capacity=1)
    graph.add_edge(1, 3, capacity=2)
    graph.add_edge(2, 3, capacity=3)
    graph.add_edge(2, 0, capacity=1)
    return graph


def flow_points() -> np.ndarray:
    graph = small_flow()
    edges = list(graph.edges)
    ranges = [range(graph.edges[edge]["capacity"] + 1) for edge in edges]

    def rule(x: np.ndarray) -> bool:
        for node in graph:
            net = sum(v for (a, b), v in zip(edges, x, strict=True) if b == node)
            net -= sum(v for (a, b), v in zip(edges, x, strict=True) if a == node)
            if net != graph.nodes[node].get("demand", 0):
                return False
        return True

    return keep(np.array(list(itertools.product(*ranges)), float), rule)


def cheapest_by_hand(costs: np.ndarray) -> np.ndarray:
    points = binary_rows_points()
    return points[np.argmin(points @ costs)]


def judge_by_hand(x: np.ndarray) -> float:
    return float(np.abs(binary_rows_points() - x).sum(axis=1).min())


def milp_case(backend: str) -> Case:
    return Case(
        f"milp-{backend}",
        lambda: solvers.milp(
            matrix=MATRIX, row_lower=ROW_LOWER, row_upper=ROW_UPPER, lower=LOWER, upper=UPPER, backend=backend
        ),
        integer_points,
    )


GROUPS = np.array([0, 1, 0, 2, 1, 1, 0])

CASES = [
    Case("cardinality", lambda: solvers.cardinality(6, 3), lambda: keep(all_binary(6), lambda x: x.sum() == 3)),
    Case(
        "cardinality-at-most",
        lambda: solvers.cardinality(6, 2, at_most=True),
        lambda: keep(all_binary(6), lambda x: x.sum() <= 2),
    ),
    Case("cardinality-all", lambda: solvers.cardinality(3, 3), lambda: np.ones((1, 3))),
    Case(
        "partition-matroid",
        lambda: solvers.partition_matroid(GROUPS, [2, 1, 1]),
        lambda: keep(all_binary(7), lambda x: np.bincount(GROUPS, x).tolist() == [2, 1, 1]),
    ),
    Case(
        "partition-matroid-at-most",
        lambda: solvers.partition_matroid(GROUPS, [2, 0, 1], at_most=True),
        lambda: keep(all_binary(7), lambda x: (np.bincount(GROUPS, x) <= [2, 0, 1]).all()),
    ),
    Case(
        "assignment",
        lambda: solvers.assignment(3, 4),
        lambda: keep(
            all_binary(12), lambda x: (x.reshape(3, 4).sum(1) == 1).all() and (x.reshape(3, 4).sum(0) <= 1).all()
        ),
    ),
    Case(
        "assignment-forbidden",
        lambda: solvers.assignment(3, allowed=[[1, 1, 0], [1, 0, 1], [0, 1, 1]]),
        lambda: np.array([[1, 0, 0, 0, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 0, 0, 0, 1]], float),
    ),
    Case("knapsack", lambda: solvers.knapsack(WEIGHTS, 12), lambda: keep(all_binary(7), lambda x: x @ WEIGHTS <= 12)),
    Case(
        "knapsack-two",
        lambda: solvers.knapsack(TWO_WEIGHTS, [13.1, 8.0]),
        lambda: keep(all_binary(7), lambda x: (TWO_WEIGHTS @ x <= [13.1 + 1e-12, 8.0]).all()),
    ),
    Case("spanning-tree", lambda: solvers.spanning_tree(nx.wheel_graph(5)), lambda: tree_points(nx.wheel_graph(5))),
    Case(
        "spanning-tree-multi",
        lambda: solvers.spanning_tree(parallel_edges(nx.MultiGraph)),
        lambda: tree_points(parallel_edges(nx.MultiGraph)),
    ),
    Case("min-cost-flow", lambda: solvers.min_cost_flow(small_flow()), flow_points),
    Case(
        "path-grid",
        lambda: solvers.shortest_path(grid(), (0, 0), (2, 2)),
        lambda: path_points(grid(), (0, 0), (2, 2)),
    ),
    Case(
        "path-cyclic",
        lambda: solvers.shortest_path(ring_with_chords(), 0, 4),
        lambda: path_points(ring_with_chords(), 0, 4),
        only_nonnegative=True,
    ),
    Case(
        "path-undirected",
        lambda: solvers.shortest_path(nx.wheel_graph(5), 1, 3),
        lambda: path_points(nx.wheel_graph(5), 1, 3),
        only_nonnegative=True,
    ),
    Case(
        "path-multi-directed",
        lambda: solvers.shortest_path(parallel_edges(nx.MultiDiGraph), 0, 3),
        lambda: path_points(parallel_edges(nx.MultiDiGraph), 0, 3),
        only_nonnegative=True,
    ),
    Case(
        "path-multi-undirected",
        lambda: solvers.shortest_path(parallel_edges(nx.MultiGraph), 0, 3),
        lambda: path_points(parallel_edges(nx.MultiGraph), 0, 3),
        only_nonnegative=True,
    ),
    Case(
        "generalized-assignment",
        lambda: solvers.generalized_assignment(SIZES, LIMITS, allowed=ALLOWED),
        bin_points,
    ),
    Case(
        "generalized-assignment-minimum",
        lambda: solvers.generalized_assignment(SIZES, LIMITS, allowed=ALLOWED, minimum_items=2),
        lambda: bin_points(2),
    ),
    Case(
        "multiple-choice",
        lambda: solvers.multiple_choice(
            GROUPS, [[3, 1, 2, 2, 4, 0, 1], [1, -1, 0, 2, 1, 1, -2]], [6, 3], minimums=[3, -np.inf]
        ),
        lambda: keep(
            all_binary(7),
            lambda x: np.bincount(GROUPS, x).tolist() == [1, 1, 1]
            and 3 <= x @ [3, 1, 2, 2, 4, 0, 1] <= 6
            and x @ [1, -1, 0, 2, 1, 1, -2] <= 3,
        ),
    ),
    *[milp_case(backend) for backend in ("scip", "highs", "cp-sat", "auto")],
    Case(
        "milp-scip-reoptimize",
        lambda: solvers.milp(
            matrix=BINARY_MATRIX, row_upper=[2, -2, 12], upper=1, backend="scip-reoptimize"
        ),
        binary_rows_points,
    ),
    Case("function", lambda: solvers.function(cheapest_by_hand, 6, violation=judge_by_hand), binary_rows_points),
    Case(
        "cached",
        lambda: solvers.cached(solvers.cardinality(5, 2)),
        lambda: keep(all_binary(5), lambda x: x.sum() == 2),
    ),
    Case(
        "parallel",
        lambda: solvers.parallel(solvers.cardinality(5, 2), workers=1, chunk=2),
        lambda: keep(all_binary(5), lambda x: x.sum() == 2),
    ),
]  # fmt: skip
