"""The placement oracle against enumeration of every canonical plan."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from problems.sharding import oracle as oracle_module
from problems.sharding.constraints import Constraints, Placement, resolve
from problems.sharding.growth import GrowthProgram, tractable_classes
from problems.sharding.oracle import PlacementOracle
from problems.sharding.symmetry import canonical, device_classes, is_canonical
from problems.sharding.tables import Device, Table
from solvers.oracle import Status


def make_oracle(rng, groups, devices, *, tightness, kinds=1, forbid=0.0):
    """Random oracle; ``tightness`` is total memory over total capacity."""
    memory = np.ceil(rng.lognormal(0, 1, groups) * 1000)
    kind = rng.integers(0, kinds, devices)
    weight = 1.0 + kind
    capacity = np.floor(memory.sum() / tightness * weight / weight.sum())
    allowed = rng.random((groups, devices)) >= forbid
    placement = Placement(np.arange(groups), allowed, tuple((g,) for g in range(groups)))
    classes = tractable_classes(device_classes([int(k) for k in kind], allowed))
    return PlacementOracle(placement, memory, capacity, classes, rng.permutation(groups))


def feasible_choices(oracle):
    """Every canonical, fitting, allowed choice, by brute force."""
    groups, devices = oracle.placement.allowed.shape
    everything = np.array(list(itertools.product(range(devices), repeat=groups)))
    keep = oracle.allows(everything) & oracle.fits(everything)
    keep &= is_canonical(everything, oracle.order, oracle.classes, devices)
    return everything[keep]


def check_against_enumeration(oracle, costs):
    choices = feasible_choices(oracle)
    batch = oracle.solve(costs)
    if len(choices) == 0:
        assert set(batch.status) == {Status.INFEASIBLE}
        assert np.isnan(batch.x).all()
        return
    best = (costs @ oracle.design(choices).T).min(axis=1)
    assert set(batch.status) == {Status.OPTIMAL}
    np.testing.assert_allclose(batch.objective, best, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose((costs * batch.x).sum(1), best, rtol=1e-9, atol=1e-9)
    assert (oracle.violation(batch.x) == 0).all()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    groups=st.integers(1, 6),
    devices=st.integers(1, 4),
    tightness=st.sampled_from([0.1, 0.6, 0.8, 0.95]),
    kinds=st.integers(1, 2),
    forbid=st.sampled_from([0.0, 0.2]),
)
def test_oracle_equals_enumeration(seed, groups, devices, tightness, kinds, forbid):
    rng = np.random.default_rng(seed)
    oracle = make_oracle(rng, groups, devices, tightness=tightness, kinds=kinds, forbid=forbid)
    check_against_enumeration(oracle, rng.normal(size=(5, oracle.n)))


def test_milp_fallback_equals_enumeration(monkeypatch):
    monkeypatch.setattr(oracle_module, "MAX_WORK", 0)
    rng = np.random.default_rng(3)
    for kinds in (1, 2):
        oracle = make_oracle(rng, 6, 3, tightness=0.9, kinds=kinds)
        monkeypatch.setattr("problems.sharding.lagrange.descend", lambda oracle, costs, choice: choice)
        check_against_enumeration(oracle, rng.normal(size=(4, oracle.n)))
    assert oracle._milp is not None  # the fallback was taken


def test_growth_program_equals_enumeration():
    rng = np.random.default_rng(0)
    classes = [np.array([0, 2, 3]), np.array([4, 5])]
    order = rng.permutation(5)
    program = GrowthProgram(order, classes, 6)
    everything = np.array(list(itertools.product(range(6), repeat=5)))
    everything = everything[is_canonical(everything, order, classes, 6)]
    costs = rng.normal(size=(40, 5, 6))
    costs[rng.random(costs.shape) < 0.1] = np.inf
    choice, value = program.solve(costs)
    rows = costs[:, np.arange(5), everything].sum(-1)
    np.testing.assert_allclose(value, rows.min(axis=1))
    finite = np.isfinite(value)
    assert is_canonical(choice[finite], order, classes, 6).all()
    np.testing.assert_allclose(costs[np.arange(40)[:, None], np.arange(5), choice].sum(1)[finite], value[finite])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_canonical_labelling_is_one_per_partition(seed):
    rng = np.random.default_rng(seed)
    groups, devices = 6, 5
    classes, order = [np.array([0, 1, 4])], rng.permutation(groups)
    choice = rng.integers(0, devices, (1, groups))
    shuffle = np.arange(devices)
    shuffle[classes[0]] = rng.permutation(classes[0])
    first = canonical(choice, order, classes, devices)
    assert (first == canonical(shuffle[choice], order, classes, devices)).all()
    assert (first == canonical(first, order, classes, devices)).all()
    assert is_canonical(first, order, classes, devices).all()
    same_before = choice[0][:, None] == choice[0]
    same_after = first[0][:, None] == first[0]
    assert (same_before == same_after).all()


def test_number_of_canonical_plans_is_the_number_of_partitions():
    # Stirling numbers of the second kind: partitions of 5 tables into at most 3 blocks: 1 + 15 + 25.
    everything = np.array(list(itertools.product(range(3), repeat=5)))
    assert is_canonical(everything, np.arange(5), [np.arange(3)], 3).sum() == 41


def test_bad_rows_are_labelled():
    rng = np.random.default_rng(1)
    oracle = make_oracle(rng, 4, 3, tightness=0.3)
    costs = rng.normal(size=(3, oracle.n))
    costs[1, 0] = np.nan
    batch = oracle.solve(costs)
    assert [s is Status.OPTIMAL for s in batch.status] == [True, False, True]
    assert batch.status[1] is Status.ERROR
    assert np.isnan(batch.x[1]).all()
    with pytest.raises(ValueError, match=r"Expected `costs` of shape"):
        oracle.solve(np.zeros(oracle.n))


def test_answers_do_not_depend_on_the_batch():
    rng = np.random.default_rng(2)
    oracle = make_oracle(rng, 12, 4, tightness=0.9)
    costs = rng.normal(size=(6, oracle.n))
    together = oracle.solve(costs).x
    alone = np.concatenate([oracle.solve(row[None]).x for row in costs])
    np.testing.assert_array_equal(together, alone)


def test_violation_names_each_rule():
    rng = np.random.default_rng(4)
    tables = [Table(name, 10, 4, 1.0) for name in "abc"]
    devices = [Device(f"d{i}", 100) for i in range(2)]
    placement = resolve(tables, devices, Constraints(colocate=[("a", "b")], forbid=[("c", "d0")]))
    oracle = PlacementOracle(placement, np.array([60.0, 50.0]), np.array([100.0, 100.0]), [], np.arange(2))
    good = np.array([1, 0, 1, 0, 0, 1], dtype=float)
    assert oracle.violation(good) == 0
    for bad in (
        [1, 0, 0, 1, 0, 1],  # a and b apart
        [1, 0, 1, 0, 1, 0],  # c on a forbidden device
        [0, 1, 0, 1, 0, 1],  # 110 bytes on 100
        [1, 0, 1, 0, 0, 0],  # c nowhere
        [1, 1, 1, 0, 0, 1],  # a twice
        [0.5, 0.5, 0.5, 0.5, 0, 1],  # not integral
        [np.nan, 0, 1, 0, 0, 1],
    ):
        assert oracle.violation(np.array(bad, dtype=float)) > 0, bad
    assert oracle.solve(rng.normal(size=(2, 6))).x.tolist() == [good.tolist()] * 2
