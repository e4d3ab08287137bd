"""Search over placements: annealing rounds for one layer after the other, and a run that goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from problems.moe.instance import Cluster, Routing
from surco.bridge import to_torch
from surco.protocols import Exact

if TYPE_CHECKING:
    from torch import Tensor

    from problems.moe.problem import ExpertPlacement

Plan = NDArray[np.bool_]

ROUND_MOVES = 300_000  # of one search by count: about half a CPU second
FIRST_MOVES = 20_000
DEFAULT_SECONDS = 5.0
OPTIMAL_GAP = 1e-9
HOT, COLD = 0.1, 0.0065  # temperatures, in units of the value of a layer over its slots: a copy is worth that much
FRESH_HEAT = 10.0  # on the first temperature of a new start in a run that goes on
SOFT, SHARP = 10.0, 300.0  # sharpness of the smooth largest load at the start and the end
TRIES = 3


class LayerSearch:
    """Annealing of one layer [E, G]; the data that its rounds share."""

    def __init__(self, routing: Routing, layer: int, cluster: Cluster, weight: float, most: int) -> None:
        loads = routing.loads[layer]
        self.loads = loads / loads.sum() * cluster.gpus
        self.cluster, self.most = cluster, most
        has_traffic = routing.has_tokens and cluster.nodes > 1 and weight > 0.0
        self.tokens = routing.tokens[layer] if has_traffic else np.zeros((0, 1), dtype=np.int64)
        self.weight = weight * (1.0 - 1.0 / cluster.nodes) / len(self.tokens) if has_traffic else 0.0
        flat = self.tokens.reshape(-1)
        self.entries = np.argsort(flat, kind="stable") // self.tokens.shape[1]
        self.start = np.r_[0, np.cumsum(np.bincount(flat, minlength=len(loads)))]

    def anneal(
        self, plan: Plan, *, moves: int, seed: int, held: Plan | None = None, cap: int | None = None, heat: float = 1.0
    ) -> tuple[Plan, float]:
        """Best plan found from ``plan`` and its value.

        Args:
            plan: [E, G] feasible start.
            moves: how many to try; equal arguments give equal answers.
            seed: of the random moves.
            held: [E, G], where copies may stay; others count towards ``cap``.
            cap: most copies outside ``held``; None for no limit.
            heat: factor on the first temperature; a small one stays near the start.
        """
        from problems.moe import kernel

        x = np.ascontiguousarray(plan, dtype=np.bool_).copy()
        is_free, slots = held is None or cap is None, self.cluster.total_slots
        value = kernel.anneal(
            self.loads, self.tokens, self.start, self.entries, x, self.cluster.node_of, self.cluster.slots, self.most,
            np.ones_like(x) if is_free else np.ascontiguousarray(held), x.size if is_free else cap, self.weight,
            int(moves), max(HOT * heat, COLD) / slots, COLD / slots, SOFT / min(heat, 1.0), SHARP, TRIES,
            np.array([seed], dtype=np.uint64),
        )  # fmt: skip
        return x, float(value)


class PlacementSearch:
    """Plans of all layers, improved in rounds; ``best`` [L, E, G] is always feasible.

    The cap on migration is shared: each layer may use its own share and what earlier layers left.
    """

    def __init__(self, problem: ExpertPlacement, start: Plan) -> None:
        self.problem = problem
        self.layers = [
            LayerSearch(problem.routing, layer, problem.cluster, problem.traffic_weight, problem.most)
            for layer in range(problem.routing.layers)
        ]
        self.best = start.copy()
        self.values = [search.anneal(plan, moves=0, seed=0)[1] for search, plan in zip(self.layers, start, strict=True)]
        self.rounds = 0
        self.moves = 0

    @property
    def value(self) -> float:
        """Of the best plan: the mean over layers."""
        return float(np.mean(self.values))

    def offer(self, plan: Plan) -> None:
        """Take over another feasible plan, layer by layer where there is no cap, where it is better."""
        values = [search.anneal(part, moves=0, seed=0)[1] for search, part in zip(self.layers, plan, strict=True)]
        if self.problem.migration is not None:
            if float(np.mean(values)) < self.value:
                self.best, self.values = plan.copy(), values
            return
        for layer, value in enumerate(values):
            if value < self.values[layer]:
                self.best[layer], self.values[layer] = plan[layer], value

    def round(self, moves: int, *, seed: int = 0, fresh: Plan | None = None, heat: float | None = None) -> None:
        """One annealing of every layer with ``moves`` in all, from the best plan or from ``fresh`` [L, E, G].

        ``heat`` is a factor on the first temperature; None takes 1 at first, and later, from the best plan, less.
        """
        share = max(moves // len(self.layers), 1)
        migration = self.problem.migration
        start = self.best if fresh is None else fresh
        if heat is None:
            heat = 1.0 if self.rounds == 0 else 0.5 ** (1 + self.rounds % 4)
        for layer, search in enumerate(self.layers):
            held, cap = None, None
            if migration is not None:
                held = migration.current[layer]
                moved = (self.best & ~migration.current).sum(axis=(1, 2))
                left = migration.cap - int(moved.sum())
                fair = left // (len(self.layers) - layer)
                cap = int(moved[layer]) + max(fair, 0)
            number = (seed * 1_000_003 + self.rounds) * len(self.layers) + layer + 1
            plan, value = search.anneal(start[layer], moves=share, seed=number, held=held, cap=cap, heat=heat)
            self.moves += share
            if value < self.values[layer]:
                self.best[layer], self.values[layer] = plan, value
        self.rounds += 1


class ExactRun:
    """Search and bound of one problem; every call goes on where the last one stopped."""

    def __init__(self, problem: ExpertPlacement) -> None:
        self.problem = problem
        self.bound = problem.lower_bound()
        self.search: PlacementSearch | None = None
        self._moves = FIRST_MOVES
        self._rate = 0.0  # moves per second of the last round

    def run(self, *, seconds: float | None = None, start: Tensor | None = None) -> Exact:
        """Anneal in growing rounds, by turns from the best plan and afresh, for at most ``seconds`` of wall time."""
        problem = self.problem
        deadline = time.perf_counter() + (DEFAULT_SECONDS if seconds is None else max(seconds, 0.0))
        plans = []
        if start is not None and float(problem.violation(start)) <= 0.0:
            plans.append(problem.plan_of(start))
        if self.search is None:
            plans.extend(problem.start_plans())
        if self.search is None and not plans:
            return Exact(None, self.bound)
        if self.search is None:
            self.search = PlacementSearch(problem, plans[0])
        for plan in plans:
            self.search.offer(plan)
        while (left := deadline - time.perf_counter()) > 0.0 and not self._is_closed():
            begin, before = time.perf_counter(), self.search.moves
            moves = self._moves if self.search.rounds < 3 else min(2 * self._moves, 4 * ROUND_MOVES)
            if self._rate > 0.0:
                moves = min(moves, int(self._rate * left))
                if moves < FIRST_MOVES // 4:
                    break
            fresh = problem.start_plans()[0] if self.search.rounds % 3 == 1 else None
            self.search.round(moves, seed=1, fresh=fresh, heat=None if fresh is None else FRESH_HEAT)
            self._moves = max(self._moves, moves)
            self._rate = (self.search.moves - before) / max(time.perf_counter() - begin, 1e-9)
        x = to_torch(self.search.best.reshape(-1))
        value = float(problem.objective(x))
        bound = min(self.bound, value)
        return Exact(x, bound, value <= bound * (1.0 + OPTIMAL_GAP), self.search.moves)

    def _is_closed(self) -> bool:
        assert self.search is not None
        return self.search.value <= self.bound * (1.0 + OPTIMAL_GAP)
