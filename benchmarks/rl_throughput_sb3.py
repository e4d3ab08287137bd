"""MaskablePPO of sb3-contrib around the project's policies and vector environments; for the throughput table only."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sb3_contrib import MaskablePPO  # type: ignore[import-not-found]
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy  # type: ignore[import-not-found]
from stable_baselines3.common.vec_env import VecEnv  # type: ignore[import-not-found]

from rl import policy as policies
from rl.config import RunConfig
from rl.environments import policy_config
from rl.sharding_env import ShardingVectorEnv


class BatchedVecEnv(VecEnv):
    """A vector environment of the project, with resets in the step that ends an episode, as Stable-Baselines wants."""

    def __init__(self, env: Any) -> None:
        self.inner = env
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Any:
        """Start all copies."""
        self._observation, _ = self.inner.reset(seed=0)
        return self._observation

    def step_async(self, actions: Any) -> None:
        """Keep the actions."""
        self._actions = actions

    def step_wait(self) -> Any:
        """Play, and start copies that ended."""
        observation, reward, terminated, truncated, _ = self.inner.step(self._actions)
        done = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if done.any():
            for b in np.flatnonzero(done):
                infos[b]["terminal_observation"] = {key: value[b] for key, value in observation.items()}
                infos[b]["TimeLimit.truncated"] = bool(truncated[b])
            self._start(np.flatnonzero(done))
            observation = self.inner.observe()
        self._observation = observation
        return observation, reward.astype(np.float32), done, infos

    def _start(self, rows: Any) -> None:
        env = self.inner
        if isinstance(env, ShardingVectorEnv):
            for b, number in zip(rows, env._draw(len(rows)), strict=True):
                env._start(int(b), int(number))
            return
        env.game.reset(rows)
        env._ended[rows] = False
        env._return[rows], env._length[rows] = 0.0, 0

    def env_method(self, method_name: str, *arguments: Any, indices: Any = None, **named: Any) -> list[Any]:
        """Masks only."""
        return list(self._observation["action_mask"] > 0)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Masks are there."""
        if attr_name != "action_masks":
            raise AttributeError(attr_name)
        return [True] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Nothing can be set."""

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Never."""
        return [False] * self.num_envs

    def close(self) -> None:
        """Nothing is open."""


class AnyPolicy(MaskableActorCriticPolicy):
    """A policy of the project behind the interface of Stable-Baselines."""

    def __init__(self, *arguments: Any, name: str, config: dict[str, Any], **named: Any) -> None:
        self._name, self._config = name, config
        super().__init__(*arguments, **named)

    def _build(self, lr_schedule: Any) -> None:
        self.net = policies.build(self._name, self._config, seed=0)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=lr_schedule(1))

    def _of(self, observation: Any, masks: Any) -> tuple[Any, Any]:
        logits, value = self.net(observation)
        distribution = self.action_dist.proba_distribution(action_logits=logits)
        if masks is not None:
            distribution.apply_masking(masks)
        return distribution, value.unsqueeze(-1)

    def forward(self, obs: Any, deterministic: bool = False, action_masks: Any = None) -> Any:
        """Actions, values, log-probabilities."""
        distribution, value = self._of(obs, action_masks)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, value, distribution.log_prob(actions)

    def evaluate_actions(self, obs: Any, actions: Any, action_masks: Any = None) -> Any:
        """Values, log-probabilities, entropy."""
        distribution, value = self._of(obs, action_masks)
        return value, distribution.log_prob(actions), distribution.entropy()

    def predict_values(self, obs: Any) -> Any:
        """Values."""
        return self.net(obs)[1].unsqueeze(-1)


def model_of(config: RunConfig) -> Any:
    """The model of a run's configuration."""
    env = config.env.spec().vector(config.env.num_envs, seed=config.trainer.seed)
    settings = policy_config(config.policy_name, env, config.policy.settings)
    ppo = config.ppo
    return MaskablePPO(
        AnyPolicy,
        BatchedVecEnv(env),
        learning_rate=ppo.step_size,
        n_steps=ppo.steps_per_iteration // config.env.num_envs,
        batch_size=ppo.minibatch,
        n_epochs=ppo.epochs,
        gamma=ppo.discount,
        gae_lambda=ppo.smoothing,
        clip_range=ppo.clip,
        ent_coef=ppo.entropy,
        vf_coef=ppo.value_weight,
        max_grad_norm=ppo.max_norm,
        policy_kwargs={"name": config.policy_name, "config": settings},
        device="cpu",
        seed=config.trainer.seed,
    )
