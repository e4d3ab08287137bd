"""What holds for every estimator besides its mean: units, determinism, bad rows, dtypes, calls, and that it learns."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surco.errors import CutGradientError, InvalidInputError, UnknownIdError
from surco.estimators import (
    ESTIMATORS,
    IMLE,
    FenchelYoung,
    Identity,
    Interpolation,
    Perturbed,
    PerturbedMultiplicative,
    ScoreFunction,
    ScoreFunctionMultiplicative,
    build_estimator,
)
from surco.estimators.noise import Noise
from surco.protocols import GradientEstimator
from tests.surco.estimators.judge import Enumerated, Tiny, finite_differences, nonlinear, quadratic, subsets

ALL = [
    Interpolation(),
    Interpolation(strengths=(0.5, -0.5, 2.0)),
    Perturbed(),
    Perturbed(at="mean"),
    Perturbed(at="mean", is_leave_one_out=False),
    PerturbedMultiplicative(),
    ScoreFunction(),
    ScoreFunction(baseline="center", is_antithetic=False),
    ScoreFunction(distribution="gumbel"),
    ScoreFunctionMultiplicative(baseline="none"),
    IMLE(),
    *(Identity(projection=p) for p in ("none", "norm", "mean", "standard")),
]
VALUES_ONLY = [e for e in ALL if isinstance(e, ScoreFunction)]
SLOPED = [e for e in ALL if not isinstance(e, ScoreFunction)]
SAMPLING = [e for e in ALL if isinstance(e, Noise)]


def label(estimator) -> str:
    """Class and the options that are not the default ones."""
    kind = type(estimator)
    changed = [f.name for f in dataclasses.fields(estimator) if getattr(estimator, f.name) != getattr(kind(), f.name)]
    return "-".join([kind.__name__, *(f"{name}={getattr(estimator, name)}" for name in changed)])


NAMES = {"ids": label}


def problem(f=nonlinear, n=4, k=2, **options) -> Tiny:
    return Tiny(Enumerated(subsets(n, k)), f, **options)


def some_costs(rows=5, n=4, seed=0):
    return torch.rand(rows, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.3


def run(estimator, case, costs, seed=11):
    return estimator(case, costs, generator=torch.Generator().manual_seed(seed))


def same(a, b) -> bool:
    return all(
        torch.equal(torch.nan_to_num(getattr(a, name)), torch.nan_to_num(getattr(b, name)))
        for name in ("loss", "grad", "atoms", "values")
    )


# ------------------------------------------------------------------ protocol, shapes, calls


def test_the_table_holds_working_estimators():
    for name in ESTIMATORS:
        made = build_estimator(name)
        assert isinstance(made, GradientEstimator)
        assert run(made, problem(), some_costs()).grad.shape == (5, 4)


def test_unknown_names_and_options_are_explained():
    with pytest.raises(UnknownIdError, match="Did you mean `score-function`"):
        build_estimator("score-funktion")
    with pytest.raises(InvalidInputError, match=r"no option sigmas\. It has .*sigma"):
        build_estimator("perturbed", sigmas=1.0)


@pytest.mark.parametrize("estimator", ALL, **NAMES)
def test_shapes_and_calls(estimator):
    case = problem()
    costs = some_costs()
    found = run(estimator, case, costs)
    atoms = found.atoms.shape[1]
    assert found.loss.shape == (5,)
    assert found.grad.shape == (5, 4)
    assert found.atoms.shape == (5, atoms, 4)
    assert found.values.shape == (5, atoms)
    assert bool(torch.isfinite(found.grad).all())
    assert not found.grad.requires_grad
    assert torch.allclose(found.values, nonlinear(found.atoms))
    assert float(case.violation(found.atoms).max()) == 0.0
    rows = case.oracle.calls
    if isinstance(estimator, Interpolation | IMLE):
        assert len(rows) == 2
        assert sum(rows) == 5 * atoms
    else:
        assert rows == [5 * atoms]
        assert len(case.calls) == 1  # and equal points are valued once
        assert case.calls[0] <= 5 * (2 * atoms + 1)


def test_equal_vertices_are_valued_once():
    case = problem()
    run(ScoreFunction(sigma=1e-9), case, some_costs(rows=1).expand(7, -1))
    assert case.calls == [1]


@pytest.mark.parametrize("estimator", [*ALL, FenchelYoung()], **NAMES)
def test_wrong_costs_are_refused(estimator):
    extra = {"targets": torch.zeros(1, 4)} if isinstance(estimator, FenchelYoung) else {}
    for costs, hint in ((torch.zeros(4), r"Try `costs\[None\]`"), (torch.zeros(2, 3), r"\[B, 4\], got \[2, 3\]")):
        with pytest.raises(InvalidInputError, match=hint):
            estimator(problem(), costs, generator=torch.Generator(), **extra)
    with pytest.raises(InvalidInputError, match="floating point"):
        estimator(problem(), torch.zeros(1, 4, dtype=torch.int64), generator=torch.Generator(), **extra)


@pytest.mark.parametrize("estimator", ALL, **NAMES)
def test_an_objective_of_the_wrong_shape_is_named(estimator):
    with pytest.raises(InvalidInputError, match="Sum over the last dimension only"):
        run(estimator, problem(lambda x: x.sum()), some_costs())


@pytest.mark.parametrize("estimator", ALL, **NAMES)
def test_estimates_follow_the_dtype_of_the_costs(estimator):
    double = run(estimator, problem(), some_costs())
    single = run(estimator, problem(), some_costs().float())
    assert {single.loss.dtype, single.grad.dtype, single.atoms.dtype, single.values.dtype} == {torch.float32}
    assert torch.equal(single.atoms.double(), double.atoms)  # the same noise in both
    assert torch.allclose(single.grad.double(), double.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("estimator", ALL, **NAMES)
def test_estimates_follow_the_device_of_the_costs(estimator):
    there = run(estimator, problem(), some_costs().cuda())
    here = run(estimator, problem(), some_costs())
    assert there.grad.is_cuda
    assert there.atoms.is_cuda
    assert torch.allclose(there.grad.cpu(), here.grad, atol=1e-9)


# ------------------------------------------------------------------ units and signs


@pytest.mark.parametrize("estimator", ALL, **NAMES)
@settings(max_examples=12, deadline=None)
@given(f_unit=st.sampled_from([1e-3, 1.0, 1e3]), c_unit=st.sampled_from([1e-3, 1.0, 1e3]), seed=st.integers(0, 99))
def test_units_change_no_vertex_and_scale_the_gradient(estimator, f_unit, c_unit, seed):
    """f in other units: gradient times the unit. Costs in other units: gradient divided by it."""
    has_no_unit = isinstance(estimator, Identity) and estimator.projection in ("none", "mean")
    c_unit_power = 0 if has_no_unit else 1
    costs = some_costs(seed=seed)
    plain = run(estimator, problem(), costs)
    scaled = run(estimator, problem(lambda x: f_unit * nonlinear(x)), c_unit * costs)
    assert torch.equal(plain.atoms, scaled.atoms)
    expected = plain.grad * f_unit / c_unit**c_unit_power
    assert torch.allclose(scaled.grad, expected, rtol=1e-6, atol=1e-9 * f_unit / c_unit)


@pytest.mark.parametrize("estimator", ALL, **NAMES)
def test_a_step_against_the_gradient_lowers_f(estimator):
    """For f = a . x with a orthogonal to c the derivative along a is negative: minimizing makes a . x smaller."""
    a = torch.tensor([1.0, -1.0, 2.0, -2.0], dtype=torch.float64)
    costs = torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64).expand(400, -1) + 1e-6 * some_costs(400)
    found = run(estimator, problem(lambda x: x @ a), costs)
    assert float((found.grad @ a).mean()) < -0.1


@pytest.mark.parametrize("estimator", [e for e in VALUES_ONLY if e.is_odd or e.baseline != "none"], **NAMES)
def test_an_offset_of_f_changes_nothing_where_there_is_a_baseline(estimator):
    plain = run(estimator, problem(), some_costs())
    shifted = run(estimator, problem(lambda x: nonlinear(x) + 1e6), some_costs())
    assert torch.allclose(plain.grad, shifted.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("projection", ["none", "norm", "mean", "standard"])
def test_identity_is_minus_the_projected_slope(projection):
    estimator = Identity(projection=projection)
    costs = some_costs(1)[0]
    found = run(estimator, problem(), costs[None])
    x = found.atoms[0, 0].clone().requires_grad_()
    (g,) = torch.autograd.grad(nonlinear(x), x)

    def surrogate(c):
        c = c - c.mean() if projection in ("mean", "standard") else c
        c = c / c.square().mean().sqrt() if projection in ("norm", "standard") else c
        return -(g * c).sum()

    assert torch.allclose(found.grad[0], finite_differences(surrogate, costs), atol=1e-6)


# ------------------------------------------------------------------ noise


@pytest.mark.parametrize("estimator", ALL, **NAMES)
def test_the_same_generator_gives_the_same_estimate(estimator):
    assert same(run(estimator, problem(), some_costs()), run(estimator, problem(), some_costs()))


@pytest.mark.parametrize("estimator", SAMPLING, **NAMES)
def test_another_seed_gives_other_noise(estimator):
    a, b = run(estimator, problem(), some_costs()), run(estimator, problem(), some_costs(), seed=12)
    assert not torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("estimator", ALL, **NAMES)
def test_no_global_generator_is_touched(estimator):
    before = torch.get_rng_state()
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - the legacy generator is what must stay untouched
    run(estimator, problem(), some_costs())
    assert torch.equal(before, torch.get_rng_state())
    assert (state == np.random.get_state()[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("estimator", ALL, **NAMES)
def test_with_common_random_numbers_a_row_alone_is_the_row_in_a_batch(estimator):
    if isinstance(estimator, Noise):
        estimator = dataclasses.replace(estimator, noise_seed=5)
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    together = estimator(problem(), some_costs(), generator=generator)
    assert torch.equal(before, generator.get_state())
    for row in range(5):
        alone = run(estimator, problem(), some_costs()[row : row + 1], seed=99)
        assert torch.equal(alone.atoms[0], together.atoms[row])
        assert torch.allclose(alone.grad[0], together.grad[row], atol=1e-12)
        assert torch.allclose(alone.loss[0], together.loss[row])


def test_common_random_numbers_make_the_loss_a_fixed_function():
    estimator = ScoreFunction(noise_seed=1, samples=16)
    first = run(estimator, problem(), some_costs(), seed=1)
    again = run(estimator, problem(), some_costs(), seed=2)
    assert same(first, again)


@pytest.mark.parametrize("distribution", ["normal", "gumbel"])
def test_antithetic_pairs_are_opposite_quantiles(distribution):
    estimator = ScoreFunction(distribution=distribution, samples=6, sigma=1.0)
    z = estimator.draw(torch.ones(1000, 4).double(), generator=torch.Generator().manual_seed(0)).z
    even, odd = z[:, ::2], z[:, 1::2]
    if distribution == "normal":
        assert torch.equal(even, -odd)
    else:
        u = [torch.exp(-torch.exp(t - 0.5772156649015329)) for t in (even, odd)]
        assert torch.allclose(u[0] + u[1], torch.ones_like(u[0]), atol=1e-9)
    assert float(z.mean().abs()) < 0.05


def spread(estimator, f=nonlinear, rows=4000):
    costs = torch.tensor([0.9, 1.1, 1.05, 0.8], dtype=torch.float64).expand(rows, -1)
    return float(run(estimator, problem(f), costs).grad.var(0).sum())


def test_variance_reduction_reduces_variance():
    plain = ScoreFunction(samples=8, is_antithetic=False, baseline="none")
    baseline = ScoreFunction(samples=8, is_antithetic=False, baseline="leave-one-out")
    center = ScoreFunction(samples=8, is_antithetic=False, baseline="center")
    pairs = ScoreFunction(samples=8, is_antithetic=True, baseline="none")
    many = ScoreFunction(samples=32, is_antithetic=False, baseline="leave-one-out")
    assert spread(baseline) < 0.1 * spread(plain)
    assert spread(center) < 0.2 * spread(plain)
    assert spread(pairs) < 0.1 * spread(plain)
    assert spread(many) < 0.4 * spread(baseline)

    def nearly_linear(x):
        return quadratic(x) * 0.05 + x @ torch.tensor([3.0, -1.0, 2.0, 0.0], dtype=torch.float64)

    loose = Perturbed(samples=8, is_antithetic=False, is_leave_one_out=False)
    assert spread(dataclasses.replace(loose, is_leave_one_out=True), nearly_linear) < 0.6 * spread(loose, nearly_linear)


def test_noise_is_relative_to_the_costs():
    draw = ScoreFunction(sigma=0.5, samples=2000).draw(
        torch.tensor([[1.0, 7.0], [100.0, 700.0], [0.0, 0.0]]).double(), generator=torch.Generator().manual_seed(0)
    )
    deviation = draw.costs.std(1)
    assert deviation[0].tolist() == pytest.approx([2.5, 2.5], rel=0.1)
    assert deviation[1].tolist() == pytest.approx([250.0, 250.0], rel=0.1)
    assert deviation[2].tolist() == pytest.approx([0.5, 0.5], rel=0.1)  # zero costs count as rms 1


def test_a_zero_cost_has_no_multiplicative_gradient():
    costs = torch.tensor([[0.0, 1.0, 1.1, 0.9]], dtype=torch.float64)
    found = run(ScoreFunctionMultiplicative(samples=64), problem(), costs)
    assert float(found.grad[0, 0]) == 0.0
    assert bool(torch.isfinite(found.grad).all())
    assert bool((found.grad[0, 1:] != 0).any())


@pytest.mark.parametrize(
    ("build", "hint"),
    [
        (lambda: ScoreFunction(samples=3), "come in pairs"),
        (lambda: ScoreFunction(samples=0), ">= 1"),
        (lambda: ScoreFunction(sigma=0.0), "`sigma` > 0"),
        (lambda: ScoreFunction(sigma=float("nan")), "`sigma` > 0"),
        (lambda: ScoreFunction(samples=1, is_antithetic=False), 'Try `baseline="center"`'),
        (lambda: ScoreFunction(samples=2, distribution="gumbel"), "at least 4 `samples`"),
        (lambda: ScoreFunction(baseline="mean"), "one of .*leave-one-out"),
        (lambda: ScoreFunction(distribution="cauchy"), "one of .*gumbel"),
        (lambda: ScoreFunctionMultiplicative(distribution="gumbel"), "normal noise"),
        (lambda: Perturbed(samples=2), "is_leave_one_out=False"),
        (lambda: Perturbed(at="vertices"), "one of .*atoms"),
        (lambda: Interpolation(strengths=()), "none of them 0"),
        (lambda: Interpolation(strengths=(1.0, 0.0)), "none of them 0"),
        (lambda: IMLE(strength=-1.0), "`strength` > 0"),
        (lambda: IMLE(is_multiplicative=True), "additive"),
        (lambda: Identity(projection="l2"), "one of .*standard"),
    ],
)
def test_options_that_do_not_fit_are_explained(build, hint):
    with pytest.raises(InvalidInputError, match=hint):
        build()


# ------------------------------------------------------------------ bad rows and bad objectives


@pytest.mark.parametrize("estimator", ALL, **NAMES)
def test_rows_without_a_point_are_labelled_and_leave_the_others_alone(estimator):
    if isinstance(estimator, Noise):
        estimator = dataclasses.replace(estimator, noise_seed=5)
    costs = some_costs()
    costs[2] = torch.nan
    found = run(estimator, problem(), costs)
    assert bool(torch.isnan(found.atoms[2]).all())
    assert bool(torch.isnan(found.values[2]).all())
    assert float(found.loss[2]) == torch.inf
    assert not bool(found.grad[2].any())
    healthy = torch.tensor([0, 1, 3, 4])
    alone = run(estimator, problem(), costs[healthy])
    assert torch.allclose(alone.grad, found.grad[healthy], atol=1e-12)


@pytest.mark.parametrize("estimator", ALL, **NAMES)
def test_samples_without_a_point_are_left_out(estimator):
    case = Tiny(Enumerated(subsets(4, 2), mute=(0, 3)), nonlinear)
    found = run(estimator, case, some_costs(200))
    assert bool(torch.isnan(found.atoms).any())
    assert bool(torch.isfinite(found.grad).all())
    assert torch.equal(torch.isnan(found.values), torch.isnan(found.atoms).any(-1))
    assert len(case.calls) <= 2


def nan_at(vertex: int, value=torch.nan):
    bad = torch.from_numpy(subsets(4, 2)[vertex])

    def f(x):
        return torch.where((x == bad.to(x)).all(-1), x.new_tensor(value), nonlinear(x))

    return f


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("estimator", ALL, **NAMES)
def test_values_that_are_not_finite_are_left_out(estimator, value):
    found = run(estimator, problem(nan_at(1, value)), some_costs(200))
    assert bool((~torch.isfinite(found.values)).any())
    assert bool(torch.isfinite(found.grad).all())
    assert not bool(torch.isnan(found.loss).any())
    assert bool((found.grad != 0).any())


@pytest.mark.parametrize("estimator", ALL, **NAMES)
def test_an_objective_that_is_nan_everywhere_has_no_gradient_and_infinite_loss(estimator):
    found = run(estimator, problem(lambda x: x.sum(-1) * torch.nan), some_costs())
    assert not bool(found.grad.any())
    assert bool((found.loss == torch.inf).all())


def test_leaving_out_a_sample_leaves_out_its_partner_and_keeps_the_mean():
    """The gradient given that the pair counts, by a second computation over the same noise."""
    estimator = ScoreFunction(samples=20_000, sigma=0.4, noise_seed=2)
    costs = some_costs(1)
    found = run(estimator, problem(nan_at(1)), costs)
    draw = estimator.draw(costs, generator=torch.Generator())
    z, values = draw.z[0].numpy(), found.values[0].numpy()
    kept = [i for i in range(0, 20_000, 2) if np.isfinite(values[i]) and np.isfinite(values[i + 1])]
    slopes = [(values[i] - values[i + 1]) / 2 * z[i] for i in kept]
    mean = torch.from_numpy(np.mean(slopes, axis=0)) / draw.scale[0]
    mean = mean - costs[0] * (mean @ costs[0]) / (costs[0] @ costs[0])
    assert torch.allclose(found.grad[0], mean)


@pytest.mark.parametrize("estimator", SLOPED, **NAMES)
def test_a_black_box_is_refused_with_the_way_out(estimator):
    with pytest.raises(InvalidInputError, match=r"Try ScoreFunction\(\)"):
        run(estimator, problem(is_differentiable=False), some_costs())


@pytest.mark.parametrize("estimator", VALUES_ONLY, **NAMES)
def test_score_functions_take_a_black_box(estimator):
    def black_box(x):
        assert not x.requires_grad
        return torch.from_numpy(np.asarray([float(np.round(np.sum(row * [5, 1, 3, 2]))) for row in x.numpy()]))

    assert bool(run(estimator, problem(black_box, is_differentiable=False), some_costs(50)).grad.any())


CUTS = {
    "argmax": lambda x: torch.nn.functional.one_hot(x.argmax(-1), x.shape[-1]).double() @ torch.ones(4).double(),
    "detach": lambda x: nonlinear(x.detach()),
    "numpy": lambda x: torch.from_numpy(x.detach().numpy().sum(-1)),
    "own parameter": lambda x: nonlinear(x.detach()) * torch.ones((), dtype=x.dtype, requires_grad=True),
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("estimator", SLOPED, **NAMES)
def test_a_cut_graph_is_found_at_once(estimator, cut):
    with pytest.raises(CutGradientError, match="graph is cut"):
        run(estimator, problem(CUTS[cut]), some_costs())


@pytest.mark.parametrize("estimator", SLOPED, **NAMES)
def test_gradients_are_taken_inside_no_grad_and_inference_free_code(estimator):
    with torch.no_grad():
        found = run(estimator, problem(), some_costs())
    assert same(found, run(estimator, problem(), some_costs()))


def test_targets_need_not_be_valued():
    for estimator in (Interpolation(is_target_valued=False), IMLE(is_target_valued=False)):
        case = problem()
        found = run(estimator, case, some_costs())
        valued = run(dataclasses.replace(estimator, is_target_valued=True), problem(), some_costs())
        assert torch.equal(found.grad, valued.grad)
        assert bool(torch.isnan(found.values).any())
        assert len(case.calls) == 1


def test_fenchel_young_checks_targets_and_labels_bad_ones():
    estimator = FenchelYoung(is_valued=True)
    with pytest.raises(InvalidInputError, match=r"Try `targets\.expand_as"):
        estimator(problem(), some_costs(), targets=torch.zeros(4), generator=torch.Generator())
    targets = torch.from_numpy(subsets(4, 2)[:5]).clone()
    targets[1] = torch.nan
    costs = some_costs()
    costs[3] = torch.nan
    found = estimator(problem(), costs, targets=targets, generator=torch.Generator().manual_seed(0))
    assert (found.loss == torch.inf).tolist() == [False, True, False, True, False]
    assert not bool(found.grad[[1, 3]].any())
    assert torch.allclose(found.values[0], nonlinear(found.atoms[0]))


# ------------------------------------------------------------------ learning


@pytest.mark.parametrize("estimator", ALL, **NAMES)
def test_training_improves_the_design(estimator):
    """Adam on the costs of choosing 3 of 8, from ten random starts: the mean design gets much nearer to the best."""
    vertices = torch.from_numpy(subsets(8, 3))
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(8, 8, dtype=torch.float64, generator=generator)
    b = torch.randn(8, dtype=torch.float64, generator=generator)

    def f(x):
        return torch.nn.functional.softplus(2 * (x @ (a + a.T) * x).sum(-1)) + torch.tanh(x @ b)

    case = problem(f, n=8, k=3)
    best = float(f(vertices).min())
    costs = (torch.rand(10, 8, dtype=torch.float64, generator=generator) + 0.5).requires_grad_()
    start = run(Interpolation(), case, costs).loss.mean()
    optimizer = torch.optim.Adam([costs], lr=0.05)
    incumbent = torch.full((10,), torch.inf, dtype=torch.float64)
    for _ in range(60):
        found = estimator(case, costs, generator=generator)
        incumbent = torch.minimum(incumbent, torch.nan_to_num(found.values, nan=torch.inf).amin(-1))
        optimizer.zero_grad()
        costs.backward(found.grad)
        optimizer.step()
    end = run(Interpolation(), case, costs).loss.mean()
    assert float(end) - best < 0.6 * (float(start) - best)
    assert float(incumbent.mean()) <= float(end) + 1e-9
    assert float(incumbent.mean()) - best < 0.3 * (float(start) - best)


@pytest.mark.parametrize("is_multiplicative", [False, True])
def test_imitation_learns_the_targets(is_multiplicative):
    targets = torch.from_numpy(subsets(8, 3)[[0, 9, 30, 55]])
    estimator = FenchelYoung(is_multiplicative=is_multiplicative, samples=8)
    generator = torch.Generator().manual_seed(1)
    case = problem(n=8, k=3)
    costs = torch.ones(4, 8, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.Adam([costs], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        costs.backward(estimator(case, costs, targets=targets, generator=generator).grad)
        optimizer.step()
    assert np.array_equal(case.oracle.solve(costs.detach().numpy()).x, targets.numpy())
