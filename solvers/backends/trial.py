"""Choose a MILP backend by measurement on the instance: a short trial with seeded costs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from solvers.backends.base import BackendName, make_backend, why_not
from solvers.oracle import Array
from solvers.polyhedron import Polyhedron

_ROWS = 4
_SECONDS_A_ROW = 2.0
_ADVANTAGE = 1.5
"""A backend replaces one earlier in the order only if it is this many times faster: noise must not decide."""

_ORDER = (BackendName.SCIP, BackendName.CP_SAT, BackendName.HIGHS)

_known: dict[str, Trial] = {}


@dataclass(frozen=True, slots=True)
class Trial:
    """What was measured, and what was chosen.

    Attributes:
        choice: the backend in use.
        seconds: mean CPU seconds of a row, for each backend that was tried; inf where a row had no proven answer.
        skipped: why a backend was not tried.
    """

    choice: BackendName
    seconds: Mapping[str, float]
    skipped: Mapping[str, str]


def choose_backend(polyhedron: Polyhedron) -> Trial:
    """Try each able backend on a few seeded cost vectors; the choice is kept for the process by fingerprint."""
    if not polyhedron.is_integer.any():
        return Trial(BackendName.GLOP, {}, {})
    key = polyhedron.fingerprint()
    if key not in _known:
        _known[key] = _run_trial(polyhedron, trial_costs(polyhedron))
    return _known[key]


def trial_costs(polyhedron: Polyhedron) -> Array:
    """[4, n] seeded costs: noise around the model's own objective, where it has one."""
    noise = np.random.default_rng(0).standard_normal((_ROWS, polyhedron.n))
    scale = float(np.abs(polyhedron.costs).mean())
    return polyhedron.costs + scale * noise if scale > 0 else noise


def _run_trial(polyhedron: Polyhedron, costs: Array) -> Trial:
    seconds: dict[str, float] = {}
    skipped: dict[str, str] = {}
    best: BackendName | None = None
    for name in _ORDER:
        reason = why_not(name, polyhedron)
        if reason:
            skipped[name] = reason
            continue
        limit = _SECONDS_A_ROW if best is None else min(_SECONDS_A_ROW, 4 * seconds[best] + 0.05)
        seconds[name] = _measure(name, polyhedron, costs, limit)
        if best is None or seconds[name] * _ADVANTAGE < seconds[best]:
            best = name
    assert best is not None  # SCIP takes every set
    return Trial(best, seconds, skipped)


def _measure(name: BackendName, polyhedron: Polyhedron, costs: Array, limit: float) -> float:
    """Mean CPU seconds of a row after a first one that pays for building the model; inf if a row is left open."""
    backend = make_backend(name, polyhedron)
    spent = []
    try:
        for cost in costs:
            start = time.process_time()
            answer = backend.solve(cost, limit, 0.0)
            if answer.status in ("limit", "feasible", "error"):
                return np.inf
            spent.append(time.process_time() - start)
    finally:
        backend.close()
    return float(np.mean(spent[1:]))
