"""Tables of a TorchRec model, and pooling factors of its batches, as our specs.

    sources = tables_of(model, pooling_factors=measure_pooling(batches))
    devices = [{"name": "gpu", "count": 8, "per_host": 8, "memory_bytes": 85899345920}]
    problem = surco.from_spec(spec_of(sources, devices))

A TorchRec model says nothing of pooling factors, and TorchRec's own planner takes 1 where none is given: it plans such
a model blind. Here they must be given, per feature, or measured from batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from problems.sharding.handover.torchrec_plan import load_torchrec
from problems.sharding.joint.plan import JointPlan, ShardingType
from problems.sharding.spec import table_to_json
from problems.sharding.tables import DataType, Table
from surco.errors import InvalidInputError

ROW_CUT = (ShardingType.ROW_WISE, ShardingType.TABLE_ROW_WISE, ShardingType.GRID_SHARD)
DATA_TYPES = {"FP32": DataType.FLOAT32, "FP16": DataType.FLOAT16, "BF16": DataType.BFLOAT16, "INT8": DataType.INT8}


@dataclass(frozen=True, slots=True)
class TableSource:
    """A table and where it was found.

    Attributes:
        table: for a spec; its pooling factor is the sum over its features.
        module: path of its ``EmbeddingBagCollection`` in the model; "" for the model itself.
        features: names of the features that look it up.
        pooling: "sum" or "mean".
    """

    table: Table
    module: str
    features: tuple[str, ...]
    pooling: str


def tables_of(model: Any, *, pooling_factors: Mapping[str, float]) -> list[TableSource]:
    """Tables of every ``EmbeddingBagCollection`` in a model (which may be one itself), in their order.

    Args:
        model: a ``torch.nn.Module``; the device "meta" will do.
        pooling_factors: feature -> mean lookups per sample.

    Raises:
        InvalidInputError: no such module, a table name twice, a feature without a factor, a weight type we cannot name.
        MissingExtraError: TorchRec is not installed.
    """
    collection = load_torchrec().EmbeddingBagCollection
    found: list[TableSource] = []
    for path, module in model.named_modules():
        if not isinstance(module, collection):
            continue
        for config in module.embedding_bag_configs():
            data_type = DATA_TYPES.get(config.data_type.name)
            if data_type is None:
                raise InvalidInputError(
                    f"Table {config.name!r} has weights of type {config.data_type.name}; known are {list(DATA_TYPES)}."
                )
            missing = [name for name in config.feature_names if name not in pooling_factors]
            if missing:
                raise InvalidInputError(
                    f"Expected a pooling factor for feature {missing[0]!r} of table {config.name!r}. Give it in "
                    "`pooling_factors`, or measure all of them by `measure_pooling(batches)`."
                )
            factor = float(sum(pooling_factors[name] for name in config.feature_names))
            table = Table(config.name, config.num_embeddings, config.embedding_dim, factor, data_type)
            found.append(TableSource(table, path, tuple(config.feature_names), config.pooling.name.lower()))
    if not found:
        raise InvalidInputError("Expected a model with a torchrec.EmbeddingBagCollection, found none.")
    names = [source.table.name for source in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInputError(f"Expected unique names, got two tables named {twice!r} in the model. Rename one.")
    return found


def measure_pooling(batches: Iterable[Any]) -> dict[str, float]:
    """Mean lookups per sample of each feature, over ``KeyedJaggedTensor`` batches.

    Raises:
        InvalidInputError: there is no batch, or batches without samples.
    """
    lookups: dict[str, float] = {}
    samples: dict[str, int] = {}
    for batch in batches:
        lengths = batch.lengths().reshape(len(batch.keys()), -1)
        for name, row in zip(batch.keys(), lengths, strict=True):
            lookups[name] = lookups.get(name, 0.0) + float(row.sum())
            samples[name] = samples.get(name, 0) + int(row.numel())
    if not lookups or not all(samples.values()):
        raise InvalidInputError("Expected at least one batch with samples to measure pooling factors.")
    return {name: lookups[name] / samples[name] for name in lookups}


def spec_of(
    sources: Sequence[TableSource], devices: Sequence[Mapping[str, Any]], *, kind: str = "joint", **rest: Any
) -> dict[str, Any]:
    """JSON spec of a sharding problem, for ``surco.from_spec`` or ``surco solve tables.json``.

    In a joint problem, tables with mean pooling keep their rows together (see `check_pooling`), unless
    ``constraints`` names their types.

    Args:
        sources: tables of a model.
        devices: entries as a spec has them, for example one with a ``count``.
        kind: "joint" for all sharding types, "" for table-wise plans.
        rest: further keys of the spec: ``workload``, ``constraints``, ``objective``, ``id``.
    """
    spec: dict[str, Any] = {"domain": "sharding", "tables": [table_to_json(source.table) for source in sources]}
    if kind:
        spec["kind"] = kind
        constraints = dict(rest.pop("constraints", {}))
        whole = [item.value for item in ShardingType if item not in ROW_CUT]
        types = {source.table.name: whole for source in sources if source.pooling == "mean"}
        if types:
            constraints["types"] = {**types, **constraints.get("types", {})}
        spec["constraints"] = constraints
    return {**spec, "devices": [dict(device) for device in devices], **rest}


def check_pooling(plan: JointPlan, sources: Sequence[TableSource]) -> None:
    """Refuse a plan that TorchRec 1.8 would run with wrong outputs.

    Where a mean-pooled table has its rows cut (row-wise, table-row-wise), TorchRec sums and divides afterwards, in one
    step for the whole collection; of the features that are not cut by rows, it divides all by their lengths as well,
    also those of sum pooling. Grid-sharded tables get no such division at all. So: in a collection, a mean-pooled table
    may be row-wise or table-row-wise only if all its tables are.

    Source: ``ShardedEmbeddingBagCollection`` and ``_create_mean_pooling_divisor`` of TorchRec 1.8, by reading and by a
    step on two processes; related: TorchRec issue 2808.

    Raises:
        InvalidInputError: the plan has such a table; the message names it and the way out.
    """
    for source in sources:
        kind = plan.placement(source.table.name).sharding_type
        if source.pooling != "mean" or kind not in ROW_CUT:
            continue
        others = [plan.placement(s.table.name).sharding_type for s in sources if s.module == source.module]
        if kind is ShardingType.GRID_SHARD or any(other not in ROW_CUT[:2] for other in others):
            raise InvalidInputError(
                f"Table {source.table.name!r} has mean pooling and is {kind}: TorchRec 1.8 would compute wrong outputs "
                f"for the collection {source.module!r}. Keep its rows together (constraints: types), as `spec_of` does."
            )


def module_of(sources: Sequence[TableSource]) -> dict[str, str]:
    """Table -> path of its module, as `sharding_plan` wants it."""
    return {source.table.name: source.module for source in sources}
