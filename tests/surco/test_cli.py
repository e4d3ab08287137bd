"""The command: what it prints, what it saves, how it fails, and that a kill loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from surco.cli import _plugin_line, main
from tests.surco import toy_domain

KEYS = ("id", "method", "value", "bound", "gap", "is_feasible", "status", "seed")
KEYS += ("oracle_calls", "objective_calls", "seconds", "cpu_seconds")


@pytest.fixture(autouse=True)
def _toy(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with toy_domain.published(tmp_path_factory.mktemp("site"), monkeypatch):
        yield


def last_json(out: str) -> dict[str, Any]:
    return json.loads(out.rstrip("\n").splitlines()[-1])


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, **toy_domain.publish(tmp_path / "site")}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "surco.cli", *arguments]


# ------------------------------------------------------------------ solve


def test_json_line_has_every_key_and_only_finite_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", "toy/choose-v0", "--method", "random", "--calls", "40", "--seed", "3", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    row = last_json(captured.out)
    assert [key for key in KEYS if key not in row] == []
    assert row["id"] == "toy/choose-v0"
    assert row["method"] == "random"
    assert row["seed"] == 3
    assert row["is_feasible"] is True
    assert row["bound"] is None
    assert row["gap"] is None
    assert row["metrics"] == {"chosen": 5.0, "undefined": None}
    assert 36 <= row["oracle_calls"] <= 44
    assert sum(row["x"]) == 5.0
    assert captured.err == ""  # not a terminal: no progress


def test_same_seed_and_calls_give_the_same_answer(capsys: pytest.CaptureFixture[str]) -> None:
    rows = []
    for seed in ("0", "0", "1"):
        assert main(["solve", "toy/choose-v0", "--method", "random", "--calls", "9", "--seed", seed, "--json"]) == 0
        rows.append(last_json(capsys.readouterr().out))
    assert rows[0]["x"] == rows[1]["x"]
    assert rows[0]["value"] == rows[1]["value"]


def test_words_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", "toy/choose-v0", "--calls", "20", "--set", "seed=5"]) == 0
    out = capsys.readouterr().out
    assert "toy/choose-v0: value" in out
    assert "nothing is proven" in out
    assert "chosen: [" in out


def test_progress_goes_to_stderr_only_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", "toy/slow-v0", "--calls", "30", "--json", "--progress"]) == 0
    captured = capsys.readouterr()
    assert "oracle calls" in captured.err
    assert captured.out.count("\n") == 1


def test_out_holds_result_report_and_origin_and_rebuilds_the_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a" / "run"
    arguments = ["solve", "toy/choose-v0", "--method", "random", "--calls", "30", "--set", "seed=2", "--out", str(out)]
    assert main(arguments) == 0
    saved = json.loads((out / "result.json").read_text())
    page = (out / "report.html").read_text()
    assert "--set seed=2" in page
    assert "chosen: [" in page
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    again = (out / "report.html").read_text()
    assert "chosen: [" in again  # drawn by the problem, rebuilt from its spec
    assert "--set seed=2" in again
    capsys.readouterr()
    assert main(["solve", str(out / "result.json"), "--method", "random", "--calls", "30", "--json"]) == 0
    assert last_json(capsys.readouterr().out)["value"] == saved["value"]


def test_a_second_run_replaces_the_first_whole(tmp_path: Path) -> None:
    base = ["solve", "toy/choose-v0", "--method", "random", "--out", str(tmp_path)]
    assert main([*base, "--calls", "30"]) == 0
    assert main([*base, "--calls", "12"]) == 0
    assert json.loads((tmp_path / "result.json").read_text())["oracle_calls"] <= 13


# ------------------------------------------------------------------ failures


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["solve", "toy/chose-v0"], 2, "Did you mean `toy/choose-v0`?"),
        (["solve", "tou/choose-v0"], 2, "Did you mean `toy/choose-v0`?"),
        (["solve", "toy/choose-v0", "--method", "zeroo"], 2, "Did you mean `zero`?"),
        (["solve", "toy/choose-v0", "--calls", "0"], 2, "Expected `calls` > 0"),
        (["solve", "toy/choose-v0", "--seconds", "nan"], 2, "finite"),
        (["solve", "toy/choose-v0", "--option", "no_such=1", "--method", "zero"], 2, "no option `no_such`"),
        (["solve", "toy/choose-v0", "--set", "sed=1"], 2, "`seed`"),
        (["solve", "toy/choose-v0", "--set", "seed"], 2, "--set KEY=VALUE"),
        (["solve", "toy/choose-v0", "--resume"], 2, "--out DIR"),
        (["solve", "missing.json"], 2, "there is no file `missing.json`"),
        (["solve", "toy/empty-v0", "--calls", "5"], 3, "no feasible design"),
        (["solve", "toy/mute-v0", "--calls", "5"], 4, "No feasible design within 5 oracle calls"),
        (["report", "nowhere"], 2, "result.json"),
        (["check", "toy/choose-v0", "--seed", "-1"], 2, "Expected `seed`"),
        (["list", "zzzz"], 2, "No problem matches `zzzz`"),
    ],
)
def test_failures_are_one_clear_line_and_a_code(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize(("id", "code", "status"), [("empty", 3, "infeasible"), ("mute", 4, "no_design")])
def test_json_of_a_run_without_design(id: str, code: int, status: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", f"toy/{id}-v0", "--calls", "5", "--json"]) == code
    row = last_json(capsys.readouterr().out)
    assert [key for key in KEYS if key not in row] == []
    assert row["status"] == status
    assert row["is_feasible"] is False
    assert row["value"] is None


def test_a_model_file_has_no_cost_to_solve_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rules.mps"
    path.write_text("NAME\n")
    assert main(["solve", str(path)]) == 2
    assert "surco.problem(" in capsys.readouterr().err


def test_report_takes_the_file_too_and_refuses_nonsense(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", "toy/choose-v0", "--calls", "9", "--out", str(tmp_path)]) == 0
    path = tmp_path / "result.json"
    (tmp_path / "report.html").unlink()
    assert main(["report", str(path)]) == 0
    assert (tmp_path / "report.html").is_file()
    for text in (json.dumps({**json.loads(path.read_text()), "bound": "low"}), "[" * 100_000):
        path.write_text(text)
        capsys.readouterr()
        assert main(["report", str(tmp_path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("text", ["{not json", "[1, 2]", '{"domain": "nope"}', '{"x": 1}', "", "[" * 100_000])
def test_a_bad_spec_file_is_bad_input(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "spec.json"
    path.write_text(text)
    assert main(["solve", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURCO_DEBUG", "1")
    with pytest.raises(ValueError, match="Did you mean"):
        main(["solve", "toy/chose-v0"])


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["solve"], ["solve", "toy/choose-v0", "--calls", "many"]])
def test_usage_errors_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert "usage:" in capsys.readouterr().err


# ------------------------------------------------------------------ list and plugins


def test_list_filters_by_part_and_by_glob(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "toy/"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(toy_domain.DOMAIN.ids())
    assert main(["list", "toy/*o*-v0", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["toy/choose-v0", "toy/slow-v0"]


def test_a_broken_domain_is_named_and_hides_no_other(tmp_path: Path) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[surco.problems]\nwrong = no_such_module:DOMAIN\n")
    where = {**environment(tmp_path), "PYTHONPATH": f"{tmp_path}:{toy_domain.ROOT}"}
    done = subprocess.run(command("list", "PATHS/grid-5"), env=where, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("paths/grid-5-code-v0")
    assert "`wrong` of broken cannot be loaded: ModuleNotFoundError" in done.stderr
    done = subprocess.run(command("solve", "wrong/x-v0"), env=where, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cannot be loaded" in done.stderr


def test_other_distributions_add_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["toycount", "7"]) == 7
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "toycount" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("doc", "line"),
    [
        ("``surco other X``: does 5 % more.\n\nLong story.", "does 5 %% more"),
        ("Does other things.", "Does other things"),
        (None, "from toy"),
        (ImportError("no numpy"), "cannot be loaded: unexpected ImportError: no numpy"),
    ],
)
def test_help_says_what_a_plugin_does(doc: str | Exception | None, line: str) -> None:
    class Point:
        dist = type("Distribution", (), {"name": "toy"})

        def load(self) -> Any:
            if isinstance(doc, Exception):
                raise doc
            return type("Module", (), {"__doc__": doc})

    assert _plugin_line(Point()).startswith(line)  # type: ignore[arg-type]


def test_verify_judges_a_saved_result_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["solve", "toy/choose-v0", "--calls", "20", "--out", str(out), "--json"]) == 0
    capsys.readouterr()
    assert main(["verify", str(out)]) == 0
    words = capsys.readouterr().out
    assert words.count("confirmed; ") == 2
    saved = json.loads((out / "result.json").read_text())
    for change, line in (
        ({"value": saved["value"] - 1}, "value: NOT CONFIRMED"),
        ({"x": [1.0] * len(saved["x"])}, "rules: NOT"),
    ):
        (out / "result.json").write_text(json.dumps({**saved, **change}))
        assert main(["verify", str(out)]) == 1
        assert line in capsys.readouterr().out
    (out / "result.json").write_text(json.dumps({**saved, "spec": {}}))
    assert main(["verify", str(out)]) == 2
    assert "rebuilds its problem" in capsys.readouterr().err
    (out / "result.json").write_text(json.dumps(saved))
    assert main(["verify", str(out), "--with", "nobody"]) == 2
    assert "No judge `nobody` for this problem. There is none." in capsys.readouterr().err


@pytest.mark.parametrize("command", ["verify", "report"])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_design_of_the_wrong_length_is_refused(
    command: str, change: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["solve", "toy/choose-v0", "--calls", "9", "--out", str(tmp_path)]) == 0
    saved = json.loads((tmp_path / "result.json").read_text())
    x = saved["x"][:-1] if change < 0 else [*saved["x"], 0.0]
    (tmp_path / "result.json").write_text(json.dumps({**saved, "x": x}))
    (tmp_path / "report.html").unlink()
    capsys.readouterr()
    assert main([command, str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert f"shape [{len(saved['x'])}]" in captured.err
    assert f"got [{len(x)}]" in captured.err
    assert captured.out == ""
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("below", ["", "run"])
def test_out_on_a_file_is_refused_in_words(below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "taken"
    path.write_text("mine")
    assert main(["solve", "toy/choose-v0", "--calls", "9", "--out", str(path / below)]) == 2
    captured = capsys.readouterr()
    assert "Expected a folder for --out" in captured.err
    assert "Errno" not in captured.err
    assert path.read_text() == "mine"


def test_out_that_cannot_be_made_is_refused_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / ("a" * 300)
    assert main(["solve", "toy/choose-v0", "--calls", "1", "--out", str(folder)]) == 2
    assert "Cannot write to the folder" in capsys.readouterr().err


# ------------------------------------------------------------------ kills


def start(tmp_path: Path, out: Path, calls: int) -> subprocess.Popen[str]:
    arguments = ["solve", "toy/slow-v0", "--method", "random", "--calls", str(calls), "--out", str(out), "--json"]
    return subprocess.Popen(
        command(*arguments), env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not path.is_file():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{path.name} did not appear"
        time.sleep(0.05)


def resumed(tmp_path: Path, out: Path, calls: int) -> dict[str, Any]:
    arguments = ["solve", "toy/slow-v0", "--method", "random", "--calls", str(calls), "--out", str(out), "--json"]
    done = subprocess.run(
        command(*arguments, "--resume"), env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    return last_json(done.stdout)


def test_sigkill_keeps_the_incumbent_and_resume_is_exact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls = 2000
    out = tmp_path / "killed"
    process = start(tmp_path, out, calls)
    try:
        wait_for(out / "checkpoint.safetensors", process)
        time.sleep(0.3)
        assert process.poll() is None, "the run ended before it could be killed"
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    incumbent = json.loads((out / "incumbent.json").read_text())
    assert sum(incumbent["x"]) == 5.0
    assert incumbent["value"] < 1e6
    assert not (out / "result.json").exists()

    assert main(["report", str(out)]) == 0  # what a killed run left can be read at once
    assert "killed before it ended" in (out / "report.html").read_text()
    assert main(["solve", "toy/slow-v0", "--method", "random", "--calls", str(calls), "--out", str(out)]) == 2
    assert "Add --resume" in capsys.readouterr().err
    assert main(["solve", "toy/slow-v0", "--method", "zero", "--out", str(out), "--resume"]) == 2
    capsys.readouterr()

    again = resumed(tmp_path, out, calls)
    assert main(["solve", "toy/slow-v0", "--method", "random", "--calls", str(calls), "--json"]) == 0
    whole = last_json(capsys.readouterr().out)
    for key in ("x", "value", "bound", "status", "oracle_calls", "objective_calls", "source", "notes"):
        assert again[key] == whole[key], key
    assert again["value"] <= incumbent["value"]


def test_a_misspelt_option_is_not_taken_for_one_of_the_instance(capsys: pytest.CaptureFixture[str]) -> None:
    for word, meant in (("--methd", "--method"), ("--second", "--seconds"), ("--sed", "--seed")):
        assert main(["solve", "paths/grid-5-code-v0", word, "3"]) == 2
        assert f"Did you mean `{meant}`?" in capsys.readouterr().err
    joint = ["solve", "sharding/dlrm-50t-4d-joint-v0", "--objective", "critical", "--method", "linear", "--calls", "1"]
    assert main(joint) == 2
    assert (
        "objective: expected one of" in capsys.readouterr().err
    )  # the instance's option, though --objective-calls is near


def test_many_metrics_are_cut_short_for_a_person_only(capsys: pytest.CaptureFixture[str]) -> None:
    run = ["solve", "sharding/dlrm-50t-16d-v0", "--method", "linear", "--calls", "1"]
    assert main(run) == 0
    text = capsys.readouterr().out
    assert main([*run, "--json"]) == 0
    metrics = last_json(capsys.readouterr().out)["metrics"]
    assert f"and {len(metrics) - 12} more" in text
    assert text.count("\n") < len(metrics)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_returns_the_incumbent(number: int, tmp_path: Path) -> None:
    out = tmp_path / "interrupted"
    process = start(tmp_path, out, 100_000)
    try:
        wait_for(out / "incumbent.json", process)
        process.send_signal(number)
        text, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    row = last_json(text)
    assert row["status"] == "interrupted"
    assert row["is_feasible"] is True
    assert json.loads((out / "result.json").read_text())["status"] == "interrupted"


def test_a_solver_that_hangs_cannot_spoil_the_exit(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from surco import worker\n"
        "from surco.cli import entry\n"
        "try:\n"
        "    worker.run(lambda: time.sleep(600), lambda: -1.0)\n"
        "except worker.HungError:\n"
        "    assert worker.has_left_any()\n"
        "sys.argv = ['surco', 'list', 'toy/choose']\n"
        "import atexit; atexit.register(lambda: print('a normal end'))\n"
        "entry()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("toy/choose-v0")
    assert "a normal end" not in done.stdout  # the interpreter was not torn down under a running thread


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    script = f"{sys.executable} -m surco.cli list | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_check_prints_each_check_and_fails_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "paths/grid-5-code-v0", "--set", "seed=1"]) == 0
    assert "ok   oracle: optimal" in capsys.readouterr().out
    assert main(["check", "toy/mute-v0"]) == 1
    captured = capsys.readouterr()
    assert "expected a point in at least one row" in captured.err
    assert captured.err.count("\n") == 1
