"""Rows of planning tables: joined by their keys, summed up over seeds, and cases that do not hold are seen."""

import json

import pytest

from benchmarks import planning, planning_invariance, planning_nonlinear
from problems.planning import Decomposition, compile_instance
from problems.planning.neighborhoods import each_heuristic, heuristic_plans


def test_parts_are_joined_by_key_and_take_the_given_commit(tmp_path):
    first, second, out = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "out.json"
    old = {"network": "a", "limit_s": 60.0, "cost": 3.0}
    planning.store(out, "exact", [old, {**old, "limit_s": 300.0}])
    planning.store(first, "exact", [{**old, "cost": 2.0}])
    planning.store(second, "compact", [{**old, "cost": None}])
    planning.join([first, second], out, commit="abc")
    tables = json.loads(out.read_text())
    assert [(row["limit_s"], row["cost"]) for row in tables["exact"]["rows"]] == [(60.0, 2.0), (300.0, 3.0)]
    assert tables["exact"]["rows"][0]["commit"] == tables["compact"]["rows"][0]["commit"] == "abc"


def test_the_portfolio_is_compared_with_the_best_other_mean():
    values = {"auto": [9.9, 10.3], "exact": [10.0, 10.0], "zero": [12.0, 13.0]}
    rows = [
        {"problem": "p", "method": method, "seed": seed, "value": value, "bound": 8.0 + seed}
        for method, of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]
    (line,) = planning_nonlinear.summary([*rows, {"problem": "p", "method": "slp", "seed": 0, "value": None}])
    assert line["best_other"] == "exact"
    assert line["behind_percent"] == pytest.approx(1.0)
    assert line["bound"] == 9.0
    assert planning_nonlinear.standing(line) == "behind"
    assert planning_nonlinear.standing({"behind_percent": 0.05}) == "even"
    assert planning_nonlinear.standing({"behind_percent": -0.5}) == "better"


def test_a_cell_is_judged_and_a_method_that_does_not_apply_says_so():
    row = planning_nonlinear.cell("polska", "delay", "exact", 0, seconds=5.0)
    assert row["value"] >= row["bound"] - 1e-6
    assert 0.0 < row["found_after_s"] <= row["cpu_s"]
    assert planning_nonlinear.cell("polska", "loss", "exact", 0, seconds=1.0)["why"] == "does not apply"


def test_a_relation_that_does_not_hold_is_seen():
    instance = planning.load("polska")
    assert planning_invariance.optimum(instance)[0] == pytest.approx(24_584)
    assert not planning_invariance.same("wrong", 24_000.0, lambda: 24_584.0)["holds"]
    assert not planning_invariance.no_less("wrong", 24_584.0, lambda: 24_000.0)["holds"]
    assert not planning_invariance.no_more("wrong", 24_000.0, lambda: 24_584.0)["holds"]
    assert not planning_invariance.refused("feasible", instance, "Gbps must cross")["holds"]
    tight = planning_invariance.with_spectrum(instance, planning_invariance.UNIT_GBPS)
    assert planning_invariance.refused("no spectrum", tight, "Gbps must cross")["holds"]
    assert not planning_invariance.refused("other words", tight, "no such words")["holds"]
    assert not planning_invariance.no_more("no plan", 1.0, lambda: planning_invariance.optimum(tight)[0])["holds"]


def test_heuristics_come_one_by_one_in_their_order():
    engine = Decomposition(compile_instance(planning.load("polska")))
    engine.prepare()
    rules = [rule for rule, _ in each_heuristic(engine, seconds=5.0)]
    assert (
        rules == ["greedy", "greedy-trim", "rounding", "greedy-box", "neighborhoods"] == list(heuristic_plans(engine))
    )
