from __future__ import annotations

import os
import secrets
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rl import policy as policies
from rl.config import load
from rl.environments import PLANNING, SHARDING, EnvSpec, policy_config
from rl.journal import read
from rl.ray_processes import marked_processes
from rl.rllib import load_policy, ppo_config
from rl.rllib_train import CHECKPOINT, train
from surco.errors import InvalidInputError

ROOT = Path(__file__).parents[2]
TAG = "SURCO_TEST_TAG"
CONFIG = """
[env]
id = "surco/TableSharding-v0"
num_envs = 16
options = { instances = 8 }

[policy]
settings = { width = 16 }

[trainer]
backend = "rllib"
steps = 1600
checkpoint_every = 1
tensorboard = false

[ppo]
steps_per_iteration = 800
minibatch = 200
epochs = 1

[evaluation]
every = 1
episodes = 4
options = { split = "validation" }
"""


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    """Ray's own warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def spec_of(id: str) -> EnvSpec:
    return (
        EnvSpec(SHARDING, {"instances": 4})
        if id == SHARDING
        else EnvSpec(PLANNING, {"problems": ["planning/abilene-v0"]})
    )


@pytest.mark.parametrize(("id", "name"), [(SHARDING, "sharding-set"), (PLANNING, "planning-gnn")])
def test_both_trainers_have_one_policy(id: str, name: str, tmp_path: Path) -> None:
    """Equal weights give equal logits and values in RLlib's module, in all its passes, and in one file format."""
    from ray.rllib.core.columns import Columns
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec

    from rl.rllib_module import PolicyModule

    env = spec_of(id).vector(3, seed=0)
    config = policy_config(name, env, {"width": 16})
    ours = policies.build(name, config, seed=5)
    module: Any = RLModuleSpec(
        module_class=PolicyModule,
        observation_space=env.single_observation_space,
        action_space=env.single_action_space,
        model_config={"policy": name, "config": config, "seed": 5},
    ).build()
    observation, _ = env.reset(seed=0)
    observation["action_mask"][:, 1] = 0.0
    batch = {Columns.OBS: policies.to_tensors(observation)}
    logits, value = ours(batch[Columns.OBS])
    for passed in (module.forward_exploration(batch), module.forward_inference(batch), module.forward_train(batch)):
        assert torch.equal(passed[Columns.ACTION_DIST_INPUTS], logits)
    embeddings = module.forward_train(batch)[Columns.EMBEDDINGS]
    assert torch.equal(module.compute_values(batch), value)
    assert torch.equal(module.compute_values(batch, embeddings), value)
    illegal = torch.as_tensor(observation["action_mask"]) == 0
    assert float(torch.softmax(logits, -1)[illegal].abs().max()) == 0.0

    policies.save(module.policy, tmp_path)
    again = policies.load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again(batch[Columns.OBS]), (logits, value), strict=True))


def test_settings_follow_what_was_measured() -> None:
    config = ppo_config(spec_of(SHARDING), "sharding-set", workers=2)
    assert config.num_envs_per_env_runner >= 16
    assert config.gym_env_vectorize_mode == "vector_entry_point"
    assert config.env_runner_health_probe_timeout_s == 10.0
    assert config.env_runner_restore_timeout_s == 60.0
    assert config.restart_failed_env_runners
    assert torch.get_num_threads() == 1
    with pytest.raises(InvalidInputError, match="16"):
        ppo_config(spec_of(SHARDING), "sharding-set", num_envs=1)
    with pytest.raises(InvalidInputError, match="sharding-set"):
        ppo_config(spec_of(SHARDING), "sharding-set", {"size": 3})


def test_only_checkpoints_are_loaded(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="RLlib checkpoint"):
        load_policy(tmp_path)


def test_a_finished_run_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "out" / CHECKPOINT).mkdir(parents=True)
    with pytest.raises(InvalidInputError, match="holds a run already"):
        train(load(tmp_path / "c.toml"), tmp_path / "out")


@pytest.mark.slow
def test_training_saves_resumes_and_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(CONFIG, encoding="utf-8")
    tag, out = secrets.token_hex(8), tmp_path / "out"
    command = [sys.executable, "-m", "rl.train", str(tmp_path / "c.toml"), "--out", str(out), "--address", "local"]

    def command_with(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *more],
            cwd=ROOT,
            env={**os.environ, TAG: tag, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=400,
        )

    first = command_with()
    assert first.returncode == 0, first.stderr
    assert marked_processes(tag, name=TAG) == {}
    assert "steps/s" in first.stderr
    assert "Warning" not in first.stderr  # RLlib's notices about itself
    lines = read(out)
    assert lines[-1]["steps"] >= 1600
    assert lines[-1]["evaluation_is_feasible"] == 1.0
    assert all(line.get("is_legal", 1.0) == 1.0 for line in lines)

    ours, theirs = policies.load(out), load_policy(out / "rllib")
    observation, _ = spec_of(SHARDING).vector(2, seed=0).reset(seed=1)
    tensors = policies.to_tensors(observation)
    for a, b in zip(ours(tensors), theirs(tensors), strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())

    second = command_with("--resume", "--steps", "2400")
    assert second.returncode == 0, second.stderr
    steps = [line["steps"] for line in read(out)]
    assert steps[: len(lines)] == [line["steps"] for line in lines]
    assert steps == sorted(set(steps))
    assert steps[-1] >= 2400
    assert marked_processes(tag, name=TAG) == {}
