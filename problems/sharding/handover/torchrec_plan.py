"""Plans as TorchRec objects that ``DistributedModelParallel`` takes; imports TorchRec when called.

    plan = sharding_plan(joint_plan, tables, module_of={"user": "sparse"}, device_type="cuda")
    model = DistributedModelParallel(model, plan=plan, ...)

Every kernel is written out: left to itself, TorchRec's helper takes "dense" even on GPUs.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from problems.sharding.handover.text import joint_plan_of_text, sharding_plan_text
from problems.sharding.joint.plan import JointPlan
from problems.sharding.tables import Table
from surco.errors import MissingExtraError

INSTALL = "pip install --no-deps -r .ci/torchrec.txt"


@functools.cache
def load_torchrec() -> Any:
    """The package ``torchrec``; what it warns of while it is imported is its own business.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torchrec
            import torchrec.distributed.types
    except ImportError as error:
        raise MissingExtraError(f"This needs TorchRec, which cannot be imported ({error}). Try: {INSTALL}") from error
    return torchrec


def sharding_plan(
    plan: JointPlan,
    tables: Sequence[Table],
    *,
    module_of: Mapping[str, str] | None = None,
    device_type: str = "cuda",
) -> Any:
    """TorchRec's ``ShardingPlan`` of a plan; arguments as in `problems.sharding.handover.text.sharding_plan_text`.

    Raises:
        MissingExtraError: TorchRec is not installed.
    """
    return sharding_plan_of_text(sharding_plan_text(plan, tables, module_of=module_of, device_type=device_type))


def sharding_plan_of_text(text: Mapping[str, Any], *, module_of: Mapping[str, str] | None = None) -> Any:
    """TorchRec's ``ShardingPlan`` of its JSON form, for example of a file that ``--export torchrec`` wrote.

    Args:
        text: the JSON form.
        module_of: table -> path of its module in the model, where the form does not know it (a spec of tables alone
            does not); other tables stay where the form has them.

    Raises:
        InvalidInputError: the JSON is not such a form.
        MissingExtraError: TorchRec is not installed.
    """
    joint_plan_of_text(text)  # complains in our words
    load_torchrec()
    from torch.distributed._shard.metadata import ShardMetadata
    from torchrec.distributed.types import (  # pyright: ignore[reportMissingImports]
        EmbeddingModuleShardingPlan,
        EnumerableShardingSpec,  # pyright: ignore[reportPrivateImportUsage]
        ParameterSharding,
        ShardingPlan,
    )

    modules: dict[str, Any] = {}
    for own_path, tables in text["plan"].items():
        for name, entry in tables.items():
            path = module_of[name] if module_of and name in module_of else own_path
            blocks = [
                ShardMetadata(
                    shard_offsets=list(block["shard_offsets"]),
                    shard_sizes=list(block["shard_sizes"]),
                    placement=block["placement"],
                )
                for block in entry.get("shards", ())
            ]
            modules.setdefault(path, EmbeddingModuleShardingPlan())[name] = ParameterSharding(
                sharding_type=entry["sharding_type"],
                compute_kernel=entry["compute_kernel"],
                ranks=list(entry["ranks"]),
                sharding_spec=EnumerableShardingSpec(blocks) if blocks else None,
            )
    return ShardingPlan(plan=modules)


def text_of_sharding_plan(plan: Any, *, world_size: int, local_world_size: int, device_type: str) -> dict[str, Any]:
    """JSON form of any ``ShardingPlan`` object of embedding modules, also of one that TorchRec's planner made."""
    modules: dict[str, dict[str, Any]] = {}
    for path, tables in plan.plan.items():
        modules[path] = {}
        for name, parameter in tables.items():
            entry: dict[str, Any] = {
                "sharding_type": parameter.sharding_type,
                "compute_kernel": parameter.compute_kernel,
                "ranks": list(parameter.ranks or ()),
            }
            if parameter.sharding_spec is not None:
                entry["shards"] = [
                    {
                        "shard_offsets": list(block.shard_offsets),
                        "shard_sizes": list(block.shard_sizes),
                        "placement": str(block.placement),
                    }
                    for block in parameter.sharding_spec.shards
                ]
            modules[path][name] = entry
    return {
        "plan": modules,
        "world_size": world_size,
        "local_world_size": local_world_size,
        "device_type": device_type,
    }
