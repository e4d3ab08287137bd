"""The on-time route problem: the path that most probably arrives before a deadline."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from problems.paths import graph_spec
from problems.paths.feasibility import RouteRules
from problems.paths.hull import Query, Supported, search_hull
from problems.paths.labels import LABEL_LIMIT, close_gap
from problems.paths.moves import detours
from problems.paths.network import RouteNetwork, unreachable
from solvers.oracle import Array
from solvers.paths import shortest_path
from surco.bridge import to_numpy, to_torch
from surco.errors import InvalidInputError
from surco.protocols import Exact

HEURISTIC_DEVIATIONS = 0.5
QUICK_SECONDS = 2.0  # a few trees take this long on a million edges only
QUICK_LABELS = 2_000
LABEL_LIMIT_WITHOUT_CLOCK = 100_000


class OnTimeRoute:
    """Maximize P(arrival <= deadline) over the simple paths from source to target.

    Travel times of edges are independent and normal with a mean m_e and a variance v_e, so a path x in {0, 1}^n has a
    normal travel time of mean m.x and variance v.x, and is on time with probability Phi((T - m.x) / sqrt(v.x)).

    - **Variables**: one an edge, in the order of ``graph.edges`` (with keys for a multigraph), see ``oracle.edges``.
    - **Feasible set**: simple paths from source to target. An undirected edge may be used either way.
    - **Objective** (minimized): f(x) = -(T - m.x) / sqrt(v.x). Phi grows, so the order of paths is that of the
      probability, and the gradient does not vanish far from the deadline. f is neither convex nor concave.
    - **Metrics** (reported): ``probability``, ``mean``, ``standard_deviation``, in the unit of the graph.
    - **Exact method**: parametric shortest paths, then label setting (:mod:`problems.paths.hull`,
      :mod:`problems.paths.labels`).

    Args:
        graph: networkx Graph, DiGraph, MultiGraph or MultiDiGraph; edge attributes ``mean`` (>= 0) and ``variance``
            (> 0), the latter in the squared unit of the former.
        source: first node.
        target: last node, another one.
        deadline: T, in the unit of ``mean``; any finite number.
        id: registered id, for problems made by name.
        spec: JSON object that rebuilds the problem; by default the whole graph, written out.

    Raises:
        InvalidInputError: unknown node, missing or invalid attribute, deadline not finite, source equal to target.
        InfeasibleError: no path.

    Source: Nikolova et al. (2006); Ferber et al. (ICML 2023), section 4.3, for the use as a test of SurCo.

    Example:
        >>> import networkx as nx
        >>> graph = nx.Graph()
        >>> graph.add_edge("home", "work", mean=30.0, variance=100.0)  # short, unreliable
        >>> graph.add_edge("home", "park", mean=16.0, variance=4.0)
        >>> graph.add_edge("park", "work", mean=16.0, variance=5.0)
        >>> problem = OnTimeRoute(graph, "home", "work", deadline=36.0)
        >>> best = problem.exact()
        >>> problem.path(best.x), round(problem.metrics(best.x)["probability"], 4)
        (['home', 'park', 'work'], 0.9088)
    """

    is_differentiable = True
    is_convex = False

    def __init__(
        self,
        graph: nx.Graph,
        source: Hashable,
        target: Hashable,
        deadline: float,
        *,
        id: str = "",
        spec: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(graph, nx.Graph):
            raise InvalidInputError(
                f"Expected a networkx graph, got {type(graph).__name__}. Try `networkx.Graph(...)`."
            )
        edges = graph.edges(keys=True) if isinstance(graph, nx.MultiGraph) else graph.edges
        network = RouteNetwork.from_graph(graph, list(edges))
        start, end = network.position(source, "source"), network.position(target, "target")
        if start == end:
            raise InvalidInputError(f"Expected a target other than the source, got {source!r} for both.")
        mean_tree = network.tree(network.mean[network.arc_column], end)
        if not math.isfinite(mean_tree.cost[start]):
            raise unreachable(network.nodes, mean_tree.cost, start, end)
        variance_tree = network.tree(network.variance[network.arc_column], end)
        self.graph, self.network = graph, network
        self.source, self.target = source, target
        self.id = id
        self._spec = spec
        self._graph_spec: dict[str, Any] = {}  # filled once, for all deadlines
        self._quick: tuple[Supported, int] | None = None
        self.query = Query(network, start, end, _checked_deadline(deadline), mean_tree, variance_tree)
        self.oracle = shortest_path(graph, source, target)
        if self.oracle.edges != network.edges:
            raise AssertionError("The oracle orders the edges otherwise than the problem does.")
        self.rules = RouteRules(network, start, end)
        self.weights = to_torch(np.stack([network.mean, network.variance]))

    # ------------------------------------------------------------------ what is asked

    @property
    def deadline(self) -> float:
        """T, in the unit of ``mean``."""
        return self.query.deadline

    @property
    def least_expected_time(self) -> float:
        """Least m.x over all paths."""
        return float(self.query.mean_tree.cost[self.query.source])

    def with_deadline(self, deadline: float, *, id: str = "", spec: Mapping[str, Any] | None = None) -> OnTimeRoute:
        """The same network, ends and trees under another deadline, in no time; the rest as for a new problem."""
        other = copy.copy(self)
        other.query = dataclasses.replace(self.query, deadline=_checked_deadline(deadline))
        other.id, other._spec, other._quick = id, spec, None
        return other

    @property
    def spec(self) -> Mapping[str, Any]:
        """JSON object that rebuilds the problem, see :func:`problems.paths.DOMAIN.from_spec`."""
        if self._spec is not None:
            return self._spec
        if not self._graph_spec:
            self._graph_spec.update(graph_spec.write(self.graph, self.query))
        return {**self._graph_spec, "deadline": self.deadline}

    # ------------------------------------------------------------------ objective and rules

    def objective(self, x: Tensor) -> Tensor:
        """f(x) = (m.x - T) / sqrt(v.x), [..., n] -> [...]; differentiable wherever v.x > 0."""
        moments = x @ self.weights.to(x).T
        return (moments[..., 0] - self.deadline) / moments[..., 1].sqrt()

    def violation(self, x: Tensor) -> Tensor:
        """Largest violation of 0/1, flow balance, or one simple path; [..., n] -> [...], 0 if feasible."""
        self._check_width(x)
        return to_torch(self.rules.violation(to_numpy(x)), like=x)

    def initial_costs(self) -> Tensor:
        """The means, [n]: what a route planner without variances minimizes."""
        return self.weights[0].clone()

    def aggregates(self) -> Tensor:
        """W = [mean; variance], [2, n]: f depends on x through W x alone."""
        return self.weights

    def metrics(self, x: Tensor) -> Mapping[str, float]:
        """Probability of being on time, mean and standard deviation of the travel time of one design [n]."""
        mean, variance = (self.weights @ x.to(self.weights)).tolist()
        deviation = math.sqrt(variance)
        probability = 0.5 * math.erfc((mean - self.deadline) / deviation / math.sqrt(2.0))
        return {"probability": probability, "mean": mean, "standard_deviation": deviation}

    # ------------------------------------------------------------------ search

    def exact(self, *, seconds: float | None = None, start: Tensor | None = None) -> Exact:
        """Best path with its proof, or the best known with a valid bound after ``seconds``.

        Without ``seconds`` the search stops at a fixed number of labels, so that it does not depend on the clock.
        ``work`` counts shortest-path trees and labels.
        """
        found, labels = self._quick or (None, 0)
        is_late = self.deadline < self.least_expected_time
        if found is None or not (found.is_optimal or is_late):
            found = search_hull(self.query, seconds=seconds)
        if is_late and not found.is_optimal:
            found = dataclasses.replace(found)  # the kept one stays as it is
            if start is not None and float(self.violation(start)) == 0.0:
                found.best = min(found.best, self.query.route(self._columns(start)), key=lambda route: route.value)
            limit = LABEL_LIMIT if seconds is not None else LABEL_LIMIT_WITHOUT_CLOCK
            labels += close_gap(self.query, found, seconds=seconds, label_limit=limit)
        x = self._vector(found.best.columns)
        return Exact(x, self._bound(found, x), found.is_optimal, found.trees + labels)

    def lower_bound(self) -> float:
        """Bound on f by parametric shortest paths and a few labels: mostly tight."""
        found = self._quick_search()
        return self._bound(found, self._vector(found.best.columns))

    @property
    def exact_is_fast(self) -> bool:
        """Whether a few shortest-path trees and labels prove the optimum."""
        return self._quick_search().is_optimal

    def _quick_search(self) -> Supported:
        """Parametric search and at most ``QUICK_LABELS`` labels, once: bound, heuristic and exact method share it."""
        if self._quick is None:
            found, labels = search_hull(self.query, seconds=QUICK_SECONDS), 0
            if not found.is_optimal and self.deadline < self.least_expected_time:
                labels = close_gap(self.query, found, seconds=QUICK_SECONDS, label_limit=QUICK_LABELS)
            self._quick = found, labels
        return self._quick[0]

    def _bound(self, found: Supported, x: Tensor) -> float:
        # A proof up to rounding bounds f by the value of the proven path, last digits included.
        return float(self.objective(x)) if found.is_optimal else found.bound

    def heuristics(self) -> Mapping[str, Tensor]:
        """Three rules: ``least_expected_time``, ``mean_plus_half_sd`` (the rule of the field), ``hull_search``.

        The last is the best supported path, see :mod:`problems.paths.hull`.
        """
        network, query = self.network, self.query
        risk_averse = network.mean + HEURISTIC_DEVIATIONS * np.sqrt(network.variance)
        return {
            "least_expected_time": self._vector(network.follow(query.mean_tree, query.source)),
            "mean_plus_half_sd": to_torch(self.oracle.solve(risk_averse[None]).x[0]),
            "hull_search": self._vector(search_hull(query, seconds=QUICK_SECONDS).best.columns),
        }

    def moves(self, x: Tensor, *, count: int, generator: torch.Generator) -> Tensor:
        """At most ``count`` different paths [K, n] that leave the path x [n] on one stretch."""
        nodes, columns = self.network.walk(self._columns(x), self.query.source)
        found = detours(self.network, nodes, columns, count=count, generator=generator)
        rows = np.zeros((len(found), self.oracle.n))
        for row, detour in zip(rows, found, strict=True):
            row[detour] = 1.0
        return to_torch(rows)

    # ------------------------------------------------------------------ designs in and out

    def path(self, x: Tensor | Array) -> list[Any]:
        """Nodes of the path x [n], from source to target.

        Raises:
            InvalidInputError: x is not a feasible path.
        """
        tensor = x if isinstance(x, Tensor) else to_torch(x)
        violation = float(self.violation(tensor))
        if violation > 1e-6:
            raise InvalidInputError(
                f"Expected one simple path from {self.source!r} to {self.target!r}, but `violation(x)` is "
                f"{violation:g}."
            )
        nodes, _ = self.network.walk(self._columns(tensor), self.query.source)
        return [self.network.nodes[node] for node in nodes]

    def vector(self, path: Sequence[Hashable]) -> Tensor:
        """Design x [n] of a path given by its nodes; of parallel edges the one of least mean.

        Raises:
            InvalidInputError: two nodes in a row have no edge, or the nodes are not a simple path between the ends.
        """
        network = self.network
        positions = [network.position(node, "path's node") for node in path]
        columns = []
        for u, v in itertools.pairwise(positions):
            if (u, v) not in network.arcs_between:
                raise InvalidInputError(f"Expected an edge from {network.nodes[u]!r} to {network.nodes[v]!r}: none.")
            parallel = [int(network.arc_column[arc]) for arc in network.arcs_between[u, v]]
            columns.append(min(parallel, key=lambda column: float(network.mean[column])))
        x = self._vector(columns)
        self.path(x)
        return x

    def describe(self, x: Tensor) -> str:
        """The path, its time and its probability, in words."""
        nodes, metrics = self.path(x), self.metrics(x)
        shown = " - ".join(map(str, nodes if len(nodes) <= 16 else [*nodes[:8], "...", *nodes[-7:]]))
        return (
            f"{len(nodes) - 1} edges from {self.source} to {self.target}: {shown}\n"
            f"Arrives by {self.deadline:.6g} with probability {metrics['probability']:.4f} (the value is the mean's "
            f"distance beyond the deadline in standard deviations); travel time "
            f"{metrics['mean']:.6g} +- {metrics['standard_deviation']:.4g} "
            f"(least expected time {self.least_expected_time:.6g})."
        )

    def figures(self, x: Tensor) -> Mapping[str, Any]:
        """The graph with the route drawn into it, and the arrival time against the deadline."""
        from problems.paths.figures import draw_arrival, draw_network

        return {"Route": draw_network(self, x), "Arrival time": draw_arrival(self, x)}

    def _vector(self, columns: list[int]) -> Tensor:
        x = np.zeros(self.oracle.n)
        x[columns] = 1.0
        return to_torch(x)

    def _columns(self, x: Tensor) -> list[int]:
        return np.flatnonzero(to_numpy(x) > 0.5).tolist()

    def _check_width(self, x: Tensor) -> None:
        if x.shape[-1:] != (self.oracle.n,):
            raise InvalidInputError(
                f"Expected designs of shape [..., {self.oracle.n}] (one variable an edge), got {list(x.shape)}."
            )


def _checked_deadline(deadline: object) -> float:
    try:
        value = float(deadline)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise InvalidInputError(
            f"Expected `deadline` to be a finite number in the unit of `mean`, got {deadline!r}. "
            "Try a multiple of `problem.least_expected_time`."
        )
    return value
