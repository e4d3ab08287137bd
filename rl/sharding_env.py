"""``surco/TableSharding-v0``: place embedding tables on devices one by one, alone or many boards at once."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from problems.sharding.family import ShardingFamily
from rl.sharding_board import CONTEXT_FEATURES, DEVICE_FEATURES, LIMIT, TABLE_FEATURES, Boards, Game, drawn
from surco.errors import InvalidInputError, ResumeError
from surco.instance_family import Split, family

ID = "surco/TableSharding-v0"
FAMILY = "sharding/dlrm-50t-8d-nonlinear-v0"
DEAD_END = -5.0
"""Return where a table has no device with room left: as bad as a plan of six times the bound."""


def observation_space(tables: int, devices: int) -> spaces.Dict:
    """Of boards padded to so many tables and devices."""

    def box(*shape: int, low: float = -LIMIT, high: float = LIMIT) -> spaces.Box:
        return spaces.Box(low, high, shape, np.float32)

    return spaces.Dict(
        {
            "tables": box(tables, TABLE_FEATURES),
            "table": box(TABLE_FEATURES),
            "devices": box(devices, DEVICE_FEATURES),
            "context": box(CONTEXT_FEATURES),
            "table_mask": box(tables, low=0.0, high=1.0),
            "device_mask": box(devices, low=0.0, high=1.0),
            "action_mask": box(devices, low=0.0, high=1.0),
        }
    )


class _Deck:
    """The games that an environment plays: drawn from a family on demand."""

    def __init__(
        self, family_id: str, split: str, instances: int, first: int, max_tables: int | None, max_devices: int | None
    ) -> None:
        known = family(family_id)
        if not isinstance(known, ShardingFamily):
            raise InvalidInputError(f"Expected a family of sharding problems, got `{family_id}`.")
        limits = known.distribution
        if instances < 1 or first < 0:
            raise InvalidInputError(f"Expected `instances` >= 1 and `first` >= 0, got {instances} and {first}.")
        try:
            self.split = Split(split)
        except ValueError as error:
            raise InvalidInputError(f"Expected `split` in {[s.value for s in Split]}, got {split!r}.") from error
        self.family, self.instances, self.first = family_id, instances, first
        self.tables = int(max_tables or limits.tables[1])
        self.devices = int(max_devices or limits.devices[1])

    def game(self, number: int) -> Game:
        return drawn(self.family, self.split.value, self.first + number % self.instances)


class ShardingEnv(gymnasium.Env[dict[str, NDArray[np.float32]], np.int64]):
    """Place one table after the other, the heaviest first; formulation of DreamShard.

    Observation, float32, padded to ``max_tables`` and ``max_devices``; times are over the lower bound of the problem:
    ``table`` the one to place and ``tables`` those to come (milliseconds alone in the four phases, memory, width);
    ``devices`` (milliseconds in the four phases now and with the table, what the table adds to the step time, memory);
    ``context`` (step time, share placed, numbers of devices and tables, load to come, share of legal devices);
    ``table_mask``, ``device_mask``, ``action_mask``.

    Action: the device. Legal is an allowed device with room; of alike empty devices only the first, as the others lead
    to the same plans. An illegal action ends the episode like a dead end (``is_legal`` 0 in its figures).

    Reward: minus the growth of the step time over the bound; an episode's return is 1 - cost / bound, at most 0. A
    table without any device left ends the episode with a return of ``DEAD_END``.

    Args:
        family: of the sharding domain; ``surco train --list`` shows all.
        split: ``train``, ``validation`` or ``test``; the parts are disjoint.
        instances: how many of the split are played.
        first: number of the first one.
        max_tables: size of the padding; the largest of the family by default.
        max_devices: size of the padding.

    Source: Zha et al. (2022), "DreamShard: generalizable embedding table placement for recommender systems".
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - the name is Gymnasium's

    def __init__(
        self,
        *,
        family: str = FAMILY,
        split: str = "train",
        instances: int = 256,
        first: int = 0,
        max_tables: int | None = None,
        max_devices: int | None = None,
    ) -> None:
        self._deck = _Deck(family, split, instances, first, max_tables, max_devices)
        self.boards = Boards(1, self._deck.tables, self._deck.devices)
        self.observation_space = observation_space(self._deck.tables, self._deck.devices)
        self.action_space = spaces.Discrete(self._deck.devices)  # type: ignore[assignment]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
        """Begin a drawn game, or the one numbered ``options["instance"]``."""
        super().reset(seed=seed)
        number = (options or {}).get("instance")
        number = int(self.np_random.integers(self._deck.instances)) if number is None else int(number)
        self.boards.start(0, self._deck.game(number))
        return _row(self.boards.observe()), {"instance": number}

    def step(self, action: np.int64) -> tuple[dict[str, NDArray[np.float32]], float, bool, bool, dict[str, Any]]:
        """Place the current table."""
        reward, over, info = _play(self.boards, np.array([action]), np.array([True]))
        ended = {key: float(value[0]) for key, value in info.items()} if over[0] else {}
        return _row(self.boards.observe()), float(reward[0]), bool(over[0]), False, ended


