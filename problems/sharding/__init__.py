"""Embedding-table sharding: which table on which device, so that a training step is short."""

from typing import TYPE_CHECKING

from problems.lazy import lazy
from problems.sharding.access import ReuseHistogram, Uniform, ZipfMandelbrot
from problems.sharding.constraints import Constraints
from problems.sharding.domain import DOMAIN
from problems.sharding.tables import DataType, Device, Optimizer, Table, Workload

if TYPE_CHECKING:
    from problems.sharding.costs import PHASES, AdditiveCost, BoundCost, CostModel
    from problems.sharding.fused import FusedCost
    from problems.sharding.oracle import PlacementOracle
    from problems.sharding.problem import ShardingProblem

__getattr__ = lazy(
    __name__,
    {
        "costs": "PHASES AdditiveCost BoundCost CostModel",
        "fused": "FusedCost",
        "oracle": "PlacementOracle",
        "problem": "ShardingProblem",
    },
)
__all__ = [
    "DOMAIN", "PHASES", "AdditiveCost", "BoundCost", "Constraints", "CostModel", "DataType", "Device", "FusedCost",
    "Optimizer", "PlacementOracle", "ReuseHistogram", "ShardingProblem", "Table", "Uniform", "Workload",
    "ZipfMandelbrot",
]  # fmt: skip
