"""The oracle benchmark compares what it says, and notices a wrong value."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks import oracles


def test_it_measures_the_projects_own_rows(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert oracles.main(["--out", str(tmp_path), "--rows", "3", "--seed", "7"]) == 0
    report = json.loads((tmp_path / "oracles.json").read_text())
    assert {v["instance"] for v in report["verdicts"]} == {
        "path 5x5",
        "knapsack 32x2",
        "knapsack 32x2 half",
        "assignment 50x4",
    }
    assert all(v["is_right"] and v["ratio"] is None for v in report["verdicts"])
    assert all(row["ms"] > 0 and row["error"] == "" for row in report["rows"])
    by_instance: dict[str, set[float]] = {}
    for row in report["rows"]:
        by_instance.setdefault(row["instance"], set()).add(round(row["mean_objective"], 6))
    assert all(len(values) == 1 for values in by_instance.values())
    assert {"date", "versions", "seed", "command", "python"} <= set(report["provenance"])
    assert str(tmp_path) not in (tmp_path / "oracles.json").read_text()
    assert "native, batch" in capsys.readouterr().out


def test_a_wrong_value_fails_the_run() -> None:
    rows = [
        oracles.Row("i", "native, batch", 1.0, (1.0, 2.0)),
        oracles.Row("i", "PyEPO a", 4.0, (1.0, 2.0 + 1e-9)),
        oracles.Row("i", "PyEPO b", 2.0, (1.0, 2.1)),
        oracles.Row("i", "PyEPO c", math.inf, (), error="not installed"),
    ]
    checked = oracles.with_ratios(rows)
    assert [row.error.startswith("WRONG") for row in checked] == [False, False, True, False]
    assert checked[0].ratio == 2.0  # of the fastest PyEPO row
    assert "not installed" in oracles.table(checked)


def test_the_instances_are_what_their_names_say() -> None:
    path = oracles.path_instance(4, 0)
    assert path.costs.shape == (4, 40)
    knapsack = oracles.knapsack_instance(4, 0)
    assert knapsack.weights.shape == (2, 32)
    assert (np.abs(knapsack.weights * 100 - np.rint(knapsack.weights * 100)) < 1e-9).all()
    assignment = oracles.assignment_instance(4, 0)
    assert assignment.costs.shape == (4, 200)
    assert assignment.capacities.sum() >= 1.1 * assignment.weights.sum()


@pytest.mark.optional
@pytest.mark.skipif("SURCO_PYEPO_PYTHON" not in os.environ, reason="SURCO_PYEPO_PYTHON names no Python with PyEPO")
def test_it_beats_pyepo(tmp_path: Path) -> None:
    python = os.environ["SURCO_PYEPO_PYTHON"]
    assert oracles.main(["--out", str(tmp_path), "--rows", "20", "--pyepo-python", python]) == 0
