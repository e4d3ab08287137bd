"""Targets, the problem class, its ids, methods, and the hand-over."""

import json

import numpy as np
import pytest
import torch

import surco
from problems.photonics import DOMAIN, PhotonicProblem, Simulator, gds, plots
from problems.photonics.brush import Symmetry, cross
from problems.photonics.geometry import waveguide_bend
from problems.photonics.methods import latent_zero, pass_through
from problems.photonics.robust import dilate, etch_corners
from problems.photonics.targets import SPECS, Spec, spec_loss, spec_metric
from surco.cli import main
from surco.errors import InvalidInputError, UnknownIdError


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A bend of 16 x 16 pixels: milliseconds a simulation."""
    device = waveguide_bend(size_nm=640.0, guide_length_nm=400.0, padding_nm=240.0, mode_padding_nm=200.0)
    simulator = Simulator(device, cache_dir=tmp_path_factory.mktemp("cache"))
    return PhotonicProblem(device, SPECS["bend"], cross(), simulator=simulator, spec={"domain": "photonics"})


def _random(problem, count, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(problem.oracle.solve(rng.standard_normal((count, problem.n))).x)


# ------------------------------------------------------------------ targets


def _s(power):
    return torch.tensor(power, dtype=torch.float64).sqrt().to(torch.complex128)[None, :, :, None]


def test_loss_and_metric_by_hand():
    spec = SPECS["bend"]
    s = _s([[0.02, 0.80], [0.005, 0.95]])
    transmission = 10 ** (-0.05)
    d = [[0.01 / 0.01, (transmission - 0.80) / 0.01], [-0.005 / 0.01, (transmission - 0.95) / 0.01]]
    expected = np.mean([sum(np.log1p(np.exp(v)) ** 2 for v in row) for row in d])
    assert float(spec_loss(s, spec)) == pytest.approx(expected, rel=1e-12)
    worst = max(0.01 / 0.01, (transmission - 0.80) / (1 - transmission))
    assert float(spec_metric(s, spec)) == pytest.approx(-worst, rel=1e-12)


def test_two_sided_window_uses_the_nearest_bound():
    spec = Spec(((0.4,),), ((0.6,),))
    assert float(spec_metric(_s([[0.45]]), spec)) == pytest.approx(0.05 / 0.2)
    assert float(spec_metric(_s([[0.58]]), spec)) == pytest.approx(0.02 / 0.2)
    assert float(spec_metric(_s([[0.70]]), spec)) == pytest.approx(-0.10 / 0.2)


def test_demultiplexer_bands_swap():
    spec = SPECS["wdm"]
    lower, upper = spec.windows(6)
    assert lower[:3, 1].min() == lower[3:, 2].min() == pytest.approx(10**-0.3)
    assert upper[:3, 2].max() == upper[3:, 1].max() == pytest.approx(0.01)
    with pytest.raises(InvalidInputError, match="multiple"):
        spec.windows(3)
    good = _s([[0.001, 0.7, 0.001], [0.001, 0.001, 0.7]])
    assert float(spec_metric(good, spec)) > 0
    assert float(spec_metric(good.flip(1), spec)) < 0


# ------------------------------------------------------------------ problem


def test_gradient_of_the_objective(small):
    x = torch.from_numpy(np.random.default_rng(1).random((2, small.n))).requires_grad_()
    (gradient,) = torch.autograd.grad(small.objective(x).sum(), x)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        step = 1e-6
        slope = (small.objective(x + step * direction) - small.objective(x - step * direction)) / (2 * step)
    assert torch.allclose(slope, (gradient * direction).sum(-1), rtol=1e-5)


def test_shapes_and_violation(small):
    x = _random(small, 3)
    assert small.objective(x).shape == (3,)
    assert small.objective(x[0]).shape == ()
    assert (small.violation(x) == 0).all()
    x[0, 37] = 1 - x[0, 37]
    x[1] = 0.5
    x[2, 0] = torch.nan
    assert (small.violation(x) > 0).all()
    with pytest.raises(InvalidInputError, match="shape"):
        small.objective(torch.zeros(1, small.n + 1))


def test_objective_is_row_by_row(small):
    x = _random(small, 4)
    together = small.objective(x)
    assert torch.allclose(together, torch.stack([small.objective(row) for row in x]), rtol=1e-9)


def test_symmetric_problem_has_fewer_variables(small):
    problem = PhotonicProblem(
        small.device, small.target, cross(), symmetry=Symmetry.DIAGONAL, simulator=small.simulator
    )
    assert problem.n == 16 * 17 // 2
    design = problem.design(_random(problem, 2))
    assert torch.equal(design, design.transpose(1, 2))
    x = torch.full((1, problem.n), 0.5, dtype=torch.float64)
    assert float(problem.objective(x)) == pytest.approx(
        float(small.objective(torch.full((1, small.n), 0.5, dtype=torch.float64)))
    )


def test_robust_objective_is_the_worst_corner(small):
    robust = PhotonicProblem(small.device, small.target, cross(), etch_px=1, simulator=small.simulator)
    x = _random(small, 2)
    corners = etch_corners(small.design(x), 1)
    values = torch.stack([small.objective(corner.flatten(1)) for corner in corners])
    assert torch.allclose(robust.objective(x), values.amax(0))
    assert robust.metric(x[0]) <= small.metric(x[0])


def test_dilation_against_scipy():
    from scipy import ndimage

    x = np.random.default_rng(0).random((12, 15)) < 0.2
    disk = np.hypot(*np.mgrid[-2:3, -2:3]) <= 2
    grown = dilate(torch.from_numpy(x.astype(float))[None], 2)[0].numpy() > 0.5
    inner = (slice(2, -2), slice(2, -2))
    assert np.array_equal(grown[inner], ndimage.binary_dilation(x, disk)[inner])
    nominal, grown_t, shrunk = etch_corners(torch.from_numpy(x.astype(float))[None], 1)
    assert ((shrunk <= nominal) & (nominal <= grown_t)).all()


def test_methods_improve_and_repeat(small):
    linear = surco.solve(small, "linear", calls=1, seed=0)
    solid = float(small.objective(torch.ones(small.n, dtype=torch.float64)))
    passed = surco.solve(small, pass_through(), calls=80, seed=0)
    assert passed.is_feasible
    assert passed.value < min(linear.value, solid)
    assert passed.value == surco.solve(small, pass_through(), calls=80, seed=0).value
    learned = surco.solve(small, latent_zero(strength=1.0), calls=40, seed=0)
    assert learned.is_feasible
    assert learned.value < solid


def test_own_methods_by_name_and_auto(small):
    by_name = surco.solve(small, "pass_through", calls=30, seed=3)
    auto = surco.solve(small, "auto", calls=30, seed=3)
    assert by_name.method == auto.method == "pass_through"
    assert by_name.value == auto.value
    with pytest.raises(UnknownIdError, match="pass_through"):
        surco.solve(small, "pass_trough", calls=3)


def test_latent_costs_are_differentiable(small):
    generator = torch.Generator().manual_seed(0)
    latent = small.initial_latent(1, generator=generator)[:, : small.n].requires_grad_()
    assert torch.autograd.gradcheck(lambda z: small.latent_costs(z, sharpness=3.0)[:, ::17], (latent,))
    assert (small.latent_costs(latent.abs() + 1) < 0).all()


# ------------------------------------------------------------------ domain


def test_every_light_id_builds():
    for id in DOMAIN.ids():
        if "40nm" in id or "family" in id:
            problem = DOMAIN.make(id)
            assert problem.id == id
            assert json.loads(json.dumps(problem.spec)) == problem.spec
            assert DOMAIN.from_spec(problem.spec).device.ports == problem.device.ports


def test_overrides_and_errors():
    problem = DOMAIN.make("photonics/bend-40nm-v0", brush="circle-5px", symmetry="diagonal", robust=1)
    assert (problem.brush.diameter, problem.etch_px, problem.n) == (5, 1, 820)
    with pytest.raises(UnknownIdError, match="bend-40nm"):
        DOMAIN.make("photonics/bend-40mn-v0")
    with pytest.raises(InvalidInputError, match="brush"):
        DOMAIN.make("photonics/bend-40nm-v0", brsh="cross")
    with pytest.raises(InvalidInputError, match="symmetry"):
        DOMAIN.make("photonics/bend-40nm-v0", symmetry="radial")
    with pytest.raises(InvalidInputError, match="seed"):
        DOMAIN.make("photonics/bend-40nm-v0", seed=3)


def test_families_differ_by_seed():
    geometries = {json.dumps(DOMAIN.make("photonics/wdm-family-v0", seed=s).spec, sort_keys=True) for s in range(4)}
    assert len(geometries) > 1
    one, two = (DOMAIN.make("photonics/mode-converter-family-v0", seed=5).spec for _ in range(2))
    assert one == two


# ------------------------------------------------------------------ hand-over


def test_gds_round_trip(small, tmp_path):
    pytest.importorskip("gdstk")
    for x in _random(small, 3, seed=9):
        design = small.design(x).numpy()
        gds.write_gds(tmp_path / "a.gds", small.device, design)
        assert np.array_equal(gds.read_gds(tmp_path / "a.gds", small.device), design)
    gds.write_gds(tmp_path / "void.gds", small.device, np.zeros_like(design))
    assert not gds.read_gds(tmp_path / "void.gds", small.device).any()
    with pytest.raises(InvalidInputError, match="um"):
        gds.read_gds(tmp_path / "a.gds", waveguide_bend())
    with pytest.raises(InvalidInputError, match="no file"):
        gds.read_gds(tmp_path / "b.gds", small.device)


def test_figures_are_drawn(small, tmp_path):
    paths = plots.save_figures(small, _random(small, 1)[0], tmp_path)
    assert sorted(path.stem for path in paths) == ["design", "field", "layout", "spectrum"]
    assert all(path.stat().st_size > 5_000 for path in paths)


@pytest.mark.parametrize("judge", ["direct", pytest.param("ceviche", marks=pytest.mark.optional)])
def test_verification_of_a_saved_result(judge, tmp_path, capsys):
    if judge == "ceviche":
        pytest.importorskip("autograd")
    result = surco.solve(DOMAIN.make("photonics/bend-40nm-v0"), "random", calls=2, seed=0)
    result.save(tmp_path)
    assert main(["verify", str(tmp_path), "--with", judge, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"rules", "value", judge}
    assert report[judge]["s_error"] <= 1e-8
    assert report[judge]["unpaintable_pixels"] == 0
    saved = json.loads((tmp_path / "result.json").read_text())
    saved["x"][813] = 1 - saved["x"][813]
    (tmp_path / "result.json").write_text(json.dumps(saved))
    assert main(["verify", str(tmp_path), "--with", judge]) == 1
    words = capsys.readouterr().out
    assert "rules: NOT CONFIRMED" in words
    assert f"{judge}: NOT CONFIRMED; unpaintable_pixels" in words
    assert main(["verify", str(tmp_path), "--with", "cevice"]) == 2
    assert main(["verify", str(tmp_path / "missing.json")]) == 2


def test_exports_hold_the_design(small, tmp_path):
    pytest.importorskip("gdstk")
    x = _random(small, 1)[0]
    for kind, write in small.exports().items():
        write(x, tmp_path / kind)
    assert np.array_equal(np.load(tmp_path / "npy"), small.design(x).numpy())
    assert np.array_equal(gds.read_gds(tmp_path / "gds", small.device), small.design(x).numpy())
