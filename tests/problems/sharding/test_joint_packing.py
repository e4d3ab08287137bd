"""The packing bound: its functions, and its claim against enumeration on instances that only packing explains."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from problems.sharding import Table, Workload
from problems.sharding.joint import JointConstraints, JointSpec, ShardingType
from problems.sharding.joint.bounds import level_bound
from problems.sharding.joint.packing_bound import PackingBound, dual_feasible
from problems.sharding.joint.problem import JointProblem
from surco.bridge import to_torch
from tests.problems.sharding.joint_instances import all_designs, devices, tiny


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=12), st.lists(st.floats(0.001, 1.0), max_size=8))
def test_whatever_fits_together_still_fits(parts, others):
    shares = np.array(parts)
    shares *= (1.0 - 1e-9) / max(shares.sum(), 1.0)
    # thresholds come from all entries, so other items are there too
    found = dual_feasible(np.concatenate([shares, np.array(others)]))[:, : len(shares)]
    assert (found >= 0.0).all()
    assert (found.sum(axis=1) <= 1.0 + 1e-9).all()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("world", "per_host"), [(3, 3), (4, 2)])
def test_never_above_the_best_plan(seed, world, per_host):
    problem = tiny(world, per_host, tables=4, seed=seed)
    x = to_torch(all_designs(problem))
    best = float(problem.objective(x).min())
    bound = PackingBound(problem.model).run(0.0, 2.0 * best, np.inf)
    assert bound <= best * (1 + 1e-9)
    assert bound >= 0.7 * best


def test_whole_tables_on_few_ranks():
    """Three equal tables on two ranks: two must share one; the mean says one and a half."""
    tables = tuple(Table(f"t{i}", 1000, 64, 5.0) for i in range(3))
    rules = JointConstraints(default_types=(ShardingType.TABLE_WISE,))
    problem = JointProblem(JointSpec(tables, devices(2, 2), Workload(), rules))
    single = float(problem.model.atom_top.max())
    assert level_bound(problem.model) == pytest.approx(1.5 * single)
    assert PackingBound(problem.model).run(0.0, 3 * single, np.inf) == pytest.approx(2 * single, rel=1e-3)


def test_unequal_devices_are_not_its_business():
    fast = devices(1, 1, hbm_gib_per_s=3000.0)[0]
    tables = (Table("t0", 1000, 64, 5.0),)
    slow = devices(2, 2)[1]
    problem = JointProblem(JointSpec(tables, (fast, slow)))
    assert not PackingBound.applies(problem.model)
    assert PackingBound.applies(tiny().model)
