"""One-byte moments, dither and stochastic rounding: accuracy, no bias, no standstill."""

from __future__ import annotations

import pytest
import torch

from surco.optim import GaLore
from surco.optim.blockwise import pack_rows, unpack_rows
from surco.optim.direction import are_finite
from surco.optim.dither import random_signs, round_to_bfloat16, uniform


def moments(seed: int = 0, rows: int = 200, columns: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Moments whose columns differ by orders of magnitude, as those of a decaying spectrum do."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(0, -2, columns) * 10 ** torch.randn(rows, 1, generator=generator)
    first = torch.randn(rows, columns, generator=generator) * sizes
    return first, (torch.rand(rows, columns, generator=generator) + 0.1) * sizes.square()


def test_round_trip_error_is_below_one_code():
    first, second = moments()
    m, v = unpack_rows(*pack_rows(first, second, 200, step=3))
    seen = first.abs() > 2**-13 * torch.maximum(first.abs(), second.sqrt()).amax(dim=1, keepdim=True)
    assert float(((m - first) / first)[seen].abs().max()) <= 2 ** (1 / 9) - 1 + 1e-3
    assert float(((v - second) / second).abs().max()) <= 2 ** (1 / 8) - 1 + 1e-3


def test_rounding_is_unbiased_over_steps():
    first, second = moments(rows=20)
    sums = [torch.zeros_like(first), torch.zeros_like(second)]
    count = 400
    for step in range(count):
        for total, part in zip(sums, unpack_rows(*pack_rows(first, second, 20, step)), strict=True):
            total += part / count
    assert float((sums[1] / second - 1).abs().max()) < 3e-3
    assert float((sums[0] - first).abs().max() / first.abs().max()) < 3e-3


def test_second_moment_reaches_its_mean():
    """The exponential mean of a constant square: rounding to nearest stops at a few percent of it."""
    goal = torch.tensor([[1.0, 0.25, 4.0]])
    codes = pack_rows(torch.zeros(1, 3), torch.zeros(1, 3), 1, 0)
    for step in range(1, 4001):
        m, v = unpack_rows(*codes)
        codes = pack_rows(m, 0.999 * v + 0.001 * goal, 1, step)
    assert unpack_rows(*codes)[1] == pytest.approx(goal, rel=0.15)


def test_zeros_and_positive_second_moments():
    zero = torch.zeros(2, 3)
    assert not any(bool(part.any()) for part in unpack_rows(*pack_rows(zero, zero, 2, 0)))
    tiny = torch.tensor([[1.0, 1e-30, 0.0]])
    v = unpack_rows(*pack_rows(zero[:1], tiny, 1, 0))[1]
    assert bool((v[0, :2] > 0).all())  # it divides
    assert float(v[0, 2]) == 0.0


def test_eight_bit_training_follows_float32():
    """Noisy least squares: the same loss within a few percent."""
    ends = {}
    for inner in ("adamw", "adamw8bit"):
        generator = torch.Generator().manual_seed(1)
        goal = torch.randn(64, 8, generator=generator) @ torch.randn(8, 32, generator=generator)
        weight = torch.nn.Parameter(torch.zeros(64, 32))
        optimizer = GaLore([weight], lr=0.1, rank=8, scale=1.0, update_gap=20, inner=inner)
        for _ in range(300):
            weight.grad = weight.detach() - goal + 0.5 * torch.randn(64, 32, generator=generator)
            optimizer.step()
        ends[inner] = float((weight.detach() - goal).square().mean() / goal.square().mean())
    assert ends["adamw"] < 0.1
    assert ends["adamw8bit"] < 1.1 * ends["adamw"]


def test_dither_covers_the_unit_interval_for_each_element():
    rows = torch.tensor([0, 1, 99_999_999, 7])
    draws = torch.stack([uniform(rows, 5, step, device=rows.device) for step in range(1000)])
    assert float((draws.mean(dim=0) - 0.5).abs().max()) < 0.01
    ordered = draws.sort(dim=0).values
    assert float((ordered[1:] - ordered[:-1]).max()) < 0.01  # no hole: a low-discrepancy sequence


def test_bfloat16_rounding_is_unbiased_and_keeps_what_is_not_finite():
    values = torch.tensor([[1.001, -3.1e-5, 1e30, float("inf"), float("nan")]])
    mean = torch.stack([round_to_bfloat16(values, 1, step).double() for step in range(2000)]).mean(dim=0)[0]
    values = values[0]
    torch.testing.assert_close(mean[:3], values[:3].double(), rtol=1e-4, atol=0)
    assert mean[3] == float("inf")
    assert torch.isnan(mean[4])


def test_signs_are_balanced_and_reproducible():
    signs = random_signs(500, 40, seed=3, device=torch.device("cpu"))
    assert torch.equal(signs, random_signs(500, 40, seed=3, device=torch.device("cpu")))
    assert abs(float(signs.mean())) < 0.02
    gram = signs.T @ signs / 500
    assert float((gram - torch.eye(40)).abs().max()) < 0.25  # columns are nearly orthogonal
    assert not torch.equal(signs, random_signs(500, 40, seed=4, device=torch.device("cpu")))


def test_are_finite_finds_each_bad_tensor():
    good, bad, worse = torch.ones(3, 2), torch.tensor([[1.0, float("nan")]]), torch.tensor([float("-inf")])
    assert are_finite([good, bad, good, worse]) == [True, False, True, False]
    assert [are_finite([part])[0] for part in (good, bad, worse)] == [True, False, False]
