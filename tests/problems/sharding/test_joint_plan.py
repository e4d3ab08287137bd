"""Plans and specs: JSON both ways, bad input, designs and plans."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import surco
from problems.sharding.joint import JointPlan, JointSpec, Objective, ShardingType, TablePlacement
from problems.sharding.joint.judge import quiet
from problems.sharding.joint.problem import JointProblem
from surco.errors import InvalidInputError
from tests.problems.sharding.joint_instances import devices, some_tables, tiny


def plan_of(kind, ranks, dims=(), world=8, local=4):
    return JointPlan((TablePlacement("t", kind, tuple(ranks), tuple(dims)),), world, local)


GOOD = [
    (ShardingType.TABLE_WISE, [5], ()),
    (ShardingType.COLUMN_WISE, [5, 5, 0], (4, 4, 4)),
    (ShardingType.TABLE_COLUMN_WISE, [5, 4], (4, 4)),
    (ShardingType.ROW_WISE, range(8), ()),
    (ShardingType.DATA_PARALLEL, range(8), ()),
    (ShardingType.TABLE_ROW_WISE, [4, 5, 6, 7], ()),
    (ShardingType.GRID_SHARD, [4, 5, 6, 7, 0, 1, 2, 3], (4, 4)),
]
BAD = [
    (ShardingType.TABLE_WISE, [8], ()),
    (ShardingType.TABLE_WISE, [1, 2], ()),
    (ShardingType.TABLE_WISE, [1], (4,)),
    (ShardingType.COLUMN_WISE, [1, 2], (4,)),
    (ShardingType.COLUMN_WISE, [1], ()),
    (ShardingType.TABLE_COLUMN_WISE, [3, 4], (4, 4)),
    (ShardingType.ROW_WISE, range(7), ()),
    (ShardingType.TABLE_ROW_WISE, [3, 4, 5, 6], ()),
    (ShardingType.GRID_SHARD, [4, 5, 6, 7], (4, 4)),
]


@pytest.mark.parametrize(("kind", "ranks", "dims"), GOOD)
def test_a_plan_survives_json(kind, ranks, dims):
    plan = plan_of(kind, ranks, dims)
    assert JointPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert plan.placement("t").kernel == ("dense" if kind is ShardingType.DATA_PARALLEL else "fused")


@pytest.mark.parametrize(("kind", "ranks", "dims"), BAD)
def test_an_impossible_placement_is_an_error(kind, ranks, dims):
    with pytest.raises(InvalidInputError):
        plan_of(kind, ranks, dims)


def test_types_are_those_of_torchrec():
    with quiet():
        from torchrec.distributed.types import ShardingType as Peer

    assert {kind.value for kind in ShardingType} == {kind.value for kind in Peer}


def test_bad_plan_json_names_the_place():
    good = plan_of(ShardingType.TABLE_WISE, [1]).to_json()
    entry = good["placements"][0]
    for change, word in [
        ({"sharding_type": "by_row"}, "by_row"),
        ({"ranks": "01"}, "ranks"),
        ({"ranks": [True]}, "ranks"),
        ({"rank": 1}, "rank"),
    ]:
        with pytest.raises(InvalidInputError, match=word):
            JointPlan.from_json({**good, "placements": [{**entry, **change}]})
    with pytest.raises(InvalidInputError, match="two of 't'"):
        JointPlan.from_json({**good, "placements": [entry, entry]})
    with pytest.raises(InvalidInputError, match="missing"):
        JointPlan.from_json({"world_size": 1})


def test_a_spec_survives_json_and_rebuilds_the_problem():
    problem = tiny(
        pin={"t0": "gpu1"},
        forbid=(("t1", "gpu0"),),
        spread=(("t0", "t1"),),
        types={"t2": (ShardingType.ROW_WISE, ShardingType.TABLE_WISE)},
        min_widths={"t3": 64},
        objective=Objective.CRITICAL_PATH,
    )
    text = json.dumps(problem.spec)
    again = surco.registry.from_spec(json.loads(text))
    assert isinstance(again, JointProblem)
    assert json.dumps(again.spec) == text
    assert again.oracle.n == problem.oracle.n


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"kind": "join"}, "cost_model|kind|unknown"),
        ({"objective": "speed"}, "objective"),
        ({"constraints": {"pin": {"t0": "gpu9"}}}, "gpu9"),
        ({"constraints": {"types": {"t0": ["rowwise"]}}}, "row_wise"),
        ({"constraints": {"spread": [["t0", "t99"]]}}, "t99"),
        ({"constraints": {"default_types": []}}, "default_types"),
        ({"constraints": {"min_width": 0}}, "min_width"),
        ({"reserved_bytes": -1}, "reserved_bytes"),
        ({"devices": []}, "device"),
    ],
)
def test_bad_specs_name_the_place(change, word):
    spec = dict(tiny().spec)
    with pytest.raises(InvalidInputError, match=word):
        surco.registry.from_spec({**spec, **change})


def test_hosts_must_be_equal_and_consecutive():
    four = devices(4, 2)
    with pytest.raises(InvalidInputError, match="hosts"):
        JointSpec(some_tables(), (four[0], four[2], four[1], four[3]))
    with pytest.raises(InvalidInputError, match="hosts"):
        JointSpec(some_tables(), four[:3])


@given(st.integers(0, 10**6))
def test_designs_and_plans_are_one_to_one(seed):
    problem = PROBLEM
    rng = np.random.default_rng(seed)
    space = problem.space
    atoms = []
    for unit in range(len(space.units)):
        mode = rng.integers(space.unit_start[unit], space.unit_start[unit + 1])
        pieces = range(space.mode_start[mode], space.mode_start[mode + 1])
        atoms.extend(rng.integers(space.piece_start[p], space.piece_start[p + 1]) for p in pieces)
    x = torch.zeros(problem.oracle.n, dtype=torch.float64)
    x[torch.tensor(np.array(atoms))] = 1.0
    assert torch.equal(problem.design_of(problem.plan(x)), x)
    assert float(problem.violation(x)) == 0.0


PROBLEM = tiny(tables=5)


def test_foreign_plans_are_refused():
    problem = tiny(types={"t0": (ShardingType.TABLE_WISE,)})
    plan = problem.plan(next(iter(problem.heuristics().values())))
    rows = tuple(
        TablePlacement(p.table, ShardingType.ROW_WISE, (0, 1, 2, 3)) if p.table == "t0" else p for p in plan.placements
    )
    with pytest.raises(InvalidInputError, match="'t0'"):
        problem.design_of(JointPlan(rows, 4, 2))
    with pytest.raises(InvalidInputError, match="ranks"):
        problem.design_of(JointPlan(plan.placements, 4, 4))
    with pytest.raises(InvalidInputError, match="names differ"):
        problem.design_of(JointPlan(plan.placements[1:], 4, 2))


def test_one_host_knows_the_twin_of_a_type():
    problem = tiny(4, 4)
    plan = problem.plan(next(iter(problem.heuristics().values())))
    every = (0, 1, 2, 3)
    twins = tuple(TablePlacement(p.table, ShardingType.TABLE_ROW_WISE, every) for p in plan.placements)
    rows = tuple(TablePlacement(p.table, ShardingType.ROW_WISE, every) for p in plan.placements)
    assert torch.equal(problem.design_of(JointPlan(twins, 4, 4)), problem.design_of(JointPlan(rows, 4, 4)))
