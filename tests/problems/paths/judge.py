"""Independent judges of route problems: enumeration of every simple path, and a SCIP model."""

from __future__ import annotations

import functools

import networkx as nx
import numpy as np

from problems.paths import grid


def all_paths(graph, source, target, edges):
    """[P, n] 0/1, every simple path as a vector over ``edges``."""
    column = {edge: j for j, edge in enumerate(edges)}
    if not graph.is_directed():
        column |= {(edge[1], edge[0], *edge[2:]): j for edge, j in list(column.items())}
    rows = []
    for path in nx.all_simple_edge_paths(graph, source, target):
        row = np.zeros(len(edges))
        row[[column[tuple(edge)] for edge in path]] = 1.0
        rows.append(row)
    return np.array(rows)


@functools.cache
def grid_paths(size):
    """All simple paths between opposite corners of a grid; 8,512 of them for size 5."""
    graph = grid(size, "code", 0)
    return all_paths(graph, (0, 0), (size - 1, size - 1), list(graph.edges))


def least_objective(paths, mean, variance, deadline):
    """min over paths [P, n] of (m - T) / sqrt(v)."""
    return float(((paths @ mean - deadline) / np.sqrt(paths @ variance)).min())


def scip_objective(problem, seconds=60.0):
    """Least f by SCIP over 0/1 arcs: M = mean.x, V = variance.x, s * s = V, f * s = M - T, minimize f.

    There are no rows against cycles beside the path, so this is a relaxation; the caller keeps to instances where a
    cycle never pays (m_e > k v_e / (2 sqrt(V)) on every edge), and the two optima are equal.
    """
    from pyscipopt import Model

    network, query, deadline = problem.network, problem.query, problem.deadline
    forward = list(zip(network.tail.tolist(), network.head.tolist(), range(len(network.edges)), strict=True))
    arcs = forward + [(v, u, j) for u, v, j in forward]
    model = Model()
    model.hideOutput()
    model.setParam("limits/time", seconds)
    x = [model.addVar(vtype="B") for _ in arcs]
    for node in range(len(network.nodes)):
        out = [x[i] for i, arc in enumerate(arcs) if arc[0] == node]
        into = [x[i] for i, arc in enumerate(arcs) if arc[1] == node]
        model.addCons(sum(out) - sum(into) == (node == query.source) - (node == query.target))
        model.addCons(sum(out) <= 1)
    fastest = query.route_of(query.mean_tree)
    least, most = query.route_of(query.variance_tree).variance, float(network.variance.sum())
    is_late = fastest.mean > deadline
    mean = model.addVar(lb=fastest.mean, ub=float(network.mean.sum()) if is_late else deadline)
    variance = model.addVar(lb=least, ub=most)
    deviation = model.addVar(lb=least**0.5, ub=most**0.5)
    excess = (fastest.mean - deadline) / least**0.5
    f = model.addVar(lb=min(excess, 0.0), ub=max(excess, 0.0))
    model.addCons(mean == sum(network.mean[arc[2]] * x[i] for i, arc in enumerate(arcs)))
    model.addCons(variance == sum(network.variance[arc[2]] * x[i] for i, arc in enumerate(arcs)))
    model.addCons(deviation * deviation == variance)
    model.addCons(f * deviation == mean - deadline)
    model.setObjective(f, "minimize")
    model.optimize()
    return model.getStatus(), model.getObjVal()
