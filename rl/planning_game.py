"""The rules of the planning game for a batch of slots at once: what both Gymnasium environments are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from problems.planning.network import Array
from rl import features
from rl.topology import TOLERANCE, Topology
from surco.errors import InvalidInputError

_N_STATIC = len(features.STATIC_LINK_FEATURES)
_N_DYNAMIC = len(features.DYNAMIC_LINK_FEATURES)
N_LINK = _N_STATIC + _N_DYNAMIC
N_NODE = len(features.NODE_FEATURES)
N_CONTEXT = len(features.CONTEXT_FEATURES)


@dataclass(frozen=True, slots=True)
class GameRules:
    """What can be done and how it is rewarded.

    Attributes:
        units: sizes of additions, ascending, starting with 1.
        allow_remove: whether the same sizes may be taken away again (only what no known cut needs).
        shaping: weight of the change of the worst cut's ratio; telescopes to the same sum for every survivable plan.
        failure_price: taken from the reward of an episode that ends without a plan, besides the missing share.
        illegal_price: taken from the reward of a masked action, which changes nothing else.
        proof_share: share of the plans that no known cut refuses which the evaluator checks at once; the others count
            as survivable on the word of the cuts (training only).
        trim_share: share of the finished episodes whose plan is trimmed before its price counts (training only).
    """

    units: tuple[int, ...] = (1, 2, 4, 8)
    allow_remove: bool = False
    shaping: float = 0.2
    failure_price: float = 0.5
    illegal_price: float = 0.02
    proof_share: float = 1.0
    trim_share: float = 0.0

    def __post_init__(self) -> None:
        units = list(self.units)
        if not units or units[0] != 1 or units != sorted(set(units)):
            raise InvalidInputError(f"Expected `units` to ascend from 1, got {self.units}.")
        for name in ("proof_share", "trim_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InvalidInputError(f"Expected `{name}` in [0, 1], got {getattr(self, name)}.")

    @property
    def heads(self) -> int:
        """Actions of each option."""
        return len(self.units) * (2 if self.allow_remove else 1)


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """Of one step of all slots [B]: rewards, ends; of ended ones the price, whether the plan survives, and a proof."""

    reward: Array
    is_terminated: NDArray[np.bool_]
    is_truncated: NDArray[np.bool_]
    price: Array
    is_feasible: NDArray[np.bool_]
    is_proven: NDArray[np.bool_]


class PlanningGame:
    """B slots, each playing one topology: add modules until the network survives all its failures.

    Action ``j * heads + h`` changes option j by the h-th size (additions first, then removals). The mask excludes what
    is illegal (limits, spectrum, leases) and what is useless: additions to options that no violated cut contains, and
    sizes of which the next smaller one already mends every violated cut through the option.

    Args:
        topologies: to play; each reset draws one.
        slots: B.
        rules: of the game.
        seed: of the draws of topologies and shares.
        padding: (nodes, options) to pad to; default the largest.
    """

    def __init__(
        self,
        topologies: Sequence[Topology],
        *,
        slots: int,
        rules: GameRules,
        seed: int | None,
        padding: tuple[int, int] | None = None,
    ) -> None:
        if not topologies:
            raise InvalidInputError("Expected at least one topology.")
        self.topologies, self.rules, self.slots = list(topologies), rules, slots
        largest = (
            max(len(t.network.is_transit) for t in topologies),
            max(len(t.options) for t in topologies),
        )
        self.n_nodes, self.n_options = largest if padding is None else padding
        if self.n_nodes < largest[0] or self.n_options < largest[1]:
            raise InvalidInputError(f"Expected `padding` of at least {largest}, got {padding}.")
        self.rng = np.random.default_rng(seed)
        self._static = [(features.static_link_features(t), features.node_features(t)) for t in self.topologies]
        self._context = [features.static_context(t) for t in self.topologies]
        self._units = np.array(rules.units, dtype=np.float64)
        B, N, M = slots, self.n_nodes, self.n_options
        self.which = np.zeros(B, dtype=np.int64)
        self.units = np.zeros((B, M))
        self.steps = np.zeros(B, dtype=np.int64)
        self.limit = np.ones(B, dtype=np.int64)
        self.worst = np.zeros(B)
        self.gbps, self.cost, self.upper = np.zeros((B, M)), np.zeros((B, M)), np.zeros((B, M))
        self.bound, self.scale = np.ones(B), np.ones(B)
        self.offsets = np.zeros((B, 3, M))  # relaxed, intact and greedy capacity, over the scale
        self.side = [np.zeros((0, M))] * B
        self.side_limits = [np.zeros(0)] * B
        self._k = 0
        self.rows, self.rhs = np.zeros((B, 0, M)), np.zeros((B, 0))
        self.inverse, self.indicator = np.zeros((B, 0, M)), np.zeros((B, 0, M), dtype=np.float32)
        self._pool_size = np.zeros(B, dtype=np.int64)
        self.observation: dict[str, NDArray[Any]] = {
            "nodes": np.zeros((B, N, N_NODE), dtype=np.float32),
            "links": np.zeros((B, M, N_LINK), dtype=np.float32),
            "context": np.zeros((B, N_CONTEXT), dtype=np.float32),
            "ends": np.zeros((B, M, 2), dtype=np.int64),
            "node_mask": np.zeros((B, N), dtype=np.float32),
            "link_mask": np.zeros((B, M), dtype=np.float32),
            "action_mask": np.zeros((B, M * rules.heads), dtype=np.float32),
        }

    # ------------------------------------------------------------------ reset

    def reset(self, slots: NDArray[np.int64], which: NDArray[np.int64] | None = None) -> None:
        """Start new episodes in ``slots`` on topologies ``which`` (default drawn)."""
        if which is None:
            which = self.rng.integers(len(self.topologies), size=len(slots))
        for b, t in zip(slots.tolist(), which.tolist(), strict=True):
            self._enter(b, int(t))
        self._look(slots)
        done = self._resolve(slots)  # a network that survives without anything: its first action is a formality
        if done.any():
            self.observation["action_mask"][slots[done], 0] = 1.0

    def _enter(self, b: int, t: int) -> None:
        topology = self.topologies[t]
        M, N = len(topology.options), len(topology.network.is_transit)
        self.units[b], self.steps[b] = 0.0, 0
        most = topology.greedy if topology.greedy.any() else 3.0 * np.ceil(topology.relaxed)
        self.limit[b] = int(1.5 * most.sum()) + 2 * M
        if self.which[b] == t and self.observation["link_mask"][b].any():
            self._refresh(b)
            return
        self.which[b] = t
        for array, values in ((self.gbps, topology.gbps), (self.cost, topology.cost), (self.upper, topology.upper)):
            array[b] = 0.0
            array[b, :M] = values
        self.bound[b], self.scale[b] = topology.bound, topology.scale_gbps
        self.offsets[b] = 0.0
        self.offsets[b, :, :M] = (
            np.array([topology.relaxed * topology.gbps, topology.intact_gbps, topology.greedy * topology.gbps])
            / topology.scale_gbps
        )
        side = np.zeros((len(topology.limits), self.n_options))
        side[:, :M] = topology.side
        self.side[b], self.side_limits[b] = side, topology.limits
        links, nodes = self._static[t]
        view = self.observation
        for key in ("nodes", "links", "context", "ends", "node_mask", "link_mask"):
            view[key][b] = 0
        view["links"][b, :M, :_N_STATIC] = links
        view["nodes"][b, :N] = nodes
        view["ends"][b, :M] = topology.ends
        view["node_mask"][b, :N] = 1.0
        view["link_mask"][b, :M] = 1.0
        view["context"][b, :3] = self._context[t]
        self._pool_size[b] = -1
        self._refresh(b)

    def _refresh(self, b: int) -> None:
        """Copy the cuts of the slot's topology if there are new ones."""
        topology = self.topologies[self.which[b]]
        size, M = len(topology.rhs), len(topology.options)
        if self._pool_size[b] == size:
            return
        if size > self._k:
            grow = max(size, self._k + 32) - self._k
            pad = ((0, 0), (0, grow))
            self.rhs = np.pad(self.rhs, pad)
            self.rows, self.inverse = np.pad(self.rows, (*pad, (0, 0))), np.pad(self.inverse, (*pad, (0, 0)))
            self.indicator = np.pad(self.indicator, (*pad, (0, 0)))
            self._k += grow
        self.rows[b] = self.rhs[b] = self.inverse[b] = self.indicator[b] = 0.0
        rows = topology.rows
        self.rows[b, :size, :M], self.rhs[b, :size] = rows, topology.rhs
        positive = rows > 1e-9
        self.inverse[b, :size, :M] = np.divide(1.0, rows, out=np.zeros_like(rows), where=positive)
        self.indicator[b, :size, :M] = positive
        self._pool_size[b] = size

    # ------------------------------------------------------------------ step

    def step(self, actions: NDArray[np.int64], active: NDArray[np.bool_]) -> StepOutcome:
        """Play ``actions`` [B] in the slots that are ``active`` [B]; the others keep still."""
        B, heads = self.slots, self.rules.heads
        option, head = np.divmod(actions, heads)
        legal = active & (self.observation["action_mask"][np.arange(B), actions] > 0.5)
        sizes = len(self._units)
        change = np.where(head < sizes, 1.0, -1.0) * self._units[head % sizes] * legal
        reward = np.where(active & ~legal, -self.rules.illegal_price, 0.0)
        before = self._prices(np.flatnonzero(legal))
        self.units[np.arange(B), option] += change
        moved = np.flatnonzero(legal)
        reward[moved] -= (self._prices(moved) - before) / self.bound[moved]
        self.steps += active
        old_worst = self.worst.copy()
        played = np.flatnonzero(active)
        self._look(played)
        is_done, is_proven = np.zeros(B, dtype=bool), np.zeros(B, dtype=bool)
        is_done[played] = self._resolve(played, is_proven)
        terminated = is_done & active
        self.worst[terminated] = 1.0
        reward += np.where(active, self.rules.shaping * (self.worst - old_worst), 0.0)
        stuck = active & ~terminated & ~(self.observation["action_mask"] > 0.5).any(axis=1)
        truncated = active & ~terminated & ~stuck & (self.steps >= self.limit)
        failed = stuck | truncated
        reward -= np.where(failed, self.rules.failure_price + 1.0 - self.worst, 0.0)
        self.observation["action_mask"][terminated | stuck, 0] = 1.0  # never looked at; keeps every row legal
        price = np.zeros(B)
        ended = np.flatnonzero(terminated | failed)
        price[ended] = self._prices(ended)
        for b in np.flatnonzero(terminated).tolist():
            if self.rules.trim_share and self.rng.random() < self.rules.trim_share:
                topology = self.topologies[self.which[b]]
                better = topology.price(topology.trimmed(self.plan(b)))
                reward[b] += (price[b] - better) / self.bound[b]
                price[b] = better
        return StepOutcome(reward, terminated | stuck, truncated, price, terminated, is_proven)

    def plan(self, b: int) -> Array:
        """Units [M] of slot b's options."""
        return self.units[b, : len(self.topologies[self.which[b]].options)].copy()

    def _prices(self, slots: NDArray[np.int64]) -> Array:
        result = np.einsum("bm,bm->b", self.cost[slots], self.units[slots])
        for i, b in enumerate(slots.tolist()):
            if self.topologies[self.which[b]].has_covers:
                result[i] = self.topologies[self.which[b]].price(self.plan(b))
        return result

    def _resolve(self, slots: NDArray[np.int64], is_proven: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
        """Which of ``slots`` survive: those without a violated cut that the evaluator (or the share) accepts."""
        done = np.zeros(len(slots), dtype=bool)
        for i in np.flatnonzero(self.worst[slots] >= 1.0 - TOLERANCE):
            b = int(slots[i])
            topology = self.topologies[self.which[b]]
            if self.rules.proof_share < 1.0 and self.rng.random() >= self.rules.proof_share:
                done[i] = True
                continue
            while True:
                if topology.is_survivable(self.plan(b)):
                    done[i] = True
                    if is_proven is not None:
                        is_proven[b] = True
                    break
                self._refresh(b)
                self._look(np.array([b]))
                if self.worst[b] < 1.0 - TOLERANCE:
                    break
                raise ArithmeticError(  # a refusal always comes with a violated cut
                    f"The evaluator refused a plan of {topology.network.instance.name!r} without a violated cut."
                )
        return done

    # ------------------------------------------------------------------ observation

    def _look(self, slots: NDArray[np.int64]) -> None:
        """Compare ``slots`` with their cuts: worst ratios, features, masks."""
        if not len(slots):
            return
        everything = len(slots) == self.slots
        index: Any = slice(None) if everything else slots
        k = max(int(self._pool_size[slots].max()), 1) if self._k else 0
        rows, units = self.rows[index, :k], self.units[index]
        short = self.rhs[index, :k] - (rows @ units[:, :, None])[:, :, 0]  # right-hand sides are 1 (or 0 in padding)
        short[short <= TOLERANCE] = 0.0
        narrow = short.astype(np.float32)
        worst = short.max(axis=1, initial=0.0)
        self.worst[slots] = 1.0 - worst
        need = (short[:, :, None] * self.inverse[index, :k]).max(axis=1, initial=0.0)
        through = (narrow[:, :, None] * self.indicator[index, :k]).max(axis=1, initial=0.0)
        weight = np.square(short)
        weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1e-12)
        scale = self.scale[index]
        size = self.gbps[index] / scale[:, None]
        # a row with right-hand side 1 has weights of 1 / units; times the scale in units they are of order 1
        pressure = (weight[:, None, :] @ rows)[:, 0] / np.maximum(size, 1e-9)
        top = rows[np.arange(len(slots)), short.argmax(axis=1)] if k else np.zeros_like(units)
        top = top * (worst > 0.0)[:, None] / np.maximum(size, 1e-9)
        headroom = self.upper[index] - units
        for i, b in enumerate(slots.tolist()):
            if len(self.side_limits[b]):
                headroom[i] = np.minimum(headroom[i], self._side_room(b))
        capacity = units * size
        links = self.observation["links"]
        # cut weights are spread over cuts of several links: tame them by their largest possible sum
        columns = np.stack(
            [
                capacity,
                capacity - self.offsets[index, 0],
                capacity - self.offsets[index, 1],
                capacity - self.offsets[index, 2],
                through,
                pressure,
                top,
                need * size,
                np.minimum(headroom, 20.0) / 10.0,
            ],
            axis=-1,
        )
        mask = self.observation["link_mask"][index]
        np.clip(columns, -features.CLIP, features.CLIP, out=columns)
        links[index, :, _N_STATIC:] = columns * mask[:, :, None]
        context = self.observation["context"]
        context[index, 3] = worst
        context[index, 4] = (short > 0.0).sum(axis=1) / np.maximum(self._pool_size[index], 1)
        context[index, 5] = np.clip(np.einsum("bm,bm->b", self.cost[index], units) / self.bound[index], 0.0, 10.0)
        self.observation["action_mask"][index] = self._mask(index, units, need, headroom, rows)

    def _side_room(self, b: int) -> Array:
        """[M] more units that the side rules of slot b leave each option alone."""
        side = self.side[b]
        slack = self.side_limits[b] - side @ self.units[b] + 1e-6 * (1.0 + np.abs(self.side_limits[b]))
        room = np.divide(slack[:, None], side, out=np.full_like(side, np.inf), where=side > 1e-12)
        return np.maximum(np.floor(room.min(axis=0, initial=np.inf)), 0.0)

    def _mask(self, index: Any, units: Array, need: Array, headroom: Array, rows: Array) -> NDArray[np.float32]:
        smaller = np.r_[0.0, self._units[:-1]]
        wanted = need[:, :, None] > smaller + 1e-9
        allowed = wanted & (headroom[:, :, None] >= self._units)
        if self.rules.allow_remove:
            k = rows.shape[1]
            spare = (rows @ units[:, :, None])[:, :, 0] - self.rhs[index, :k]
            spare = np.where(self.rhs[index, :k] > 0.0, spare, np.inf)
            room = np.where(self.indicator[index, :k] > 0.0, spare[:, :, None] * self.inverse[index, :k], np.inf)
            room = np.minimum(room.min(axis=1, initial=np.inf), units) + 1e-9
            allowed = np.concatenate([allowed, room[:, :, None] >= self._units], axis=-1)
        return allowed.reshape(len(units), -1).astype(np.float32)

    # ------------------------------------------------------------------ state

    def checkpoint(self) -> dict[str, Any]:
        """Everything that the next steps depend on; forgets warm programs (see ``Topology.checkpoint``)."""
        return {
            "topologies": [t.checkpoint() for t in self.topologies],
            "which": torch.from_numpy(self.which.copy()),
            "units": torch.from_numpy(self.units.copy()),
            "steps": torch.from_numpy(self.steps.copy()),
            "pool_size": torch.from_numpy(self._pool_size.copy()),
            "mask": torch.from_numpy(self.observation["action_mask"].copy()),
            "worst": torch.from_numpy(self.worst.copy()),
            "rng": _rng_state(self.rng),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what ``checkpoint`` returned; the topologies must be the same."""
        if len(state["topologies"]) != len(self.topologies) or state["units"].shape != self.units.shape:
            raise InvalidInputError("The checkpoint is of other topologies or of another number of slots.")
        for topology, cuts in zip(self.topologies, state["topologies"], strict=True):
            topology.restore(cuts)
        sizes = state["pool_size"].numpy()
        for b, t in enumerate(state["which"].tolist()):
            self._enter(b, int(t))
            topology = self.topologies[t]
            if sizes[b] < len(topology.rhs):  # cuts that came while this slot was busy are not in its copy yet
                self._truncate_pool(b, int(sizes[b]))
        self.units[:] = state["units"].numpy()
        self.steps[:] = state["steps"].numpy()
        self._look(np.arange(self.slots))
        self.worst[:] = state["worst"].numpy()
        self.observation["action_mask"][:] = state["mask"].numpy()
        self.rng.bit_generator.state = _from_rng_state(state["rng"])

    def _truncate_pool(self, b: int, size: int) -> None:
        for array in (self.rows, self.rhs, self.inverse, self.indicator):
            array[b, size:] = 0.0
        self._pool_size[b] = size


def _rng_state(rng: np.random.Generator) -> dict[str, Any]:
    """State of a PCG64 generator as text (its numbers have 128 bits)."""
    state: Any = rng.bit_generator.state
    return {
        "state": str(state["state"]["state"]),
        "inc": str(state["state"]["inc"]),
        "has_uint32": int(state["has_uint32"]),
        "uinteger": int(state["uinteger"]),
    }


def _from_rng_state(data: dict[str, Any]) -> Any:
    return {
        "bit_generator": "PCG64",
        "state": {"state": int(data["state"]), "inc": int(data["inc"])},
        "has_uint32": data["has_uint32"],
        "uinteger": data["uinteger"],
    }
