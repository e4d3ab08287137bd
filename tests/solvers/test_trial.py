"""``backend="auto"``: measured once, written down, read again; and the native form of 0/1 choices."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import solvers
from solvers.backends import trial
from solvers.backends.choice import find_choice_form


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SURCO_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(trial, "_known", {})
    return tmp_path / "backends"


def knapsack() -> solvers.MilpOracle:
    return solvers.milp(matrix=[[3.0, 5.0, 2.0, 4.0]], row_upper=8, upper=1)


def test_the_choice_is_recorded_and_believed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = knapsack()
    assert oracle.trial is None
    name = oracle.backend
    assert oracle.trial is not None
    assert oracle.trial.choice == name == "choice"
    assert set(oracle.trial.seconds) == {"choice", "scip", "cp-sat", "highs"}
    assert all(value > 0 for value in oracle.trial.seconds.values())
    (record,) = folder.glob("*.json")
    assert str(record) == oracle.trial.record
    data = json.loads(record.read_text())
    assert data["versions"]["ortools"]
    # Another process, and another mood of the machine: the record decides.
    monkeypatch.setattr(trial, "_known", {})
    record.write_text(json.dumps({**data, "choice": "highs"}))
    assert knapsack().backend == "highs"
    # A record that is no record is measured anew.
    monkeypatch.setattr(trial, "_known", {})
    record.write_text("{")
    assert knapsack().backend == "choice"


def test_an_empty_variable_keeps_the_choice_in_the_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURCO_CACHE_DIR", "")
    oracle = knapsack()
    assert oracle.backend == "choice"
    assert oracle.trial is not None
    assert oracle.trial.record == ""
    assert not folder.exists()
    assert knapsack().backend == "choice"


def test_the_first_writer_wins(folder: Path) -> None:
    oracle = knapsack()
    found = oracle.backend
    key = trial._fingerprint(oracle.polyhedron)
    late = trial._write(key, trial.Trial(trial.BackendName.HIGHS, {}, {}))
    assert late.choice == found


def test_backends_that_cannot_are_skipped_with_a_reason(folder: Path) -> None:
    oracle = solvers.milp(matrix=[[1.5, 1.0]], row_upper=4, upper=3, integrality=[1, 0])
    assert oracle.backend in ("scip", "highs")
    assert oracle.trial is not None
    assert "continuous" in oracle.trial.skipped["cp-sat"]
    linear = solvers.milp(matrix=[[1.0]], row_upper=1, integrality=False)
    assert linear.backend in ("glop", "highs")
    assert linear.trial is not None
    assert "choice-lp" in linear.trial.skipped


@pytest.mark.parametrize("seed", range(40))
def test_choices_are_found_in_any_program_and_solved_right(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 9))
    rows, low, high = [], [], []
    for _ in range(int(rng.integers(1, 5))):
        kind = rng.integers(4)
        chosen = (rng.random(n) < 0.5).astype(float)
        if kind == 0:
            row = (2.0 * chosen, 2.0, 2.0)
        elif kind == 1:
            row = (chosen, rng.choice([-np.inf, 0.0]), 1.0)
        elif kind == 2:
            row = (rng.integers(-3, 5, n).astype(float), -np.inf, rng.integers(0, 6))
        else:
            row = (rng.integers(0, 4, n).astype(float), 1.0, np.inf)
        for part, value in zip((rows, low, high), row, strict=True):
            part.append(value)
    lower, upper = np.zeros(n), np.ones(n)
    lower[0] = rng.integers(2)
    upper[1] = rng.integers(2)
    arrays = {"matrix": np.array(rows), "row_lower": low, "row_upper": high, "lower": lower, "upper": upper}
    points = np.array(list(itertools.product((0.0, 1.0), repeat=n)))
    activity = points @ arrays["matrix"].T
    inside = ((activity >= low) & (activity <= high)).all(1) & (points >= lower).all(1) & (points <= upper).all(1)
    points = points[inside]
    costs = rng.standard_normal((5, n))
    oracle = solvers.milp(**arrays, backend="highs")
    assert find_choice_form(oracle.polyhedron) is not None
    batch = solvers.milp(**arrays, backend="choice").solve(costs)
    if not len(points):
        assert set(batch.status) == {"infeasible"}
        return
    assert set(batch.status) == {"optimal"}
    np.testing.assert_allclose(batch.objective, (costs @ points.T).min(axis=1), atol=1e-12)
    assert (oracle.violation(batch.x) == 0).all()
    relaxed, wanted = oracle.relaxation("choice-lp"), oracle.relaxation("highs").solve(costs)
    found = relaxed.solve(costs)
    assert set(found.status) == {"optimal"}
    np.testing.assert_allclose(found.objective, wanted.objective, atol=1e-7)
    assert (relaxed.violation(found.x) <= 1e-7).all()


def test_no_choice_form_for_other_programs() -> None:
    def form(**changes: object) -> object:
        arrays = {"matrix": [[1.0, 1.0]], "row_lower": 1, "row_upper": 1, "upper": 1, "backend": "highs"}
        return find_choice_form(solvers.milp(**{**arrays, **changes}).polyhedron)

    assert form() is not None
    assert form(upper=2) is None
    assert form(integrality=[1, 0]) is None
    assert form(lower=[1, 1]) is None  # two options of one group forced in
    many = np.random.default_rng(0).integers(1, 9, (60, 4)).astype(float)
    assert form(matrix=many, row_lower=-np.inf, row_upper=20) is None
