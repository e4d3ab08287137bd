"""Supported routes: parametric shortest paths over (mean, variance), and what they prove.

A route has mean m and variance v; its objective is f = (m - T) / sqrt(v) for the deadline T, to be minimized. A
shortest path under the weights ``mean + slope * variance`` is a *supported* point (m, v), on the convex hull of all
routes, and its line is a lower bound on every other route. Two cases, by the sign of T - m:

**Some route is on time in the mean** (T >= least expected time). Only routes with m <= T can be best. There f <= 0,
and f >= -alpha means m + alpha sqrt(v) >= T, the superlevel set of a concave function, which is convex. So f is
quasi-concave where m <= T, and over any triangle it is least at a corner: the best route is a vertex of the lower-left
hull. The search keeps triangles between neighboring hull points; the corner below both supporting lines bounds the
triangle, and a triangle whose corner is no better than the best route known is closed. It ends with a proof after a
few trees.

**Every route is late** (T < least expected time). Now f > 0, and *more* variance is better: f <= k means
m - k sqrt(v) <= T, a convex set, so the best route need not be a hull point. But -sqrt is convex, so its tangent at
any v0 bounds it: m - k sqrt(v) >= m - a v - k^2 / (4 a) with a = k / (2 sqrt(v0)). With L(a) = min of m - a v over
routes, every route has f >= min over v of (L(a) - T + a v) / sqrt(v) = 2 sqrt(a (L(a) - T)). Moving the tangent to
the best route so far is sequential linearization; where it returns the same route, that route is proven best.

Source: Nikolova, Kelner, Brand, Mitzenmacher (2006), "Stochastic shortest paths via quasi-convex maximization", for
the first case. The second is proven here.
"""

from __future__ import annotations

import heapq
import math
import time
from dataclasses import dataclass, field

import numpy as np

from problems.paths.network import RouteNetwork, Tree

ROUNDING = 1e-12
"""Relative: proofs are made up to rounding."""


@dataclass(frozen=True, slots=True)
class Route:
    """One route as a point.

    Attributes:
        columns: its columns, in order from source to target.
        mean: expected time m.
        variance: v > 0.
        value: f = (m - T) / sqrt(v).
    """

    columns: list[int]
    mean: float
    variance: float
    value: float


@dataclass(frozen=True, slots=True)
class Query:
    """One question to a network, with the two trees that every answer starts from.

    Attributes:
        network: the graph.
        source: position of the first node.
        target: position of the last node.
        deadline: T.
        mean_tree: least expected time to the target from every node.
        variance_tree: least variance to the target from every node.
    """

    network: RouteNetwork
    source: int
    target: int
    deadline: float
    mean_tree: Tree
    variance_tree: Tree

    def is_closed(self, bound: float, value: float) -> bool:
        """Whether a bound meets a value of f up to rounding, that of the difference m - T included."""
        cancellation = 1e-2 * (abs(self.deadline) + float(self.mean_tree.cost[self.source]))
        deviation = math.sqrt(float(self.variance_tree.cost[self.source]))
        return bound >= value - ROUNDING * (1.0 + abs(value) + cancellation / deviation)

    def route(self, columns: list[int]) -> Route:
        """The point of a path given by its columns."""
        mean = float(self.network.mean[columns].sum())
        variance = float(self.network.variance[columns].sum())
        return Route(columns, mean, variance, (mean - self.deadline) / math.sqrt(variance))

    def route_of(self, tree: Tree) -> Route:
        """The point of a tree's path from the source."""
        return self.route(self.network.follow(tree, self.source))


@dataclass(slots=True)
class Slope:
    """A tree of the late case: weights mean - a * variance, made non-negative by node potentials.

    Where the weight of some arc is negative (a is large), every node but the source gets the potential
    ``p = min(0, least weight of an arc into it)``, and an arc into it costs w - p >= 0. A simple path enters each
    node at most once, so its weight is at least its reduced cost plus the sum of all potentials, ``offset``; the bound
    is exact where no weight is negative (offset 0).

    Attributes:
        a: slope, >= 0.
        tree: shortest paths to the target in reduced costs.
        offset: sum of the potentials, <= 0.
        least: lower bound on mean - a * variance over all routes.
    """

    a: float
    tree: Tree
    offset: float
    least: float


