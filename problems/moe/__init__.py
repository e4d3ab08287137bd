"""Placement of mixture-of-experts experts on GPUs: copies of the busy ones, even loads, few tokens between nodes."""

from problems.moe.domain import DOMAIN
from problems.moe.instance import Cluster, Migration, Routing
from problems.moe.oracle import ExpertOracle
from problems.moe.problem import ExpertPlacement
from problems.moe.routing import Router

__all__ = ["DOMAIN", "Cluster", "ExpertOracle", "ExpertPlacement", "Migration", "Router", "Routing"]
