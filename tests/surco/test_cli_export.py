"""``surco solve --export KIND PATH``: the design in a format of the problem's domain."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import surco
from surco.cli import main
from surco.protocols import HasExports
from tests.surco import toy_domain


@pytest.fixture(autouse=True)
def _toy(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with toy_domain.published(tmp_path_factory.mktemp("site"), monkeypatch):
        yield


def test_the_design_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / name for name in ("a.json", "b.json")]
    exports = [part for file in files for part in ("--export", "list", str(file))]
    assert main(["solve", "toy/choose-v0", "--method", "random", "--calls", "9", "--json", *exports]) == 0
    x = json.loads(capsys.readouterr().out.splitlines()[-1])["x"]
    for file in files:
        assert json.loads(file.read_text()) == [i for i, value in enumerate(x) if value]
    assert main(["solve", "toy/choose-v0", "--method", "random", "--calls", "9", *exports]) == 0
    assert f"Export: {files[0]} (list)" in capsys.readouterr().out


def test_the_folder_is_made_before_the_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["solve", "toy/choose-v0", "--method", "random", "--calls", "9"]
    assert main([*run, "--export", "list", str(tmp_path / "new" / "a.json")]) == 0
    assert (tmp_path / "new" / "a.json").is_file()
    (tmp_path / "file").write_text("")
    out = tmp_path / "run"
    assert main([*run, "--out", str(out), "--export", "list", str(tmp_path / "file" / "a.json")]) == 2
    assert not out.exists()  # refused at once


def test_an_unknown_kind_is_refused_before_the_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    command = ["solve", "toy/choose-v0", "--calls", "9", "--out", str(out), "--export", "lists", str(tmp_path / "x")]
    assert main(command) == 2
    assert "Did you mean `list`?" in capsys.readouterr().err
    assert not out.exists()


def test_a_problem_without_exports_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not isinstance(surco.make("paths/grid-5-code-v0"), HasExports)
    assert main(["solve", "paths/grid-5-code-v0", "--calls", "1", "--export", "json", str(tmp_path / "x")]) == 2
    assert "It offers none." in capsys.readouterr().err
