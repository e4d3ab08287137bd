"""Tables placed one by one on several boards at once: state, masks, features and costs, without a loop over boards."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from problems.sharding.costs import BoundCost, Combine
from problems.sharding.problem import ShardingProblem
from solvers.oracle import Array
from surco.errors import InvalidInputError
from surco.instance_family import family

Index = NDArray[np.int64]

TABLE_FEATURES = 7
DEVICE_FEATURES = 16
CONTEXT_FEATURES = 6
LIMIT = 100.0
"""Of all observations; a typical one is about 1."""

_SLACK = 1e-9  # of a device's memory, relative
_CACHED = 1024
_FINE = 10.0  # differences between devices are small beside the step time


@dataclass(frozen=True, slots=True, eq=False)
class Game:
    """One problem, prepared for placing: G groups in the order of placing, heaviest first; D devices.

    Attributes:
        problem: what is played.
        weights: [G, F, D], the cost model's features.
        order: [G] group numbers in the problem.
        allowed: [G, D] bool.
        memory: [G] bytes.
        limit: [D] bytes.
        alike: [D], equal numbers for devices that nothing tells apart.
        bound_ms: lower bound on the objective, the unit of all times.
        tables: [G, TABLE_FEATURES] float32.
    """

    problem: ShardingProblem
    weights: Tensor
    order: Index
    allowed: NDArray[np.bool_]
    memory: Array
    limit: Array
    alike: Index
    bound_ms: float
    tables: NDArray[np.float32]

    @classmethod
    def of(cls, problem: ShardingProblem) -> Game:
        """Prepare a problem.

        Raises:
            InvalidInputError: no positive lower bound to scale by.
        """
        bound = problem.lower_bound()
        if not 0.0 < bound < np.inf:
            raise InvalidInputError(f"Expected a problem with a lower bound > 0, got {bound} ms of `{problem.id}`.")
        single = problem.single_ms  # [4, G, D]
        order = np.argsort(-single.sum(0).min(axis=1), kind="stable")
        oracle, devices = problem.oracle, len(problem.devices)
        alike = np.arange(devices)
        for members in oracle.classes:
            alike[members] = members[0]
        dims = np.array([max(problem.tables[t].dim for t in members) for members in problem.placement.members])
        tables = np.concatenate(
            [
                devices * single.mean(-1).T / bound,
                (oracle.memory / oracle.limit.max())[:, None],
                np.log2(np.maximum(dims, 1))[:, None] / 7.0,
                np.log1p(single.sum(0).min(axis=1) / bound * 1e3)[:, None] / 7.0,
            ],
            axis=1,
        )
        return cls(
            problem=problem,
            weights=problem.group_weights[:, order].transpose(0, 1).contiguous(),
            order=order,
            allowed=np.isfinite(oracle.blocked[order]),
            memory=oracle.memory[order],
            limit=oracle.limit,
            alike=alike,
            bound_ms=bound,
            tables=_bounded(tables[order]),
        )


@functools.lru_cache(maxsize=_CACHED)
def drawn(family_id: str, split: str, seed: int) -> Game:
    """The game of an instance of a family; equal arguments give equal games."""
    problem = family(family_id).sample(split, seed=seed).problem
    if not isinstance(problem, ShardingProblem):
        raise InvalidInputError(f"Expected a family of sharding problems, got `{family_id}`.")
    return Game.of(problem)


class Boards:
    """B games under way, padded to G tables and D devices; all of one cost model.

    Args:
        count: B.
        tables: G.
        devices: D.
    """

    def __init__(self, count: int, tables: int, devices: int) -> None:
        self.count, self.tables, self.devices = count, tables, devices
        self.games: list[Game | None] = [None] * count
        self.placed = np.zeros(count, dtype=np.int64)  # number of placed groups
        self.choice = np.full((count, tables), -1, dtype=np.int64)  # in the order of placing
        self.groups = np.ones(count, dtype=np.int64)
        self.bound_ms = np.ones(count)
        self.value_ms = np.zeros(count)  # of the placed groups
        self.floor_ms = np.zeros(count)  # of none
        self._cost: BoundCost | None = None
        self._allowed = np.zeros((count, tables, devices), dtype=bool)
        self._memory = np.zeros((count, tables))
        self._limit = np.zeros((count, devices))
        self._used = np.zeros((count, devices))
        self._number = np.zeros((count, devices), dtype=np.int64)  # groups on a device
        self._alike = np.tile(np.arange(devices), (count, 1))
        self._features = np.zeros((count, tables, TABLE_FEATURES), dtype=np.float32)
        self._load_after = np.zeros((count, tables + 1), dtype=np.float32)  # of the groups from here on, over D bounds
        self._rows = np.arange(count)
        self._own = torch.eye(devices, dtype=torch.bool)[:, None]  # [D, 1, D]

    def start(self, b: int, game: Game) -> None:
        """Begin a game on board ``b``.

        Raises:
            InvalidInputError: it does not fit the padding, or has another cost model than the other boards.
        """
        groups, features, devices = game.weights.shape
        if groups > self.tables or devices > self.devices:
            raise InvalidInputError(
                f"Expected at most {self.tables} tables on {self.devices} devices, got {groups} on {devices}. "
                "Raise `max_tables` and `max_devices`."
            )
        if self._cost is None:
            self._cost = game.problem.cost
            self._weights = torch.zeros(self.count, self.tables, features, self.devices, dtype=torch.float64)
            self._sums = torch.zeros(self.count, features, self.devices, dtype=torch.float64)
            self._model = game.problem.cost_model
        if game.problem.cost_model != self._model:
            raise InvalidInputError("Expected problems of one cost model in an environment.")
        self.games[b] = game
        self.placed[b], self.groups[b], self.bound_ms[b] = 0, groups, game.bound_ms
        self.choice[b] = -1
        self._weights[b] = 0.0
        self._weights[b, :groups, :, :devices] = game.weights
        self._sums[b] = 0.0
        for target, source in ((self._allowed, game.allowed), (self._memory, game.memory), (self._limit, game.limit)):
            target[b] = 0
            target[(b, *map(slice, source.shape))] = source
        self._used[b], self._number[b] = 0.0, 0
        self._alike[b] = np.arange(self.devices)
        self._alike[b, :devices] = game.alike
        self._features[b] = 0.0
        self._features[b, :groups] = game.tables
        loads = game.problem.single_ms.sum(0).mean(-1)[game.order] / (game.bound_ms * devices)
        self._load_after[b] = 0.0
        self._load_after[b, :groups] = loads[::-1].cumsum()[::-1]
        self.floor_ms[b] = self.value_ms[b] = float(self._value(self._times(self._sums[b : b + 1]), slice(b, b + 1)))

    def place(self, devices: Index, active: NDArray[np.bool_]) -> None:
        """Put the current group of each active board on ``devices`` [B]."""
        rows = self._rows[active]
        chosen, current = devices[active], self.placed[active]
        self._sums[rows, :, chosen] += self._weights[rows, current, :, chosen]
        self._used[rows, chosen] += self._memory[rows, current]
        self._number[rows, chosen] += 1
        self.choice[rows, current] = chosen
        self.placed[rows] += 1
        self.value_ms[rows] = self._value(self._times(self._sums[rows]), rows).numpy()

    def legal(self) -> NDArray[np.bool_]:
        """[B, D]: allowed, with room, and of alike empty devices only the first. All false at a dead end or the end."""
        current = np.minimum(self.placed, self.groups - 1)
        memory = self._memory[self._rows, current][:, None]
        room = self._used + memory <= self._limit * (1.0 + _SLACK)
        legal = self._allowed[self._rows, current] & room & (self.placed < self.groups)[:, None]
        return legal & ~self._repeats()

    def design(self, b: int) -> Array:
        """Canonical design [n] of a finished board, for its problem."""
        game = self.games[b]
        assert game is not None
        choice = np.empty(len(game.order), dtype=np.int64)
        choice[game.order] = self.choice[b, : len(game.order)]
        return game.problem.design(choice).numpy()

    def observe(self) -> dict[str, NDArray[np.float32]]:
        """Features of all boards, float32; see `rl.sharding_env.ShardingEnv`."""
        current = np.minimum(self.placed, self.groups - 1)
        exists = self._limit > 0.0
        legal = self.legal()
        times = self._times(self._sums)
        after = self._times(self._sums + self._weights[self._rows, current])
        swapped = torch.where(self._own, after[:, None], times[:, None])  # [B, D, 4, D]
        value_after = self._value(swapped, slice(None)).numpy()  # [B, D]
        unit = self.bound_ms[:, None]
        limit = np.maximum(self._limit, 1.0)
        own_after = after.sum(1).numpy() / unit
        best = np.where(legal, value_after, np.inf).min(1, keepdims=True)
        least = np.where(legal, own_after, np.inf).min(1, keepdims=True)
        used_after = self._used + self._memory[self._rows, current][:, None]
        devices = np.concatenate(
            [
                times.numpy().transpose(0, 2, 1) / unit[..., None],
                after.numpy().transpose(0, 2, 1) / unit[..., None],
                np.stack(
                    [
                        own_after,
                        (value_after - self.value_ms[:, None]) / unit,
                        _FINE * _finite((value_after - best) / unit),
                        _finite(own_after - least),
                        self._used / limit,
                        used_after / limit,
                        self._limit / self._limit.max(1, keepdims=True),
                        self._number > 0,
                    ],
                    axis=-1,
                ),
            ],
            axis=-1,
        )
        left = (np.arange(self.tables) > current[:, None]) & (np.arange(self.tables) < self.groups[:, None])
        count = exists.sum(1)
        context = np.stack(
            [
                self.value_ms / self.bound_ms,
                self.placed / self.groups,
                np.log(count) / 3.0,
                np.log(self.groups) / 5.0,
                self._load_after[self._rows, current],
                legal.sum(1) / count,
            ],
            axis=-1,
        )
        devices *= exists[..., None]
        has_any = legal.any(1, keepdims=True)
        return {
            "tables": self._features * left[..., None],
            "table": self._features[self._rows, current],
            "devices": _bounded(devices),
            "context": _bounded(context),
            "table_mask": left.astype(np.float32),
            "device_mask": exists.astype(np.float32),
            "action_mask": np.where(has_any, legal, exists).astype(np.float32),  # at least one is always legal
        }

    def _repeats(self) -> NDArray[np.bool_]:
        """[B, D]: an earlier device is alike, and both are empty."""
        empty = self._number == 0
        same = (self._alike[:, :, None] == self._alike[:, None, :]) & empty[:, :, None] & empty[:, None, :]
        return np.tril(same, -1).any(2)

    def _times(self, sums: Tensor) -> Tensor:
        """Features [..., F, D] -> milliseconds [..., 4, D]."""
        assert self._cost is not None
        return self._cost.times_ms(self._cost.loads_ms(sums))

    def _value(self, times: Tensor, rows: slice | Index) -> Tensor:
        """Times [b, ..., 4, D] of the boards ``rows`` -> milliseconds [b, ...]; padded devices count nothing."""
        assert self._cost is not None
        exists = torch.from_numpy(self._limit[rows] > 0.0)
        exists = exists[(slice(None), *[None] * (times.ndim - 2), slice(None))]
        hidden = -torch.inf if self._cost.combine is Combine.SLOWEST_PER_PHASE else 0.0
        return self._cost.value_ms(times.masked_fill(~exists, hidden))


def _bounded(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.clip(values, -LIMIT, LIMIT).astype(np.float32)


def _finite(values: Array) -> Array:
    return np.where(np.isfinite(values), values, 0.0)
