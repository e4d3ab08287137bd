"""The demo: every baseline has its row, and what it prints is what it saves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import surco
from surco import cli_demo
from surco.cli import main
from surco.protocols import HasHeuristics
from tests.surco import toy_domain


@pytest.fixture(autouse=True)
def _toy(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with toy_domain.published(tmp_path_factory.mktemp("site"), monkeypatch):
        yield


def test_the_shipped_jobs_are_real_and_compared_with_every_rule_of_the_field() -> None:
    assert {job.id.partition("/")[0] for job in cli_demo.JOBS} == {"paths", "sharding"}
    for job in cli_demo.JOBS:
        problem = surco.make(job.id, **job.overrides)
        assert isinstance(problem, HasHeuristics)
        names = cli_demo.methods(problem)
        assert names[0] == "auto"
        assert {"linear", "random", "local_search", "zero", *problem.heuristics()} <= set(names)
    assert "lpt" in cli_demo.methods(surco.make(cli_demo.JOBS[0].id))
    # auto, random, local_search and zero may use their seconds up; the report must be written within 90 s
    assert sum(4 * job.seconds for job in cli_demo.JOBS) < 60


def test_demo_prints_what_it_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = (cli_demo.Job("A toy & more", "toy/choose-v0", 0.3, {"seed": 4}), cli_demo.Job("Mute", "toy/choose-v0", 0.3))
    monkeypatch.setattr(cli_demo, "JOBS", jobs)
    assert main(["demo", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for method in cli_demo.METHODS:
        result = json.loads((tmp_path / "toy-choose-v0" / method / "result.json").read_text())
        (row, *_) = [line for line in out.splitlines() if line.split()[:1] == [method]][1:]  # the second job's
        assert row.split()[1] == f"{result['value']:.6g}"
    assert "proven lower bound: none" in out
    page = (tmp_path / "report.html").read_text()
    assert "A toy &amp; more" in page
    assert page.count("<picture>") == 2


@pytest.mark.slow
def test_the_shipped_demo_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path), "--scale", "0.1"]) == 0
    out = capsys.readouterr().out
    assert out.count("proven lower bound:") == len(cli_demo.JOBS)
    for word in ("auto", "linear", "lpt", "random", "local_search"):
        assert f"\n  {word}" in out
    assert (tmp_path / "report.html").stat().st_size > 100_000
