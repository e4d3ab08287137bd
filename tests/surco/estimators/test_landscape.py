import pytest
import torch

import solvers
import surco
from surco.errors import InvalidInputError
from surco.estimators import Landscape, Shape


def problem(n=6):
    """One of n; f is a lookup table, without gradient."""
    table = torch.tensor([3.0, 1.0, 4.0, 1.5, 0.2, 2.0], dtype=torch.float64)[:n]
    return surco.problem(solvers.cardinality(n, 1), lambda x: float(table.numpy() @ x.round()), is_differentiable=False)


@pytest.mark.parametrize("shape", list(Shape))
def test_the_gradient_is_that_of_its_own_loss(shape):
    p, generator = problem(), torch.Generator().manual_seed(0)
    estimator = Landscape(shape=shape)
    costs = torch.rand(2, 6, generator=generator, dtype=torch.float64) + 0.1
    for _ in range(5):
        found = estimator(p, costs, generator=generator)
    model, values = estimator._model, estimator._values
    assert model is not None
    assert values is not None

    def loss(c):
        unit = c / c.square().mean(-1, keepdim=True).sqrt()
        return model(unit).detach() * values.std() + values.mean()

    for i in range(6):
        step = torch.zeros(6, dtype=torch.float64)
        step[i] = 1e-6
        slope = (loss(costs + step) - loss(costs - step)) / 2e-6
        torch.testing.assert_close(found.grad[:, i], slope, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.loss, loss(costs))
    assert float((found.grad * costs).sum().abs()) < 1e-8  # a factor on the costs changes nothing


@pytest.mark.parametrize("shape", list(Shape))
def test_descent_on_the_landscape_lowers_the_true_loss(shape):
    p, generator = problem(), torch.Generator().manual_seed(1)
    estimator = Landscape(shape=shape, sigma=0.5, explored=7)
    costs = torch.rand(4, 6, generator=generator, dtype=torch.float64) + 0.5

    def true_loss(c):
        noise = torch.Generator().manual_seed(9)
        rows = c[:, None] + 0.3 * torch.randn(len(c), 200, 6, generator=noise, dtype=torch.float64)
        x = torch.from_numpy(p.oracle.solve(rows.reshape(-1, 6).numpy()).x)
        return float(p.objective(x).mean())

    before = true_loss(costs)
    for _ in range(25):
        found = estimator(p, costs, generator=generator)
        costs = costs - 0.1 * found.grad / found.grad.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-9)
    assert true_loss(costs) < 0.9 * before


def test_it_serves_zero_and_repeats():
    runs = [
        surco.solve(problem(), "zero", estimator=Landscape(), calls=60, objective_calls=60, seed=3) for _ in range(2)
    ]
    assert runs[0].value == runs[1].value == pytest.approx(0.2)


def test_the_buffer_keeps_its_size_and_its_problem():
    estimator, generator = Landscape(capacity=10), torch.Generator().manual_seed(0)
    for _ in range(5):
        estimator(problem(), torch.rand(2, 6, generator=generator, dtype=torch.float64), generator=generator)
    assert estimator._values is not None
    assert len(estimator._values) == 10
    with pytest.raises(InvalidInputError, match="remembers"):
        estimator(problem(5), torch.ones(1, 5, dtype=torch.float64), generator=generator)
    with pytest.raises(InvalidInputError, match="shape"):
        Landscape(shape="cubic")
