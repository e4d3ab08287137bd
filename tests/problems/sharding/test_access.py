"""Distinct rows of a batch: closed forms and quadrature against explicit sums and counting."""

from __future__ import annotations

import numpy as np
import pytest

from problems.sharding import ReuseHistogram, Uniform, ZipfMandelbrot
from surco.errors import InvalidInputError


@pytest.mark.parametrize("rows", [1, 2, 7, 1000, 40_000_000])
@pytest.mark.parametrize("lookups", [0.5, 1.0, 50.0, 1e6])
def test_uniform(rows, lookups):
    expected = 1.0 - (1.0 - 1.0 / rows) ** lookups if rows > 1 else min(1.0, lookups)
    found = Uniform().distinct_rows(rows, lookups)
    assert found <= min(rows, lookups) * (1 + 1e-9) or lookups < 1
    if rows <= 1000:
        assert found == pytest.approx(rows * expected, rel=1e-9)


@pytest.mark.parametrize("touched", [1, 5, 60, 5000, 200_000])
@pytest.mark.parametrize("shift", [0.0, 3.0, 4000.0])
def test_zipf_quadrature_equals_the_sum(touched, shift):
    access = ZipfMandelbrot(touched, 1.1, shift)
    weight = (np.arange(1, touched + 1) + shift) ** -1.1
    p = weight / weight.sum()
    for lookups in (1.0, 300.0, 1e5):
        exact = (1.0 - (1.0 - p) ** lookups).sum()
        assert access.distinct_rows(10**9, lookups) == pytest.approx(exact, rel=2e-3)
    assert access.distinct_rows(3, 1e6) <= 3  # never more than the table has


def test_zipf_equals_counting():
    access = ZipfMandelbrot(500, 1.1, 2.0)
    weight = (np.arange(1, 501) + 2.0) ** -1.1
    rng = np.random.default_rng(0)
    draws = rng.choice(500, size=(400, 800), p=weight / weight.sum())
    counted = np.mean([len(np.unique(row)) for row in draws])
    assert access.distinct_rows(500, 800) == pytest.approx(counted, rel=0.01)


def test_histogram():
    once = ReuseHistogram((1.0,) + (0.0,) * 16)
    assert once.distinct_rows(10**6, 500.0) == 500.0
    twice = ReuseHistogram((0.0, 1.0) + (0.0,) * 15)
    assert twice.distinct_rows(10**6, 500.0) == 250.0
    assert twice.distinct_rows(100, 500.0) == 100.0
    published = ReuseHistogram((0.473, 0.152, 0.139, 0.112, 0.072, 0.032, 0.011, 0.005, 0.002, 0.002) + (0.0,) * 7)
    assert 4.0 < published.mean_uses < 9.0


def test_settings_are_checked():
    with pytest.raises(InvalidInputError, match="17"):
        ReuseHistogram((0.5, 0.5))
    with pytest.raises(InvalidInputError, match="sum to 1"):
        ReuseHistogram((0.5,) * 17)
    with pytest.raises(InvalidInputError, match="touched_rows"):
        ZipfMandelbrot(0)
    with pytest.raises(InvalidInputError, match="exponent"):
        ZipfMandelbrot(5, exponent=-1.0)
