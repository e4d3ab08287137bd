"""The rules of the planning game for a batch of slots at once: what both Gymnasium environments are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from problems.planning.network import Array
from rl import features
from rl.cut_board import CutBoard
from rl.game_rules import GameRules, StepOutcome
from rl.topology import TOLERANCE, Topology
from surco.errors import InvalidInputError

_N_STATIC = len(features.STATIC_LINK_FEATURES)
_N_DYNAMIC = len(features.DYNAMIC_LINK_FEATURES)
N_LINK = _N_STATIC + _N_DYNAMIC
N_NODE = len(features.NODE_FEATURES)
N_CONTEXT = len(features.CONTEXT_FEATURES)


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
        self.cuts = CutBoard(B, M)
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
        self.units[b, :M] = self.start(topology)
        most = topology.greedy if topology.greedy.any() else 3.0 * np.ceil(topology.relaxed)
        self.limit[b] = int(1.5 * most.sum()) + 2 * M
        if self.which[b] == t and self.observation["link_mask"][b].any():
            self.cuts.refresh(b, topology)
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
        self.cuts.forget(b)
        self.cuts.refresh(b, topology)

    def start(self, topology: Topology) -> Array:
        """Units [M] that episodes on ``topology`` start with."""
        return np.floor(self.rules.start_share * topology.relaxed + 1e-9)

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
                self.cuts.refresh(b, topology)
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
        units = self.units[index]
        view = self.cuts.compare(index, slots, units)
        self.worst[slots] = 1.0 - view.worst
        size = self.gbps[index] / self.scale[index][:, None]
        least = np.maximum(size, 1e-9)
        # a row with right-hand side 1 has weights of 1 / units; times the scale in units they are of order 1
        pressure, top = view.pressure / least, view.top / least
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
                view.through,
                pressure,
                top,
                view.need * size,
                np.minimum(headroom, 20.0) / 10.0,
                features.against_best(view.mending, self.cost[index]),
                features.against_best(view.top, self.cost[index]),
            ],
            axis=-1,
        )
        mask = self.observation["link_mask"][index]
        np.clip(columns, -features.CLIP, features.CLIP, out=columns)
        links[index, :, _N_STATIC:] = columns * mask[:, :, None]
        context = self.observation["context"]
        context[index, 3] = view.worst
        context[index, 4] = (view.short > 0.0).sum(axis=1) / np.maximum(self.cuts.size[index], 1)
        context[index, 5] = np.clip(np.einsum("bm,bm->b", self.cost[index], units) / self.bound[index], 0.0, 10.0)
        self.observation["action_mask"][index] = self._mask(index, slots, units, view.need, headroom)

    def _side_room(self, b: int) -> Array:
        """[M] more units that the side rules of slot b leave each option alone."""
        side = self.side[b]
        slack = self.side_limits[b] - side @ self.units[b] + 1e-6 * (1.0 + np.abs(self.side_limits[b]))
        room = np.divide(slack[:, None], side, out=np.full_like(side, np.inf), where=side > 1e-12)
        return np.maximum(np.floor(room.min(axis=0, initial=np.inf)), 0.0)

    def _mask(
        self, index: Any, slots: NDArray[np.int64], units: Array, need: Array, headroom: Array
    ) -> NDArray[np.float32]:
        smaller = np.r_[0.0, self._units[:-1]]
        wanted = need[:, :, None] > smaller + 1e-9
        allowed = wanted & (headroom[:, :, None] >= self._units)
        if self.rules.allow_remove:
            room = self.cuts.spare(index, slots, units) + 1e-9
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
            "pool_size": torch.from_numpy(self.cuts.size.copy()),
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
                self.cuts.truncate(b, int(sizes[b]))
        self.units[:] = state["units"].numpy()
        self.steps[:] = state["steps"].numpy()
        self._look(np.arange(self.slots))
        self.worst[:] = state["worst"].numpy()
        self.observation["action_mask"][:] = state["mask"].numpy()
        self.rng.bit_generator.state = _from_rng_state(state["rng"])


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
