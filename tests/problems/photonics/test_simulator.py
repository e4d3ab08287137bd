"""The fast simulator against the direct solver, finite differences and physics."""

import numpy as np
import pytest
import torch

from problems.photonics import direct, geometry
from problems.photonics.boxsolve import Backend, block_inverse, gauss_jordan
from problems.photonics.dissection import box_levels, make_plan
from problems.photonics.simulator import Simulator
from surco.errors import InvalidInputError


def _designs(device, seed, count=2):
    rng = np.random.default_rng(seed)
    x = rng.random((count, *device.design_shape))
    x[0] = x[0] > 0.5
    return torch.from_numpy(x)


def _small_bend(**options):
    defaults = {"size_nm": 640.0, "guide_length_nm": 400.0, "padding_nm": 240.0, "mode_padding_nm": 200.0}
    return geometry.waveguide_bend(**(defaults | options))


@pytest.mark.parametrize("name", sorted(geometry.BUILDERS))
@pytest.mark.parametrize("backend", list(Backend))
def test_agrees_with_direct_solver(name, backend, tmp_path):
    device = geometry.BUILDERS[name]()
    simulator = Simulator(device, backend=backend, cache_dir=tmp_path)
    design = _designs(device, 3).requires_grad_()
    s = simulator.s_parameters(design)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(s.shape, dtype=torch.complex128, generator=generator)
    (s * weight.conj()).real.sum().backward()
    for b in range(len(design)):
        gradient = 0
        for w, wavelength in enumerate(device.wavelengths_nm):
            reference = direct.simulate(device, design[b].detach().numpy(), wavelength)
            assert np.abs(reference.s - s[b, w].detach().numpy()).max() <= 1e-8 * np.abs(reference.s).max()
            gradient = gradient + reference.gradient(weight[b, w].numpy())
        assert np.abs(gradient - design.grad[b].numpy()).max() <= 1e-7 * np.abs(gradient).max()


def test_gradient_against_finite_differences(tmp_path):
    device = _small_bend()
    simulator = Simulator(device, cache_dir=tmp_path)
    design = _designs(device, 5)[1:].requires_grad_()

    def loss(x):
        s = simulator.s_parameters(x, ports_in=(1,))
        return (s.abs() ** 2)[:, :, 0].sum() + s[:, 0, 1, 0].real.sum()

    loss(design).backward()
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(design.shape, dtype=torch.float64, generator=generator)
    step = 1e-5
    with torch.no_grad():
        slope = (loss(design + step * direction) - loss(design - step * direction)) / (2 * step)
    assert slope.item() == pytest.approx((design.grad * direction).sum().item(), rel=1e-6)


def test_uniform_and_sparse_designs_near_resonance(tmp_path):
    """Large solid regions make blocks of the dissection nearly singular; the adjoint correction must absorb it."""
    device = geometry.wavelength_demultiplexer(wavelengths_nm=(1290.0,))
    rng = np.random.default_rng(11)
    design = torch.ones(4, *device.design_shape, dtype=torch.float64)
    for row in design[1:]:
        for i, j in rng.integers(0, 74, (20, 2)):
            row[i : i + 6, j : j + 6] = 0.0
    for backend in Backend:
        s = Simulator(device, backend=backend, cache_dir=tmp_path).s_parameters(design)
        for row, found in zip(design.numpy(), s[:, 0].numpy(), strict=True):
            assert np.abs(direct.simulate(device, row, 1290.0).s - found).max() < 1e-11


def test_power_and_reciprocity(tmp_path):
    device = geometry.beam_splitter()
    s = Simulator(device, cache_dir=tmp_path).s_parameters(_designs(device, 7))
    power = (s.abs() ** 2).sum(2)
    assert (power < 1.0 + 1e-3).all()
    assert (s - s.transpose(2, 3)).abs().max() < 0.02  # exact only for a continuous field at the monitors


def test_straight_guide_transmits(tmp_path):
    device = geometry.mode_converter(right_order=1)
    design = torch.zeros(1, 40, 40)
    design[:, :, 15:25] = 1.0
    s = Simulator(device, cache_dir=tmp_path).s_parameters(design, ports_in=(0,))
    assert torch.allclose(s[0, :, 1, 0].abs(), torch.ones(2, dtype=torch.float64), atol=1e-3)
    assert (s[0, :, 0, 0].abs() < 5e-2).all()  # E and H meet half a cell apart at the monitors


