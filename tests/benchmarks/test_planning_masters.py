"""The three masters of the comparison prove the same optimum, and stored commands name no folder of one machine."""

import pytest

from benchmarks import planning
from benchmarks.planning_masters import ARMS, run_arm
from problems.planning import compile_instance, from_topohub, judge, plan_of


@pytest.mark.parametrize("arm", list(ARMS))
def test_every_master_proves_polska(arm):
    instance = from_topohub("polska")
    engine, figures = run_arm(compile_instance(instance), arm, seconds=60, tolerance=1e-6)
    assert figures["root_gap_percent"] > 0.1  # the integers are left to the arm
    assert figures["cost"] == pytest.approx(24_584)
    assert figures["bound"] == pytest.approx(24_584)
    assert engine.best is not None
    assert judge(instance, plan_of(engine.network, engine.best)).is_feasible


def test_provenance_has_no_paths(monkeypatch):
    monkeypatch.setattr("sys.argv", ["planning", "exact", "--folder", "/here/a", "--seconds", "5", "--out", "/here/b"])
    assert planning.provenance()["command"].endswith("exact --folder DIR --seconds 5 --out FILE")
