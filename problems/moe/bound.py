"""Certified lower bounds on the cost of a layer, from loads and slots alone.

A target T (largest GPU load, 1 is the mean) is refuted where one of these fails for every choice of copies r_e >= 1:

* slots: a copy of e carries load_e / r_e <= T, so sum_e ceil(load_e / T) <= slots of all GPUs;
* packing: for a dual feasible function u (sum u(s_i) <= 1 for any items of one GPU, s = load / T),
  sum_e min_r r u(load_e / (r T)) <= GPUs. The functions are s itself, 1 / slots, their mixtures, and those of Martello
  and Toth (s > 1 - a counts 1, s < a counts 0), mixed with 1 / slots in the same way.

A mixture of dual feasible functions is one, so every refutation is a proof. The bound is the largest refuted T of a
bisection, at least 1.

Source: dual feasible functions as in Fekete and Schepers, "New classes of fast lower bounds for bin packing problems",
Mathematical Programming 91 (2001).
"""

from __future__ import annotations

import numpy as np

from problems.moe.instance import Cluster
from solvers.oracle import Array

STEPS = 40
MIXTURES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
CUTS = 24
SLACK = 1e-9


def load_bound(loads: Array, cluster: Cluster, most: int) -> float:
    """Lower bound on (largest GPU load) / (mean GPU load) for loads [E] of one layer."""
    scaled = loads / loads.sum() * cluster.gpus
    low, high = 1.0, float(cluster.gpus)  # one GPU cannot have more than all
    if high <= low or not _is_refuted(scaled, cluster, most, low):
        return low
    for _ in range(STEPS):
        middle = 0.5 * (low + high)
        if _is_refuted(scaled, cluster, most, middle):
            low = middle
        else:
            high = middle
    return low * (1.0 - SLACK)


def traffic_bound(top_k: int, cluster: Cluster) -> float:
    """Lower bound on the further nodes per token: its experts need at least one node, more where a node is small."""
    if top_k == 0 or cluster.nodes == 1:
        return 0.0
    held = cluster.per_node * cluster.slots
    return -(-top_k // held) * (1.0 - 1.0 / cluster.nodes)


def _is_refuted(loads: Array, cluster: Cluster, most: int, target: float) -> bool:
    """Whether no plan has a largest load of at most ``target``."""
    s = loads / (target * (1.0 + SLACK))
    least = np.maximum(np.ceil(s - SLACK), 1.0)
    if (least > most).any() or least.sum() > cluster.total_slots:
        return True
    extra = cluster.total_slots - int(least.sum())
    copies = np.minimum(least[:, None] + np.arange(min(extra, cluster.gpus) + 1), most)  # [E, R]
    sizes = np.minimum(s[:, None] / copies, 1.0)
    count = 1.0 / cluster.slots
    cuts = np.unique(np.concatenate([[0.5], sizes[:, 0], 1.0 - sizes[:, 0]]))
    cuts = cuts[(cuts > 0.0) & (cuts <= 0.5)]
    cuts = cuts[np.unique(np.linspace(0, len(cuts) - 1, CUTS).astype(int))]
    for cut in (0.0, *cuts):
        u = sizes if cut == 0.0 else np.where(sizes > 1.0 - cut + SLACK, 1.0, np.where(sizes < cut - SLACK, 0.0, sizes))
        for part in MIXTURES:
            needed = (copies * (part * u + (1.0 - part) * count)).min(axis=1).sum()
            if needed > cluster.gpus * (1.0 + 1e-7):
                return True
    return False
