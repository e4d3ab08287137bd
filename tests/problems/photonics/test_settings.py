"""Settings of pass-through by device: what they rest on, what picks them, and the options behind them."""

import json
from pathlib import Path

import pytest
import torch

import surco
from problems.photonics import PhotonicProblem, Simulator
from problems.photonics.brush import circle, cross
from problems.photonics.geometry import waveguide_bend
from problems.photonics.methods import LatentDescent, pass_through
from problems.photonics.settings import DEEP, SETTINGS, pass_through_options
from problems.photonics.targets import SPECS, spec_loss
from surco.counted import CountedProblem
from surco.errors import InvalidInputError
from surco.ledger import Budget, Ledger
from surco.methods import build_method

REFERENCE = Path(__file__).parents[3] / "benchmarks" / "reference"
CAMPAIGN = REFERENCE / "gpu_photonics_campaign.json"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A bend of 16 x 16 pixels: milliseconds a simulation."""
    device = waveguide_bend(size_nm=640.0, guide_length_nm=400.0, padding_nm=240.0, mode_padding_nm=200.0)
    simulator = Simulator(device, cache_dir=tmp_path_factory.mktemp("cache"))
    return PhotonicProblem(device, SPECS["bend"], cross(), simulator=simulator, spec={"domain": "photonics"})


def test_every_row_rests_on_stored_cells_of_its_settings():
    stored = {row["cell"]: row for row in json.loads(CAMPAIGN.read_text(encoding="utf-8"))["rows"]}
    for setting in SETTINGS:
        method = LatentDescent(**setting.options)
        assert setting.cells or "40nm" in setting.id
        for name in setting.cells:
            row = stored[name]
            pixels = int(row["brush"].removeprefix("circle-").removesuffix("px"))
            assert row["id"] == setting.id
            assert pass_through_options(row["id"], pixels) == setting.options
            assert row["objective"] == ("deep" if method.depth == DEEP else "spec")
            assert row["steps"] == method.horizon or (method.anneal == 1 and row["steps"] >= 400)
            assert row["step_size"] == method.step_size
            assert row.get("anneal", 1.0) == method.anneal
            assert row.get("sharpness", 8.0) == method.sharpness
            assert row["met"] > 0


def test_the_falling_step_of_the_splitter_rests_on_a_stored_comparison():
    stored = json.loads((REFERENCE / "photonics.json").read_text(encoding="utf-8"))["splitter_40nm"]
    met = {row["method"]: row["met"] for row in stored["table"]}
    assert met["auto"] > met["pass_through"]
    assert pass_through_options("photonics/beam-splitter-40nm-v0", 3) == stored["options"]


def test_auto_takes_the_setting_of_device_and_brush(small):
    def auto(id, brush):
        problem = PhotonicProblem(small.device, small.target, brush, simulator=small.simulator, id=id)
        return problem.methods()[problem.auto_method]

    converter = "photonics/mode-converter-10nm-v0"
    assert auto(converter, circle(6)) == pass_through(depth=DEEP, step_size=0.2)
    assert auto(converter, circle(14)) == pass_through(depth=DEEP, step_size=0.1)
    assert auto("photonics/beam-splitter-10nm-v0", circle(8)).sharpness == 3.0
    assert auto("photonics/beam-splitter-40nm-v0", cross()) == pass_through(anneal=0.1, horizon=200)
    assert auto("photonics/mode-converter-40nm-v0", circle(6)) == pass_through()


def test_depth_changes_the_slope_and_no_value(small):
    x = torch.ones(1, small.n, dtype=torch.float64, requires_grad=True)
    loss, aimed = small.objective(x), small.aimed(DEEP).objective(x)
    assert torch.equal(loss, aimed)
    (plain,) = torch.autograd.grad(loss.sum(), x)
    (deep,) = torch.autograd.grad(aimed.sum(), x)
    s = small.s_parameters(x)[0]
    (expected,) = torch.autograd.grad(spec_loss(s, small.target, depth=DEEP).sum(), x)
    assert torch.allclose(deep, expected)
    assert not torch.allclose(deep, plain)


def test_the_step_falls_and_its_row_starts_again(small):
    method = pass_through(step_size=0.4, anneal=0.1, horizon=4, stops_at_spec=False, patience=1)
    counted = CountedProblem(Ledger(small, Budget(calls=20)))
    generator = torch.Generator().manual_seed(0)
    state = method.init(counted, generator=generator)
    sizes, counts = [], []
    for _ in range(6):
        before = state["latent"]
        state, _ = method.step(counted, state, generator=generator)
        sizes.append(float((state["latent"] - before).abs().median()))
        counts.append(int(state["t"]))
    assert counts == [1, 2, 3, 0, 1, 2]  # patience waits while the step falls
    assert sizes[0] == pytest.approx(0.4, rel=1e-3)  # Adam's first move is its step
    assert sizes[4] == pytest.approx(0.4, rel=1e-3)
    shares = [float(method._share(torch.tensor([[float(t)]]))) for t in (0, 2, 4, 9)]
    assert shares == pytest.approx([1.0, 0.55, 0.1, 0.1])


def test_options_by_name(small):
    named = surco.solve(small, "pass_through", calls=8, seed=1, sharpness=3.0, anneal=0.5, horizon=8, depth=DEEP)
    built = pass_through(sharpness=3.0, anneal=0.5, horizon=8, depth=DEEP)
    assert named.value == surco.solve(small, built, calls=8, seed=1).value
    with pytest.raises(InvalidInputError, match="Did you mean `anneal`"):
        surco.solve(small, "pass_through", calls=1, aneal=0.5)
    for wrong in ({"anneal": 0.0}, {"depth": 1.0}, {"horizon": 0}, {"sharpness": float("nan")}):
        with pytest.raises(InvalidInputError, match=next(iter(wrong))):
            build_method("pass_through", small, wrong)
