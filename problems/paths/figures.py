"""Pictures of a route. Imports matplotlib, so import this module only when a picture is wanted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from solvers.oracle import Array

if TYPE_CHECKING:
    from torch import Tensor

    from problems.paths.route import OnTimeRoute

INK, PALE, ACCENT, WARN = "#222222", "#c9ced6", "#1f6fb4", "#c0392b"
LABELED_NODES = 30


def draw_network(problem: OnTimeRoute, x: Tensor) -> Figure:
    """The graph, wider edges having more variance, with the route x [n] drawn over it."""
    network = problem.network
    places = node_places(problem.graph)
    figure = Figure(figsize=(7.0, 5.6), layout="constrained")
    axes = figure.add_subplot()
    segments = np.stack([places[network.tail], places[network.head]], axis=1)
    deviation = np.sqrt(network.variance)
    axes.add_collection(LineCollection(list(segments), colors=PALE, linewidths=0.5 + 3.0 * deviation / deviation.max()))
    nodes = [network.index[node] for node in problem.path(x)]
    axes.plot(*places[nodes].T, color=ACCENT, linewidth=3.0, zorder=3)
    axes.scatter(*places.T, s=14, color=INK, zorder=2)
    for node, name in ((nodes[0], "source"), (nodes[-1], "target")):
        axes.scatter(*places[node], s=80, color=WARN, zorder=4)
        axes.annotate(name, places[node], (6, 6), textcoords="offset points", color=WARN, zorder=5)
    if len(network.nodes) <= LABELED_NODES:
        for node, place in zip(network.nodes, places, strict=True):
            axes.annotate(str(node), place, (4, -9), textcoords="offset points", fontsize=6, color=INK)
    metrics = problem.metrics(x)
    axes.set_title(f"P(arrival by {problem.deadline:.4g}) = {metrics['probability']:.4f}, {len(nodes) - 1} edges")
    axes.set_xlabel("Wider edges have more variance", fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.autoscale_view()
    return figure


def draw_arrival(problem: OnTimeRoute, x: Tensor) -> Figure:
    """Density of the arrival time of the route x [n] and of the fastest route, with the deadline."""
    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    axes = figure.add_subplot()
    fastest = problem.heuristics()["least_expected_time"]
    rows = [("this route", problem.metrics(x), ACCENT), ("least expected time", problem.metrics(fastest), PALE)]
    low = min(m["mean"] - 4.0 * m["standard_deviation"] for _, m, _ in rows)
    high = max(m["mean"] + 4.0 * m["standard_deviation"] for _, m, _ in rows)
    times = np.linspace(min(low, problem.deadline), max(high, problem.deadline), 600)
    for name, metrics, color in rows:
        z = (times - metrics["mean"]) / metrics["standard_deviation"]
        density = np.exp(-0.5 * z * z) / (metrics["standard_deviation"] * math.sqrt(2.0 * math.pi))
        axes.plot(times, density, color=color, label=f"{name}: P = {metrics['probability']:.4f}")
        axes.fill_between(times, density, where=(times <= problem.deadline).tolist(), color=color, alpha=0.25)
    axes.axvline(problem.deadline, color=WARN, label=f"deadline {problem.deadline:.4g}")
    axes.set_xlabel("Arrival time")
    axes.set_ylabel("Density")
    axes.legend(frameon=False)
    return figure


def node_places(graph: nx.Graph) -> Array:
    """[N, 2] places to draw at: attribute ``pos``, else the nodes themselves if (row, column), else a layout."""
    positions: dict[Any, Any] = nx.get_node_attributes(graph, "pos")
    nodes = list(graph.nodes)
    if len(positions) == len(nodes):
        return np.array([positions[node][:2] for node in nodes], dtype=np.float64)
    if all(_is_cell(node) for node in nodes):
        return np.array([(column, -row) for row, column in nodes], dtype=np.float64)
    layout = nx.spring_layout(nx.Graph(graph.edges()), seed=0) if len(nodes) > 1 else {}
    return np.array([layout.get(node, (0.0, 0.0)) for node in nodes], dtype=np.float64)


def _is_cell(node: object) -> bool:
    return isinstance(node, tuple) and len(node) == 2 and all(isinstance(part, int | float) for part in node)
