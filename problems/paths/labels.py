"""Label setting for routes that are all late: closes what parametric search leaves open.

Every route has m > T and f = (m - T) / sqrt(v) > 0. Write k for the least f known, k* for the least f of all, and
F(m, v) = m - T - k* sqrt(v), which is >= 0 on every route and 0 on the best ones.

**Bound.** For a slope a the reduced costs of :class:`problems.paths.hull.Slope` give each partial route at node u,
with reduced cost r so far, the bound L = r + tree(u) + offset on m - a v of any completion. Labels are taken in order
of L (A*). A completion improves k only if L - T + a v < k sqrt(v) for some v, that is L < T + k^2 / (4 a); the search
ends at the first label beyond that threshold. Other slopes prune by the same test.

**Dominance.** Labels (m1, v1) and (m2, v2) at one node, q the least variance from there to the target. The second is
dropped if

1. m1 <= m2 and v1 >= v2, or
2. v1 < v2 and m2 - m1 >= k (sqrt(v2 + q) - sqrt(v1 + q)).

*Both give F(label 1 + Q) <= F(label 2 + Q) for every completion Q.* Rule 1 at once, since F rises with m and falls with
v. Rule 2: sqrt(v2 + y) - sqrt(v1 + y) falls with y, and y >= q on every Q, so k >= k* times it is at most m2 - m1. The
relation is transitive, and k only falls while both rules stay true for k*, so dropped labels stay rightly dropped.

**Simple routes.** label 1 + Q may pass a node twice. If k <= 2 r sqrt(V), r the least mean/variance of an edge and V
the least variance of a route, cutting such a cycle (dm, dv) out never raises F: it lowers m by dm >= r dv, and sqrt(v)
by at most dv / (2 sqrt(V)), since v >= V remains. So the best simple route is found: let label 1 drop a prefix of a
best route with remainder Q; label 1 + Q, cut, is again a best route, whose part up to the cut is a label that was kept
and whose remainder is Q or shorter. Each such exchange moves the first dropped prefix strictly along Q, so they end.
Where k is larger (deadlines far below any route), a label may only drop another whose visited nodes contain its own:
then label 1 + Q is simple as label 2 + Q is.
"""

from __future__ import annotations

import heapq
import math
import time

import numpy as np

from problems.paths.hull import ROUNDING, Query, Slope, Supported, late_bound, variance_range
from problems.paths.network import RouteNetwork

CHECK_EVERY = 256  # labels between two looks at the clock
LABEL_LIMIT = 1_000_000  # labels made; some 0.4 GB
COMPARED = 32  # kept labels that a new one is compared with: in the hard regime few dominate, and scans would cost more
SLOPES = 3  # trees that prune: the guide and two more

Trail = tuple[int, "Trail | None"]  # columns of a partial route, last first
Step = tuple[int, int, float, float, float, float, float]  # head, column, mean, variance, rise of the bound by slope
Kept = tuple[float, float, float, int]  # mean, variance, sqrt(variance + q), visited


