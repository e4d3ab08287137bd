"""Infeasible inputs: labelled by the oracle, explained with the blocking table and the smallest relaxation."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

import surco
from problems.sharding import DOMAIN, AdditiveCost, Constraints, Device, Optimizer, ShardingProblem, Table, Workload
from solvers.oracle import Status
from surco.errors import InfeasibleError

PLAIN = Workload(batch_size=1, reserve=0.0, has_io_buffers=False, optimizer=Optimizer.SGD)


def byte_tables(*sizes: int) -> list[Table]:
    """Tables of so many bytes (int8, one column)."""
    from problems.sharding import DataType

    return [Table(f"t{i}", size, 1, 1.0, DataType.INT8) for i, size in enumerate(sizes)]


def make(sizes, capacities, **kwargs):
    devices = [Device(f"d{i}", size) for i, size in enumerate(capacities)]
    return ShardingProblem(byte_tables(*sizes), devices, AdditiveCost(), workload=PLAIN, **kwargs)


def relaxed(problem, extra):
    """The same problem with ``extra`` bytes more on every device."""
    devices = [replace(d, memory_bytes=d.memory_bytes + extra) for d in problem.devices]
    return ShardingProblem(problem.tables, devices, workload=problem.workload, constraints=problem.constraints)


def is_feasible(problem):
    status = problem.oracle.solve(np.zeros((1, problem.oracle.n))).status[0]
    assert status.has_point or status is Status.INFEASIBLE
    return status.has_point


def check_relaxation(problem):
    """The named number of bytes is enough, and one less is not."""
    text = problem.explain_infeasibility()
    extra = int(re.search(r"Smallest relaxation: (\d+) bytes", text).group(1))
    assert not is_feasible(problem)
    assert is_feasible(relaxed(problem, extra)), text
    assert not is_feasible(relaxed(problem, extra - 1)), text
    return text


def test_one_table_larger_than_any_device():
    problem = make([10, 70, 20], [50, 50])
    text = check_relaxation(problem)
    assert "'t1'" in text
    assert "20 bytes" in text
    assert problem.heuristics() == {}
    answer = problem.exact(seconds=1)
    assert answer.x is None
    assert answer.bound == math.inf
    assert math.isinf(problem.lower_bound())


def test_many_too_large_tables_are_not_explained_one_by_one():
    text = make([60, 90, 70, 80, 65, 5], [50, 50]).explain_infeasibility()
    assert [line.split("'")[1] for line in text.splitlines()] == ["t1", "t3", "t2", "t4"]
    assert text.splitlines()[-1] == "So it is with 2 more, which lack less: 't4', 't0'."


def test_too_little_memory_in_all():
    text = check_relaxation(make([30, 30, 30, 30], [55, 55]))
    assert "together offer 110 bytes" in text


def test_the_sum_fits_but_no_packing_does():
    problem = make([6, 6, 6], [10, 10])
    text = check_relaxation(problem)
    assert "90.0%" in text
    assert "no packing" in text
    assert "Smallest relaxation: 2 bytes" in text
    assert problem.exact(seconds=1).bound == math.inf


@pytest.mark.parametrize("seed", range(8))
def test_smallest_relaxation_of_random_packings(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(20, 100, 9)
    problem = make(sizes.tolist(), [int(sizes.sum() / 3 * 1.004)] * 3)
    if is_feasible(problem):
        assert "There is a feasible plan" in problem.explain_infeasibility()
    else:
        check_relaxation(problem)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (Constraints(pin={"t0": "d0"}, forbid=[("t0", "d0")]), ["pin 't0' to 'd0'", "forbid 't0' on 'd0'"]),
        (Constraints(pin={"t0": "d0", "t1": "d1"}, colocate=[("t0", "t1")]), ["pin 't0'", "pin 't1'", "colocate"]),
        (Constraints(forbid=[("t2", "d0"), ("t2", "d1")]), ["forbid 't2' on 'd0'", "forbid 't2' on 'd1'"]),
        (Constraints(pin={"t0": "d0", "t2": "d1"}, colocate=[("t0", "t1"), ("t1", "t2")]), ["'t0', 't1', 't2'"]),
    ],
)
def test_conflicting_rules_are_named(rules, words):
    problem = make([10, 10, 10], [50, 50], constraints=rules)
    assert not is_feasible(problem)
    text = problem.explain_infeasibility()
    for word in words:
        assert word in text
    assert problem.heuristics() == {}
    assert problem.exact(seconds=1).x is None


def test_colocated_tables_that_are_too_large_together():
    text = check_relaxation(make([30, 30, 10], [50, 50], constraints=Constraints(colocate=[("t0", "t1")])))
    assert "['t0', 't1'] need together" in text


def test_reserve_is_named():
    problem = DOMAIN.make("sharding/mlperf-dlrm-v2-8gpu-v0", memory_gib=40)
    text = problem.explain_infeasibility()
    assert "'cat_20'" in text
    share = float(re.search(r"a reserve of ([\d.]+)%", text).group(1)) / 100
    workload = replace(problem.workload, reserve=share)
    freed = ShardingProblem(problem.tables, problem.devices, workload=workload)
    assert float(freed.oracle.memory[0]) <= float(freed.oracle.limit[0])


def test_solve_raises_with_the_explanation():
    with pytest.raises(InfeasibleError, match="t1"):
        surco.solve(make([10, 70, 20], [50, 50]), seconds=2)


def test_a_feasible_problem_says_so():
    assert "There is a feasible plan" in make([10, 10], [50, 50]).explain_infeasibility()
