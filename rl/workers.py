"""Rollout workers: Ray actors that play with the newest weights, restarted where they die."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rl.policy import build
from rl.protocols import MakeVectorEnv
from rl.rollout import Collector, Rollout
from surco.errors import InvalidInputError, MissingExtraError

_LOG = logging.getLogger(__name__)

PATIENCE_SECONDS = 30.0  # for workers that lag behind the first one before a round goes on without them


class Player:
    """What runs in a worker: a collector and a copy of the policy."""

    def __init__(self, make_vector_env: MakeVectorEnv, name: str, config: dict[str, Any], seed: int) -> None:
        torch.set_num_threads(1)
        self._policy = build(name, config)
        self._collector = Collector(make_vector_env, seed=seed)

    def num_envs(self) -> int:
        """Copies of the environment."""
        return self._collector.env.num_envs

    def collect(self, weights: dict[str, Tensor], steps: int) -> Rollout:
        """Play with these weights."""
        self._policy.load_state_dict(weights)
        return self._collector.collect(self._policy, steps)

    def checkpoint(self) -> dict[str, Any]:
        """State of the collector."""
        return self._collector.checkpoint()

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what ``checkpoint`` returned."""
        self._collector.restore(state)


class Crew:
    """Several players as Ray actors. The caller has connected to a cluster, or a local one is started.

    A player that dies is restarted by Ray with a fresh environment and its task runs again. A round goes on without
    players that lag by more than ``PATIENCE_SECONDS``; what they finish later counts in a later round.

    Args:
        make_vector_env: importable on the workers.
        policy: built by ``rl.policy.build``, so that workers can build it too.
        workers: how many.
        seed: of the first; the others follow.
        options: of the actors, such as ``num_cpus`` or ``resources``.
    """

    def __init__(
        self,
        make_vector_env: MakeVectorEnv,
        policy: nn.Module,
        *,
        workers: int,
        seed: int,
        options: Mapping[str, Any],
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingExtraError('Ray is missing. Try `pip install "surco[rl]"`, or `workers=0`.') from error
        self._ray = ray
        actor = ray.remote(Player).options(**{"num_cpus": 1, "max_restarts": -1, "max_task_retries": -1, **options})
        self._players: list[Any] = [
            actor.remote(make_vector_env, policy.policy_name, policy.config, 1000 * seed + i) for i in range(workers)
        ]
        self._busy: dict[Any, int] = {}  # task -> player
        self.num_envs = workers * int(ray.get(self._players[0].num_envs.remote()))

    def collect(self, policy: nn.Module, steps: int) -> list[Rollout]:
        """A round: rollouts of the players that are there, in the order of the players."""
        ray = self._ray
        weights = ray.put({key: value.detach().cpu() for key, value in policy.state_dict().items()})
        idle = sorted(set(range(len(self._players))) - set(self._busy.values()))
        for i in idle:
            self._busy[self._players[i].collect.remote(weights, steps)] = i
        tasks = list(self._busy)
        ready, _ = ray.wait(tasks, num_returns=1, timeout=None)
        if len(ready) < len(tasks):
            ready, late = ray.wait(tasks, num_returns=len(tasks), timeout=PATIENCE_SECONDS)
            if late:
                _LOG.warning("%d of %d rollout workers lag; this round goes on without them", len(late), len(tasks))
        done = sorted(((self._busy.pop(task), task) for task in ready), key=lambda pair: pair[0])
        device = next(policy.parameters()).device
        return [_on(ray.get(task), device) for _, task in done]

    def checkpoint(self) -> dict[str, Any]:
        """States of all players, after their tasks in flight."""
        return {"players": self._ray.get([player.checkpoint.remote() for player in self._players])}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what ``checkpoint`` returned.

        Raises:
            InvalidInputError: of another number of workers.
        """
        if len(state.get("players", ())) != len(self._players):
            raise InvalidInputError(
                f"The checkpoint is of {len(state.get('players', ()))} workers, this run has {len(self._players)}."
            )
        self._ray.get([player.restore.remote(s) for player, s in zip(self._players, state["players"], strict=True)])

    def close(self) -> None:
        """End the players."""
        for player in self._players:
            self._ray.kill(player)
        self._players = []


def _on(rollout: Rollout, device: torch.device) -> Rollout:
    if device.type == "cpu":
        return rollout
    tensors = {
        name: getattr(rollout, name).to(device)
        for name in ("action", "log_prob", "value", "reward", "is_done", "is_real", "last_value")
    }
    return Rollout(
        {key: value.to(device) for key, value in rollout.observation.items()}, episodes=rollout.episodes, **tensors
    )
