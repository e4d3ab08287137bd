"""Network planning for a batch of networks at once, with one pool of cuts for each topology."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rl.game_rules import GameRules
from rl.planning_env import DEFAULT_PROBLEMS, Source, observation_space, rules_of, topologies_of
from rl.planning_game import PlanningGame
from surco.errors import InvalidInputError


class VectorPlanningEnv(VectorEnv[dict[str, NDArray[Any]], NDArray[np.int64], NDArray[np.float64]]):
    """B environments of :class:`rl.planning_env.NetworkPlanningEnv`, stepped as one.

    Actions are checked against cuts by batched products, a cut that one slot finds serves all slots of its topology,
    and observations are written in place. Slots that ended start anew at the next step, whose action they ignore
    (``AutoresetMode.NEXT_STEP``).

    Args:
        num_envs: B.
        problems: ids, instances or topologies to draw from.
        rules: of the game; keyword arguments of ``GameRules`` may be given instead.
        padding: (nodes, options) of observations; default the largest of the problems.
        seed: of draws until ``reset`` is given one.
        others: of ``GameRules``.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 - Gymnasium's own form

    def __init__(
        self,
        num_envs: int = 16,
        problems: Sequence[Source] = DEFAULT_PROBLEMS,
        *,
        rules: GameRules | None = None,
        padding: tuple[int, int] | None = None,
        seed: int = 0,
        render_mode: None = None,
        **others: Any,
    ) -> None:
        if num_envs < 1:
            raise InvalidInputError(f"Expected `num_envs` >= 1, got {num_envs}.")
        self.render_mode = render_mode
        rules = rules_of(rules, others)
        self.num_envs = num_envs
        self.game = PlanningGame(topologies_of(problems), slots=num_envs, rules=rules, seed=seed, padding=padding)
        self.single_observation_space = observation_space(self.game.n_nodes, self.game.n_options, rules.heads)
        self.single_action_space = spaces.Discrete(self.game.n_options * rules.heads)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._ended = np.zeros(num_envs, dtype=bool)
        self._return, self._length = np.zeros(num_envs), np.zeros(num_envs, dtype=np.int64)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Start all slots; ``options={"problem": i or [B] numbers}`` chooses problems by their places."""
        if seed is not None:
            self.game.rng = np.random.default_rng(seed)  # type: ignore[arg-type]
        which = None
        if options and "problem" in options:
            which = np.broadcast_to(np.asarray(options["problem"], dtype=np.int64), (self.num_envs,))
        self.game.reset(np.arange(self.num_envs), which)
        self._ended[:] = False
        self._return[:], self._length[:] = 0.0, 0
        return self._observation(), {}

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Play one action in every slot; slots that ended at the last step are reset instead."""
        restart = np.flatnonzero(self._ended)
        outcome = self.game.step(np.asarray(actions, dtype=np.int64), ~self._ended)
        if len(restart):
            self.game.reset(restart)
            self._return[restart], self._length[restart] = 0.0, 0
        self._return += outcome.reward
        self._length += ~self._ended
        self._ended = outcome.is_terminated | outcome.is_truncated
        info: dict[str, Any] = {}
        if self._ended.any():
            info["episode"] = {
                "r": self._return.copy(),
                "l": self._length.copy(),
                "cost_over_bound": outcome.price / self.game.bound,
                "is_feasible": outcome.is_feasible.astype(np.float64),
            }
            info["_episode"] = info["_problem"] = self._ended.copy()
            info["problem"] = self.game.which.copy()
        return self._observation(), outcome.reward, outcome.is_terminated, outcome.is_truncated, info

    def checkpoint(self) -> dict[str, Any]:
        """See :class:`rl.protocols.Resumable`."""
        return {
            "game": self.game.checkpoint(),
            "ended": torch.from_numpy(self._ended.copy()),
            "return": torch.from_numpy(self._return.copy()),
            "length": torch.from_numpy(self._length.copy()),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what ``checkpoint`` returned."""
        self.game.restore(state["game"])
        self._ended[:] = state["ended"].numpy()
        self._return[:], self._length[:] = state["return"].numpy(), state["length"].numpy()

    def observe(self) -> dict[str, NDArray[Any]]:
        """The current observation, as ``reset`` and ``step`` return it."""
        return self._observation()

    def _observation(self) -> dict[str, NDArray[Any]]:
        return {key: value.copy() for key, value in self.game.observation.items()}