class ShardingVectorEnv(VectorEnv):
    """Many boards of `ShardingEnv` in one process; a finished board starts the next game at the following step.

    It is resumable (`rl.protocols.Resumable`).

    Args:
        num_envs: boards.
        seed: of the draws, until ``reset`` gives another.
        options: of `ShardingEnv`.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 - the name is Gymnasium's

    def __init__(
        self,
        num_envs: int = 64,
        *,
        seed: int | None = None,
        family: str = FAMILY,
        split: str = "train",
        instances: int = 256,
        first: int = 0,
        max_tables: int | None = None,
        max_devices: int | None = None,
    ) -> None:
        self._deck = _Deck(family, split, instances, first, max_tables, max_devices)
        self.num_envs = num_envs
        self.boards = Boards(num_envs, self._deck.tables, self._deck.devices)
        self.single_observation_space = observation_space(self._deck.tables, self._deck.devices)
        self.single_action_space = spaces.Discrete(self._deck.devices)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rng = np.random.default_rng(seed)
        self._numbers = np.zeros(num_envs, dtype=np.int64)
        self._is_over = np.zeros(num_envs, dtype=bool)

    def reset(  # type: ignore[override] - Gymnasium types observations by the space
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
        """Begin drawn games, or those numbered ``options["instances"]`` [B]."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        chosen = (options or {}).get("instances")
        numbers = self._draw(self.num_envs) if chosen is None else np.asarray(chosen, dtype=np.int64)
        for b in range(self.num_envs):
            self._start(b, int(numbers[b]))
        return self.boards.observe(), {}

    def step(  # type: ignore[override]
        self, actions: Any
    ) -> tuple[
        dict[str, NDArray[np.float32]], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
    ]:
        """Place the current table of each board; a board that ended before starts its next game instead."""
        starting = np.flatnonzero(self._is_over)
        active = ~self._is_over
        reward, over, info = _play(self.boards, np.asarray(actions, dtype=np.int64), active)
        for b, number in zip(starting, self._draw(len(starting)), strict=True):
            self._start(int(b), int(number))
        self._is_over = over
        infos = {"episode": info, "_episode": over.copy()} if over.any() else {}
        return self.boards.observe(), reward, over.copy(), np.zeros(self.num_envs, dtype=bool), infos

    def checkpoint(self) -> dict[str, Any]:
        """Plain data; there is no hidden state."""
        return {
            "generator": self._rng.bit_generator.state,
            "instances": self._numbers.tolist(),
            "choices": [
                row[:placed].tolist() for row, placed in zip(self.boards.choice, self.boards.placed, strict=True)
            ],
            "is_over": self._is_over.tolist(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Play the saved games again up to where they were."""
        if len(state["instances"]) != self.num_envs:
            raise ResumeError(f"Expected the state of {self.num_envs} boards, got {len(state['instances'])}.")
        self._rng.bit_generator.state = state["generator"]
        choices = state["choices"]
        for b, number in enumerate(state["instances"]):
            self._start(b, number)
        for k in range(max(map(len, choices), default=0)):
            active = np.array([k < len(row) for row in choices])
            self.boards.place(np.array([row[k] if k < len(row) else 0 for row in choices]), active)
        self._is_over = np.array(state["is_over"], dtype=bool)

    def observe(self) -> dict[str, NDArray[np.float32]]:
        """The current observation, as ``reset`` and ``step`` return it."""
        return self.boards.observe()

    def _draw(self, count: int) -> NDArray[np.int64]:
        return self._rng.integers(self._deck.instances, size=count)

    def _start(self, b: int, number: int) -> None:
        self._numbers[b] = number
        self._is_over[b] = False
        self.boards.start(b, self._deck.game(number))


def _play(
    boards: Boards, devices: NDArray[np.int64], active: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], dict[str, NDArray[np.float64]]]:
    """Place on active boards: rewards [B], ends [B], and the figures of episodes that ended here, each [B]."""
    legal = boards.legal()
    rows = np.arange(boards.count)
    is_known = (devices >= 0) & (devices < boards.devices)
    wrong = active & ~(is_known & legal[rows, np.where(is_known, devices, 0)])
    before = boards.value_ms.copy()
    boards.place(devices, active & ~wrong)
    reward = np.where(active, (before - boards.value_ms) / boards.bound_ms, 0.0)
    finished = active & ~wrong & (boards.placed == boards.groups)
    stuck = wrong | (active & ~finished & ~boards.legal().any(1))
    # No table paid for the step time of empty devices (launch floors), which the return counts too.
    reward[finished] += 1.0 - (boards.floor_ms / boards.bound_ms)[finished]
    reward[stuck] = (DEAD_END + (before - boards.floor_ms) / boards.bound_ms)[stuck]
    returned = np.where(finished, 1.0 - boards.value_ms / boards.bound_ms, DEAD_END)
    figures = {
        "r": returned,
        "l": boards.placed.astype(np.float64),
        "cost_over_bound": 1.0 - returned,
        "is_feasible": finished.astype(np.float64),
        "is_legal": (~wrong).astype(np.float64),
    }
    return reward, finished | stuck, figures


def _row(observation: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    return {key: value[0] for key, value in observation.items()}
