"""Cheap cuts for nearly symmetric demand: those of its mean with its transpose.

Capacity serves both directions alike, so a plan that carries a demand carries its transpose, and half of each: the
symmetrized demand is necessary. Its programs have half of the pairs and half of the capacity rows, and where both
directions of the traffic are much the same, its relaxation is nearly the whole one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from problems.planning.network import Array, Network
from problems.planning.separation import Answer
from problems.planning.survival import Survival

MOST_ASYMMETRY = 0.3
LEAST_EDGES = 1.5  # a node; in sparser networks the programs are cheap either way (zib54: 1.48)


def asymmetry(network: Network) -> float:
    """Share of the failure-free demand that its transpose does not have, in [0, 2]; 0 where it is symmetric."""
    demand = network.scenarios[0].demand
    total = float(demand.sum())
    return float(np.abs(demand - demand.T).sum()) / total if total > 0.0 else 0.0


def is_worthwhile(network: Network) -> bool:
    """Whether the demand is nearly symmetric and the network meshed enough for programs that take long."""
    is_meshed = len(network.edges) >= LEAST_EDGES * len(network.is_transit)
    return is_meshed and 0.0 < asymmetry(network) <= MOST_ASYMMETRY


class SymmetrizedSurvival(Survival):
    """Warm scenario LPs of the symmetrized demand; answers are cuts of the given network, never proofs of survival."""

    def __init__(self, network: Network, *, backend: str = "auto") -> None:
        scenarios = tuple(replace(s, demand=(s.demand + s.demand.T) / 2.0) for s in network.scenarios)
        super().__init__(replace(network, scenarios=scenarios, is_symmetric=True), backend=backend)

    def separate(self, capacities: Array, scenario: int, *, share: float = 0.9) -> Answer:
        """As of ``Survival``; the lengths of a cut are the same in both directions."""
        answer = super().separate(capacities, scenario, share=share)
        if answer.lengths is None:
            return answer
        half = answer.lengths[0] / 2.0  # the symmetrized demand counts one direction of each pair
        return replace(answer, lengths=np.vstack([half, half]))
