"""Set-up prices: gated cuts hold for every whole plan, and the optimum is the compact model's."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from problems.planning import Decomposition, compile_instance, judge, plan_of
from problems.planning.compact import solve_compact
from problems.planning.gating import gate_of_variables, gated_depths, gated_row, narrow_sets
from tests.problems.planning.small import drawn


def with_setup(seed, *, nodes=6, extra=3, most=60.0):
    """A drawn network whose links cost 5 to 80 to open, against 1 to 19 a module."""
    instance, rng = drawn(seed, nodes=nodes, extra=extra), np.random.default_rng(seed)
    return dataclasses.replace(
        instance,
        links=tuple(dataclasses.replace(x, setup_cost=float(rng.integers(5, most + 20))) for x in instance.links),
    )


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_compact_model_agrees_on_setup_prices(seed):
    instance = with_setup(seed)
    network = compile_instance(instance)
    answer = solve_compact(network, seconds=60, gap=1e-9)
    engine = Decomposition(network, tolerance=1e-9)
    engine.run(120)
    assert engine.bounds.gap <= 1e-9
    assert engine.upper == pytest.approx(answer.bound, rel=1e-6)
    assert judge(instance, plan_of(network, engine.best)).is_feasible
    for _ in range(4):  # every cut of the run holds for plans that cost more, too
        x = network.complete(engine.best + np.random.default_rng(seed).integers(0, 3, network.n) * (network.gbps > 0))
        assert (engine.master.rows @ x >= engine.master.rhs - 1e-6).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_gated_rows_keep_all_whole_points(seed):
    rng = np.random.default_rng(seed)
    n_links = 5
    gate_of = np.r_[n_links + np.arange(n_links), np.full(n_links, -1)]  # x_0..x_4, then y_0..y_4
    gate_of[rng.integers(n_links)] = -1  # one link without a set-up price
    row = np.r_[rng.choice([0.0, 1.0, 2.5, 4.0], n_links), np.zeros(n_links)]
    rhs = float(rng.uniform(1.0, 12.0))
    y = rng.integers(0, 2, (500, n_links)).astype(float)
    x = rng.integers(0, 6, (500, n_links)) * np.where(gate_of[:n_links] >= 0, y, 1.0)
    points = np.hstack([x, y])
    points = points[points @ row >= rhs]
    at = np.r_[rng.uniform(0, 4, n_links), rng.uniform(0, 0.6, n_links)]
    gated = gated_row(gate_of, row, rhs, at)
    assert (points @ gated >= rhs - 1e-9).all()
    assert rhs - gated @ at == pytest.approx(float(gated_depths(gate_of, row[None], np.array([rhs]), at)[0]))
    assert gated @ at <= row @ at + 1e-9


def test_narrow_sets_are_left_by_less_than_two_open_links():
    network = compile_instance(with_setup(1))
    gate = gate_of_variables(network)
    x = np.zeros(network.n)
    x[gate[gate >= 0]] = 0.4
    sets = narrow_sets(network, x)
    assert len(sets)
    for inside in sets:
        crosses = inside[network.link_ends[:, 0]] != inside[network.link_ends[:, 1]]
        assert 0.4 * crosses.sum() < 2.0
    x[gate[gate >= 0]] = 1.0
    assert not len(narrow_sets(network, x))  # every node of a drawn network has two links
