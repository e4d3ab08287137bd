"""The comparison with TorchRec's planner: its rows are TorchRec's ratings, its ratios are right, its cells are kept."""

import json

from benchmarks.joint_sharding import Row, losses, main, table


def row(planner, rating, bound=None, seed=10):
    return Row("50x4", seed, planner, rating, 2.0, None, bound, True, {"table_wise": 50}, 1.0, 2.0)


def test_ratios_gaps_and_losses():
    rows = [row("default", 2.0), row("default", 8.0, seed=11), row("ours", 1.0, 0.99), row("ours", 2.0, 2.0, seed=11)]
    text = table(rows)
    assert "| 50x4 | default | 2 | 2.8284 | 2.0000 |" in text
    assert "0.505 (1.010)" in text
    assert losses(rows) == []
    assert "sweep 0.99" in losses([*rows, row("sweep", 0.99)])[0]


def test_a_run_is_judged_by_torchrec_and_goes_on(tmp_path, capsys):
    arguments = ["--out", str(tmp_path), "--cases", "50x4", "--scale", "--seeds", "10"]
    assert main([*arguments, "--planners", "sweep"]) == 0
    assert main([*arguments, "--planners", "perf", "sweep", "ours", "--seconds", "2", "--timeout", "60"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("sweep") == 1  # the finished cell is not run again
    document = json.loads((tmp_path / "joint_sharding.json").read_text("utf-8"))
    found = {entry["planner"]: entry for entry in document["rows"]}
    assert set(found) == {"perf", "sweep", "ours"}
    assert abs(found["ours"]["rating"] / found["ours"]["own_value"] - 1.0) < 1e-12
    assert abs(found["sweep"]["rating"] / found["sweep"]["own_value"] - 1.0) < 1e-12
    assert found["ours"]["bound"] <= found["ours"]["rating"] <= found["sweep"]["rating"]
    assert all(entry["is_feasible"] for entry in found.values())
    assert "Better than ours by more than 0.1 %: none." in (tmp_path / "joint_sharding.md").read_text("utf-8")
