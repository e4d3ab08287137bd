"""What TorchRec itself says of our hand-over: ``python -m ...torchrec_check`` prints one JSON object of findings.

A process of its own, because TorchRec warns of many things while it is imported.
"""

from __future__ import annotations

import json
import sys
import warnings

warnings.simplefilter("ignore")

import torch  # noqa: E402
import torchrec  # noqa: E402
from torchrec.distributed.embedding_types import ShardingType as PeerType  # noqa: E402
from torchrec.distributed.sharding_plan import (  # noqa: E402
    calculate_shard_sizes_and_offsets,
    column_wise,
    construct_module_sharding_plan,
    row_wise,
    table_wise,
)

from problems.sharding.handover import (  # noqa: E402
    check_pooling,
    measure_pooling,
    module_of,
    sharding_plan,
    sharding_plan_of_text,
    sharding_plan_text,
    shards,
    spec_of,
    tables_of,
    text_of_sharding_plan,
)
from problems.sharding.joint.plan import JointPlan, ShardingType, TablePlacement  # noqa: E402
from surco.errors import InvalidInputError  # noqa: E402
from tests.problems.sharding_handover.test_handover_files import PLAN, TABLES  # noqa: E402


def collection(**pooling):
    kinds = {"tw": "SUM", "rw": "SUM", "cw": "SUM"} | pooling
    return torchrec.EmbeddingBagCollection(
        device=torch.device("meta"),
        tables=[
            torchrec.EmbeddingBagConfig(
                name=t.name,
                num_embeddings=t.rows,
                embedding_dim=t.dim,
                feature_names=[t.name] if t.name != "rw" else ["rw", "rw2"],
                pooling=torchrec.PoolingType[kinds[t.name]],
            )
            for t in TABLES
            if t.name in kinds
        ],
    )


class Model(torch.nn.Module):
    def __init__(self, **pooling):
        super().__init__()
        self.deep = torch.nn.ModuleDict({"sparse": collection(**pooling)})


def same_blocks():
    """Our blocks against TorchRec's own rule, for every type that cuts."""
    for rows in (1, 3, 5, 8, 1001):
        for placement, table in zip(PLAN.placements, TABLES, strict=True):
            kind = PeerType(placement.sharding_type.value)
            width = placement.shard_dims[0] if placement.shard_dims else None
            tensor = torch.empty(rows, table.dim, device="meta")
            sizes, offsets = calculate_shard_sizes_and_offsets(tensor, 4, 2, kind.value, col_wise_shard_dim=width)
            changed = type(table)(table.name, rows, table.dim, 1.0)
            ours = shards(placement, changed, 2)
            # where there are no rows left, only the size matters
            theirs = [[*size, *(offset if size[0] else [0, 0])] for size, offset in zip(sizes, offsets, strict=True)]
            mine = [[s.rows, s.columns, *((s.row, s.column) if s.rows else (0, 0))] for s in ours]
            if mine != theirs:
                return f"{placement.table} with {rows} rows: {mine} against {theirs}"
    return True


def same_objects():
    """Our ShardingPlan against the one that TorchRec's helper builds from the same choices."""
    sub = [t for t in TABLES if t.name in ("tw", "rw", "cw")]
    plan = JointPlan(tuple(p for p in PLAN.placements if p.table in ("tw", "rw", "cw")), 4, 2)
    ours = sharding_plan(plan, sub, module_of={t.name: "deep.sparse" for t in sub}, device_type="cpu")
    theirs = construct_module_sharding_plan(
        collection(),
        {
            "tw": table_wise(rank=3, compute_kernel="fused"),
            "cw": column_wise(ranks=[2, 0, 2], compute_kernel="fused"),
            "rw": row_wise(compute_kernel="fused"),
        },
        local_size=2,
        world_size=4,
        device_type="cpu",
    )
    return {name: ours.plan["deep.sparse"][name] for name in theirs} == dict(theirs)


def serialized_alike():
    text = sharding_plan_text(PLAN, TABLES)
    return json.loads(json.dumps(sharding_plan_of_text(text)._serialize()))["plan"] == text["plan"]


def text_round_trip():
    text = sharding_plan_text(PLAN, TABLES)
    back = text_of_sharding_plan(sharding_plan_of_text(text), world_size=4, local_world_size=2, device_type="cuda")
    return back == text


def renamed_modules():
    plan = sharding_plan_of_text(sharding_plan_text(PLAN, TABLES), module_of={"tw": "deep.sparse"})
    return sorted((path, len(tables)) for path, tables in plan.plan.items()) == [("", 6), ("deep.sparse", 1)]


def reads_tables():
    batch = torchrec.KeyedJaggedTensor.from_lengths_sync(
        keys=["tw", "rw", "rw2", "cw"],
        values=torch.zeros(13, dtype=torch.int64),
        lengths=torch.tensor([1, 0, 2, 2, 4, 0, 3, 1]),
    )
    pooling = measure_pooling([batch, batch])
    sources = tables_of(Model(cw="MEAN"), pooling_factors=pooling)
    found = {s.table.name: (s.table.rows, s.table.dim, s.table.pooling_factor, s.module, s.pooling) for s in sources}
    spec = spec_of(sources, [{"name": "g", "count": 4, "per_host": 2, "memory_bytes": 2**33}])
    return (
        pooling == {"tw": 0.5, "rw": 2.0, "rw2": 2.0, "cw": 2.0}
        and found["rw"] == (5, 4, 4.0, "deep.sparse", "sum")
        and found["cw"] == (7, 12, 2.0, "deep.sparse", "mean")
        and module_of(sources)["tw"] == "deep.sparse"
        and "row_wise" not in spec["constraints"]["types"]["cw"]
        and list(spec["constraints"]["types"]) == ["cw"]
        and solves(spec)
    )


def solves(spec):
    import surco

    problem = surco.from_spec(spec)
    return problem.plan(problem.heuristics()["table_wise"]).world_size == 4


def refuses():
    said = []
    for call in (
        lambda: tables_of(Model(), pooling_factors={"tw": 1.0}),
        lambda: tables_of(torch.nn.Linear(2, 2), pooling_factors={}),
        lambda: measure_pooling([]),
        lambda: check_pooling(mean_plan(ShardingType.ROW_WISE), mean_sources()),
    ):
        try:
            call()
        except InvalidInputError as error:
            said.append(str(error))
    check_pooling(mean_plan(ShardingType.TABLE_WISE), mean_sources())
    return said


def mean_sources():
    return tables_of(Model(rw="MEAN"), pooling_factors=dict.fromkeys(("tw", "rw", "rw2", "cw"), 1.0))


def mean_plan(kind):
    ranks = (0, 1, 2, 3) if kind is ShardingType.ROW_WISE else (1,)
    others = tuple(p for p in PLAN.placements if p.table in ("tw", "cw"))
    return JointPlan((TablePlacement("rw", kind, ranks), *others), 4, 2)


CHECKS = (same_blocks, same_objects, serialized_alike, text_round_trip, renamed_modules, reads_tables, refuses)

if __name__ == "__main__":
    sys.stdout.write(json.dumps({check.__name__: check() for check in CHECKS}) + "\n")
