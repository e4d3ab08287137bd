"""Hard and impossible instances: each gives a plan, or a reason that names table, rule and relaxation."""

import re

import numpy as np
import pytest
import torch

import surco
from problems.sharding import Optimizer, Table, Workload
from problems.sharding.joint import JointConstraints, JointSpec, ShardingType
from problems.sharding.joint.judge import TorchRecJudge
from problems.sharding.joint.problem import JointProblem
from surco.errors import InfeasibleError
from tests.problems.sharding.joint_instances import MIB, devices, tiny

TABLE_WISE = (ShardingType.TABLE_WISE,)
PLAIN = Workload(batch_size=64, optimizer=Optimizer.SGD, reserve=0.0, has_io_buffers=False)


def problem_of(tables, ranks, memory_bytes, *, per_host=None, workload=PLAIN, **rules):
    spec = JointSpec(
        tuple(tables), devices(ranks, per_host or ranks, memory_bytes), workload, JointConstraints(**rules)
    )
    return JointProblem(spec)


def squares(count, bytes_each):
    return [Table(f"t{i}", bytes_each // 256, 64, 3.0) for i in range(count)]


def reason(problem, seconds=6):
    with pytest.raises(InfeasibleError) as caught:
        surco.solve(problem, seconds=seconds)
    return str(caught.value)


def test_too_much_memory_names_the_relaxation_and_it_works():
    tables = squares(7, 2 * MIB)  # 14 MiB on two devices of 6
    text = reason(problem_of(tables, 2, 6 * MIB, default_types=TABLE_WISE))
    assert "memory" in text
    assert "'t0'" in text
    extra = int(re.search(r"relaxation: (?:at least )?(\d+) bytes", text).group(1))
    assert extra == 2 * MIB  # four on one device, three on the other
    relaxed = problem_of(tables, 2, 6 * MIB + extra, default_types=TABLE_WISE)
    assert surco.solve(relaxed, seconds=3).gap is not None
    assert reason(problem_of(tables, 2, 6 * MIB + extra - MIB, default_types=TABLE_WISE))


def test_pieces_that_do_not_pack_are_proven_impossible():
    tables = squares(3, 4 * MIB)  # 12 MiB fit into 2 x 7 in sum, but not as wholes
    problem = problem_of(tables, 2, 7 * MIB, default_types=TABLE_WISE)
    text = reason(problem)
    assert f"{MIB} bytes" in text
    free = problem_of(tables, 2, 7 * MIB)
    result = surco.solve(free, seconds=3)
    kinds = {p.sharding_type for p in free.plan(torch.from_numpy(result.x)).placements}
    assert kinds & {ShardingType.ROW_WISE, ShardingType.COLUMN_WISE}


@pytest.mark.parametrize("fill", [0.98, 1.0])
def test_almost_full_memory_still_gets_a_plan(fill):
    rng = np.random.default_rng(2)
    rows = rng.integers(2_000, 60_000, size=30)
    tables = [Table(f"t{i}", int(r), 64, float(rng.uniform(0.5, 30))) for i, r in enumerate(rows)]
    whole = sum(t.weight_bytes for t in tables)
    if fill == 1.0:  # a perfect packing exists by construction
        tables = squares(16, 2 * MIB)
        whole = 32 * MIB
    problem = problem_of(tables, 4, int(whole / 4 / fill), default_types=TABLE_WISE)
    result = surco.solve(problem, seconds=6)
    x = torch.from_numpy(result.x)
    assert float(problem.violation(x)) == 0.0
    assert problem.used_bytes(x).max() <= problem.space.capacity.max()
    share = problem.used_bytes(x).sum() / problem.space.capacity.sum()
    assert share == pytest.approx(fill, abs=0.001)


def test_row_wise_saves_a_table_larger_than_any_device():
    tables = [*squares(4, MIB), Table("giant", 40_960, 64, 5.0)]  # 10 MiB
    problem = problem_of(tables, 4, 4 * MIB)
    result = surco.solve(problem, seconds=3)
    plan = problem.plan(torch.from_numpy(result.x))
    assert plan.placement("giant").sharding_type is ShardingType.ROW_WISE
    text = reason(problem_of(tables, 4, 4 * MIB, default_types=TABLE_WISE))
    assert "'giant'" in text
    assert "10.00 GiB" not in text
    assert str(6 * MIB) in text  # what is missing on the largest device
    hosts = problem_of(tables, 8, 4 * MIB, per_host=4, types={"giant": (ShardingType.TABLE_ROW_WISE,)})
    plan = hosts.plan(torch.from_numpy(surco.solve(hosts, seconds=3).x))
    assert plan.placement("giant").ranks in ((0, 1, 2, 3), (4, 5, 6, 7))


def test_more_devices_than_tables():
    problem = tiny(world=16, per_host=8, tables=3)
    result = surco.solve(problem, seconds=4)
    assert result.gap is not None
    assert np.isfinite(result.value)
    verdict = TorchRecJudge(problem.joint_spec).judge(problem.plan(torch.from_numpy(result.x)))
    assert verdict.rating == pytest.approx(result.value, rel=1e-12)


@pytest.mark.parametrize("pooling", [0.0, 4.0])
def test_equal_tables_and_empty_ones_give_numbers(pooling):
    tables = [Table(f"t{i}", 1000, 64, pooling) for i in range(8)]
    problem = problem_of(tables, 4, 80 * 2**30, workload=Workload())
    result = surco.solve(problem, seconds=3)
    assert np.isfinite(result.value)
    assert np.isfinite(result.x).all()
    assert result.value == pytest.approx(result.bound, abs=1e-9)
    assert all(np.isfinite(v) for v in result.metrics.values())
    x = torch.from_numpy(result.x)
    assert "nan" not in problem.describe(x)


def test_one_table_on_one_device():
    problem = problem_of([Table("only", 10, 8, 1.0)], 1, MIB)
    result = surco.solve(problem, seconds=2)
    assert result.value == pytest.approx(result.bound)


def test_conflicting_pins_are_named():
    text = reason(tiny(colocate=(("t0", "t1"),), pin={"t0": "gpu0", "t1": "gpu1"}))
    assert "'t0'" in text
    assert "'t1'" in text
    assert "gpu1" in text
    text = reason(tiny(pin={"t0": "gpu0"}, forbid=(("t0", "gpu0"),)))
    assert "pinned to 'gpu0'" in text
    assert "forbidden" in text
    text = reason(tiny(pin={"t0": "gpu0", "t1": "gpu0"}, spread=(("t0", "t1"),)))
    assert "spread" in text
    assert "'t0'" in text
    text = reason(tiny(pin={"t0": "gpu0"}, types={"t0": (ShardingType.ROW_WISE,)}))
    assert "'t0'" in text
    assert "row_wise" in text
    types = {"t0": (ShardingType.ROW_WISE,), "t1": (ShardingType.TABLE_WISE,)}
    text = reason(tiny(colocate=(("t0", "t1"),), types=types))
    assert "'t0' and 't1'" in text


def test_more_spread_tables_than_devices():
    text = reason(tiny(world=2, per_host=2, tables=4, spread=(("t0", "t1", "t2"),)))
    assert "spread" in text
