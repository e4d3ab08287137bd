"""Re-planning against enumeration; what moves, element by element."""

import json

import numpy as np
import pytest

from problems.sharding import Table
from problems.sharding.joint import JointPlan, ShardingType, TablePlacement
from problems.sharding.joint.migration import migration_costs, moved_area, replan, shards_of
from problems.sharding.joint.problem import JointProblem
from problems.sharding.joint.spec import JointSpec
from problems.sharding.tables import GIB_BYTES
from surco.bridge import to_torch
from surco.errors import InvalidInputError, NoDesignError
from tests.problems.sharding.joint_instances import all_designs, tiny

WORLD, LOCAL = 4, 2
PLACEMENTS = [
    TablePlacement("t", ShardingType.TABLE_WISE, (1,)),
    TablePlacement("t", ShardingType.TABLE_WISE, (3,)),
    TablePlacement("t", ShardingType.COLUMN_WISE, (1, 1, 2), (8, 8, 8)),
    TablePlacement("t", ShardingType.TABLE_COLUMN_WISE, (2, 3), (12, 12)),
    TablePlacement("t", ShardingType.ROW_WISE, (0, 1, 2, 3)),
    TablePlacement("t", ShardingType.TABLE_ROW_WISE, (2, 3)),
    TablePlacement("t", ShardingType.GRID_SHARD, (2, 3, 0, 1), (12, 12)),
    TablePlacement("t", ShardingType.DATA_PARALLEL, (0, 1, 2, 3)),
]


def held(placement, table):
    """[W, rows, dim] bool, what each rank holds, element by element."""
    has = np.zeros((WORLD, table.rows, table.dim), dtype=bool)
    for rank, (top, bottom, left, right) in shards_of(placement, table, WORLD, LOCAL):
        has[rank, top:bottom, left:right] = True
    return has


@pytest.mark.parametrize("before", PLACEMENTS, ids=lambda p: p.sharding_type.value)
@pytest.mark.parametrize("after", PLACEMENTS, ids=lambda p: p.sharding_type.value)
def test_moved_elements(before, after):
    table = Table("t", 9, 24, 1.0)
    missing = int((held(after, table) & ~held(before, table)).sum())
    shards = [shards_of(p, table, WORLD, LOCAL) for p in (before, after)]
    assert moved_area(*shards) == missing
    copies = WORLD if after.sharding_type is ShardingType.DATA_PARALLEL else 1
    assert held(after, table).sum() == copies * 9 * 24
    if before == after:
        assert missing == 0


def current_plan(problem):
    return problem.plan(problem.heuristics()["table_wise"])


def enumerated(problem, current):
    x = all_designs(problem)
    x = x[(problem.violation(to_torch(x)) == 0.0).numpy()]
    return x, problem.objective(to_torch(x)).numpy(), x @ migration_costs(problem, current)


def test_a_price_on_moves_finds_the_best_trade():
    problem = tiny(tables=4)
    current = current_plan(problem)
    _, values, moved = enumerated(problem, current)
    for weight in (0.0, 0.5, 20.0, 1e4):
        answer = replan(problem, current, weight_ms_per_gib=weight, seconds=4)
        best = float((values + weight / GIB_BYTES * moved).min())
        assert answer.cost == pytest.approx(best, rel=1e-4)
        assert answer.bound is not None
        assert answer.bound <= best * (1 + 1e-9)
        x = problem.design_of(answer.plan)
        assert float(problem.objective(x)) == pytest.approx(answer.value)
        assert answer.cost == pytest.approx(answer.value + weight / GIB_BYTES * answer.moved_bytes, rel=1e-6)
    assert answer.moves == ()
    assert answer.plan == current
    json.dumps(answer.to_json())


def test_a_cap_on_bytes_and_on_tables_holds():
    problem = tiny(tables=4)
    current = current_plan(problem)
    _, values, moved = enumerated(problem, current)
    for cap in (0, int(np.quantile(moved, 0.1)), int(np.quantile(moved, 0.5))):
        answer = replan(problem, current, max_moved_bytes=cap, seconds=4)
        assert answer.moved_bytes <= cap + 4
        assert answer.value == pytest.approx(float(values[moved <= cap + 1e-6].min()), rel=1e-4)
    before = answer.old_value
    previous = before
    for tables in (0, 1, 2):
        answer = replan(problem, current, max_moved_tables=tables, seconds=3)
        assert len(answer.moves) <= tables
        assert answer.value <= previous + 1e-12
        previous = answer.value
        for move in answer.moves:
            assert move.before == current.placement(move.table)
            assert move.after == answer.plan.placement(move.table)
    assert answer.value < before


def test_a_lost_device_forces_moves():
    problem = tiny(tables=4)
    current = current_plan(problem)
    used = current.placement("t0").ranks[0]
    rules = tuple((f"t{i}", f"gpu{used}") for i in range(4))
    spec = problem.joint_spec
    today = JointProblem(
        JointSpec.from_json({**spec.to_json(), "constraints": {"forbid": [list(pair) for pair in rules]}})
    )
    answer = replan(today, current, weight_ms_per_gib=1e3, seconds=3)
    assert answer.old_value is None
    assert "t0" in [move.table for move in answer.moves]
    assert all(used not in placement.ranks for placement in answer.plan.placements)
    with pytest.raises(NoDesignError, match="cap"):
        replan(today, current, max_moved_bytes=0, seconds=1)


def test_bad_requests():
    problem = tiny(tables=4)
    current = current_plan(problem)
    with pytest.raises(InvalidInputError, match="non-negative"):
        replan(problem, current, weight_ms_per_gib=-1.0)
    with pytest.raises(InvalidInputError, match="not both"):
        replan(problem, current, max_moved_bytes=1, max_moved_tables=1)
    other = JointPlan(current.placements[:0], 8, 8)
    with pytest.raises(InvalidInputError, match="8 and 8"):
        replan(problem, other)


def test_new_tables_move_nothing():
    problem = tiny(tables=4)
    current = current_plan(problem)
    part = JointPlan(current.placements[1:], 4, 2)
    costs = migration_costs(problem, part)
    assert np.all(costs[problem.model.atom_unit == 0] == 0.0)
    assert costs[problem.model.atom_unit == 1].max() > 0.0
