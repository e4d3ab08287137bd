"""Judges that share no code with the domain: expectation by listing every choice of copies, and all plans listed."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np


def value(plan, loads, tokens, nodes, weight):
    """Value of one layer's plan [E, G] of counts, in fractions: every source GPU and every choice of copies listed."""
    experts, gpus = plan.shape
    places = [[g for g in range(gpus) for _ in range(int(plan[e, g]))] for e in range(experts)]
    load = [Fraction(0)] * gpus
    for e in range(experts):
        for g in places[e]:
            load[g] += Fraction(int(loads[e]), len(places[e]))
    imbalance = max(load) * gpus / sum(load)
    node = [g * nodes // gpus for g in range(gpus)]
    further = Fraction(0)
    for token in tokens:
        choices = list(itertools.product(*(places[e] for e in token)))
        for source in range(gpus):
            for choice in choices:
                reached = {node[g] for g in choice} - {node[source]}
                further += Fraction(len(reached), len(choices) * gpus * len(tokens))
    return float(imbalance), float(further), float(imbalance + Fraction(weight) * further)


def plans(experts, gpus, slots, most=None, held=None, cap=None):
    """All feasible plans [K, E, G] of one layer."""
    bits = np.array(list(itertools.product((0, 1), repeat=experts * gpus)), dtype=float).reshape(-1, experts, gpus)
    copies, used = bits.sum(2), bits.sum(1)
    ok = (copies >= 1).all(1) & (copies <= (most or gpus)).all(1) & (used <= slots).all(1)
    if held is not None:
        ok &= (bits * (1 - held)).sum((1, 2)) <= cap
    return bits[ok]
