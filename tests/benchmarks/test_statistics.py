"""The tables' arithmetic, judged by hand and by simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from benchmarks import plots, statistics, suite
from benchmarks.statistics import Known


def make_plan(**changes: Any) -> suite.Suite:
    base: dict[str, Any] = {
        "name": "t",
        "methods": ["a", "b", "c"],
        "seeds": [0, 1],
        "budget": {"calls": 10},
        "instances": [{"id": "x", "group": "g", "draws": 3}],
        "metrics": ["m"],
    }
    return suite.parse({**base, **changes})


def make_rows(plan: suite.Suite, value: Any, status: Any = lambda cell: "ok") -> list[dict[str, Any]]:
    rows = []
    for cell in plan.cells():
        row: dict[str, Any] = {
            "cell": cell.key,
            "group": cell.instance.group,
            "instance": cell.instance.key,
            "label": cell.row.label,
            "seed": cell.seed,
            "status": status(cell),
        }
        if row["status"] == "ok":
            v = value(cell)
            row |= {"value": v, "bound": 0.5, "end": "budget", "oracle_calls": 10, "objective_calls": 5}
            row |= {
                "cpu_seconds": 0.5,
                "metrics": {"m": 2 * v},
                "trace": [[1, 1, 0.1, 0.1, v + 1, None], [4, 4, 0.2, 0.2, v, 0.5]],
            }
        else:
            row["message"] = "because"
        rows.append(row)
    return rows


def draw(cell: suite.Cell) -> int:
    return cell.instance.overrides["seed"]


def test_distances_are_paired_and_clustered_by_instance() -> None:
    plan = make_plan()
    offset = {"a": 0.0, "b": 1.0, "c": 3.0}
    rows = make_rows(
        plan, lambda cell: 2.0 + 10 * draw(cell) + offset[cell.row.label] * (1 + draw(cell)) + 0.1 * cell.seed
    )
    lines = statistics.tables(plan, rows)["g"]
    assert [line.label for line in lines] == ["a", "b", "c"]
    best = [2.0, 12.0, 22.0]
    by_hand = [(1.0 * (1 + d) + 0.05) / best[d] for d in range(3)]
    regret = lines[1].regret
    assert regret is not None
    assert regret.n == 3
    assert regret.value == pytest.approx(np.mean(by_hand))
    assert regret.half_width == pytest.approx(4.302653 * np.std(by_hand, ddof=1) / math.sqrt(3), rel=1e-6)
    behind = lines[1].behind
    assert behind is not None
    assert behind.value == pytest.approx(np.mean([(1 + d) / best[d] for d in range(3)]))  # the seeds' noise cancels
    assert lines[0].behind is None
    assert lines[0].best_share == pytest.approx(0.5)  # seed 1 is 0.1 worse
    assert lines[0].metrics is not None
    assert lines[0].metrics["m"].value == pytest.approx(2 * (12.0 + 0.05))
    assert lines[0].gap is not None


def test_failed_cells_count_against_a_method() -> None:
    plan = make_plan()
    rows = make_rows(plan, lambda cell: 1.0, lambda cell: "error" if (cell.row.label, cell.seed) == ("b", 1) else "ok")
    lines = {line.label: line for line in statistics.tables(plan, rows)["g"]}
    assert lines["b"].failed == {"error": 3}
    assert lines["b"].n == 3
    assert lines["b"].best_share == pytest.approx(0.5)
    assert list(lines)[-1] == "b"


def test_a_method_without_any_design_is_last() -> None:
    plan = make_plan()
    rows = make_rows(plan, lambda cell: 1.0, lambda cell: "died" if cell.row.label == "a" else "ok")
    lines = statistics.tables(plan, rows)["g"]
    assert lines[-1].label == "a"
    assert lines[-1].regret is None
    assert lines[-1].failed == {"died": 6}


def test_a_reference_can_be_better_than_every_method() -> None:
    plan = make_plan(methods=["a"])
    rows = make_rows(plan, lambda cell: 2.0)
    reference = {instance.key: {"value": 1.0, "bound": 0.9} for instance in plan.instances}
    line = statistics.tables(plan, rows, reference)["g"][0]
    assert line.regret is not None
    assert line.regret.value == pytest.approx(1.0)
    assert line.best_share == 0.0
    assert line.gap is not None
    assert line.gap.value == pytest.approx((2.0 - 0.9) / 2.0)


def test_rows_of_other_suites_are_left_out() -> None:
    plan = make_plan()
    rows = make_rows(plan, lambda cell: 1.0)
    other = [{**row, "cell": "f" * 16, "value": -100.0} for row in rows]
    assert statistics.tables(plan, rows + other) == statistics.tables(plan, rows)


@pytest.mark.parametrize(
    ("value", "best", "kind", "expected"),
    [
        (3.0, 2.0, "relative", 0.5),
        (-1.0, -2.0, "relative", 0.5),
        (3.0, 0.0, "relative", 3.0),
        (3.0, 2.0, "absolute", 1.0),
    ],
)
def test_regret(value: float, best: float, kind: str, expected: float) -> None:
    assert statistics.regret(value, best, kind) == pytest.approx(expected)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    found = [statistics.mean(rng.normal(size=6).tolist()) for _ in range(2000)]
    covered = np.mean([abs(mean.value) <= (mean.half_width or 0.0) for mean in found])
    assert 0.935 < covered < 0.965


def test_curves_hold_the_last_value_and_start_when_all_have_one() -> None:
    plan = make_plan(methods=["a"], regret="absolute")
    rows = make_rows(plan, lambda cell: 5.0)
    rows[0]["trace"] = rows[0]["trace"][1:]  # this run has its first design at call 4
    known = {row["instance"]: Known(5.0) for row in rows}
    grid = np.array([0.0, 1.0, 3.0, 4.0, 100.0])
    middle, low, high = plots.curve(plan, rows, known, 0, grid)
    assert np.isnan(middle[:3]).all()
    assert middle[3:].tolist() == [0.0, 0.0]
    assert (low[3:] <= middle[3:]).all()
    assert (middle[3:] <= high[3:]).all()
