"""Joint plans: the sharding type and the ranks of every table, under TorchRec's estimates."""

from problems.sharding.joint.plan import JointPlan, ShardingType, TablePlacement
from problems.sharding.joint.spec import JointConstraints, JointSpec, Objective

__all__ = ["JointConstraints", "JointPlan", "JointSpec", "Objective", "ShardingType", "TablePlacement"]
