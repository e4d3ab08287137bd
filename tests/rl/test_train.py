from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from rl import policy as policies
from rl.config import Backend, load, parse
from rl.environments import SHARDING, EnvSpec
from rl.evaluation import evaluate, summary
from rl.journal import Journal, read
from rl.stall import EXIT_CODE
from rl.train import main
from surco.errors import InvalidInputError, UnknownIdError

ROOT = Path(__file__).parents[2]
CONFIG = """
[env]
id = "surco/TableSharding-v0"
num_envs = 32
options = { instances = 32 }

[policy]
settings = { width = 24, rounds = 1 }

[trainer]
steps = 24_000
checkpoint_every = 1
tensorboard = false

[ppo]
steps_per_iteration = 1600
minibatch = 400
epochs = 3
step_size = 2e-3

[evaluation]
every = 4
episodes = 24
options = { split = "test" }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def test_configurations_are_read_whole(file: Path) -> None:
    config = load(file, {"trainer.backend": "rllib", "evaluation.options": {"split": "validation"}})
    assert config.trainer.backend is Backend.RLLIB
    assert config.policy_name == "sharding-set"
    assert config.env.spec().options == {"instances": 32}
    assert config.evaluation.options == {"split": "validation"}
    assert config.ppo.step_size == 2e-3
    for shipped in (ROOT / "rl" / "configs").glob("*.toml"):
        load(shipped)
    load(ROOT / "rl" / "cluster" / "two_nodes.toml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainer": {"steps": 1, "workerz": 2}}, "workers"),
        ({"trainer": {}}, "steps"),
        ({"trainer": {"steps": 0}}, ">= 1"),
        ({"trainer": {"steps": 10, "backend": "sb3"}}, "native"),
        ({"trainer": {"steps": 1.5}}, "int"),
        ({"trainer": {"steps": True}}, "int"),
        ({"enviroment": {}}, "env"),
        ({"ppo": {"epochs": 0}}, "epochs"),
        ({"ppo": 3}, "table"),
    ],
)
def test_wrong_configurations_are_told(change: dict[str, Any], message: str) -> None:
    good = {"env": {"id": SHARDING}, "trainer": {"steps": 10}}
    parse(good)
    with pytest.raises(InvalidInputError, match=message):
        parse({**good, **change})


def test_environments_are_found_by_id() -> None:
    with pytest.raises(UnknownIdError, match="TableSharding"):
        EnvSpec("surco/TableShardin-v0").vector(2, seed=0)
    with pytest.raises(InvalidInputError, match="options"):
        EnvSpec(SHARDING, {"colour": 3}).vector(2, seed=0)
    with pytest.raises(InvalidInputError, match="problems"):
        EnvSpec("surco/NetworkPlanning-v0").vector(2, seed=0)
    drawn = EnvSpec("surco/NetworkPlanning-v0", {"generated": {"count": 2, "nodes": [6, 8], "seed": 3}})
    observation, _ = drawn.vector(2, seed=0).reset()
    assert observation["action_mask"].any(axis=1).all()


def test_a_short_training_beats_its_own_start_on_held_out_instances(file: Path, tmp_path: Path) -> None:
    """By the native trainer; the rules of the field stay the better planners at this length, see the README."""
    out = tmp_path / "out"
    assert main([str(file), "--out", str(out), "--quiet"]) == 0
    lines = read(out)
    assert lines[-1]["steps"] == 24_000
    assert all(line.get("is_legal") in (None, 1.0) for line in lines)
    trained, held_out = policies.load(out), EnvSpec(SHARDING, {"split": "test"}).vector(24, seed=0)
    start = policies.build("sharding-set", trained.config, seed=0)  # type: ignore[arg-type]
    before, after = (summary(evaluate(p, held_out, seed=5)) for p in (start, trained))
    assert after["evaluation_is_feasible"] == 1.0
    assert after["evaluation_cost_over_bound"] < before["evaluation_cost_over_bound"] - 0.01
    first, last = lines[0]["return"] or lines[1]["return"], lines[-1]["return"]
    assert last > first + 0.2  # sampled actions: far better than the uniform start
    again = summary(evaluate(trained, held_out, seed=5))
    assert again == after  # fixed instances, best actions: no chance is left


def test_a_killed_run_resumes_to_the_same_weights(file: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    short = ["--steps", "8000", "--quiet", "--set", "evaluation.every=0"]
    assert main([str(file), "--out", str(whole), *short]) == 0
    command = [sys.executable, "-m", "rl.train", str(file), "--out", str(cut), *short]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 300
        while len(read(cut)) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert 0 < read(cut)[-1]["steps"] < 8000
    assert main([str(file), "--out", str(cut), *short]) == 2  # it does not overwrite a run
    assert main([str(file), "--out", str(cut), "--resume", *short]) == 0
    a, b = policies.load(whole).state_dict(), policies.load(cut).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [line["steps"] for line in read(cut)] == [line["steps"] for line in read(whole)]


def test_returns_that_are_not_numbers_end_the_run(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rl import sharding_env

    monkeypatch.setattr(sharding_env.ShardingVectorEnv, "step", _poisoned(sharding_env.ShardingVectorEnv.step))
    out = tmp_path / "out"
    code = main([str(file), "--out", str(out), "--steps", "8000", "--quiet", "--set", "evaluation.every=0"])
    assert code == EXIT_CODE
    assert "given up" in capsys.readouterr().err


def _poisoned(step: Any) -> Any:
    def play(self: Any, actions: Any) -> Any:
        observation, reward, *others = step(self, actions)
        return observation, reward * float("nan"), *others

    return play


def test_the_command_tells_of_bad_input(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.toml")]) == 2
    assert main([str(file), "--set", "trainer.step=3"]) == 2
    assert "steps" in capsys.readouterr().err
    assert main([str(file), "--address", "auto", "--out", str(tmp_path)]) == 2  # without workers nothing runs on Ray
    assert "workers" in capsys.readouterr().err


def test_the_command_is_a_subcommand_of_surco(file: Path, tmp_path: Path) -> None:
    from surco.cli import main as surco

    short = ["--steps", "200", "--quiet", "--set", "evaluation.every=0"]
    assert surco(["train-policy", str(file), "--out", str(tmp_path / "out"), *short]) == 0
    assert read(tmp_path / "out")[-1]["steps"] == 200
    assert surco(["train-policy", "shardin"]) == 2


def test_native_training_does_not_import_ray(file: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from rl.train import main
short = ["--steps", "200", "--quiet", "--set", "evaluation.every=0"]
assert main([{str(file)!r}, "--out", {str(tmp_path / "out")!r}, *short]) == 0
print("ray" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_journal_survives_a_cut(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for steps in (10, 20, 30):
        journal.write({"steps": steps, "return": float("nan") if steps == 20 else 1.0})
    with journal.path.open("a", encoding="utf-8") as file:
        file.write('{"steps": 40, "ret')
    assert [line["return"] for line in read(tmp_path)] == [1.0, None, 1.0]
    Journal(tmp_path, resumed_at=20)
    assert [line["steps"] for line in read(tmp_path)] == [10, 20]
    Journal(tmp_path)
    assert read(tmp_path) == []
