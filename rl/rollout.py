"""Rollouts: what a policy did in a vector environment, as tensors, and advantages over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor, nn

from rl.policy import to_tensors
from rl.protocols import MakeVectorEnv, Resumable
from surco.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Rollout:
    """T steps of B environments.

    Attributes:
        observation: each [T, B, ...].
        action, log_prob, value, reward: [T, B].
        is_done: [T, B], the episode ended with this step.
        is_real: [T, B] bool; False where the environment only reset itself.
        last_value: [B], of the observation after the last step.
        episodes: figures of the episodes that ended, key -> list.
    """

    observation: dict[str, Tensor]
    action: Tensor
    log_prob: Tensor
    value: Tensor
    reward: Tensor
    is_done: Tensor
    is_real: Tensor
    last_value: Tensor
    episodes: dict[str, list[float]]

    @property
    def n_steps(self) -> int:
        """Environment steps, without resets."""
        return int(self.is_real.sum())


def choose(logits: Tensor, *, generator: torch.Generator | None, temperature: float = 1.0) -> Tensor:
    """Actions [B] of masked logits [B, A]: drawn with ``generator``, or the best without one."""
    if generator is None:
        return logits.argmax(dim=-1)
    noise = torch.rand(logits.shape, generator=generator, dtype=torch.float64).clamp_(1e-12, 1.0 - 1e-12)
    gumbel = -torch.log(-torch.log(noise))
    return (logits.double().cpu() / temperature + gumbel).argmax(dim=-1).to(logits.device)


def log_prob_of(logits: Tensor, action: Tensor) -> Tensor:
    """Log-probabilities [B] of actions [B] under masked logits [B, A]."""
    return torch.log_softmax(logits, dim=-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)


def advantages(rollout: Rollout, *, discount: float, smoothing: float) -> tuple[Tensor, Tensor]:
    """Generalized advantages and value targets, both [T, B].

    delta_t = r_t + g V_{t+1} (1 - done_t) - V_t,  A_t = delta_t + g l (1 - done_t) A_{t+1}.

    Source: Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation", eq. 16.
    """
    steps = len(rollout.reward)
    result = torch.zeros_like(rollout.reward)
    following, later = rollout.last_value, torch.zeros_like(rollout.last_value)
    for t in range(steps - 1, -1, -1):
        goes_on = 1.0 - rollout.is_done[t]
        delta = rollout.reward[t] + discount * following * goes_on - rollout.value[t]
        later = (delta + discount * smoothing * goes_on * later) * rollout.is_real[t]
        result[t] = later
        following = rollout.value[t]
    return result, result + rollout.value


class Collector:
    """A vector environment with its own generator, from which rollouts are taken; the unit that workers hold.

    Args:
        make_vector_env: makes the environment from a seed; it must reset ended slots at the next step.
        seed: of the environment and of the actions.
        device: of the policy.
    """

    def __init__(self, make_vector_env: MakeVectorEnv, *, seed: int, device: str | torch.device = "cpu") -> None:
        self.env: VectorEnv = make_vector_env(seed)
        mode = self.env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.NEXT_STEP:
            raise InvalidInputError(f"Expected an environment with AutoresetMode.NEXT_STEP, got {mode}.")
        self.generator = torch.Generator().manual_seed(seed)
        self.device = torch.device(device)
        observation, _ = self.env.reset(seed=seed)
        self.observation: dict[str, Any] = observation
        self.ended = np.zeros(self.env.num_envs, dtype=bool)

    @torch.no_grad()
    def collect(self, policy: nn.Module, steps: int) -> Rollout:
        """Play ``steps`` steps with actions drawn from ``policy``."""
        kept: list[dict[str, Tensor]] = []
        columns: dict[str, list[Tensor]] = {
            key: [] for key in ("action", "log_prob", "value", "reward", "done", "real")
        }
        episodes: dict[str, list[float]] = {}
        for _ in range(steps):
            observation = to_tensors(self.observation, self.device)
            logits, value = policy(observation)
            action = choose(logits, generator=self.generator)
            kept.append(observation)
            columns["action"].append(action)
            columns["log_prob"].append(log_prob_of(logits, action))
            columns["value"].append(value)
            columns["real"].append(torch.as_tensor(~self.ended, device=self.device))
            self.observation, reward, terminated, truncated, info = self.env.step(action.cpu().numpy())
            self.ended = terminated | truncated
            columns["reward"].append(torch.as_tensor(reward, dtype=value.dtype, device=self.device))
            columns["done"].append(torch.as_tensor(self.ended, dtype=value.dtype, device=self.device))
            if "episode" in info:
                for key, figures in info["episode"].items():
                    episodes.setdefault(key, []).extend(
                        np.asarray(figures, dtype=np.float64)[info["_episode"]].tolist()
                    )
        _, last_value = policy(to_tensors(self.observation, self.device))
        stacked = {key: torch.stack(values) for key, values in columns.items()}
        return Rollout(
            {key: torch.stack([o[key] for o in kept]) for key in kept[0]},
            stacked["action"],
            stacked["log_prob"],
            stacked["value"],
            stacked["reward"],
            stacked["done"],
            stacked["real"],
            last_value,
            episodes,
        )

    def checkpoint(self) -> dict[str, Any]:
        """State of environment and generator.

        Raises:
            InvalidInputError: the environment cannot be saved.
        """
        if not isinstance(self.env, Resumable):
            raise InvalidInputError(
                f"{type(self.env).__name__} has no `checkpoint` and `restore`, so training on it cannot be resumed "
                "exactly. Add them, or train without `out`."
            )
        return {
            "env": self.env.checkpoint(),
            "generator": self.generator.get_state(),
            "observation": {key: torch.as_tensor(value).clone() for key, value in self.observation.items()},
            "ended": torch.from_numpy(self.ended.copy()),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what ``checkpoint`` returned."""
        assert isinstance(self.env, Resumable)
        self.env.restore(state["env"])
        self.generator.set_state(state["generator"])
        self.observation = {key: value.numpy() for key, value in state["observation"].items()}
        self.ended = state["ended"].numpy().astype(bool)


def joined(rollouts: list[Rollout]) -> Rollout:
    """Rollouts of several workers side by side, along B."""
    if len(rollouts) == 1:
        return rollouts[0]
    episodes: dict[str, list[float]] = {}
    for rollout in rollouts:
        for key, values in rollout.episodes.items():
            episodes.setdefault(key, []).extend(values)

    def side(name: str) -> Tensor:
        return torch.cat([getattr(r, name) for r in rollouts], dim=1)

    return Rollout(
        {key: torch.cat([r.observation[key] for r in rollouts], dim=1) for key in rollouts[0].observation},
        side("action"),
        side("log_prob"),
        side("value"),
        side("reward"),
        side("is_done"),
        side("is_real"),
        torch.cat([r.last_value for r in rollouts]),
        episodes,
    )
