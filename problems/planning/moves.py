"""Neighbors of a plan that survive: a module less, a module more, a module moved."""

from __future__ import annotations

import numpy as np

from problems.planning.construction import keeps_rules
from problems.planning.decomposition import Decomposition
from problems.planning.network import Array


def neighbors(engine: Decomposition, x: Array, *, count: int, rng: np.random.Generator) -> Array:
    """At most ``count`` survivable neighbors of x [n], as [K, n], distinct and different from x.

    The cut pool refuses most candidates; the rest is decided by the warm scenario programs.
    """
    network = engine.network
    modules = np.flatnonzero(network.variable_module >= 0)
    candidates: list[tuple[int, int]] = [(int(j), -1) for j in modules]  # (taken from, given to); -1: nowhere
    candidates += [(-1, int(j)) for j in rng.permutation(modules)[: max(1, count // 4)]]
    pairs = rng.integers(0, len(modules), (4 * count, 2))
    candidates += [(int(modules[a]), int(modules[b])) for a, b in pairs if a != b]
    found: list[Array] = []
    seen = {x.tobytes()}
    for k in rng.permutation(len(candidates)):
        if len(found) >= count:
            break
        taken, given = candidates[k]
        y = x.copy()
        if taken >= 0:
            y[taken] -= 1.0
        if given >= 0:
            y[given] += 1.0
        y = network.complete(y)
        if y.tobytes() in seen or not keeps_rules(network, y):
            continue
        seen.add(y.tobytes())
        if len(engine.master.rhs) and (engine.master.rows @ y < engine.master.rhs - 1e-6).any():
            continue
        if taken < 0 or engine.survives(y):
            found.append(y)
    return np.array(found).reshape(len(found), network.n)
