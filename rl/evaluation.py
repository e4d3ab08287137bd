"""Evaluation of a policy: its best actions on fixed instances, one episode each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import nn

from rl.policy import to_tensors
from surco.errors import InvalidInputError

MOST_STEPS = 100_000


@torch.no_grad()
def evaluate(
    policy: nn.Module,
    env: VectorEnv,
    *,
    seed: int | None = None,
    options: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, list[float]]:
    """Play one episode in every copy of ``env`` with the policy's best actions.

    Every copy counts once, so short episodes do not count more often than long ones.

    Args:
        policy: any policy of `rl.policy`.
        env: its number of copies is the number of episodes.
        seed: of the drawn instances; equal seeds give equal instances.
        options: of the environment's ``reset``, to name instances.
        device: of the policy.

    Returns:
        Figures of the episodes, name -> one value each, in the order of the copies: ``r`` the return, ``l`` the
        steps, and what the environment tells (``cost_over_bound``, ``is_feasible``).

    Raises:
        InvalidInputError: an environment without figures of its episodes, or an episode that does not end.
    """
    was_training = policy.training
    policy.eval()
    observation, _ = env.reset(seed=seed, options=dict(options) if options else None)
    figures: dict[str, list[float]] = {}
    left = np.ones(env.num_envs, dtype=bool)
    for _ in range(MOST_STEPS):
        logits, _ = policy(to_tensors(observation, device))
        observation, _, terminated, truncated, infos = env.step(logits.argmax(-1).cpu().numpy())
        ended = (terminated | truncated) & left
        if ended.any():
            if "episode" not in infos:
                raise InvalidInputError('Expected figures of ended episodes in `infos["episode"]`, found none.')
            for name, values in infos["episode"].items():
                if not name.startswith("_"):
                    column = figures.setdefault(name, [float("nan")] * env.num_envs)
                    for b in np.flatnonzero(ended):
                        column[b] = float(values[b])
            left &= ~ended
        if not left.any():
            policy.train(was_training)
            return figures
    raise InvalidInputError(f"Expected episodes of at most {MOST_STEPS} steps.")


def summary(figures: Mapping[str, list[float]]) -> dict[str, float]:
    """Means of figures, named ``evaluation_...``; ``evaluation_regret`` is minus the mean return, the least is best."""
    means = {f"evaluation_{name}": float(np.mean(values)) for name, values in figures.items()}
    return {**means, "evaluation_regret": -means["evaluation_r"]}
