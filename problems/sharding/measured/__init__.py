"""Costs that were measured: raw campaigns, cost networks trained on them, and what they add to additive models."""

from problems.sharding.measured.cost import BoundMeasured, Comms, MeasuredCost
from problems.sharding.measured.network import CommsNetwork, ComputeNetwork, CostNetworks, Head
from problems.sharding.measured.records import Campaign, read_lines

__all__ = [
    "BoundMeasured", "Campaign", "Comms", "CommsNetwork", "ComputeNetwork", "CostNetworks", "Head", "MeasuredCost",
    "read_lines",
]  # fmt: skip
