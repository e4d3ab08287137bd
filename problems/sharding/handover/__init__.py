"""Hand-over: tables from a TorchRec model, plans to TorchRec, FBGEMM and DLRM."""

from problems.sharding.handover.exports import exports
from problems.sharding.handover.read import (
    TableSource,
    check_pooling,
    measure_pooling,
    module_of,
    spec_of,
    tables_of,
)
from problems.sharding.handover.shards import Shard, dlrm_ranks, fbgemm_tables, shards
from problems.sharding.handover.text import joint_plan_of_text, sharding_plan_text
from problems.sharding.handover.torchrec_plan import sharding_plan, sharding_plan_of_text, text_of_sharding_plan

__all__ = [
    "Shard",
    "TableSource",
    "check_pooling",
    "dlrm_ranks",
    "exports",
    "fbgemm_tables",
    "joint_plan_of_text",
    "measure_pooling",
    "module_of",
    "sharding_plan",
    "sharding_plan_of_text",
    "sharding_plan_text",
    "shards",
    "spec_of",
    "tables_of",
    "text_of_sharding_plan",
]
