"""Search over placements: annealing rounds for one layer after the other, and a run that goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from problems.moe.instance import DEFAULT_TRAFFIC_WEIGHT, Cluster, Routing
from surco.bridge import to_torch
from surco.protocols import Exact

if TYPE_CHECKING:
    from torch import Tensor

    from problems.moe.problem import ExpertPlacement

Plan = NDArray[np.bool_]

ROUND_MOVES = 300_000  # of one search by count: about half a CPU second
FIRST_MOVES = 20_000  # of a search that goes on: it tells the pace; later rounds grow
MOST_MOVES = 1_200_000
SAFE_SHARE = 0.8  # of the seconds left that a round may plan with
LEAST_MOVES = 5_000  # not worth another round
DEFAULT_SECONDS = 5.0
BOUND_SHARE = 0.25  # of the seconds left that a cycle of the bound may take
MOST_CYCLES = 8
OPTIMAL_GAP = 1e-9
HOT, COLD = 0.1, 0.0065  # temperatures, in units of the value of a layer over its slots: a copy is worth that much
FRESH_HEATS = (1.0, 10.0, 3.0)  # factors on the first temperature of new starts in a search that goes on
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
        self.hot = HOT * max(1.0, weight / DEFAULT_TRAFFIC_WEIGHT)  # traffic that weighs more makes higher barriers
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
            int(moves), max(self.hot * heat, COLD) / slots, COLD / slots, SOFT / min(heat, 1.0), SHARP, TRIES,
            np.array([seed], dtype=np.uint64),
        )  # fmt: skip
        return x, float(value)


def compile_loops(problem: ExpertPlacement) -> None:
    """Compile (or load) the loops now, not within the seconds of a search: the first time they take 20 CPU seconds."""
    experts, gpus = problem.routing.experts, problem.cluster.gpus
    search = LayerSearch(problem.routing, 0, problem.cluster, problem.traffic_weight, problem.most)
    search.anneal(np.zeros((experts, gpus), dtype=np.bool_), moves=0, seed=0)
    if problem.cost_bound.applies:
        from problems.moe.grouping import cheapest_groupings

        cheapest_groupings(np.zeros((1, 1)), 2, np.zeros((1, 1)))


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

    def round(self, moves: int, *, seed: int = 0, fresh: Plan | None = None, heat: float = 1.0) -> None:
        """One annealing of every layer with ``moves`` in all, from the best plan or from ``fresh`` [L, E, G].

        Args:
            moves: how many to try.
            seed: of the random moves; with the number of rounds done.
            fresh: a feasible plan to start from in place of the best one.
            heat: factor on the first temperature.
        """
        share = max(moves // len(self.layers), 1)
        for layer, search in enumerate(self.layers):
            start = self.best[layer] if fresh is None else fresh[layer]
            held, cap = self._allowance(layer)
            if held is not None and cap is not None and int((start & ~held).sum()) > cap:
                start = self.best[layer]  # the fresh plan spends more on this layer than the others leave
            number = (seed * 1_000_003 + self.rounds) * len(self.layers) + layer + 1
            plan, value = search.anneal(start, moves=share, seed=number, held=held, cap=cap, heat=heat)
            self.moves += share
            if value < self.values[layer]:
                self.best[layer], self.values[layer] = plan, value
        self.rounds += 1

    def turn(self, *, seed: int = 0, most_moves: int = MOST_MOVES) -> None:
        """The next round of a search that goes on: longer and longer, by turns from the field's plan and from the best.

        A fresh start is hot, and hotter every other time; a round from the best plan is cold enough to keep its shape.
        """
        turn = self.rounds
        moves = min(ROUND_MOVES * 2 ** (turn - 1) if turn else FIRST_MOVES, MOST_MOVES, most_moves)
        if turn % 2 == 1:
            self.round(moves, seed=seed, fresh=self.problem.start_plans()[0], heat=FRESH_HEATS[turn // 2 % 3])
        else:
            self.round(moves, seed=seed, heat=0.25 / 2 ** (turn // 2 % 4))

    def _allowance(self, layer: int) -> tuple[Plan | None, int | None]:
        """What runs now in a layer, and how many copies it may send; None, None without a cap."""
        migration = self.problem.migration
        if migration is None:
            return None, None
        moved = (self.best & ~migration.current).sum(axis=(1, 2))
        left = migration.cap - int(moved.sum())
        return migration.current[layer], int(moved[layer]) + max(left // (len(self.layers) - layer), 0)


class Pace:
    """How many moves fit into the seconds that are left, from the last rounds."""

    def __init__(self) -> None:
        self.rate = 0.0  # moves per second

    def moves(self, seconds: float) -> int:
        """Most moves of the next round; unlimited before the first one, and without a limit."""
        return (
            int(min(SAFE_SHARE * self.rate * seconds, MOST_MOVES))
            if self.rate > 0.0 and np.isfinite(seconds)
            else MOST_MOVES
        )

    def turn(self, search: PlacementSearch, *, seed: int, seconds: float) -> None:
        """One turn of a search within about ``seconds``."""
        begin, before = time.perf_counter(), search.moves
        search.turn(seed=seed, most_moves=max(self.moves(seconds), 1))
        self.rate = (search.moves - before) / max(time.perf_counter() - begin, 1e-9)


class ExactRun:
    """Search and bound of one problem; every call goes on where the last one stopped."""

    def __init__(self, problem: ExpertPlacement) -> None:
        self.problem = problem
        self.bound = problem.lower_bound()
        self.search: PlacementSearch | None = None
        self._pace = Pace()

    def run(self, *, seconds: float | None = None, start: Tensor | None = None) -> Exact:
        """Turns of the search for at most ``seconds`` of wall time (5 by default)."""
        problem = self.problem
        deadline = time.perf_counter() + (DEFAULT_SECONDS if seconds is None else max(seconds, 0.0))
        plans = [] if self.search is not None else problem.start_plans()[:1]
        if start is not None and float(problem.violation(start)) <= 0.0:
            plans.append(problem.plan_of(start))
        for plan in plans:
            if self.search is None:
                self.search = PlacementSearch(problem, plan)
            self.search.offer(plan)
        if self.search is None:
            return Exact(None, self.bound)
        while (left := deadline - time.perf_counter()) > 0.0 and self.search.value > self.bound * (1.0 + OPTIMAL_GAP):
            if self._pace.moves(left) < LEAST_MOVES:
                break
            self._pace.turn(self.search, seed=1, seconds=left)
            cost_bound, left = self.problem.cost_bound, deadline - time.perf_counter()
            if cost_bound.cycles < MOST_CYCLES and left > 0.0:
                self.bound = max(self.bound, cost_bound.run(seconds=BOUND_SHARE * left))
        x = to_torch(self.search.best.reshape(-1))
        value = float(problem.objective(x))
        bound = min(self.bound, value)
        return Exact(x, bound, value <= bound * (1.0 + OPTIMAL_GAP), self.search.moves)