@dataclass(slots=True)
class Supported:
    """What parametric search found.

    Attributes:
        best: best route seen.
        bound: proven lower bound on f over all routes; equal to ``best.value`` (up to rounding) where that is proven.
        is_optimal: whether the best route is proven best.
        trees: shortest-path trees computed.
        slopes: late case, the trees by slope, for the search that closes the rest.
    """

    best: Route
    bound: float
    is_optimal: bool = False
    trees: int = 0
    slopes: list[Slope] = field(default_factory=list)


def search_hull(query: Query, *, seconds: float | None = None) -> Supported:
    """Best supported route and its bound; exact where some route is on time in the mean.

    Args:
        query: network, ends, deadline.
        seconds: wall seconds after which the search stops with the bound that it has.
    """
    stop = math.inf if seconds is None else time.perf_counter() + seconds
    fastest = query.route_of(query.mean_tree)
    if fastest.mean <= query.deadline:
        return _on_time(query, fastest, stop)
    return _late(query, fastest, stop)


# ------------------------------------------------------------------ some route is on time

Line = tuple[float, float, float]  # (p, q, r): every route has p * mean + q * variance >= r


def _on_time(query: Query, fastest: Route, stop: float) -> Supported:
    network, deadline = query.network, query.deadline
    steadiest = query.route_of(query.variance_tree)
    found = Supported(_better(fastest, steadiest), -math.inf)
    closed = math.inf  # least bound of a triangle that was closed
    heap: list[tuple[float, int, Route, Route, Line, Line]] = []

    def push(left: Route, right: Route, left_line: Line, right_line: Line) -> None:
        nonlocal closed
        mean, variance = _corner(left, right, left_line, right_line)
        bound = (mean - deadline) / math.sqrt(variance) if mean < deadline else 0.0
        is_flat = right.mean <= left.mean or right.variance >= left.variance  # one of the two dominates the other
        if is_flat or query.is_closed(bound, found.best.value):
            closed = min(closed, bound)
        else:
            heapq.heappush(heap, (bound, found.trees, left, right, left_line, right_line))

    push(fastest, steadiest, (1.0, 0.0, fastest.mean), (0.0, 1.0, steadiest.variance))
    while heap and not query.is_closed(heap[0][0], found.best.value) and time.perf_counter() < stop:
        _, _, left, right, left_line, right_line = heapq.heappop(heap)
        slope = (right.mean - left.mean) / (left.variance - right.variance)
        tree = network.tree((network.mean + slope * network.variance)[network.arc_column], query.target)
        found.trees += 1
        route = query.route_of(tree)
        found.best = _better(found.best, route)
        level = float(tree.cost[query.source])
        if level >= left.mean + slope * left.variance - ROUNDING * (1.0 + abs(level)):
            continue  # an edge of the hull: nothing lies below it, and its two corners are known
        line = (1.0, slope, level)
        push(left, route, left_line, line)
        push(route, right, line, right_line)
    found.bound = min(found.best.value, closed, heap[0][0] if heap else math.inf)
    found.is_optimal = query.is_closed(found.bound, found.best.value)
    return found


def _corner(left: Route, right: Route, left_line: Line, right_line: Line) -> tuple[float, float]:
    """Where the supporting lines of two neighboring hull points meet; (least mean, least variance) if they do not."""
    (p, q, r), (s, t, u) = left_line, right_line
    determinant = p * t - q * s
    if determinant <= 1e-14:
        return left.mean, right.variance
    mean, variance = (r * t - q * u) / determinant, (p * u - r * s) / determinant
    return max(mean, left.mean), max(variance, right.variance)


