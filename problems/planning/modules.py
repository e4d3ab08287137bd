"""Which modules of a link can ever be worth buying."""

from __future__ import annotations

import math

from problems.planning.instance import Link

_MOST_STEPS = 20_000  # of the capacity grid; beyond that every module is kept


def useful_modules(link: Link) -> tuple[int, ...]:
    """Numbers of the modules that no combination of cheaper choices replaces, by capacity.

    A module goes if another choice gives at least its capacity for at most its price: for exclusive links one other
    module, otherwise any multiset of smaller ones (SNDlib lists 20, 40, 60, ... where 60 costs as much as 20 + 40),
    unless ``max_gbps`` makes exact sizes matter.
    """
    order = sorted(range(len(link.modules)), key=lambda k: (link.modules[k].capacity_gbps, link.modules[k].cost))
    if link.is_exclusive or link.max_gbps is not None:
        return tuple(k for i, k in enumerate(order) if link.is_exclusive or k == _first_same(link, order, i))
    sizes = [link.modules[k].capacity_gbps for k in order]
    grid = _grid(sizes)
    if grid is None:
        return tuple(order)
    steps = [round(size / grid) for size in sizes]
    top = max(steps)
    if top > _MOST_STEPS:
        return tuple(order)
    best = [0.0] + [math.inf] * top  # cheapest cost of at least s steps from the modules kept so far
    kept: list[int] = []
    for k, size in sorted(zip(order, steps, strict=True), key=lambda p: (link.modules[p[0]].cost, -p[1])):
        cost = link.modules[k].cost
        if best[size] <= cost + 1e-12 * (1.0 + cost):
            continue
        kept.append(k)
        for s in range(1, top + 1):
            best[s] = min(best[s], best[max(0, s - size)] + cost)
    return tuple(sorted(kept, key=lambda k: link.modules[k].capacity_gbps))


def _first_same(link: Link, order: list[int], position: int) -> int:
    """The cheapest module of the same capacity."""
    size = link.modules[order[position]].capacity_gbps
    return next(k for k in order if link.modules[k].capacity_gbps == size)


def _grid(sizes: list[float]) -> float | None:
    """Largest step of which all sizes are multiples, or None where there is no sane one."""
    if not sizes:
        return None
    scaled = [round(size * 1000) for size in sizes]
    if any(abs(s / 1000 - size) > 1e-9 * size or s == 0 for s, size in zip(scaled, sizes, strict=True)):
        return None
    return math.gcd(*scaled) / 1000
