"""Recorded steps are eager steps: on the CPU by playing the recorded parts again, on a GPU by real graphs."""

import numpy as np
import pytest
import torch

from problems.sharding.family import Distribution, ShardingFamily
from problems.sharding.fused import FusedCost
from surco.errors import InvalidInputError
from surco.training import TrainConfig, train
from surco.training.adam import Adam
from surco.training.captured import CapturedSteps
from surco.training.steps import EagerSteps, Learner

TABLES = "sharding/dlrm-50t-8d-nonlinear-v0"
CASES = (
    ("landscape", {"hidden": 8}),
    ("local", {"kind": "assignment", "hidden": 8, "rounds": 1}),
    ("descent", {"kind": "assignment", "hidden": 8, "rounds": 1}),
    ("perturbed", {"kind": "assignment", "hidden": 8, "rounds": 1}),
)
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


class Replayed(CapturedSteps):
    """The same parts in the same order, without a GPU to record them."""

    class Part:
        def __init__(self, body):
            self.replay = body

    def _record(self, rows):
        bodies = (self._fit,) if self.learner.gradient == "landscape" else (self._begin, self._end)
        self._graphs = [self.Part(body) for body in bodies]


def learned(kind, gradient, network, device, steps=4):
    source = ShardingFamily("sharding/test", Distribution((9, 9), (3, 3), FusedCost()))
    instances = [source.sample("train", seed=seed) for seed in range(3)]
    torch.manual_seed(0)
    built = source.network(**network).to(device)
    settings = TrainConfig.of({"batch": 2, "samples": 4, "network": network, "device": device})
    learner = Learner(source, settings, gradient, 1, torch.device(device), built, Adam(built.parameters(), clip=1.0))
    losses = []
    with kind(learner, instances, None) as taken:
        for k in range(steps):
            chosen = np.random.default_rng(k).permutation(len(instances))[: settings.batch]
            taken.one(chosen, [k], 1e-3 * (k + 1))
            losses.append(taken.loss())
    return losses, built.state_dict()


@pytest.mark.parametrize(("gradient", "network"), CASES)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def test_recorded_steps_are_eager_steps(gradient, network, device):
    recorded, weights = learned(Replayed if device == "cpu" else CapturedSteps, gradient, network, device)
    eager, expected = learned(EagerSteps, gradient, network, device)
    assert recorded == pytest.approx(eager, rel=1e-4)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-5)


def test_graphs_want_a_gpu():
    with pytest.raises(InvalidInputError, match="CUDA"):
        train(TABLES, steps=1, is_captured=True, instances=2, validation=1)
