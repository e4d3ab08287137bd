"""Demands for networks that come without: gravity, uniform, and random node weights. All relative; scaled later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from problems.planning.distances import great_circle_km

Table = dict[tuple[Any, Any], float]


def gravity(topology: Mapping[str, Any], *, mass: Mapping[Any, float] | None = None, power: float = 0.0) -> Table:
    """d_ij ~ mass_i mass_j / km_ij^power for i < j; mass defaults to the degree.

    Args:
        topology: node-link dictionary with ``nodes`` (id, pos) and ``edges`` (source, target).
        mass: node id -> weight.
        power: of the distance, 0 to ignore it. Distances below 1 km count as 1.
    """
    ids = [node["id"] for node in topology["nodes"]]
    place = {node["id"]: node["pos"] for node in topology["nodes"]}
    if mass is None:
        mass = dict.fromkeys(ids, 0.0)
        for edge in topology["edges"]:
            mass = {**mass, edge["source"]: mass[edge["source"]] + 1, edge["target"]: mass[edge["target"]] + 1}
    table = {}
    for i, u in enumerate(ids):
        for v in ids[i + 1 :]:
            km = max(1.0, great_circle_km(tuple(place[u]), tuple(place[v]))) if power else 1.0
            value = mass[u] * mass[v] / km**power
            if value > 0.0:
                table[u, v] = value
    return table


def uniform(topology: Mapping[str, Any]) -> Table:
    """The same demand between every two nodes."""
    return gravity(topology, mass=dict.fromkeys((node["id"] for node in topology["nodes"]), 1.0))


def lognormal(topology: Mapping[str, Any], *, seed: int, sigma: float = 1.0, power: float = 0.0) -> Table:
    """Gravity with log-normal node weights drawn from ``seed``: a few nodes attract most of the traffic."""
    ids = [node["id"] for node in topology["nodes"]]
    weights = np.random.default_rng(seed).lognormal(0.0, sigma, len(ids))
    return gravity(topology, mass=dict(zip(ids, weights.tolist(), strict=True)), power=power)


MODELS = {"gravity": gravity, "uniform": uniform, "lognormal": lognormal}
"""Name -> function."""
