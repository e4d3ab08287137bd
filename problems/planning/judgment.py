"""How far variables x are from a plan that the independent judge accepts, as one number."""

from __future__ import annotations

import weakref

import numpy as np

from problems.planning.judge import Judge
from problems.planning.network import Array, Network
from problems.planning.plan import plan_of

_JUDGES: weakref.WeakKeyDictionary[Network, Judge] = weakref.WeakKeyDictionary()


def violation_of(network: Network, x: Array) -> float:
    """0 if x [n] is a feasible plan; else what is wrong: units of x, relative excess, or relative traffic missing."""
    if not np.isfinite(x).all():
        return float("inf")
    fractional = float(np.abs(x - np.round(x)).max(initial=0.0))
    outside = float(max((-x).max(initial=0.0), (x - network.upper).max(initial=0.0)))
    if max(fractional, outside) > 1e-6:
        return max(fractional, outside)
    whole = np.round(x)
    missing = float((network.complete(whole) - whole).max(initial=0.0))
    if missing > 0.0:
        return missing
    judge = _JUDGES.get(network)
    if judge is None:
        judge = _JUDGES.setdefault(network, Judge(network.instance))
    verdict = judge(plan_of(network, whole), stop_early=True)
    if verdict.is_feasible:
        return 0.0
    if verdict.broken_rules:
        return 1.0
    total = max(sum(d.gbps for d in network.instance.demands), 1e-12)
    worst = max(s.shortfall_gbps for s in verdict.states if not s.is_survived)
    return float(max(1e-3, min(worst / total, 1e6)))
