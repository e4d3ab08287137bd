"""The native trainer: advantages by their definition, learning where the optimum is known, exact step counts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor, nn

from rl.config import PpoSettings
from rl.native import NotANumberError, train
from rl.policy import Observation, masked, register
from rl.rollout import Collector, Rollout, advantages, choose, joined, log_prob_of
from surco.errors import InvalidInputError

ACTIONS = 6


class Corridor(VectorEnv[dict[str, np.ndarray], np.ndarray, np.ndarray]):
    """Three steps an episode; the action that the observation points at pays 1, and the first is masked if it is odd.

    The best return is 3 where nothing is masked away; the pointed-at action is always allowed.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 - Gymnasium's own form

    def __init__(self, num_envs: int, seed: int, *, broken: bool = False) -> None:
        self.num_envs, self.rng, self.broken = num_envs, np.random.default_rng(seed), broken
        box = gymnasium.spaces.Box(0.0, 1.0, (ACTIONS,), np.float32)
        self.single_observation_space = gymnasium.spaces.Dict({"hint": box, "action_mask": box})
        self.single_action_space = gymnasium.spaces.Discrete(ACTIONS)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self.left = np.full(num_envs, 3)
        self.ended = np.zeros(num_envs, dtype=bool)
        self.total = np.zeros(num_envs)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.left[:], self.ended[:], self.total[:] = 3, False, 0.0
        return self._draw(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        rows = np.arange(self.num_envs)
        assert (self.mask[rows, actions] > 0.5)[~self.ended].all(), "a masked action was played"
        reward = np.where(self.ended, 0.0, (actions == self.hint).astype(np.float64))
        if self.broken:
            reward[0] = np.nan
        restart = self.ended.copy()
        self.total = np.where(restart, 0.0, self.total + reward)
        self.left = np.where(restart, 3, self.left - 1)
        self.ended = (self.left == 0) & ~restart
        info: dict[str, Any] = {}
        if self.ended.any():
            info = {"episode": {"r": self.total.copy(), "l": np.full(self.num_envs, 3)}, "_episode": self.ended.copy()}
        return self._draw(), reward, self.ended.copy(), np.zeros(self.num_envs, dtype=bool), info

    def _draw(self) -> dict[str, np.ndarray]:
        self.hint = self.rng.integers(ACTIONS, size=self.num_envs)
        self.mask = (self.rng.random((self.num_envs, ACTIONS)) < 0.8).astype(np.float32)
        self.mask[np.arange(self.num_envs), self.hint] = 1.0
        return {"hint": np.eye(ACTIONS, dtype=np.float32)[self.hint], "action_mask": self.mask.copy()}


@register("test-corridor")
class CorridorPolicy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        self.body = nn.Linear(ACTIONS, ACTIONS + 1)

    def forward(self, observation: Observation) -> tuple[Tensor, Tensor]:
        out = self.body(observation["hint"])
        return masked(out[:, :ACTIONS], observation["action_mask"]), out[:, ACTIONS]


def a_policy() -> CorridorPolicy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CorridorPolicy()


def test_training_finds_the_best_return_in_exactly_the_steps_asked_for() -> None:
    lines: list[dict[str, Any]] = []
    policy = train(
        lambda seed: Corridor(16, seed),
        a_policy(),
        steps=6001,
        seed=0,
        settings=PpoSettings(steps_per_iteration=256, minibatch=64, epochs=4, step_size=2e-2, entropy=0.0),
        target_kl=10.0,
        callback=lines.append,
    )
    assert lines[-1]["steps"] == 6001
    assert lines[0]["return"] < 1.5
    assert lines[-1]["return"] > 2.8
    observation = _observed(8)
    assert policy(observation)[0].argmax(-1).equal(observation["hint"].argmax(-1))


def _observed(batch: int) -> dict[str, Tensor]:
    observation, _ = Corridor(batch, 3).reset(seed=3)
    return {key: torch.from_numpy(value) for key, value in observation.items()}


def test_advantages_follow_their_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    T, B, g, lam = 7, 3, 0.9, 0.8
    done = (torch.rand(T, B, generator=generator) < 0.3).float()
    real = torch.ones(T, B, dtype=torch.bool)
    real[1:] = done[:-1] < 0.5  # the step after an end is a reset
    done = done * real
    value, reward = torch.randn(T, B, generator=generator), torch.randn(T, B, generator=generator)
    last = torch.randn(B, generator=generator)
    rollout = Rollout({}, torch.zeros(T, B), torch.zeros(T, B), value, reward, done, real, last, {})
    found, target = advantages(rollout, discount=g, smoothing=lam)
    following = torch.cat([value, last[None]])
    for b in range(B):
        for t in range(T):
            if not real[t, b]:
                assert found[t, b] == 0.0
                continue
            total, weight = 0.0, 1.0
            for k in range(t, T):
                alive = 1.0 - float(done[k, b])
                total += weight * float(reward[k, b] + g * following[k + 1, b] * alive - value[k, b])
                weight *= g * lam * alive
                if not alive:
                    break
            assert float(found[t, b]) == pytest.approx(total, abs=1e-5)
    assert torch.allclose(target, found + value)


def test_draws_follow_the_masked_distribution() -> None:
    logits = masked(torch.tensor([[0.0, 1.0, 2.0, 5.0]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])).expand(20000, -1)
    drawn = choose(logits, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(drawn, minlength=4) / 20000
    assert share[3] == 0.0
    assert torch.allclose(share, torch.softmax(logits[0], dim=-1), atol=0.015)
    assert (choose(logits, generator=None) == 2).all()
    expected = torch.log_softmax(torch.tensor([0.0, 1.0, 2.0]), dim=-1)[1]
    assert torch.allclose(log_prob_of(logits[:1], torch.tensor([1])), expected)


def test_the_loss_sees_the_probabilities_that_were_sampled() -> None:
    lines: list[dict[str, Any]] = []
    settings = PpoSettings(steps_per_iteration=64, minibatch=1000, epochs=1)
    train(lambda seed: Corridor(8, seed), a_policy(), steps=64, seed=0, settings=settings, callback=lines.append)
    assert lines[0]["kl"] == pytest.approx(0.0, abs=1e-7)  # one step on all data: nothing has moved yet


def test_rollouts_of_workers_are_joined_side_by_side() -> None:
    rollouts = [Collector(lambda seed: Corridor(3, seed), seed=s).collect(a_policy(), 5) for s in (0, 1)]
    both = joined(rollouts)
    assert both.reward.shape == (5, 6)
    assert torch.equal(both.action[:, 3:], rollouts[1].action)
    assert both.n_steps == sum(r.n_steps for r in rollouts)


def test_values_learn_alone_during_the_warmup() -> None:
    policy = a_policy()
    before = policy.body.weight.detach().clone()
    settings = PpoSettings(steps_per_iteration=64, minibatch=32, epochs=2)
    train(lambda seed: Corridor(8, seed), policy, steps=128, seed=0, settings=settings, value_warmup=50)
    assert torch.equal(before[:ACTIONS], policy.body.weight[:ACTIONS])
    assert not torch.equal(before[ACTIONS], policy.body.weight[ACTIONS])


def test_rewards_that_are_not_numbers_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(NotANumberError, match="smaller step size"):
        train(lambda seed: Corridor(4, seed, broken=True), a_policy(), steps=64, seed=0)
    with pytest.raises(InvalidInputError, match="steps >= 1"):
        train(lambda seed: Corridor(4, seed), a_policy(), steps=0, seed=0)
    with pytest.raises(InvalidInputError, match="checkpoint"):
        train(lambda seed: Corridor(4, seed), a_policy(), steps=64, seed=0, out=tmp_path / "run")


def test_training_without_workers_imports_no_ray() -> None:
    script = """
import sys
from rl.native import train
from rl.planning_game import N_CONTEXT, N_LINK, N_NODE
from rl.policy import build
from rl.vector_env import VectorPlanningEnv
config = dict(link_features=N_LINK, node_features=N_NODE, context_features=N_CONTEXT, heads=4, width=8, rounds=1)
train(lambda seed: VectorPlanningEnv(4, seed=seed, proof_share=0.0), build("planning-gnn", config), steps=20, seed=0)
assert "ray" not in sys.modules, "ray was imported"
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_a_run_ends_with_a_whole_iteration_and_not_with_a_remainder() -> None:
    lines: list[dict[str, Any]] = []
    train(
        lambda seed: Corridor(16, seed),
        a_policy(),
        steps=3 * 192,  # of the 256 slots' steps of an iteration a quarter only reset
        seed=0,
        settings=PpoSettings(steps_per_iteration=256, minibatch=64, epochs=1),
        callback=lines.append,
    )
    assert lines[-1]["steps"] == 3 * 192
    assert [line["steps"] for line in lines] == [192, 384, 576]