# ------------------------------------------------------------------ every route is late


def _late(query: Query, fastest: Route, stop: float) -> Supported:
    window = variance_range(query)
    found = Supported(fastest, (fastest.mean - query.deadline) / math.sqrt(window[1]))
    found.is_optimal = query.is_closed(found.bound, fastest.value)
    other: Route | None = None
    while not found.is_optimal and other is None:
        # The tangent at the best route so far.
        route = _cut(query, found, found.best.value / (2.0 * math.sqrt(found.best.variance)), window)
        if found.best is not route or time.perf_counter() > stop:
            other = route
    if other is not None and not found.is_optimal:
        _raise_bound(query, found, other, window, stop)
    found.bound = min(found.bound, found.best.value)
    return found


def _cut(query: Query, found: Supported, a: float, window: tuple[float, float]) -> Route:
    """One slope: its bound, and its route, which may be the new best."""
    slope, route = late_slope(query, a)
    found.trees += 1
    found.slopes.append(slope)
    found.best = _better(found.best, route)
    found.bound = max(found.bound, late_bound(a, slope.least, query.deadline, *window))
    found.is_optimal = query.is_closed(found.bound, found.best.value)
    return route


def _raise_bound(query: Query, found: Supported, other: Route, window: tuple[float, float], stop: float) -> None:
    """Secant slopes between two supported routes: the least f on their line is the greatest bound of any slope."""
    left, right = sorted((found.best, other), key=lambda route: route.variance)
    for _ in range(12):
        if found.is_optimal or right.variance <= left.variance or right.mean <= left.mean or time.perf_counter() > stop:
            return
        a = (right.mean - left.mean) / (right.variance - left.variance)
        route = _cut(query, found, a, window)
        if route.mean - a * route.variance >= left.mean - a * left.variance - ROUNDING * (1.0 + left.mean):
            return  # an edge of the hull
        if not left.variance < route.variance < right.variance:
            return  # potentials bent the weights: no further hull point between the two
        touch = (found.slopes[-1].least - query.deadline) / a  # variance at which the line comes nearest to the best f
        left, right = (left, route) if touch < route.variance else (route, right)


def late_slope(query: Query, a: float) -> tuple[Slope, Route]:
    """Tree under mean - a * variance (a >= 0) and its route from the source."""
    network = query.network
    weight = (network.mean - a * network.variance)[network.arc_column]
    offset = 0.0
    if weight.min(initial=0.0) < 0.0:
        potential = np.zeros(len(network.nodes))
        np.minimum.at(potential, network.arc_head, weight)
        weight = np.maximum(weight - potential[network.arc_head], 0.0)
        potential[query.source] = 0.0  # a simple path never enters it
        offset = float(potential[np.isfinite(query.mean_tree.cost)].sum())
    tree = network.tree(weight, query.target)
    slope = Slope(a, tree, offset, float(tree.cost[query.source]) + offset)
    return slope, query.route_of(tree)


def late_bound(a: float, least: float, deadline: float, low: float, high: float) -> float:
    """Least f over all routes with mean - a * variance >= ``least`` and variance in [low, high].

    (least - T + a v) / sqrt(v) falls until a v = least - T and rises after it.
    """
    excess = least - deadline
    v = min(max(excess / a, low), high) if a > 0.0 else high if excess > 0.0 else low
    return (excess + a * v) / math.sqrt(v)


def variance_range(query: Query) -> tuple[float, float]:
    """Least variance of a route, and an upper bound: each node but the source is entered at most once."""
    network = query.network
    entered = np.zeros(len(network.nodes))
    np.maximum.at(entered, network.arc_head, network.variance[network.arc_column])
    entered[query.source] = 0.0
    low = float(query.variance_tree.cost[query.source])
    return low, max(low, float(entered[np.isfinite(query.variance_tree.cost)].sum()))


def _better(first: Route, second: Route) -> Route:
    return first if first.value <= second.value else second
