"""Heuristics that ask the master: boxes around a plan (stage 2 of learned planners), large neighborhoods, and all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from problems.planning.construction import repair, shortest_path_plan, trim
from problems.planning.decomposition import Decomposition
from problems.planning.network import Array
from problems.planning.survival import Deadline


def search_box(
    engine: Decomposition,
    lower: Array,
    upper: Array,
    deadline: Deadline,
    *,
    gap: float = 1e-4,
    cutoff: float = np.inf,
) -> tuple[Array | None, float]:
    """Cheapest survivable plan with lower <= x <= upper: the plan found (or None), and a bound within the box.

    The cuts that this finds are valid everywhere and stay in the engine's pool. When time is over, the last point is
    repaired, and counts only if the repair stays in the box.
    """
    best, bound = None, -np.inf
    network = engine.network
    while not deadline.is_over():
        ceiling = cutoff if best is None else min(cutoff, float(network.cost @ best))
        answer = engine.master.solve_integer(
            seconds=deadline.left, gap=gap, lower=lower, upper=upper, cutoff=ceiling * (1 - 1e-9) if ceiling else 0.0
        )
        if answer.is_infeasible:
            return best, np.inf if best is None else float(network.cost @ best)
        bound = max(bound, answer.bound)
        if answer.x is None:
            break
        x = network.complete(answer.x)
        if engine.add_cutsets(x):
            continue
        found, is_complete = engine.survival.failures(network.capacities(x), until=deadline.is_over)
        if not found:
            return (x, bound) if is_complete else (best, bound)
        engine.add_metric_cuts(found, x)
        fixed = repair(network, engine.survival, x, deadline)
        if fixed is not None and (fixed <= upper + 1e-9).all() and (fixed >= lower - 1e-9).all():
            cost = float(network.cost @ fixed)
            if cost < ceiling:
                best = fixed
                if cost <= bound * (1 + gap):
                    return best, bound
    return best, bound


def relax_box(engine: Decomposition, plan: Array, alpha: float, deadline: Deadline) -> Array | None:
    """Best plan with at most ``alpha`` times each link's units of ``plan`` [n], rounded up, at least one unit each.

    This is the second stage of two-stage planners; the floor of one unit lets it use links that the first stage left.
    """
    upper = np.maximum(np.ceil(alpha * plan - 1e-9), 1.0)
    upper[engine.network.variable_module < 0] = engine.network.upper[engine.network.variable_module < 0]
    found, _ = search_box(engine, np.zeros(engine.network.n), np.minimum(upper, engine.network.upper), deadline)
    return found


def improve_locally(
    engine: Decomposition, plan: Array, deadline: Deadline, *, rng: np.random.Generator, share: float = 0.35
) -> Array:
    """Large-neighborhood search: free a random connected part of the links, keep the others within one unit.

    Args:
        engine: shared cuts and programs.
        plan: [n], survivable.
        deadline: stop then.
        rng: draws the neighborhoods.
        share: of the links that are freed at a time.
    """
    network = engine.network
    best, failures = plan.copy(), 0
    is_module = network.variable_module >= 0
    while not deadline.is_over() and failures < 8:
        center = rng.integers(len(network.is_transit))
        free = _links_around(engine, int(center), max(2, round(share * network.n_links)), rng)
        is_free = np.isin(network.variable_link, free)
        lower = np.where(is_free | ~is_module, 0.0, np.maximum(best - 1.0, 0.0))
        upper = np.where(is_free | ~is_module, network.upper, np.minimum(best + 1.0, network.upper))
        budget = deadline.slice(max(1.0, deadline.seconds / 10))
        found, _ = search_box(engine, lower, upper, budget, cutoff=float(network.cost @ best))
        if found is not None and network.cost @ found < network.cost @ best - 1e-9:
            best, failures = found, 0
        else:
            failures += 1
    return best


def _links_around(engine: Decomposition, center: int, count: int, rng: np.random.Generator) -> list[int]:
    """``count`` links nearest to a node, by hops, ties at random."""
    ends = engine.network.link_ends
    hops = np.full(len(engine.network.is_transit), np.inf)
    hops[center] = 0
    for _ in range(len(hops)):
        before = hops.copy()
        np.minimum.at(hops, ends[:, 0], before[ends[:, 1]] + 1)
        np.minimum.at(hops, ends[:, 1], before[ends[:, 0]] + 1)
        if (hops == before).all():
            break
    near = np.minimum(hops[ends[:, 0]], hops[ends[:, 1]]) + rng.uniform(0.0, 0.5, len(ends))
    return np.argsort(near)[:count].tolist()


def heuristic_plans(
    engine: Decomposition,
    *,
    seconds: float = 5.0,
    total: float = np.inf,
    seed: int = 0,
    clock: Callable[[], float] | None = None,
) -> dict[str, Array]:
    """All heuristics of :func:`each_heuristic` that find a plan: rule -> plan [n]."""
    return dict(each_heuristic(engine, seconds=seconds, total=total, seed=seed, clock=clock))


def each_heuristic(
    engine: Decomposition,
    *,
    seconds: float = 5.0,
    total: float = np.inf,
    seed: int = 0,
    clock: Callable[[], float] | None = None,
) -> Iterator[tuple[str, Array]]:
    """One heuristic after the other, each with at most ``seconds``; one that finds nothing is left out.

    greedy: shortest paths in every failure; greedy-trim: then take away; rounding: relaxation, round, repair, trim;
    greedy-box: the exact best within 1.5 times the greedy; neighborhoods: large-neighborhood search from the cheapest.

    Args:
        engine: prepared; the cuts that one rule finds serve the next.
        seconds: for each rule.
        total: seconds for all of them: each may use an equal part of what is left. The first two cost little, and come
            whatever the time.
        seed: of the neighborhoods.
        clock: wall by default.

    Yields:
        Rule and plan [n], as soon as it is found.
    """
    network, survival = engine.network, engine.survival
    plans: list[Array] = []
    options = {} if clock is None else {"clock": clock}
    whole = Deadline(total, **options)

    def budget(rules_left: int) -> Deadline:
        return whole.slice(min(seconds, whole.left / rules_left))

    greedy = shortest_path_plan(network)
    if greedy is not None:
        yield "greedy", greedy
        trimmed = trim(network, survival, greedy, budget(4), cuts=(engine.master.rows, engine.master.rhs))
        plans += [greedy, trimmed]
        yield "greedy-trim", trimmed
    rounded = None if whole.is_over() else round_relaxation(engine, budget(3))
    if rounded is not None:
        plans.append(rounded)
        yield "rounding", rounded
    if greedy is not None and not whole.is_over():
        boxed = relax_box(engine, greedy, 1.5, budget(2))
        if boxed is not None:
            plans.append(boxed)
            yield "greedy-box", boxed
    if plans and not whole.is_over():
        start = min(plans, key=lambda x: float(network.cost @ x))
        yield "neighborhoods", improve_locally(engine, start, budget(1), rng=np.random.default_rng(seed))


def round_relaxation(engine: Decomposition, deadline: Deadline) -> Array | None:
    """Solve (or go on with) the relaxation, round its point, repair, trim; None if it has no point in time.

    The relaxation may use the whole deadline; the repair then has as long again.
    """
    relaxation = engine.relaxed_point(deadline.left)
    if relaxation is None:
        return None
    network, best, grace = engine.network, None, deadline.again()
    for threshold in (0.3, 0.6):
        fixed = repair(network, engine.survival, np.floor(relaxation + threshold), grace)
        if fixed is None:
            continue
        fixed = trim(network, engine.survival, fixed, grace, cuts=(engine.master.rows, engine.master.rhs))
        if best is None or network.cost @ fixed < network.cost @ best:
            best = fixed
    return best
