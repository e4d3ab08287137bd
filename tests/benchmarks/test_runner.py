"""The runner: isolation of cells, equal budgets, and a kill that loses and repeats nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cell as cells
from benchmarks import pool, report, store, suite
from benchmarks.__main__ import main
from surco.errors import InvalidInputError
from tests.surco import toy_domain

SUITE = """
name = "t"
description = "A <small> suite"
seeds = [0, 1]
methods = ["random", "zero", "linear"]
metrics = ["chosen"]
[budget]
calls = 30
[[instances]]
id = "toy/choose-v0"
group = "choose & win"
draws = 2
[[instances]]
id = "toy/mute-v0"
group = "mute"
"""
SLOW = """
name = "slow"
seeds = [0, 1, 2, 3]
methods = ["random"]
[budget]
calls = 60
[[instances]]
id = "toy/slow-v0"
draws = 3
"""
CLOCKS = ("seconds", "cpu_seconds", "wall_seconds", "run", "date", "trace")


@pytest.fixture(autouse=True)
def _toy(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with toy_domain.published(tmp_path_factory.mktemp("site"), monkeypatch):
        yield


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "suite.toml"
    path.write_text(text)
    return path


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, **toy_domain.publish(tmp_path / "site")}


def outcome(folder: Path) -> dict[str, dict[str, Any]]:
    """Cell -> its row without what depends on the clock; every cell at most once."""
    rows = store.read_lines(folder / store.RESULTS)
    assert max(Counter(row["cell"] for row in rows).values()) == 1
    return {row["cell"]: {key: row[key] for key in row if key not in CLOCKS} for row in rows}


def one_cell(id: str = "toy/choose-v0", method: str = "random", **budget: float) -> suite.Cell:
    return suite.Cell(suite.Instance("g", id, {}, budget or {"calls": 30}), suite.MethodRow(method, method), 0)


# ------------------------------------------------------------------ whole runs


def test_run_report_and_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write(tmp_path, SUITE), tmp_path / "out"
    assert main(["run", str(path), "--out", str(out), "--workers", "2"]) == 1  # the mute cells have no design
    rows = outcome(out)
    assert Counter(row["status"] for row in rows.values()) == {"ok": 12, "no_design": 6}
    plan = suite.load(path)
    assert set(rows) == {cell.key for cell in plan.cells()}
    for row in rows.values():
        if row["status"] == "ok":
            assert row["oracle_calls"] <= 33
            assert row["is_feasible"] is True
    (origin,) = store.read_lines(out / store.RUNS)
    assert {"command", "commit", "machine", "versions", "date", "run"} <= set(origin)
    assert {row["run"] for row in store.read_lines(out / store.RESULTS)} == {origin["run"]}

    capsys.readouterr()
    assert main(["run", str(path), "--out", str(out)]) == 2
    assert "Add --resume" in capsys.readouterr().err
    assert main(["run", str(path), "--out", str(out), "--resume"]) == 0
    assert "0 cells run" in capsys.readouterr().err

    assert main(["report", str(out)]) == 0
    markdown, html = (out / "report.md").read_text(), (out / "report.html").read_text()
    assert "18 of 18 cells are finished" in markdown
    assert "| random | 4 |" in markdown
    assert "6 no_design" not in markdown  # 2 a method
    assert "2 no_design" in markdown
    assert "choose &amp; win" in html
    assert "A &lt;small&gt; suite" in html
    assert origin["command"] in markdown

    reference = report.write_reference(out, tmp_path / "reference.json")
    values = json.loads(reference.read_text())["values"]
    best = min(row["value"] for row in rows.values() if row["instance"] == 'toy/choose-v0 {"seed": 1}')
    assert values['toy/choose-v0 {"seed": 1}'] == {"value": best, "bound": None}


def test_rows_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    path = write(tmp_path, SUITE)
    found = []
    for workers in ("1", "2"):
        out = tmp_path / workers
        main(["run", str(path), "--out", str(out), "--workers", workers])
        found.append(outcome(out))
    assert found[0] == found[1]


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path / "none.toml"), "--out", str(tmp_path)]) == 2
    assert main(["report", str(tmp_path)]) == 2
    assert main(["run", str(write(tmp_path, SUITE)), "--out", str(tmp_path / "o"), "--workers", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 3


# ------------------------------------------------------------------ kills


def test_sigkill_in_mid_benchmark_loses_and_repeats_nothing(tmp_path: Path) -> None:
    path, out, whole = write(tmp_path, SLOW), tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "benchmarks", "run", str(path), "--workers", "2", "--out"]
    process = subprocess.Popen([*command, str(out)], env=environment(tmp_path), stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + 90
        results = out / store.RESULTS
        while not results.is_file() or results.read_bytes().count(b"\n") < 3:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = results.read_bytes()
    assert 3 <= before.count(b"\n") < 12
    kept = before[: before.rfind(b"\n") + 1]
    results.write_bytes(kept + b'{"cell": "half a li')  # a writer killed in the middle of a line

    # The plain command is refused, also while orphaned workers of the killed runner may still be ending.
    assert main(["run", str(path), "--out", str(out)]) == 2
    subprocess.run([*command, str(out), "--resume"], env=environment(tmp_path), check=True, capture_output=True)
    assert results.read_bytes().startswith(kept)  # finished cells were neither lost nor run again
    assert len(store.read_lines(out / store.RUNS)) == 2

    assert main(["run", str(path), "--out", str(whole), "--workers", "2"]) == 0
    assert outcome(out) == outcome(whole)


def test_workers_end_with_a_killed_runner(tmp_path: Path) -> None:
    path, out = write(tmp_path, SLOW.replace("calls = 60", "calls = 100000")), tmp_path / "out"
    command = [sys.executable, "-m", "benchmarks", "run", str(path), "--out", str(out)]
    process = subprocess.Popen(command, env=environment(tmp_path), stderr=subprocess.PIPE)
    try:
        children = _wait_for_children(process.pid)
    finally:
        process.kill()
        process.communicate()
    end = time.monotonic() + 30
    while any(_is_alive(child) for child in children):
        assert time.monotonic() < end, "a worker outlived its runner"
        time.sleep(0.1)


def _wait_for_children(parent: int) -> list[int]:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent:
                found.append(int(status.parent.name))
        if len(found) >= 2:  # the worker and the resource tracker
            return found
        time.sleep(0.05)
    raise AssertionError("the runner started no worker")


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ------------------------------------------------------------------ one cell


def test_a_cell_that_raises_is_a_labelled_row() -> None:
    assert cells.run(one_cell("toy/empty-v0"))["status"] == "infeasible"
    row = cells.run(one_cell(method="no_such"))
    assert row["status"] == "error"
    assert "UnknownIdError" in row["message"]
    assert cells.run(one_cell("toy/nothing-v0"))["status"] == "error"


def test_cpu_seconds_end_a_run() -> None:
    row = cells.run(one_cell(method="random", cpu_seconds=0.3))
    assert row["status"] == "ok"
    assert 0.25 < row["cpu_seconds"] < 0.6


def test_a_crashing_and_a_hanging_cell_do_not_take_others_with_them() -> None:
    todo = [
        one_cell("toy/crash-v0"),
        one_cell("toy/choose-v0"),
        one_cell("toy/hang-v0"),
        one_cell("toy/choose-v0", "zero"),
    ]
    rows = {row["instance"] + row["label"]: row for row in pool.run(todo, workers=1, cell_seconds=4.0)}
    assert rows["toy/crash-v0random"]["status"] == "died"
    assert rows["toy/hang-v0random"]["status"] == "timeout"
    assert rows["toy/choose-v0random"]["status"] == "ok"
    assert rows["toy/choose-v0zero"]["status"] == "ok"


# ------------------------------------------------------------------ the store


def test_store_is_open_for_one_writer_only(tmp_path: Path) -> None:
    with store.Store(tmp_path, resume=False) as first:
        first.append({"cell": "a"})
        with pytest.raises(ValueError, match="finished already"):
            first.append({"cell": "a"})
        with pytest.raises(InvalidInputError, match="Another run"), store.Store(tmp_path, resume=True):
            pass
    with store.Store(tmp_path, resume=True) as second:
        assert second.finished == {"a"}


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / store.RESULTS).write_text('{"cell": "a"}\nnonsense\n{"cell": "b"}\n')
    with pytest.raises(InvalidInputError, match="Line 2"), store.Store(tmp_path, resume=True):
        pass


@pytest.mark.parametrize("cut", range(1, 16))
def test_a_half_line_of_any_length_is_cut_off(cut: int, tmp_path: Path) -> None:
    whole = b'{"cell": "a"}\n'
    (tmp_path / store.RESULTS).write_bytes(whole + b'{"cell": "bcd"}\n'[:cut])
    with store.Store(tmp_path, resume=True) as opened:
        assert opened.finished == {"a"}
        opened.append({"cell": "c"})
    assert [row["cell"] for row in store.read_lines(tmp_path / store.RESULTS)] == ["a", "c"]
