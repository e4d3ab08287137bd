"""Embedding-table sharding: which table on which device, so that a training step is short."""

from problems.sharding.access import ReuseHistogram, Uniform, ZipfMandelbrot
from problems.sharding.constraints import Constraints
from problems.sharding.costs import PHASES, AdditiveCost, BoundCost, CostModel
from problems.sharding.domain import DOMAIN
from problems.sharding.fused import FusedCost
from problems.sharding.oracle import PlacementOracle
from problems.sharding.problem import ShardingProblem
from problems.sharding.tables import DataType, Device, Optimizer, Table, Workload

__all__ = [
    "DOMAIN", "PHASES", "AdditiveCost", "BoundCost", "Constraints", "CostModel", "DataType", "Device", "FusedCost",
    "Optimizer", "PlacementOracle", "ReuseHistogram", "ShardingProblem", "Table", "Uniform", "Workload",
    "ZipfMandelbrot",
]  # fmt: skip
