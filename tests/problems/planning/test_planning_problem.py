"""The problems as the engine sees them, and the exact integer programs of the nonlinear costs."""

import json

import numpy as np
import pytest
import torch

import surco
from problems.planning.domain import DOMAIN
from problems.planning.expected_loss import likeliest_pairs, shortest_paths
from problems.planning.objectives import OBJECTIVES
from solvers.oracle import Status
from surco.errors import InvalidInputError, UnknownIdError


def test_the_engine_proves_polska():
    problem = DOMAIN.make("planning/polska-v0")
    result = surco.solve(problem, "exact", seconds=20)
    assert result.value == pytest.approx(24_584)
    assert result.bound == pytest.approx(24_584)
    assert "feasible" in problem.describe(torch.from_numpy(np.array(result.x)))


@pytest.mark.parametrize("name", ["bulk", "delay", "power"])
def test_integer_programs_price_whole_plans_exactly(name):
    problem = DOMAIN.make(f"planning/polska-{name}-v0")
    network, constant = problem.cost.integer_program()
    n, rng = problem.network.n, np.random.default_rng(0)
    for _ in range(20):
        x = rng.integers(0, problem.network.upper + 1).astype(float)
        wide = network.complete(np.r_[x, np.zeros(network.n - n)])
        assert (network.rows @ wide <= network.limits + 1e-6).all()
        said = float(problem.objective(torch.from_numpy(x)))
        assert float(network.cost @ wide) + constant == pytest.approx(said, rel=1e-6)


@pytest.mark.parametrize("name", ["bulk", "delay", "loss"])
def test_gradients_match_finite_differences(name):
    problem = DOMAIN.make(f"planning/polska-{name}-v0")
    x = torch.from_numpy(np.random.default_rng(1).uniform(3.2, 9.7, problem.network.n)).requires_grad_(True)
    (slope,) = torch.autograd.grad(problem.objective(x), x)
    along = torch.from_numpy(np.random.default_rng(2).standard_normal(problem.network.n))
    step = 1e-5
    with torch.no_grad():
        difference = (problem.objective(x + step * along) - problem.objective(x - step * along)) / (2 * step)
    assert float(slope @ along) == pytest.approx(float(difference), rel=1e-3)


def test_expected_loss_is_that_of_every_path_alone():
    """Tree by tree and path by path are the same minima."""
    cost = DOMAIN.make("planning/polska-loss-v0").cost
    network = cost.network
    m, demand = network.n_links, network.scenarios[0].demand
    plans = np.random.default_rng(3).integers(0, 9, (3, network.n)).astype(float)
    lost = np.zeros(3)
    for chance, a, b in likeliest_pairs(network, cost.rate, cost.states):
        alive = np.ones(m, dtype=bool)
        alive[[a, b]] = False
        paths = shortest_paths(network, alive, demand)
        load = np.zeros(2 * m)
        for _, path, gbps in paths:
            for arc, _ in path or ():
                load[arc] += gbps
        for _, path, gbps in paths:
            capacity = np.tile(network.offset + network.gbps * plans, 2)
            share = [np.minimum(1.0, capacity[:, arc] / load[arc]) for arc, _ in path or ()]
            lost += chance * gbps * (1.0 - (np.min(share, axis=0) if path is not None else 0.0))
    np.testing.assert_allclose(cost.expected_loss(torch.from_numpy(plans)).numpy(), lost, rtol=1e-12)
    one = cost.expected_loss(torch.from_numpy(plans[0]))
    assert one.shape == ()
    assert float(one) == pytest.approx(lost[0], rel=1e-12)


def test_a_call_with_seconds_ends_with_them():
    """By a clock that moves at each look: rows that cannot begin any more say so, the first one has a plan."""
    problem = DOMAIN.make("planning/polska-power-v0")
    problem.use_clock(Ticks(0.02))
    problem.oracle.warm_up()
    costs = np.random.default_rng(0).uniform(0.5, 2.0, (40, problem.network.n))
    batch = problem.oracle.solve(costs, seconds=3.0)
    assert batch.has_point[0]
    assert Status.LIMIT in batch.status
    first = batch.status.index(Status.LIMIT)
    assert all(status is Status.LIMIT for status in batch.status[first:])
    assert (problem.oracle.violation(batch.x[batch.has_point]) == 0.0).all()


def test_specs_rebuild_and_wrong_ids_are_named():
    problem = DOMAIN.make("planning/polska-delay-v0", mean_load_units=2.0)
    again = DOMAIN.from_spec(json.loads(json.dumps(problem.spec)))
    x = torch.ones(problem.network.n, dtype=torch.float64)
    assert float(again.objective(x)) == float(problem.objective(x))
    assert set(OBJECTIVES) == {"bulk", "delay", "loss", "power"}
    with pytest.raises(UnknownIdError, match="polska"):
        DOMAIN.make("planning/polsca-v0")
    with pytest.raises(InvalidInputError, match="load_factor"):
        DOMAIN.make("planning/polska-v0", loadfactor=0.5)


def test_moves_and_heuristics_are_feasible():
    problem = DOMAIN.make("planning/polska-v0")
    plans = problem.heuristics()
    assert {"greedy", "greedy_trim", "rounding", "greedy_box", "neighborhoods"} <= set(plans)
    for x in plans.values():
        assert float(problem.violation(x)) == 0.0
    near = problem.moves(plans["greedy"], count=6, generator=torch.Generator().manual_seed(0))
    assert len(near) == 6
    assert (problem.violation(near) == 0.0).all()
    assert float(problem.violation(torch.zeros_like(near[0]))) > 0.0


class Ticks:
    """A clock that moves by a fixed step each time it is read."""

    def __init__(self, step):
        self.now, self.step = 0.0, step

    def __call__(self):
        self.now += self.step
        return self.now


def test_heuristics_keep_to_the_seconds_of_all_rules_and_come_best_first():
    problem = DOMAIN.make("planning/nobel-germany-power-v0")
    clock = Ticks(0.01)
    problem.use_clock(clock)
    short = problem.heuristics(seconds=0.5)
    assert clock.now < 1.5  # the rules read the clock between their steps; three seconds each would be far more
    values = [float(problem.objective(x)) for x in short.values()]
    assert values == sorted(values)
    assert problem.heuristics(seconds=0.2) is short
    assert problem.heuristics(seconds=5.0) is not short


@pytest.mark.parametrize("id", ["planning/polska-v0", "planning/polska-delay-v0"])
def test_the_exact_run_reports_plans_and_bounds_on_its_way(id, monkeypatch):
    monkeypatch.setattr("problems.planning.problem.REPORT_SHARE", 0.0)
    monkeypatch.setattr("problems.planning.problem.REPORT_COST", 0.0)
    problem, reports = DOMAIN.make(id), []
    answer = problem.exact(seconds=60.0, report=lambda x, bound: reports.append((x, bound)))
    assert reports
    bounds = [bound for _, bound in reports]
    assert bounds == sorted(bounds)
    for x, bound in reports:
        if x is not None:
            assert float(problem.violation(x)) == 0.0
            assert bound - 1e-6 <= float(problem.objective(x))
    assert float(problem.objective(answer.x)) <= min(float(problem.objective(x)) for x, _ in reports if x is not None)
