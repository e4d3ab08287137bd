"""The watch over gradients that vanish without a word."""

from __future__ import annotations

import torch

from surco.estimators import Flow, GradientWatch, Interpolation, ScoreFunction, gradient_flow
from tests.surco.estimators.judge import Enumerated, Tiny, nonlinear, subsets


def estimate(f, estimator, costs=(1.0, 1.1, 1.2, 1.3)):
    case = Tiny(Enumerated(subsets(4, 2)), f)
    return estimator(case, torch.tensor([costs], dtype=torch.float64), generator=torch.Generator().manual_seed(0))


def rounded(x):
    """Autograd goes through, and finds zero: what no check of None can see."""
    return torch.round(nonlinear(x)) + 0.0 * x.sum(-1)


def test_flow_of_each_kind():
    assert gradient_flow(estimate(nonlinear, ScoreFunction(sigma=1.0))) is Flow.FLOWING
    assert gradient_flow(estimate(lambda x: 0 * x.sum(-1), ScoreFunction())) is Flow.FLAT
    assert gradient_flow(estimate(lambda x: x.sum(-1) * torch.nan, ScoreFunction())) is Flow.EMPTY
    found = estimate(rounded, Interpolation())
    assert gradient_flow(found) is Flow.FLAT  # without gradient the second vertex is the first one
    found.atoms[:, 1] = torch.tensor([0.0, 0, 1, 1])
    found.values[:, 1] = 99.0
    assert gradient_flow(found) is Flow.BLOCKED


def test_remedies_are_given_unless_it_flows():
    assert not Flow.FLOWING.remedy
    assert all(flow.remedy for flow in Flow if flow is not Flow.FLOWING)
    assert "ScoreFunction()" in Flow.BLOCKED.remedy


def test_the_watch_bears_patience_steps_and_forgives_on_the_first_gradient():
    watch = GradientWatch(patience=3)
    flat = estimate(rounded, Interpolation())
    for step in range(3):
        assert watch.is_stuck is False
        assert watch.observe(flat) is Flow.FLAT
        assert watch.steps == step + 1
    assert watch.is_stuck
    again = GradientWatch.from_state(watch.state())
    assert again == watch
    assert again.observe(estimate(nonlinear, ScoreFunction(sigma=1.0))) is Flow.FLOWING
    assert again.steps == 0
    assert not again.is_stuck
