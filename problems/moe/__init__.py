"""Placement of mixture-of-experts experts on GPUs: copies of the busy ones, even loads, few tokens between nodes."""

from typing import TYPE_CHECKING

from problems.lazy import lazy
from problems.moe.domain import DOMAIN
from problems.moe.instance import Cluster, Migration, Routing
from problems.moe.routing import Router

if TYPE_CHECKING:
    from problems.moe.oracle import ExpertOracle
    from problems.moe.problem import ExpertPlacement

__getattr__ = lazy(__name__, {"oracle": "ExpertOracle", "problem": "ExpertPlacement"})
__all__ = ["DOMAIN", "Cluster", "ExpertOracle", "ExpertPlacement", "Migration", "Router", "Routing"]