def close_gap(query: Query, found: Supported, *, seconds: float | None = None, label_limit: int = LABEL_LIMIT) -> int:
    """Search between ``found.bound`` and ``found.best``; both are updated in place.

    Args:
        query: network, ends, deadline; every route is late.
        found: what :func:`problems.paths.hull.search_hull` left, with its slopes.
        seconds: wall seconds after which the search stops; ``found.bound`` is then the bound of the open labels.
        label_limit: labels made after which it stops as well.

    Returns:
        Labels taken.
    """
    stop = math.inf if seconds is None else time.perf_counter() + seconds
    network, deadline, target = query.network, query.deadline, query.target
    window = variance_range(query)
    slopes = _chosen(found.slopes, deadline, window)
    guide = slopes[0]
    k, best = found.best.value, None
    limits = [_threshold(slope, k, deadline) for slope in slopes]
    steps = _corridor(network, slopes, limits)
    remaining = query.variance_tree.cost.tolist()
    ratio = float((network.mean / network.variance).min())
    cuts_cycles = k <= 2.0 * ratio * math.sqrt(window[0])
    kept: dict[int, list[Kept]] = {}
    source = query.source
    first, second, third = (slope.least for slope in slopes)
    heap: list[tuple[float, int, int, float, float, int, float, float, Trail | None]] = [
        (first, 0, source, 0.0, 0.0, 1 << source, second, third, None)
    ]
    taken = pushed = 0
    while heap and heap[0][0] < limits[0]:
        if taken % CHECK_EVERY == 0 and taken and (pushed >= label_limit or time.perf_counter() > stop):
            found.bound = max(found.bound, min(k, late_bound(guide.a, heap[0][0], deadline, *window)))
            break
        key, _, node, mean, variance, visited, second, third, trail = heapq.heappop(heap)
        taken += 1
        if node == target:
            value = (mean - deadline) / math.sqrt(variance)
            if value < k:
                k, best = value, trail
                limits = [_threshold(slope, k, deadline) for slope in slopes]
                cuts_cycles = k <= 2.0 * ratio * math.sqrt(window[0])
            continue
        rest = remaining[node]
        deviation = math.sqrt(variance + rest)
        labels = kept.setdefault(node, [])
        if _is_dominated(labels, mean, variance, deviation, visited, k, cuts_cycles):
            continue
        labels.append((mean, variance, deviation, visited))
        limit, limit2, limit3 = limits
        for head, column, step_mean, step_variance, rise, rise2, rise3 in steps[node]:
            if key + rise < limit and second + rise2 < limit2 and third + rise3 < limit3 and not visited >> head & 1:
                pushed += 1
                entry = (
                    key + rise,
                    pushed,
                    head,
                    mean + step_mean,
                    variance + step_variance,
                    visited | 1 << head,
                    second + rise2,
                    third + rise3,
                    (column, trail),
                )
                heapq.heappush(heap, entry)
    else:
        found.bound, found.is_optimal = k, True
    if best is not None:
        found.best = query.route(_columns(best))
    found.bound = min(found.bound, found.best.value)
    return taken


def _is_dominated(
    labels: list[Kept], mean: float, variance: float, deviation: float, visited: int, k: float, cuts_cycles: bool
) -> bool:
    """Rules 1 and 2 of the module, against the labels kept at one node."""
    for mean1, variance1, deviation1, visited1 in labels[:COMPARED]:
        saved = mean - mean1
        if saved < 0.0 or (variance1 < variance and saved < k * (deviation - deviation1)):
            continue
        if cuts_cycles or visited1 & ~visited == 0:
            return True
    return False


def _threshold(slope: Slope, k: float, deadline: float) -> float:
    """Bounds on mean - a * variance from here on cannot improve k: T + k^2 / (4 a)."""
    return deadline + k * k / (4.0 * slope.a) - ROUNDING * (1.0 + abs(deadline))


def _chosen(slopes: list[Slope], deadline: float, window: tuple[float, float]) -> list[Slope]:
    """The slopes of best bound, best first; repeated where there are fewer."""
    ranked = sorted(slopes, key=lambda slope: -late_bound(slope.a, slope.least, deadline, *window))
    return (ranked * SLOPES)[:SLOPES] if len(ranked) < SLOPES else ranked[:SLOPES]


def _corridor(network: RouteNetwork, slopes: list[Slope], limits: list[float]) -> list[list[Step]]:
    """Arcs that may lie on an improving route, by tail, with the rise of each slope's bound along them."""
    rises = []
    is_open = np.ones(len(network.arc_tail), dtype=bool)
    with np.errstate(invalid="ignore"):
        for slope, limit in zip(slopes, limits, strict=True):
            cost = slope.tree.cost
            rise = slope.tree.weight + cost[network.arc_head] - cost[network.arc_tail]
            rises.append(np.maximum(rise, 0.0))
            is_open &= rise < limit - slope.least  # False where the target cannot be reached
    steps: list[list[Step]] = [[] for _ in network.nodes]
    arcs = np.flatnonzero(is_open)
    columns = network.arc_column[arcs]
    rows = zip(
        network.arc_tail[arcs].tolist(),
        network.arc_head[arcs].tolist(),
        columns.tolist(),
        network.mean[columns].tolist(),
        network.variance[columns].tolist(),
        *(rise[arcs].tolist() for rise in rises),
        strict=True,
    )
    for tail, *step in rows:
        steps[tail].append(tuple(step))
    return steps


def _columns(trail: Trail | None) -> list[int]:
    """Columns of a complete route, first to last."""
    columns = []
    while trail is not None:
        column, trail = trail
        columns.append(column)
    return columns[::-1]