def test_mirrored_bend_has_the_same_s_parameters(tmp_path):
    device = _small_bend()
    simulator = Simulator(device, cache_dir=tmp_path)
    design = _designs(device, 2)
    s, mirrored = simulator.s_parameters(design), simulator.s_parameters(design.transpose(1, 2))
    assert (s.flip(2, 3) - mirrored).abs().max() < 1e-9


def test_batches_chunks_and_ports_agree(tmp_path):
    device = _small_bend()
    simulator = Simulator(device, cache_dir=tmp_path)
    design = _designs(device, 1, count=5)
    whole = simulator.s_parameters(design)
    simulator.memory_gb = 1e-9
    assert (simulator.s_parameters(design) - whole).abs().max() < 1e-12
    assert (simulator.s_parameters(design, ports_in=(1,)) - whole[..., 1:]).abs().max() < 1e-12


@pytest.mark.parametrize("backend", list(Backend))
def test_threads_change_nothing(backend, tmp_path):
    """Two threads break torch's batched LU on a CPU, from about 160 unknowns on."""
    device = geometry.waveguide_bend()
    simulator = Simulator(device, backend=backend, cache_dir=tmp_path)
    design = _designs(device, 5)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            x = design.clone().requires_grad_()
            s = simulator.s_parameters(x)
            s.abs().sum().backward()
            found.append((s.detach(), x.grad))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    (one_s, one_grad), (two_s, two_grad) = found
    assert (one_s - two_s).abs().max() < 1e-10
    assert (one_grad - two_grad).abs().max() < 1e-9 * one_grad.abs().max()


def test_setup_comes_back_from_the_cache(tmp_path, monkeypatch):
    device = _small_bend()
    first = Simulator(device, cache_dir=tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 2
    monkeypatch.setattr("problems.photonics.simulator.condense", None)
    second = Simulator(device, cache_dir=tmp_path)
    design = _designs(device, 1)
    assert torch.equal(first.s_parameters(design), second.s_parameters(design))


def test_damaged_cache_is_rebuilt(tmp_path, caplog):
    device = _small_bend(wavelengths_nm=(1270.0,))
    Simulator(device, cache_dir=tmp_path)
    path = next(tmp_path.glob("*.npz"))
    path.write_bytes(path.read_bytes()[:200])
    Simulator(device, cache_dir=tmp_path)
    assert "damaged" in caplog.text


def test_single_precision_designs_are_lifted(tmp_path):
    device = _small_bend()
    simulator = Simulator(device, cache_dir=tmp_path)
    design = (_designs(device, 1) > 0.5).float().requires_grad_()
    s = simulator.s_parameters(design)
    assert s.dtype is torch.complex128
    s.abs().sum().backward()
    assert design.grad.dtype is torch.float32
    assert torch.equal(s.detach(), simulator.s_parameters(design.detach().double()))


def test_errors_name_the_remedy(tmp_path):
    device = _small_bend()
    simulator = Simulator(device, cache_dir=tmp_path)
    with pytest.raises(InvalidInputError, match=r"design\[None\]"):
        simulator.s_parameters(torch.zeros(device.design_shape))
    with pytest.raises(InvalidInputError, match="finite"):
        simulator.s_parameters(torch.full((1, *device.design_shape), float("nan")))
    with pytest.raises(InvalidInputError, match="ports_in"):
        simulator.s_parameters(torch.zeros(1, *device.design_shape), ports_in=(2,))
    with pytest.raises(InvalidInputError, match="whole number"):
        geometry.waveguide_bend(grid_nm=30.0)


def test_plan_visits_every_cell_once():
    for shape in ((40, 40), (80, 50), (23, 61), (7, 5)):
        leaf, levels = box_levels(shape)
        plan = make_plan(leaf, levels)
        assert np.array_equal(np.sort(plan.flat_order), np.arange(plan.shape[0] * plan.shape[1]))
        assert all(have >= want for have, want in zip(plan.shape, shape, strict=True))


def test_block_inverse_matches_lapack():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(3, 37, 37, dtype=torch.float64, generator=generator)
    matrix = base @ base.mT + torch.eye(37, dtype=torch.float64)
    expected = torch.linalg.inv(matrix)
    assert torch.allclose(block_inverse(matrix), expected, rtol=1e-9, atol=1e-9)
    assert torch.allclose(gauss_jordan(matrix), expected, rtol=1e-9, atol=1e-9)
