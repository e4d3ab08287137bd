"""Files of plans: cut as TorchRec cuts, read back, and refused where a format cannot say them. Needs no TorchRec."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import surco
from problems.sharding.handover import dlrm_ranks, fbgemm_tables, joint_plan_of_text, sharding_plan_text, shards
from problems.sharding.handover.shards import row_blocks
from problems.sharding.joint.plan import JointPlan, ShardingType, TablePlacement
from problems.sharding.tables import Table
from surco.cli import main
from surco.errors import InvalidInputError

ALL = tuple(range(4))
TABLES = (
    Table("tw", 10, 8, 1.0), Table("cw", 7, 12, 1.0), Table("rw", 5, 4, 1.0), Table("dp", 3, 4, 1.0),
    Table("twrw", 9, 4, 1.0), Table("twcw", 6, 8, 1.0), Table("grid", 5, 8, 1.0),
)  # fmt: skip
PLAN = JointPlan(
    (
        TablePlacement("tw", ShardingType.TABLE_WISE, (3,)),
        TablePlacement("cw", ShardingType.COLUMN_WISE, (2, 0, 2), (4, 4, 4)),
        TablePlacement("rw", ShardingType.ROW_WISE, ALL),
        TablePlacement("dp", ShardingType.DATA_PARALLEL, ALL),
        TablePlacement("twrw", ShardingType.TABLE_ROW_WISE, (2, 3)),
        TablePlacement("twcw", ShardingType.TABLE_COLUMN_WISE, (1, 0), (4, 4)),
        TablePlacement("grid", ShardingType.GRID_SHARD, (2, 3, 0, 1), (4, 4)),
    ),
    4,
    2,
)


def spec():
    tables = [
        {"name": "a", "rows": 4000, "dim": 16, "pooling_factor": 20},
        {"name": "b", "rows": 90000, "dim": 64, "pooling_factor": 3},
        {"name": "c", "rows": 700, "dim": 32, "pooling_factor": 1},
    ]
    devices = [{"name": "gpu", "count": 2, "per_host": 2, "memory_bytes": 2**34}]
    return {"domain": "sharding", "tables": tables, "devices": devices}


def test_every_weight_is_on_one_rank_or_on_all():
    for placement, table in zip(PLAN.placements, TABLES, strict=True):
        cover = np.zeros((table.rows, table.dim), dtype=int)
        for shard in shards(placement, table, 2):
            cover[shard.row : shard.row + shard.rows, shard.column : shard.column + shard.columns] += 1
        assert (cover == (4 if placement.sharding_type is ShardingType.DATA_PARALLEL else 1)).all(), table.name


@given(st.integers(1, 200), st.integers(1, 16))
def test_row_blocks_partition_the_rows(rows, parts):
    blocks = row_blocks(rows, parts)
    assert len(blocks) == parts
    assert [i for first, count in blocks for i in range(first, first + count)] == list(range(rows))
    assert max(count for _, count in blocks) == -(-rows // parts)


def test_text_survives_json_and_gives_the_plan_back():
    text = json.loads(json.dumps(sharding_plan_text(PLAN, TABLES, module_of={"tw": "x.sparse"})))
    assert set(text["plan"]) == {"", "x.sparse"}
    again = joint_plan_of_text(text)
    assert {p.table: p for p in again.placements} == {p.table: p for p in PLAN.placements}
    entry = text["plan"]["x.sparse"]["tw"]
    assert entry == {
        "sharding_type": "table_wise",
        "compute_kernel": "fused",
        "ranks": [3],
        "shards": [{"shard_offsets": [0, 0], "shard_sizes": [10, 8], "placement": "rank:3/cuda:1"}],
    }
    assert text["plan"][""]["dp"] == {"sharding_type": "data_parallel", "compute_kernel": "dense", "ranks": list(ALL)}


def test_fbgemm_tables_hold_all_weights():
    ranks = fbgemm_tables(PLAN, TABLES)
    held = sum(int(block["rows"]) * int(block["dim"]) for rank in ranks for block in rank)
    assert held == sum(t.rows * t.dim for t in TABLES) + 3 * 3 * 4  # three more copies of `dp`
    assert {(b["table"], b["rows"], b["dim"]) for b in ranks[3]} == {
        ("tw", 10, 8), ("dp", 3, 4), ("twrw", 4, 4), ("grid", 2, 4),
    }  # fmt: skip
    assert all(int(block["rows"]) > 0 for rank in ranks for block in rank)


def test_what_a_format_cannot_say_is_refused():
    with pytest.raises(InvalidInputError, match="table-wise plan"):
        dlrm_ranks(PLAN)
    with pytest.raises(InvalidInputError, match="no placement for 'more'"):
        fbgemm_tables(PLAN, (*TABLES, Table("more", 1, 1, 1.0)))
    with pytest.raises(InvalidInputError, match="no table for 'grid'"):
        sharding_plan_text(PLAN, TABLES[:-1])
    with pytest.raises(InvalidInputError, match="add up to its width 8"):
        shards(TablePlacement("twcw", ShardingType.TABLE_COLUMN_WISE, (1, 0), (4, 3)), TABLES[5], 2)
    with pytest.raises(InvalidInputError, match="device_type"):
        sharding_plan_text(PLAN, TABLES, device_type="tpu")
    with pytest.raises(InvalidInputError, match="to have 'plan'"):
        joint_plan_of_text({})
    with pytest.raises(InvalidInputError, match="table 'a'"):
        joint_plan_of_text({"plan": {"": {"a": {"ranks": [0]}}}, "world_size": 1, "local_world_size": 1})


@pytest.mark.parametrize(("kind", "rule"), [("joint", "level_sweep"), ("", "lpt")])
def test_the_command_exports_what_it_found(tmp_path, capsys, kind, rule):
    content = spec() | ({"kind": kind} if kind else {})
    (tmp_path / "tables.json").write_text(json.dumps(content))
    files = {name: tmp_path / f"{name}.json" for name in ("torchrec", "torchrec_cpu", "json", "fbgemm")}
    exports = [part for name, path in files.items() for part in ("--export", name, str(path))]
    command = ["solve", str(tmp_path / "tables.json"), "--method", rule, "--calls", "5", "--json", *exports]
    assert main(command) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    problem = surco.from_spec(content)
    x = torch.tensor(row["x"], dtype=torch.float64)
    saved = json.loads(files["json"].read_text())
    plan = JointPlan.from_json({key: saved[key] for key in ("world_size", "local_world_size", "placements")})
    if kind:
        assert plan == problem.plan(x)
        assert torch.equal(problem.design_of(plan), x)
    else:
        assert [p.ranks[0] for p in plan.placements] == problem.plan(x).argmax(1).tolist() == dlrm_ranks(plan)
    for name in ("torchrec", "torchrec_cpu"):
        again = joint_plan_of_text(json.loads(files[name].read_text()))
        assert again == plan
    assert "rank:1/cpu" in files["torchrec_cpu"].read_text()
    assert [name for reason in saved["reasons"] for name in reason["tables"]] == ["a", "b", "c"]
    assert len(json.loads(files["fbgemm"].read_text())["ranks"]) == 2


def test_reasons_are_the_price_of_moving_one_table():
    problem = surco.from_spec(spec())
    from problems.sharding.handover.exports import table_wise_reasons

    x = problem.heuristics()["lpt"]
    plan = problem.plan(x)
    for t, reason in enumerate(table_wise_reasons(problem, x)):
        moved = plan.clone()
        moved[t] = plan[t].flip(0)  # the other of two devices
        extra = float(problem.objective(moved.reshape(-1))) - float(problem.objective(x))
        assert reason["extra_ms"] == pytest.approx(extra, abs=1e-12)


def test_uneven_hosts_have_no_torchrec_plan(tmp_path):
    content = spec()
    content["devices"] = [{"name": f"g{i}", "memory_bytes": 2**34, "host": int(i > 1)} for i in range(3)]
    problem = surco.from_spec(content)
    with pytest.raises(InvalidInputError, match="same number of devices"):
        problem.exports()["torchrec"](problem.heuristics()["lpt"], tmp_path / "plan.json")
