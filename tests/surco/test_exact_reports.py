"""An exact method that reports as it goes runs once, and what it said is kept even if it never comes back."""

import math
import time

import pytest
import torch

import surco
from surco.protocols import Exact, exact_reports
from tests.surco.toys import QuadraticChoice


class Reporting(QuadraticChoice):
    exact_reports = True
    exact_goes_on = True

    def __init__(self, *arguments, overstays=0.0, **options):
        super().__init__(*arguments, **options)
        self.overstays, self.given = overstays, []

    def exact(self, *, seconds=None, start=None, report=None):
        self.given.append(seconds)
        x = torch.zeros(self.oracle.n, dtype=torch.float64)
        x[: self.oracle.k] = 1.0
        value = float(self.objective(x))
        assert report is not None
        report(x, value - 2.0)
        report(None, value - 1.0)
        if self.overstays:
            time.sleep(self.overstays)
        return Exact(x, value - 1.0, is_optimal=False, work=1)


def test_it_runs_once_with_all_its_seconds():
    problem = Reporting()
    result = surco.solve(problem, "exact", seconds=0.5, seed=0)
    (given,) = problem.given
    assert 0.45 < given <= 0.5
    assert result.bound == pytest.approx(result.value - 1.0)
    assert [point.source for point in result.trace] == ["exact"] * len(result.trace)


def test_what_was_reported_survives_a_run_that_overstays():
    result = surco.solve(Reporting(overstays=30.0), "exact", seconds=0.3, seed=0)
    assert math.isfinite(result.value)
    assert result.bound == pytest.approx(result.value - 1.0)
    assert any("passed its deadline" in note for note in result.notes)


def test_nothing_is_reported_by_default():
    assert not exact_reports(QuadraticChoice())
