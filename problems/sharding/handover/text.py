"""TorchRec's ``ShardingPlan`` as JSON, without pickle; needs no TorchRec.

    {"plan": {"sparse": {"user": {"sharding_type": "column_wise", "compute_kernel": "fused", "ranks": [0, 1],
        "shards": [{"shard_offsets": [0, 0], "shard_sizes": [1000, 64], "placement": "rank:0/cuda:0"}, ...]}}},
     "world_size": 2, "local_world_size": 2, "device_type": "cuda"}

The part under ``plan`` has the layout of TorchRec 1.8's own ``ShardingPlan._serialize()``: module path, then table, and
no shards for data-parallel tables. `problems.sharding.handover.torchrec_plan` turns it into the object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from problems.sharding.handover.shards import shards, tables_by_name
from problems.sharding.joint.plan import JointPlan, ShardingType, TablePlacement
from problems.sharding.tables import Table
from surco.errors import InvalidInputError

DEVICE_TYPES = ("cuda", "cpu")


def sharding_plan_text(
    plan: JointPlan,
    tables: Sequence[Table],
    *,
    module_of: Mapping[str, str] | None = None,
    device_type: str = "cuda",
) -> dict[str, Any]:
    """JSON object of a plan.

    Args:
        plan: placements of all tables.
        tables: their rows and widths.
        module_of: table -> path of its module in the model that is wrapped; "" (the model itself) where not given.
        device_type: "cuda" or "cpu".

    Raises:
        InvalidInputError: tables and plan do not fit, or an unknown device type.
    """
    if device_type not in DEVICE_TYPES:
        raise InvalidInputError(f"Expected `device_type` to be one of {DEVICE_TYPES}, got {device_type!r}.")
    known = tables_by_name(plan, tables)
    modules: dict[str, dict[str, Any]] = {}
    for placement in plan.placements:
        entry: dict[str, Any] = {
            "sharding_type": placement.sharding_type.value,
            "compute_kernel": placement.kernel,
            "ranks": list(placement.ranks),
        }
        if placement.sharding_type is not ShardingType.DATA_PARALLEL:
            entry["shards"] = [
                {
                    "shard_offsets": [shard.row, shard.column],
                    "shard_sizes": [shard.rows, shard.columns],
                    "placement": rank_device(shard.rank, device_type, plan.local_world_size),
                }
                for shard in shards(placement, known[placement.table], plan.local_world_size)
            ]
        modules.setdefault((module_of or {}).get(placement.table, ""), {})[placement.table] = entry
    return {
        "plan": modules,
        "world_size": plan.world_size,
        "local_world_size": plan.local_world_size,
        "device_type": device_type,
    }


def joint_plan_of_text(text: Mapping[str, Any]) -> JointPlan:
    """Inverse of `sharding_plan_text`.

    Raises:
        InvalidInputError: a key missing, or a plan that cannot be.
    """
    for key in ("plan", "world_size", "local_world_size"):
        if key not in text:
            raise InvalidInputError(f"Expected the JSON form of a ShardingPlan to have {key!r}; it is missing.")
    placements = []
    for module in text["plan"].values():
        for name, entry in module.items():
            try:
                kind = ShardingType(entry["sharding_type"])
                widths = _widths(entry["shards"]) if kind.cuts_columns else ()
                placements.append(
                    TablePlacement(name, kind, tuple(entry["ranks"]), widths, str(entry["compute_kernel"]))
                )
            except (KeyError, ValueError, TypeError) as error:
                raise InvalidInputError(
                    f"table {name!r}: expected sharding_type, compute_kernel, ranks and shards as TorchRec has them "
                    f"({type(error).__name__}: {error})."
                ) from error
    return JointPlan(tuple(placements), text["world_size"], text["local_world_size"])


def rank_device(rank: int, device_type: str, local_world_size: int) -> str:
    """TorchRec's name of a rank's device, for example ``rank:9/cuda:1``."""
    return f"rank:{rank}/cpu" if device_type == "cpu" else f"rank:{rank}/{device_type}:{rank % local_world_size}"


def _widths(blocks: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """Width of each column shard, from the blocks that hold first rows."""
    return tuple(block["shard_sizes"][1] for block in blocks if block["shard_offsets"][0] == 0)
