"""Tables of learned planning: scenarios, means over seeds, and searches from other starts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import rl_curves, rl_whatif
from benchmarks.rl_share import Search, kicked, of_policy
from benchmarks.rl_throughput import PATHS
from problems.planning import compile_instance, from_topohub
from rl.generator import random_instance
from surco.provenance import without_paths


def test_a_scenario_is_drawn_from_its_number_and_keeps_two_way_traffic() -> None:
    base = from_topohub("abilene")
    first, again, other = (rl_whatif.scenario_of(base, k) for k in (3, 3, 4))
    assert first == again != other
    assert compile_instance(first).is_symmetric == compile_instance(base).is_symmetric
    drawn = [rl_whatif.scenario_of(base, k).demands for k in range(20)]
    ratio = np.array([[a.gbps / b.gbps for a, b in zip(demands, base.demands, strict=True)] for demands in drawn])
    assert np.log(ratio).std() == pytest.approx(rl_whatif.SIGMA, rel=0.1)


def test_a_summary_counts_every_method_over_its_own_scenarios() -> None:
    rows = [
        {"network": "n", "scenario": 0, "a": {"cost": 110.0, "cpu_s": 1.0}, "b": {"cost": 100.0, "cpu_s": 3.0}},
        {"network": "n", "scenario": 1, "a": {"cost": 102.0, "cpu_s": 2.0}},
    ]
    table = rl_whatif.summary([{**row, "bound": 100.0} for row in rows])
    assert [(r["method"], r["scenarios"]) for r in table] == [("a", 2), ("b", 1)]
    assert table[0]["mean_percent_over_bound"] == 6.0
    assert table[0]["largest_percent_over_bound"] == 10.0
    assert table[0]["mean_cpu_s"] == 1.5


def test_parts_join_to_one_file_with_every_row(tmp_path: Path) -> None:
    rows = [{"network": "n", "scenario": k, "bound": 1.0, "a": {"cost": 1.0 + k, "cpu_s": 1.0}} for k in range(4)]
    about = {"command": "c", "date": "d", "load_average": 1.0}
    parts = [tmp_path / "1.json", tmp_path / "2.json"]
    for path, mine in zip(parts, (rows[2:], rows[:2]), strict=True):
        path.write_text(json.dumps({"provenance": about, "rows": mine}), encoding="utf-8")
    out = tmp_path / "out.json"
    rl_whatif.main(["join", *map(str, parts), "--out", str(out)])
    data = json.loads(out.read_text(encoding="utf-8"))
    assert data["rows"] == rows
    assert data["table"][0]["scenarios"] == 4


def test_parts_of_two_machines_keep_their_seconds_apart(tmp_path: Path) -> None:
    parts = []
    for machine, (first, seconds) in enumerate(((0, 1.0), (2, 3.0))):
        count = 2 - machine
        rows = [
            {"network": "n", "scenario": first + k, "bound": 1.0, "a": {"cost": 1.0, "cpu_s": seconds}}
            for k in range(count)
        ]
        about = {"command": "c", "date": "d", "load_average": 1.0, "machine": {"cores": machine}, "versions": {}}
        parts.append(tmp_path / f"{machine}.json")
        parts[-1].write_text(json.dumps({"provenance": about, "rows": rows}), encoding="utf-8")
    out = tmp_path / "out.json"
    rl_whatif.main(["join", *map(str, reversed(parts)), "--out", str(out)])
    data = json.loads(out.read_text(encoding="utf-8"))
    assert [row["machine"] for row in data["rows"]] == [0, 0, 1]
    assert data["table"][0]["mean_cpu_s_of_machines"] == [1.0, 3.0]
    assert [m["scenarios"] for m in data["provenance"]["machines"]] == [2, 1]
    assert "machine" not in data["provenance"]


def test_curves_are_averaged_where_all_seeds_are() -> None:
    row = rl_curves.gathered({1: [(0.0, 4.0), (10.0, 2.0), (20.0, 1.0)], 2: [(0.0, 6.0), (10.0, 4.0)]})
    assert row["at"] == [0.0, 10.0]
    assert row["mean"] == [5.0, 3.0]
    assert row["deviation"] == pytest.approx([2.0**0.5, 2.0**0.5], abs=1e-4)
    mixed = rl_curves.gathered({1: [(0.0, 0.0), (10.0, 10.0)], 2: [(2.0, 2.0), (8.0, 8.0)]}, points=4)
    assert mixed["at"] == [2.0, 4.0, 6.0, 8.0]
    assert mixed["mean"] == pytest.approx(mixed["at"])


def test_a_picture_and_a_table_of_short_runs(tmp_path: Path) -> None:
    for seed in (1, 2):
        folder = tmp_path / f"imitation-{seed}"
        folder.mkdir()
        lines = [{"round": k, "greedy_percent": 20.0 - k - seed, "trim_percent": 5.0 - k} for k in (0, 2)]
        (folder / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    out, picture = tmp_path / "curves.json", tmp_path / "curves.png"
    rl_curves.main([str(tmp_path), "--out", str(out), "--picture", str(picture)])
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["curves"]["imitation"]["greedy_percent"]["mean"] == [18.5, 16.5]
    assert str(tmp_path) not in json.dumps(report["provenance"])
    assert picture.stat().st_size > 10_000


def test_searches_keep_the_best_plan_and_know_when_it_was_found() -> None:
    network = compile_instance(random_instance(2, nodes=(8, 8)))
    torch.set_num_threads(1)
    found = []
    for starts in (of_policy(None), kicked(lambda topology: topology.greedy)):
        search = Search(network)
        search.run(starts, 0.0)  # one start is always finished
        prices = [price for _, _, price in search.history]
        assert search.starts == 1
        assert prices == sorted(prices, reverse=True)
        assert search.at(0.0) is None
        plan = search.at(float("inf"))
        assert plan is not None
        assert float(network.cost @ plan) == pytest.approx(prices[-1])
        found.append(prices[-1])
    assert min(found) > 0.0


def test_commands_are_stored_without_paths() -> None:
    assert without_paths(["--out", "/a/b", "--repeats", "2", "--sb3-python=/c"], PATHS) == [
        "--out",
        "FILE",
        "--repeats",
        "2",
        "--sb3-python=PYTHON",
    ]
