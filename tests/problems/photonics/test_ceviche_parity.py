"""Every S entry and every gradient against the unmodified ceviche-challenges package."""

import numpy as np
import pytest
import torch

from problems.photonics import ceviche_bridge, geometry
from problems.photonics.simulator import Simulator

pytestmark = pytest.mark.optional
try:
    ceviche_bridge._packages()
except ImportError:
    pytest.skip("ceviche-challenges is not installed", allow_module_level=True)

CASES = {
    "bend": ("bend", {}),
    "bend, wide guide": ("bend", {"guide_nm": 480.0, "guide_length_nm": 800.0}),
    "converter": ("mode-converter", {}),
    "converter, 480 to 560 nm": ("mode-converter", {"left_guide_nm": 480.0, "right_guide_nm": 560.0}),
    "splitter": ("beam-splitter", {}),
    "splitter, narrow": ("beam-splitter", {"separation_nm": 1040.0, "guide_nm": 320.0}),
    "wdm": ("wdm", {}),
    "power splitter": ("power-splitter", {}),
}


def _compare(device, seed, tmp_path, ports, gradient):
    import autograd.numpy as anp

    rng = np.random.default_rng(seed)
    model = ceviche_bridge.challenge_model(device)
    simulator = Simulator(device, cache_dir=tmp_path)
    gray = rng.random(device.design_shape)
    for design in (gray, (gray > 0.5).astype(float)) if gradient else (gray,):
        x = torch.from_numpy(design)[None].requires_grad_()
        ours = simulator.s_parameters(x, ports_in=ports)
        theirs = ceviche_bridge.simulate(model, design, ports)
        for w, wavelength in enumerate(device.wavelengths_nm):
            z = ceviche_bridge.mode_phases(device, wavelength)
            aligned = theirs[w] * z[:, None] / z[None, list(ports)]
            mine = ours[0, w].detach().numpy()
            aligned = aligned * np.sign((aligned / mine).real)  # the package's arbitrary branch, see mode_phases
            assert (np.abs(aligned - mine) / np.abs(mine)).max() <= 1e-8
        if gradient:
            weight = rng.random((len(device.wavelengths_nm), len(ports), len(device.ports)))
            _, expected = ceviche_bridge.loss_and_gradient(
                model, design, lambda s, weight=weight: anp.sum(weight * anp.abs(s) ** 2), ports
            )
            (torch.from_numpy(weight).transpose(1, 2) * ours[0].abs() ** 2).sum().backward()
            assert np.abs(x.grad[0].numpy() - expected).max() <= 1e-7 * np.abs(expected).max()


@pytest.mark.parametrize("case", sorted(CASES))
def test_parity_at_40_nm(case, tmp_path):
    kind, options = CASES[case]
    device = geometry.BUILDERS[kind](**options)
    ports = (0,) if kind in ("wdm", "beam-splitter") else (0, 1)
    _compare(device, len(case), tmp_path, ports, gradient=True)


@pytest.mark.parametrize("kind", ["beam-splitter", "wdm"])
def test_other_ports(kind, tmp_path):
    device = geometry.BUILDERS[kind](wavelengths_nm=(1270.0,))
    _compare(device, 5, tmp_path, tuple(range(1, len(device.ports))), gradient=False)


@pytest.mark.slow
def test_parity_at_10_nm(tmp_path):
    device = geometry.waveguide_bend(grid_nm=10.0, wavelengths_nm=(1270.0,))
    _compare(device, 0, tmp_path, (0,), gradient=True)
