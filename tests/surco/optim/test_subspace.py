"""Bases: captured energy against the SVD optimum, orthonormality, warm and cold starts, diagnostics."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from surco.errors import InvalidInputError
from surco.optim import GaLore, captured_energy, report, spectrum
from surco.optim.subspace import eigen_subspace, find_subspace, orthonormalize, power_subspace
from tests.surco.optim.reference import decaying, energy_ratio, spectrum_matrix

SPECTRA = {
    "fast": decaying(96, 2.0),
    "slow": decaying(96, 0.5),
    "flat": torch.ones(96),
    "rank-deficient": torch.cat([torch.ones(5), torch.zeros(91)]),
    "cliff": torch.cat([torch.ones(8), torch.full((88,), 1e-3)]),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("shape", [(400, 96), (96, 400), (128, 128)])
@pytest.mark.parametrize("how", ["gram", "power", "svd"])
def test_captures_the_optimum(name, shape, how):
    """'power' from a cold start, and again warm after the gradient drifted by 30 percent noise."""
    matrix = spectrum_matrix(*shape, SPECTRA[name], seed=0)
    found = find_subspace(matrix, 12, old=None, how=how, seed=0)
    assert found is not None
    assert_orthonormal(found.basis)
    assert energy_ratio(matrix, found.basis) >= 0.999
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    drifted = matrix + 0.3 * matrix.norm() / noise.norm() * noise
    warm = find_subspace(drifted, 12, old=found.basis, how=how, seed=0)
    assert warm is not None
    assert_orthonormal(warm.basis)
    assert energy_ratio(drifted, warm.basis) >= 0.999
    assert warm.captured == pytest.approx(captured_energy(drifted, warm.basis), rel=1e-3)


def assert_orthonormal(basis: torch.Tensor) -> None:
    torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1]), atol=2e-5, rtol=0)


def test_power_on_pure_noise_from_an_unrelated_start():
    """The hardest case: no gap, nothing to start from."""
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(300, 256, generator=generator)
    start = torch.linalg.qr(torch.randn(256, 32, generator=generator))[0]
    found = power_subspace(matrix, 32, start)
    assert found is not None
    assert energy_ratio(matrix, found.basis) >= 0.999


def test_real_training_gradients():
    """Every gradient of a small network in training; bases kept between refreshes, as the optimizer keeps them."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    weights = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    inputs = torch.randn(2048, 64, generator=generator) @ torch.randn(64, 64, generator=generator) / 8
    labels = (inputs @ torch.randn(64, 10, generator=generator)).argmax(dim=1)
    bases: dict[int, torch.Tensor] = {}
    worst = 1.0
    for step in range(40):
        batch = torch.randint(2048, (128,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
        if step % 8 == 0:
            for number, weight in enumerate(weights):
                assert weight.grad is not None
                found = find_subspace(weight.grad, 8, old=bases.get(number), how="power", seed=0)
                assert found is not None
                bases[number] = found.basis
                worst = min(worst, energy_ratio(weight.grad, found.basis))
        optimizer.step()
    assert worst >= 0.999


@pytest.mark.parametrize("how", ["auto", "gram", "power", "svd", "random"])
@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_bad_matrices_have_no_subspace(how, bad):
    matrix = torch.zeros(20, 10)
    matrix[3, 4] = bad
    start = torch.eye(10)[:, :3].contiguous()
    assert find_subspace(matrix, 3, old=start, how=how, seed=0) is None


def test_tiny_and_huge_gradients():
    """The squares of these leave float32."""
    for size in (1e-15, 1e15):
        matrix = size * spectrum_matrix(60, 20, decaying(20, 1.0), seed=4)
        found = find_subspace(matrix, 5, old=None, how="gram", seed=0)
        assert found is not None
        assert energy_ratio(matrix, found.basis) >= 0.999


def test_orthonormalize_survives_dependent_columns():
    column = torch.randn(30, 1, generator=torch.Generator().manual_seed(5))
    basis = orthonormalize(torch.cat([column, 2 * column, torch.zeros(30, 1), column + 1e-6], dim=1))
    assert_orthonormal(basis)
    assert captured_energy(column, basis) == pytest.approx(1.0, abs=1e-5)


def test_spectrum():
    matrix = spectrum_matrix(50, 20, torch.tensor([2.0, 1.0, 1.0]), seed=6)
    result = spectrum(matrix)
    assert result.stable_rank == pytest.approx(6 / 4, rel=1e-4)
    assert result.captured(1) == pytest.approx(4 / 6, rel=1e-4)
    assert (result.rank_for(0.6), result.rank_for(0.7), result.rank_for(0.9)) == (1, 2, 3)
    assert spectrum(matrix.T.reshape(20, 5, 10)).stable_rank == pytest.approx(1.5, rel=1e-4)
    with pytest.raises(InvalidInputError):
        spectrum(torch.zeros(3, 3))


def test_report_names_every_layer():
    model = nn.Sequential(nn.Linear(12, 30), nn.EmbeddingBag(30, 8, sparse=True))
    optimizer = GaLore(model.parameters(), rank=3)
    model[0](torch.randn(5, 12)).square().sum().backward()
    model[1](torch.tensor([[1, 2], [3, 3]])).sum().backward()
    optimizer.step()
    rows = {row.name: row for row in report(optimizer, model)}
    assert rows["0.weight"].rank == rows["1.weight"].rank == 3
    assert rows["0.bias"].rank is None
    assert 0.0 < rows["0.weight"].captured <= 1.0
    assert rows["1.weight"].stable_rank == pytest.approx(1.0, abs=1e-3)  # every row has the same gradient direction
    assert sum(row.state_bytes for row in rows.values()) == optimizer.state_bytes()


@pytest.mark.parametrize(("columns", "expected"), [(20, 1), (200, 2)])
def test_small_decompositions_run_on_one_thread(columns, expected, monkeypatch):
    """On busy cores a thread more costs a hundred times what it gains; the caller's number comes back."""
    seen, real = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: seen.append(torch.get_num_threads()) or real(matrix))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert eigen_subspace(torch.eye(columns), 3) is not None
        assert eigen_subspace(torch.full((columns, columns), torch.nan), 3) is None
        assert (seen, torch.get_num_threads()) == ([expected], 2)
    finally:
        torch.set_num_threads(before)
