"""Every estimator's mean against quadrature: the gradient that it claims, with tolerances from its own spread."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import norm, qmc

from surco.estimators import (
    IMLE,
    FenchelYoung,
    Interpolation,
    Perturbed,
    PerturbedMultiplicative,
    ScoreFunction,
    ScoreFunctionMultiplicative,
)
from tests.surco.estimators.judge import (
    Enumerated,
    Tiny,
    assert_mean,
    finite_differences,
    gradient,
    nonlinear,
    probabilities,
    quadratic,
    rms,
    subsets,
)

SIGMA = 0.3
COSTS = torch.tensor([0.9, 1.1, 1.05, 0.8], dtype=torch.float64)
OBJECTIVES = {"quadratic": quadratic, "nonlinear": nonlinear}


def problem(name: str = "nonlinear", n: int = 4, k: int = 2) -> Tiny:
    return Tiny(Enumerated(subsets(n, k)), OBJECTIVES[name])


def replicates(estimator, case: Tiny, costs=COSTS, draws: int = 240_000, seed: int = 7, **extra):
    """Gradients of independent rows, about ``draws`` samples in all; [R, n]."""
    rows = draws // getattr(estimator, "samples", 1)
    generator = torch.Generator().manual_seed(seed)
    return estimator(case, costs.expand(rows, -1).contiguous(), generator=generator, **extra)


def vertices(n: int, k: int) -> torch.Tensor:
    return torch.from_numpy(subsets(n, k))


def smoothed_loss(f, n=4, k=2, *, is_relative=True, sigma=SIGMA):
    values = f(vertices(n, k))
    return lambda c: probabilities(c, sigma * rms(c) if is_relative else sigma, k) @ values


def test_the_judge_agrees_with_counting():
    z = np.random.default_rng(0).standard_normal((400_000, 4))
    best = np.argmin((COSTS.numpy() + SIGMA * z) @ subsets(4, 2).T, axis=1)
    counted = np.bincount(best, minlength=6) / len(z)
    assert np.abs(counted - probabilities(COSTS, SIGMA, 2).numpy()).max() < 4.5 * 0.5 / len(z) ** 0.5


def test_the_judge_differentiates_exactly():
    loss = smoothed_loss(nonlinear)
    assert torch.allclose(gradient(loss, COSTS), finite_differences(loss, COSTS), atol=1e-7)


SCORE_CASES = [
    (samples, is_antithetic, baseline)
    for samples, is_antithetic, baseline in itertools.product(
        (1, 2, 4, 8), (False, True), ("none", "leave-one-out", "center")
    )
    if not (is_antithetic and samples % 2) and not (baseline == "leave-one-out" and samples == 1)
]


@pytest.mark.parametrize(("samples", "is_antithetic", "baseline"), SCORE_CASES)
def test_score_function_is_the_gradient_of_the_smoothed_loss(samples, is_antithetic, baseline):
    estimator = ScoreFunction(sigma=SIGMA, samples=samples, is_antithetic=is_antithetic, baseline=baseline)
    found = replicates(estimator, problem())
    assert_mean(found.grad, gradient(smoothed_loss(nonlinear), COSTS))
    expected_loss = smoothed_loss(nonlinear)(COSTS)
    assert abs(float(found.loss.mean() - expected_loss)) < 4.5 * float(found.loss.std()) / len(found.loss) ** 0.5


def test_score_function_with_a_fixed_scale_keeps_the_part_along_the_costs():
    estimator = ScoreFunction(sigma=SIGMA, samples=4, is_relative=False)
    exact = gradient(smoothed_loss(nonlinear, is_relative=False), COSTS)
    assert abs(float(exact @ COSTS)) > 0.1  # so that projecting it would be seen
    assert_mean(replicates(estimator, problem()).grad, exact)


def test_a_baseline_with_the_factor_m_over_m_minus_1_would_be_seen():
    exact = gradient(smoothed_loss(nonlinear), COSTS)
    found = replicates(ScoreFunction(sigma=SIGMA, samples=4), problem()).grad
    with pytest.raises(AssertionError, match="is not"):
        assert_mean(found * 4 / 3, exact)


def test_clipping_for_an_oracle_that_needs_nonnegative_costs_stays_unbiased():
    case = problem()
    case.oracle.needs_nonnegative_costs = True
    costs = COSTS * torch.tensor([0.2, 1.0, 1.0, 0.4])
    scale = 0.6
    v = vertices(4, 2)

    # The clipped costs tie at zero; the oracle takes the first of the tied sets, so the judge enumerates sign patterns.
    def exact_loss(c):
        grid = torch.from_numpy(norm.ppf(qmc.Sobol(4, scramble=False).random_base2(18) + 2.0**-19))
        seen = (c + scale * grid).clamp(min=0)
        return nonlinear(v)[(seen @ v.T).argmin(-1)], grid

    values, grid = exact_loss(costs)
    expected = (values[:, None] * grid).mean(0) / scale
    found = replicates(ScoreFunction(sigma=scale, samples=4, is_relative=False), case, costs)
    assert_mean(found.grad, expected, power=0.15)


@pytest.mark.parametrize("is_antithetic", [False, True])
@pytest.mark.parametrize("baseline", ["none", "leave-one-out", "center"])
def test_multiplicative_score_function(is_antithetic, baseline):
    """On a set of k, log is monotone: multiplying by a lognormal factor is adding normal noise to log c."""
    estimator = ScoreFunctionMultiplicative(sigma=0.4, samples=4, is_antithetic=is_antithetic, baseline=baseline)
    values = nonlinear(vertices(4, 2))
    exact = gradient(lambda c: probabilities(c.log() - 0.08, 0.4, 2) @ values, COSTS)
    assert abs(float(exact @ COSTS)) < 1e-9  # the loss depends on the direction of c alone
    assert_mean(replicates(estimator, problem()).grad, exact)


def test_multiplicative_noise_has_mean_one():
    estimator = ScoreFunctionMultiplicative(sigma=0.8, samples=8, is_antithetic=False)
    draw = estimator.draw(COSTS.expand(50_000, -1), generator=torch.Generator().manual_seed(1))
    ratio = (draw.costs / COSTS).reshape(-1, 4)
    assert bool((draw.costs > 0).all())
    assert bool(((ratio.mean(0) - 1).abs() < 4.5 * ratio.std(0) / len(ratio) ** 0.5).all())


@pytest.mark.parametrize("is_antithetic", [False, True])
@pytest.mark.parametrize("baseline", ["none", "leave-one-out", "center"])
def test_gumbel_noise_on_a_simplex_is_softmin(is_antithetic, baseline):
    estimator = ScoreFunction(
        sigma=0.4, samples=4, is_relative=False, distribution="gumbel", is_antithetic=is_antithetic, baseline=baseline
    )
    costs = COSTS[:3]
    exact = gradient(lambda c: torch.softmax(-c / 0.4, 0) @ nonlinear(vertices(3, 1)), costs)
    found = replicates(estimator, problem(n=3, k=1), costs)
    assert_mean(found.grad, exact)
    sampled = found.atoms[:, :4]  # a center, where there is one, comes last
    share = torch.stack([(sampled == v).all(-1).double().mean() for v in vertices(3, 1)])
    assert float((share - torch.softmax(-costs / 0.4, 0)).abs().max()) < 4.5 * 0.5 / sampled[..., 0].numel() ** 0.5


# ------------------------------------------------------------------ perturbed optimizers


def jacobian_times(slope: torch.Tensor, k=2, sigma=SIGMA):
    """Gradient of c -> slope . E x*(c + sigma rms(c) z)."""
    v = vertices(len(COSTS), k)
    return gradient(lambda c: (probabilities(c, sigma * rms(c), k) @ v) @ slope, COSTS)


def slope_at(f, x):
    return gradient(lambda p: f(p).sum(), x)


@pytest.mark.parametrize("name", ["quadratic", "nonlinear"])
@pytest.mark.parametrize(("samples", "is_antithetic"), [(2, False), (4, False), (4, True), (8, False), (8, True)])
def test_perturbed_at_atoms_is_unbiased_for_any_objective(name, samples, is_antithetic):
    v = vertices(4, 2)
    mean_slope = probabilities(COSTS, SIGMA * rms(COSTS), 2) @ slope_at(OBJECTIVES[name], v)
    estimator = Perturbed(sigma=SIGMA, samples=samples, is_antithetic=is_antithetic, at="atoms")
    assert_mean(replicates(estimator, problem(name)).grad, jacobian_times(mean_slope))


@pytest.mark.parametrize(("samples", "is_antithetic"), [(2, False), (4, True), (8, False), (8, True)])
def test_perturbed_at_the_mean_is_the_gradient_of_f_of_the_mean_for_quadratic_f(samples, is_antithetic):
    v = vertices(4, 2)
    exact = gradient(lambda c: quadratic(probabilities(c, SIGMA * rms(c), 2) @ v), COSTS)
    estimator = Perturbed(sigma=SIGMA, samples=samples, is_antithetic=is_antithetic, at="mean")
    assert_mean(replicates(estimator, problem("quadratic")).grad, exact)


def test_perturbed_at_the_mean_leaves_one_out_exactly_for_nonlinear_f():
    """With M = 3 the gradient is taken at means of two atoms: enumerate the pairs."""
    v = vertices(4, 2)
    p = probabilities(COSTS, SIGMA * rms(COSTS), 2)
    means = (v[:, None] + v[None]) / 2
    slope = torch.einsum("i,j,ijn->n", p, p, slope_at(nonlinear, means))
    found = replicates(Perturbed(sigma=SIGMA, samples=3, is_antithetic=False, at="mean"), problem())
    assert_mean(found.grad, jacobian_times(slope))


def test_perturbed_at_the_mean_tends_to_the_gradient_of_f_of_the_mean():
    v = vertices(4, 2)
    exact = gradient(lambda c: nonlinear(probabilities(c, SIGMA * rms(c), 2) @ v), COSTS)
    for is_leave_one_out in (True, False):
        estimator = Perturbed(sigma=SIGMA, samples=1000, at="mean", is_leave_one_out=is_leave_one_out)
        found = replicates(estimator, problem(), draws=400_000)
        assert_mean(found.grad, exact, power=0.2)
    loss = float(nonlinear(probabilities(COSTS, SIGMA * rms(COSTS), 2) @ v))
    assert float(found.loss.mean()) == pytest.approx(loss, rel=0.01)


def test_the_textbook_form_has_the_bias_that_its_docstring_names():
    """M = 1 without leave-one-out: the slope is that of the sample itself, E[(x . grad f(x)) score]."""
    v = vertices(4, 2)
    own = (v * slope_at(nonlinear, v)).sum(-1)
    exact = gradient(lambda c: probabilities(c, SIGMA * rms(c), 2) @ own, COSTS)
    for at in ("mean", "atoms"):
        estimator = Perturbed(sigma=SIGMA, samples=1, is_antithetic=False, at=at, is_leave_one_out=False)
        assert_mean(replicates(estimator, problem()).grad, exact)


@pytest.mark.parametrize("at", ["mean", "atoms"])
def test_perturbed_multiplicative(at):
    v = vertices(4, 2)

    def mean(c):
        return probabilities(c.log(), 0.4, 2) @ v

    exact = gradient(lambda c: quadratic(mean(c)), COSTS)  # for quadratic f both places give the same
    for is_antithetic in (False, True):
        estimator = PerturbedMultiplicative(sigma=0.4, samples=4, is_antithetic=is_antithetic, at=at)
        assert_mean(replicates(estimator, problem("quadratic")).grad, exact)


# ------------------------------------------------------------------ interpolation and I-MLE


@pytest.mark.parametrize("strengths", [(0.2,), (0.6,), (3.0,), (0.5, -0.5), (0.1, 0.4, 1.5)])
@pytest.mark.parametrize("seed", range(6))
def test_interpolation_is_the_derivative_of_the_interpolated_loss(strengths, seed):
    """L_k(c) = g . x_k - (c . x - c . x_k) / lambda_k at fixed g and lambda: continuous, piecewise linear."""
    costs = torch.rand(4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.2
    v = vertices(4, 2)
    x = v[(v @ costs).argmin()]
    g = slope_at(nonlinear, x)
    lambdas = [s * float(costs.norm() / g.norm()) for s in strengths]

    def loss(c):
        total = 0.0
        for lam in lambdas:
            least, pushed = v[(v @ c).argmin()], v[(v @ (c + lam * g)).argmin()]
            total = total + g @ pushed - (c @ least - c @ pushed) / lam
        return total / len(lambdas)

    found = Interpolation(strengths=strengths)(problem(), costs[None], generator=torch.Generator())
    assert torch.allclose(found.grad[0], finite_differences(loss, costs, 1e-6), atol=1e-7)
    assert float(found.loss) == pytest.approx(float(nonlinear(x)))


def test_interpolation_moves_downhill_for_linear_f():
    """For f = a . x the answer must come nearer to argmin a . x: (x_lambda - x) . a <= 0, and it does move."""
    a = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    case = Tiny(Enumerated(subsets(4, 2)), lambda x: x @ a.to(x))
    found = Interpolation(strengths=(5.0,))(case, a.flip(0)[None], generator=torch.Generator())
    assert float(found.grad[0] @ a) < 0
    stepped = a.flip(0) - 100 * found.grad[0]
    assert float(case.oracle.vertices[np.argmin(case.oracle.vertices @ stepped.numpy())] @ a.numpy()) == 3.0


@pytest.mark.parametrize(("samples", "is_antithetic"), [(1, False), (2, True), (4, False), (8, True)])
def test_imle_for_linear_f_is_a_difference_of_mean_answers(samples, is_antithetic):
    a = torch.tensor([2.0, -1.0, 0.5, 1.0], dtype=torch.float64)
    v = vertices(4, 2)
    case = Tiny(Enumerated(subsets(4, 2)), lambda x: x @ a)
    lam = 0.7 * COSTS.norm() / a.norm()
    scale = SIGMA * rms(COSTS)
    exact = (probabilities(COSTS + lam * a, scale, 2) - probabilities(COSTS, scale, 2)) @ v / lam
    estimator = IMLE(sigma=SIGMA, samples=samples, is_antithetic=is_antithetic, strength=0.7)
    assert_mean(replicates(estimator, case).grad, exact)


@pytest.mark.parametrize("distribution", ["normal", "gumbel"])
def test_imle_for_nonlinear_f_is_the_mean_interpolation_gradient(distribution):
    """Quasi-random enumeration of the noise with a second implementation."""
    v = subsets(4, 2)
    slopes = slope_at(nonlinear, torch.from_numpy(v)).numpy()
    u = qmc.Sobol(4, scramble=True, rng=3).random_base2(19)
    z = norm.ppf(u) if distribution == "normal" else 0.5772156649015329 + np.log(-np.log(u))
    noisy = COSTS.numpy() + SIGMA * float(rms(COSTS)) * z
    first = np.argmin(noisy @ v.T, axis=1)
    lam = 0.7 * float(COSTS.norm()) / np.linalg.norm(slopes, axis=1)
    pushed = noisy + lam[first, None] * slopes[first]
    exact = ((v[np.argmin(pushed @ v.T, axis=1)] - v[first]) / lam[first, None]).mean(0)
    estimator = IMLE(sigma=SIGMA, samples=4, strength=0.7, distribution=distribution)
    assert_mean(replicates(estimator, problem()).grad, torch.from_numpy(exact))


# ------------------------------------------------------------------ imitation


def test_fenchel_young_gradient_and_loss_are_exact_in_the_mean():
    target = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    v = vertices(4, 2)
    estimator = FenchelYoung(sigma=SIGMA, samples=4)
    rows = 60_000
    found = replicates(estimator, problem(), targets=target.expand(rows, -1))
    assert_mean(found.grad, target - probabilities(COSTS, SIGMA * rms(COSTS), 2) @ v)

    u = qmc.Sobol(4, scramble=True, rng=5).random_base2(18)
    noisy = COSTS.numpy() + SIGMA * float(rms(COSTS)) * norm.ppf(u)
    exact = float(COSTS @ target) - np.min(noisy @ v.numpy().T, axis=1).mean()
    assert abs(float(found.loss.mean()) - exact) < 4.5 * float(found.loss.std()) / rows**0.5 + 1e-4
    assert float(found.loss.mean()) >= 0


@pytest.mark.parametrize("is_multiplicative", [False, True])
def test_fenchel_young_gradient_is_the_derivative_of_its_sampled_loss(is_multiplicative):
    """With common random numbers the sampled loss itself is piecewise linear in c."""
    target = torch.tensor([[0.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    estimator = FenchelYoung(
        sigma=0.5, samples=64, noise_seed=3, is_relative=False, is_multiplicative=is_multiplicative
    )

    def at(c):
        return estimator(problem(), c[None], targets=target, generator=torch.Generator())

    assert torch.allclose(at(COSTS).grad[0], finite_differences(lambda c: at(c).loss[0], COSTS, 1e-7), atol=1e-6)


def test_fenchel_young_with_clipped_costs_is_the_derivative_of_its_sampled_loss():
    case = problem()
    case.oracle.needs_nonnegative_costs = True
    target = torch.tensor([[0.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    estimator = FenchelYoung(sigma=1.0, samples=64, noise_seed=3, is_relative=False)

    def at(c):
        return estimator(case, c[None], targets=target, generator=torch.Generator())

    assert torch.allclose(at(COSTS).grad[0], finite_differences(lambda c: at(c).loss[0], COSTS, 1e-7), atol=1e-6)
