"""A second opinion on expert placements, in NumPy; shares no code with the objective.

Loads come from the list of copies; the traffic from drawing a source node and copies for every recorded token, and from
the chances; the two must agree within the error of the draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from problems.moe.instance import Cluster, Index
from solvers.oracle import Array

DRAWS = 8  # of copies for each recorded token
SIGMAS = 6.0  # that a drawn mean may be off


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one layer's plan is.

    Attributes:
        largest_over_mean: largest GPU load over the mean one.
        further_nodes: expected further nodes per token.
        drawn_further_nodes: the same by drawing.
        error: standard error of ``drawn_further_nodes``.
        problem: a broken rule or a number that does not hold, in words; empty where there is none.
    """

    largest_over_mean: float
    further_nodes: float
    drawn_further_nodes: float
    error: float
    problem: str


def judge(counts: Index, loads: Array, tokens: Index, cluster: Cluster, *, seed: int = 0) -> Verdict:
    """Judge counts [E, G] (two copies of an expert on a GPU are two shares) on loads [E] and tokens [P, k]."""
    gpus, nodes = cluster.gpus, cluster.nodes
    copies = counts.sum(axis=1)
    if (counts < 0).any() or (copies < 1).any():
        return Verdict(math.nan, math.nan, math.nan, math.nan, "an expert has no copy")
    if (counts.sum(axis=0) > cluster.slots).any():
        return Verdict(math.nan, math.nan, math.nan, math.nan, "a GPU has more experts than slots")
    load = np.zeros(gpus)
    place = np.concatenate([np.repeat(np.arange(gpus), row) for row in counts])  # GPU of each copy, expert by expert
    owner = np.repeat(np.arange(len(loads)), copies)
    np.add.at(load, place, (loads / copies)[owner])
    ratio = float(load.max() / load.mean())
    if not tokens.size or nodes == 1:
        return Verdict(ratio, 0.0, 0.0, 0.0, "")
    by_node = np.add.reduceat(counts, np.arange(0, gpus, gpus // nodes), axis=1) / copies[:, None]
    further = float((1.0 - np.prod(1.0 - by_node[tokens], axis=1)).sum(axis=1).mean() * (nodes - 1) / nodes)
    rng = np.random.default_rng(seed)
    first = np.cumsum(copies) - copies
    drawn = np.empty((DRAWS, len(tokens)))
    for draw in range(DRAWS):
        chosen = place[first[tokens] + np.floor(rng.random(tokens.shape) * copies[tokens]).astype(np.int64)]
        seen = np.zeros((len(tokens), nodes), dtype=bool)
        seen[np.arange(len(tokens))[:, None], chosen * nodes // gpus] = True
        source = rng.integers(nodes, size=len(tokens))
        drawn[draw] = seen.sum(axis=1) - seen[np.arange(len(tokens)), source]
    mean, error = float(drawn.mean()), float(drawn.std() / math.sqrt(drawn.size))
    is_off = abs(mean - further) > SIGMAS * error + 1e-9
    words = f"drawn copies give {mean:.4f} further nodes (+- {error:.4f}), chances {further:.4f}" if is_off else ""
    return Verdict(ratio, further, mean, error, words)
