"""The problems as the engine sees them, and the exact integer programs of the nonlinear costs."""

import json

import numpy as np
import pytest
import torch

import surco
from problems.planning.domain import DOMAIN
from problems.planning.objectives import OBJECTIVES
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
