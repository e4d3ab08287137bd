"""The vectorized gradients against enumeration, finite differences and the estimators of one instance."""

import itertools

import pytest
import torch

from surco.instance_family import collate, family
from surco.training.gradients import GRADIENTS, Step, descended, taken


def small(count=2):
    """Instances of 4 tables on 2 or 3 devices; the additive cost, since so few tables are launch-bound in the other."""
    from problems.sharding.costs import AdditiveCost
    from problems.sharding.family import Distribution, ShardingFamily

    source = ShardingFamily("sharding/test", Distribution((4, 4), (2, 3), AdditiveCost()))
    instances = [source.sample("train", seed=seed) for seed in range(count)]
    return source, instances, collate([i.features for i in instances])


def expectation(source, batch, costs, sigma):
    """E f / scale over independent softmax choices, by enumeration of all plans; differentiable in the costs."""
    values = []
    for b in range(len(costs)):
        mask = batch.variables[b]
        tables, devices = int(mask.amax(1).sum()), int(mask.amax(0).sum())
        p = (-costs[b, :tables, :devices] / sigma).softmax(-1)
        total = costs.new_zeros(())
        features = {name: value[b : b + 1] for name, value in batch.features.items()}
        scale = source.scale(features)[0]
        for choice in itertools.product(range(devices), repeat=tables):
            x = torch.zeros_like(costs[b])
            x[range(tables), list(choice)] = 1.0
            f = source.objective(features, x[None])[0]
            total = total + p[range(tables), list(choice)].prod() * f / scale
        values.append(total)
    return torch.stack(values)


def step_of(source, instances, batch, costs, *, samples, sigma, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Step(source, batch, instances, costs, generator, samples, sigma, None)


def test_the_local_gradient_is_that_of_the_expected_value():
    source, instances, batch = small()
    generator = torch.Generator().manual_seed(1)
    costs = torch.rand(batch.variables.shape, generator=generator, dtype=torch.float64) * batch.variables
    leaf = costs.clone().requires_grad_()
    exact = expectation(source, batch, leaf, 0.7)
    (expected,) = torch.autograd.grad(exact.sum(), leaf)
    loss, grad = taken(GRADIENTS["local"], step_of(source, instances, batch, costs, samples=4000, sigma=0.7))
    error = (grad - expected)[batch.variables].norm() / expected[batch.variables].norm()
    assert float(error) < 0.15
    assert float(((loss - exact.detach()) / exact.detach()).abs().max()) < 0.03
    assert float(grad[~batch.variables].abs().sum()) == 0.0


def test_descent_ends_where_no_single_move_helps_and_teaches_it():
    source, instances, batch = small(4)
    generator = torch.Generator().manual_seed(2)
    costs = torch.rand(batch.variables.shape, generator=generator, dtype=torch.float64) * batch.variables
    x, _ = source.solve(batch, instances, costs[:, None])
    y = descended(source, batch.features, x[:, 0], batch.variables, moves=50)
    before, after = (source.objective(batch.features, z) for z in (x[:, 0], y))
    assert bool((after <= before).all())
    assert bool((after < before).any())
    again = source.local_values(batch.features, y).masked_fill(~batch.variables, torch.inf).flatten(1).amin(1)
    assert bool((again >= after * (1 - 1e-6)).all())
    _, grad = taken(GRADIENTS["descent"], step_of(source, instances, batch, costs, samples=1, sigma=0.1))
    moved, _ = source.solve(batch, instances, (costs - 2.0 * grad)[:, None])
    assert float(source.objective(batch.features, moved[:, 0]).sum()) < float(before.sum())


@pytest.mark.parametrize("name", ["perturbed", "score"])
def test_perturbed_gradients_agree_with_the_estimators_of_one_instance(name):
    """Same law, other code: both means, over many samples, within their noise."""
    import surco
    from surco.estimators import build_estimator

    source = family("paths/grid-5-code-v0")
    instances = [source.sample("train", seed=seed) for seed in range(2)]
    batch = collate([i.features for i in instances])
    costs = batch.features["weights"][:, 0] + 0.3
    samples = 8_000
    _, grad = taken(GRADIENTS[name], step_of(source, instances, batch, costs, samples=samples, sigma=0.3))
    house = "perturbed" if name == "perturbed" else "score-function"
    for b, instance in enumerate(instances):
        sigma = 0.3 * float(costs[b].square().mean().sqrt())
        options = {"sigma": sigma, "samples": samples}
        if "is_relative" in surco.ESTIMATORS[house].__dataclass_fields__:
            options["is_relative"] = False
        estimator = build_estimator(house, **options)
        found = estimator(instance.problem, costs[b : b + 1], generator=torch.Generator().manual_seed(5))
        cosine = torch.nn.functional.cosine_similarity(grad[b], found.grad[0], dim=0)
        assert float(cosine) > 0.9
        assert float(grad[b].norm() / found.grad[0].norm()) == pytest.approx(1.0, abs=0.15)


def test_identity_is_minus_the_slope_across_the_costs():
    source = family("paths/grid-5-code-v0")
    instances = [source.sample("train", seed=seed) for seed in range(3)]
    batch = collate([i.features for i in instances])
    costs = batch.features["weights"][:, 0] + 0.1
    _, grad = taken(GRADIENTS["identity"], step_of(source, instances, batch, costs, samples=1, sigma=0.1))
    for b, instance in enumerate(instances):
        x = torch.from_numpy(instance.problem.oracle.solve(costs[b : b + 1].numpy()).x).requires_grad_()
        (slope,) = torch.autograd.grad(instance.problem.objective(x).sum(), x)
        unit = costs[b] / costs[b].norm()
        expected = -(slope[0] - unit * (unit @ slope[0])) / costs[b].norm()
        torch.testing.assert_close(grad[b], expected, rtol=1e-9, atol=1e-12)
        assert float((grad[b] * costs[b]).sum().abs()) < 1e-9
