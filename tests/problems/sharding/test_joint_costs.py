"""Prices, memory and scores against TorchRec's own objects, to the last bit; TorchRec is part of the test setup."""

import numpy as np
import pytest

from problems.sharding import DataType, Optimizer, Workload
from problems.sharding.joint import JointSpec, ShardingType
from problems.sharding.joint.costs import Prices, column_widths, row_shares
from problems.sharding.joint.judge import TorchRecJudge
from tests.problems.sharding.joint_instances import devices, some_tables, tiny

CASES = {
    "one host, float32": (8, 8, 2048, Optimizer.SGD, DataType.FLOAT32),
    "one host, float16, Adam": (4, 4, 513, Optimizer.ADAM, DataType.FLOAT16),
    "two hosts, Adagrad": (16, 8, 4096, Optimizer.ADAGRAD, DataType.FLOAT32),
    "three hosts, row-wise Adagrad": (24, 8, 64, Optimizer.ROWWISE_ADAGRAD, DataType.FLOAT32),
    "hosts of two": (4, 2, 64, Optimizer.ROWWISE_ADAGRAD, DataType.FLOAT32),
    "one rank": (1, 1, 64, Optimizer.ROWWISE_ADAGRAD, DataType.FLOAT32),
}


@pytest.mark.parametrize("case", CASES)
def test_prices_and_bytes_are_those_of_torchrec(case):
    world, local, batch, optimizer, dtype = CASES[case]
    workload = Workload(batch_size=batch, optimizer=optimizer)
    spec = JointSpec(some_tables(dtype), devices(world, local), workload)
    judge, prices = TorchRecJudge(spec), Prices(spec)
    compared = 0
    for kind in ShardingType:
        for least in (128, 32) if kind.cuts_columns else (128,):
            widths = {}
            if kind.cuts_columns:
                widths = {t.name: (column_widths(t.dim, least) or [t.dim])[0] for t in spec.tables}
            options = judge.options({t.name: kind.value for t in spec.tables}, widths)
            for table, option in zip(spec.tables, options, strict=True):
                width = widths.get(table.name)
                ms = prices.phases_ms(table, kind, width)
                sizes = np.tile(prices.shard_bytes(table, kind, width), table.dim // width if width else 1)
                assert len(option.shards) == len(sizes)
                for shard, size in zip(option.shards, sizes, strict=True):
                    perf = shard.perf
                    theirs = [perf.fwd_compute, perf.fwd_comms, perf.bwd_comms, perf.bwd_compute]
                    np.testing.assert_allclose(ms[:, 0], theirs, rtol=1e-12, atol=0.0)
                    assert perf.prefetch_compute == 0.0
                    assert shard.storage.hbm == size
                    compared += 1
    assert compared >= 80


@pytest.mark.parametrize(("world", "local"), [(4, 2), (4, 4)])
def test_scores_of_mixed_plans_are_those_of_torchrec(world, local):
    from problems.sharding.joint import Objective

    problem = tiny(world, local, tables=6)
    judge = TorchRecJudge(problem.joint_spec)
    rng = np.random.default_rng(1)
    space = problem.space
    import torch

    seen = set()
    for _ in range(6):
        x = torch.zeros(problem.oracle.n, dtype=torch.float64)
        for unit in range(len(space.units)):
            mode = rng.integers(space.unit_start[unit], space.unit_start[unit + 1])
            for piece in range(space.mode_start[mode], space.mode_start[mode + 1]):
                x[rng.integers(space.piece_start[piece], space.piece_start[piece + 1])] = 1.0
        plan = problem.plan(x)
        seen |= {placement.sharding_type for placement in plan.placements}
        verdict = judge.judge(plan)
        assert float(problem.objective(x)) == pytest.approx(verdict.rating, rel=1e-12)
        assert problem.score(x, Objective.RATING) == pytest.approx(verdict.rating, rel=1e-12)
        assert problem.score(x, Objective.CRITICAL_PATH) == pytest.approx(verdict.critical_path, rel=1e-12)
        np.testing.assert_array_equal(problem.used_bytes(x), verdict.hbm_bytes)
        assert torch.equal(problem.design_of(plan), x)
    assert len(seen) >= 4


def test_rows_and_widths():
    assert row_shares(10, 4) == [3, 3, 3, 1]
    assert row_shares(5, 4) == [2, 2, 1, 0]
    assert row_shares(1, 3) == [1, 0, 0]
    assert column_widths(512, 128) == [128, 256]
    assert column_widths(96, 8) == [8, 12, 16, 24, 32, 48]
    assert column_widths(128, 128) == []
