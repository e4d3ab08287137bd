"""Surrogate networks: padded, batched features of instances -> linear costs of their variables.

Every network takes a dict of tensors [B, ...] (see :class:`surco.Family` for the names) and gives costs
[B, *design shape], zero where padded. None of them loops over instances, and what is padded changes nothing.
"""

from __future__ import annotations

from surco.networks.assignment import AssignmentNetwork
from surco.networks.edges import EdgeNetwork
from surco.networks.pixels import PixelNetwork
from surco.networks.planner import PlanningNetwork

__all__ = ["AssignmentNetwork", "EdgeNetwork", "PixelNetwork", "PlanningNetwork"]
