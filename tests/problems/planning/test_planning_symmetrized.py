"""Cuts of symmetrized demand are cuts of the demand; an engine that uses them proves the same optimum."""

from dataclasses import replace

import numpy as np
import pytest

from problems.planning import Decomposition, Judge, compile_instance, from_topohub, plan_of
from problems.planning.instance import PlanningInstance
from problems.planning.survival import metric_cut
from problems.planning.symmetrized import SymmetrizedSurvival, asymmetry


def nearly_symmetric(name: str, *, share: float, seed: int = 0) -> PlanningInstance:
    """A network with each demand scaled by a draw from [1 - share, 1 + share]."""
    instance = from_topohub(name)
    rng = np.random.default_rng(seed)
    directed = list(instance.demands)
    if instance.is_two_way:
        directed += [replace(d, source=d.target, target=d.source) for d in instance.demands]
    drawn = tuple(replace(d, gbps=d.gbps * float(rng.uniform(1.0 - share, 1.0 + share))) for d in directed)
    return replace(instance, demands=drawn, is_two_way=False)


@pytest.mark.parametrize("name", ["polska", "nobel-germany"])
def test_the_same_optimum_as_without(name, monkeypatch):
    instance = nearly_symmetric(name, share=0.15)
    network = compile_instance(instance)
    assert 0.0 < asymmetry(network) < 0.3
    engine = Decomposition(network, tolerance=1e-9)
    assert engine._is_nearly_symmetric
    bounds = engine.run(60.0)
    monkeypatch.setattr("problems.planning.symmetrized.MOST_ASYMMETRY", 0.0)
    plain = Decomposition(network, tolerance=1e-9)
    assert not plain._is_nearly_symmetric
    assert bounds.upper == pytest.approx(plain.run(60.0).upper, rel=1e-9)
    assert bounds.gap <= 1e-9
    assert engine.best is not None
    assert Judge(instance)(plan_of(network, engine.best)).is_feasible


def test_its_cuts_are_kept_by_every_plan_that_survives():
    network = compile_instance(nearly_symmetric("polska", share=0.2))
    engine = Decomposition(network, tolerance=1e-2)
    engine.run(30.0)
    assert engine.best is not None
    survival, rng, cuts = SymmetrizedSurvival(network), np.random.default_rng(1), 0
    for _ in range(5):
        capacities = network.capacities(engine.best * rng.uniform(0.3, 0.9, network.n))
        for scenario, answer in survival.failures(capacities)[0]:
            cut = metric_cut(network, scenario, answer)
            assert cut.weights @ capacities < cut.rhs
            assert cut.weights @ network.capacities(engine.best) >= cut.rhs * (1.0 - 1e-9)
            cuts += 1
    assert cuts > 20


def test_slices_come_to_the_same_end_as_one_run():
    network = compile_instance(nearly_symmetric("polska", share=0.1))
    whole = Decomposition(network, tolerance=1e-9)
    whole.run(60.0)
    sliced = Decomposition(network, tolerance=1e-9)
    stops = iter(range(10**6))
    for _ in range(2000):
        first = next(stops)
        bounds = sliced.run(30.0, callback=lambda _, first=first: next(stops) > first + 1)
        if bounds.gap <= 1e-9:
            break
    assert sliced.upper == pytest.approx(whole.upper, rel=1e-9)
