"""Re-planning: a new plan that is worth the bytes that move.

Moving to an atom costs the bytes of weights and optimizer state that its ranks do not hold yet under the current plan:
for each shard, its area less the overlap with the table's current shards on the same rank. This is a linear cost on
atoms, so a plan's migration is a sum like its bytes, and two questions have the same answer machinery:

    least  value(x) + weight_ms_per_gib * moved GiB         or         least value(x) with moved bytes or tables capped.

Search: annealing at falling targets with the linear cost inside, from the current plan and from the best plan for its
own sake; CP-SAT where the space is small, which also bounds what can be had.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from problems.sharding.joint.costs import row_shares
from problems.sharding.joint.cpsat import CpSatProgram, Migration, is_small
from problems.sharding.joint.model import Choice
from problems.sharding.joint.plan import JointPlan, ShardingType, TablePlacement
from problems.sharding.joint.space import KINDS
from problems.sharding.tables import GIB_BYTES, Table
from solvers.oracle import Array
from surco.bridge import to_numpy
from surco.errors import InvalidInputError, NoDesignError

if TYPE_CHECKING:
    from problems.sharding.joint.problem import JointProblem

Rectangle = tuple[int, int, int, int]  # rows from, to; columns from, to
AIMS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)  # targets above the best value, as shares of it
STEPS = 150_000
EXCESS_PRICE = 50.0


@dataclass(frozen=True, slots=True)
class Move:
    """One table that changes.

    Attributes:
        table: its name.
        before, after: its placements.
        moved_bytes: weights and optimizer state that some rank must receive.
    """

    table: str
    before: TablePlacement
    after: TablePlacement
    moved_bytes: int

    def to_json(self) -> dict[str, Any]:
        """JSON object."""
        return {
            "table": self.table,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "moved_bytes": self.moved_bytes,
        }


@dataclass(frozen=True, slots=True)
class Replan:
    """A new plan, and what it takes to get there.

    Attributes:
        plan: the new plan.
        value: its score, ms.
        old_value: score of the current plan, ms; None where it breaks a rule or the memory of the spec.
        moves: tables that change, most bytes first.
        moved_bytes: of all moves.
        cost: what was minimized: the value, plus the weighted migration.
        bound: proven lower bound on that cost; None without a proof.
    """

    plan: JointPlan
    value: float
    old_value: float | None
    moves: tuple[Move, ...]
    moved_bytes: int
    cost: float
    bound: float | None

    def to_json(self) -> dict[str, Any]:
        """JSON object."""
        return {
            "plan": self.plan.to_json(),
            "value_ms": self.value,
            "old_value_ms": self.old_value,
            "moves": [move.to_json() for move in self.moves],
            "moved_bytes": self.moved_bytes,
            "cost_ms": self.cost,
            "bound_ms": self.bound,
        }


def shards_of(placement: TablePlacement, table: Table, world: int, local: int) -> list[tuple[int, Rectangle]]:
    """(rank, rectangle of rows and columns) of each shard of a placement."""
    kind, ranks = placement.sharding_type, placement.ranks
    full = (0, table.rows, 0, table.dim)
    if kind is ShardingType.DATA_PARALLEL:
        return [(rank, full) for rank in ranks]
    dims = placement.shard_dims or (table.dim,)
    edges = np.concatenate([[0], np.cumsum(dims)]).astype(int)
    parts = {ShardingType.ROW_WISE: world, ShardingType.TABLE_ROW_WISE: local, ShardingType.GRID_SHARD: local}
    rows = np.concatenate([[0], np.cumsum(row_shares(table.rows, parts.get(kind, 1)))]).astype(int)
    boxes = [
        (int(rows[i]), int(rows[i + 1]), int(edges[c]), int(edges[c + 1]))
        for c in range(len(dims))
        for i in range(len(rows) - 1)
    ]
    return list(zip(ranks, boxes, strict=True))


def moved_area(before: list[tuple[int, Rectangle]], after: list[tuple[int, Rectangle]]) -> int:
    """Weights that some rank must receive: of each new shard, what its rank does not hold."""
    moved = 0
    for rank, (top, bottom, left, right) in after:
        moved += (bottom - top) * (right - left)
        for other, (top2, bottom2, left2, right2) in before:
            if other == rank:
                height, width = min(bottom, bottom2) - max(top, top2), min(right, right2) - max(left, left2)
                moved -= max(height, 0) * max(width, 0)
    return moved


def moved_bytes(before: TablePlacement, after: TablePlacement, table: Table, problem: JointProblem) -> int:
    """Bytes of weights and optimizer state that some rank must receive."""
    spec = problem.joint_spec
    world, local = spec.world_size, spec.local_world_size
    area = moved_area(shards_of(before, table, world, local), shards_of(after, table, world, local))
    return math.ceil(area * _bytes_per_weight(table, problem))


def _bytes_per_weight(table: Table, problem: JointProblem) -> float:
    state = table.state_bytes
    if state is None:
        state = table.weight_bytes * problem.joint_spec.workload.optimizer.state_per_weight(table.dim)
    return (table.weight_bytes + state) / (table.rows * table.dim)


def migration_costs(problem: JointProblem, current: JointPlan) -> Array:
    """[A] bytes that each atom moves, given the current plan of the same tables (new tables move nothing)."""
    space, spec = problem.space, problem.joint_spec
    before: Mapping[str, TablePlacement] = {p.table: p for p in current.placements}
    costs = np.zeros(space.n)
    local, world = spec.local_world_size, spec.world_size
    if (current.world_size, current.local_world_size) != (world, local):
        raise InvalidInputError(
            f"Expected a current plan for {world} ranks, {local} in each host, got {current.world_size} and "
            f"{current.local_world_size}."
        )
    for unit, members in enumerate(space.units):
        for t in members:
            table = spec.tables[t]
            if table.name not in before:
                continue
            old = shards_of(before[table.name], table, world, local)
            scale = _bytes_per_weight(table, problem)
            for mode in range(space.unit_start[unit], space.unit_start[unit + 1]):
                kind, width = KINDS[space.mode_kind[mode]], int(space.mode_width[mode])
                for column, piece in enumerate(range(space.mode_start[mode], space.mode_start[mode + 1])):
                    left, right = (column * width, (column + 1) * width) if width else (0, table.dim)
                    for atom in range(space.piece_start[piece], space.piece_start[piece + 1]):
                        ranks = space.entry_rank[space.atom_start[atom] : space.atom_start[atom + 1]].tolist()
                        new = _boxes(kind, table.rows, left, right, ranks)
                        costs[atom] += moved_area(old, new) * scale
    return costs


def _boxes(kind: ShardingType, rows: int, left: int, right: int, ranks: list[int]) -> list[tuple[int, Rectangle]]:
    if kind is ShardingType.DATA_PARALLEL or len(ranks) == 1:
        return [(rank, (0, rows, left, right)) for rank in ranks]
    edges = np.concatenate([[0], np.cumsum(row_shares(rows, len(ranks)))]).astype(int).tolist()
    return [(rank, (edges[i], edges[i + 1], left, right)) for i, rank in enumerate(ranks)]


def replan(
    problem: JointProblem,
    current: JointPlan,
    *,
    weight_ms_per_gib: float = 0.0,
    max_moved_bytes: float = math.inf,
    max_moved_tables: int | None = None,
    seconds: float = 10.0,
) -> Replan:
    """Plan anew from a current plan.

    Args:
        problem: tables, topology and rules of today; they may differ from those of the current plan.
        current: the plan in use.
        weight_ms_per_gib: price of a moved GiB, in ms per step; spread the cost of a move over the steps until the
            next one.
        max_moved_bytes: most bytes that may move.
        max_moved_tables: most tables that may change; not together with ``max_moved_bytes``.
        seconds: wall seconds.

    Raises:
        InvalidInputError: a negative price or cap, both caps, or a current plan for another topology.
        NoDesignError: no plan within the caps was found.
    """
    if weight_ms_per_gib < 0.0 or max_moved_bytes < 0.0 or (max_moved_tables is not None and max_moved_tables < 0):
        raise InvalidInputError("Expected prices and caps of a migration to be non-negative.")
    if max_moved_tables is not None and math.isfinite(max_moved_bytes):
        raise InvalidInputError("Cap either the moved bytes or the moved tables, not both.")
    if problem.model is None:
        raise NoDesignError(problem.explain_infeasibility())
    search = _Search(problem, current, weight_ms_per_gib, max_moved_bytes, max_moved_tables)
    search.run(time.perf_counter() + seconds)
    return search.answer()


class _Search:
    """The search of `replan`: candidates are judged by value, price and cap; the best is kept."""

    def __init__(
        self, problem: JointProblem, current: JointPlan, weight: float, cap: float, tables: int | None
    ) -> None:
        assert problem.model is not None
        self.problem, self.model, self.current = problem, problem.model, current
        self.bytes = migration_costs(problem, current)
        self.weight = weight / GIB_BYTES  # ms per byte
        self.counts_tables = tables is not None
        self.cap = float(tables) if tables is not None else cap
        self.counted = self._changed() if self.counts_tables else self.bytes  # [A], what the cap counts
        self.start = self._start()
        self.best: Choice | None = None
        self.cost = math.inf
        self.bound: float | None = None
        if self.start is not None:
            self.offer(self.start)

    def _changed(self) -> Array:
        """[A] number of tables of a unit that an atom changes, shared out over the pieces of its mode."""
        space = self.problem.space
        pieces = np.diff(space.mode_start)[space.piece_mode()[space.atom_piece()]]
        before = {p.table: p for p in self.current.placements}
        changed = np.zeros(space.n)
        for unit, members in enumerate(space.units):
            names = [self.problem.joint_spec.tables[t].name for t in members]
            known = [before[name] for name in names if name in before]
            if not known:
                continue
            try:
                own = space.atoms_of(unit, known[0])
            except InvalidInputError:
                own = []
            inside = self.model.atom_unit == unit
            changed[inside] = len(known)
            changed[own] = 0.0
        return changed / pieces

    def _start(self) -> Choice | None:
        """The current plan as a choice, if it is one of the space and fits."""
        try:
            choice = self.model.choice(self.problem.space.atoms(self.current))
        except InvalidInputError:
            return None
        return choice if self.model.fits(choice) else None

    def offer(self, choice: Choice) -> None:
        """Keep a plan that fits and respects the cap, if it is better."""
        chosen = choice.chosen()
        if not self.model.fits(choice) or float(self.counted[chosen].sum()) > self.cap * (1.0 + 1e-12) + 1e-6:
            return
        cost = self.model.value(choice) + self.weight * float(self.bytes[chosen].sum())
        if cost < self.cost - 1e-12:
            self.best, self.cost = choice.copy(), cost

    def run(self, deadline: float) -> None:
        """Best plan for its own sake, annealing between it and the current one, CP-SAT where small."""
        left = deadline - time.perf_counter()
        free = self.problem.run.run(seconds=0.25 * left)
        if free.x is None:
            return
        best = self.model.choice(np.flatnonzero(to_numpy(free.x) > 0.5))
        self.offer(best)
        until = deadline - (0.4 * left if is_small(self.model) else 0.0)
        self._anneal(best, until)
        if is_small(self.model):
            self._prove(deadline - time.perf_counter())

    def _anneal(self, best: Choice, until: float) -> None:
        """Least counted cost under falling targets of the value, from several plans."""
        from problems.sharding.joint.kernels import anneal

        model = self.model
        floor = max(self.problem.run.bound, 1e-12)
        top = max(model.value(self.start) if self.start is not None else floor * 2.0, floor)
        starts = [choice for choice in (self.start, self.best, best) if choice is not None]
        scale = max(float(self.counted.max(initial=0.0)), 1e-12)
        k = 0
        while time.perf_counter() < until:
            aim = AIMS[k % len(AIMS)]
            target = min(floor * (1.0 + aim), top)
            choice = starts[(k // len(AIMS)) % len(starts)].copy()
            heat = target * (0.02, 0.1, 0.004)[(k // 3) % 3]
            own = self.counted * (target * 0.2 / scale) / EXCESS_PRICE
            if self.weight:
                own = self.bytes * self.weight
            price = EXCESS_PRICE * target / max(float(model.space.capacity.mean()), 1.0)
            anneal(
                choice.atoms, choice.modes, model.shape, model.unit_arrays, model.arrays(own), model.state(choice),
                model.is_path, target, price, heat, 1e-4 * heat, STEPS, k,
            )  # fmt: skip
            self.offer(choice)
            if self.best is not None:
                starts[min(1, len(starts) - 1)] = self.best
            k += 1

    def _prove(self, seconds: float) -> None:
        if seconds < 0.1:
            return
        if self.weight and math.isfinite(self.cap) and self.counts_tables:
            return  # CP-SAT's program has one linear cost; the search alone answers this mix
        if math.isfinite(self.cap):
            migration = Migration(self.counted, weight=0.0 if self.counts_tables else self.weight, cap=self.cap)
        else:
            migration = Migration(self.bytes, weight=self.weight)
        clock = time.perf_counter()
        program = CpSatProgram(self.model, upper=self.cost, lower=self.problem.run.bound, migration=migration)
        answer = program.solve(seconds - (time.perf_counter() - clock), self.best)
        if answer.choice is not None:
            self.offer(answer.choice)
        if not answer.is_infeasible:
            self.bound = min(max(answer.bound, self.problem.run.bound), self.cost)

    def answer(self) -> Replan:
        """The result.

        Raises:
            NoDesignError: nothing within the cap was found.
        """
        if self.best is None:
            raise NoDesignError(
                "No plan within the cap on what may move was found. The current plan breaks a rule or the memory of "
                "the spec, so something must move: raise the cap, or give more seconds."
            )
        problem, space = self.problem, self.problem.space
        plan = space.plan(self.best.chosen())
        before = {p.table: p for p in self.current.placements}
        moves = []
        for placement, table in zip(plan.placements, problem.joint_spec.tables, strict=True):
            old = before.get(table.name)
            if old is not None and old != placement:
                moves.append(Move(table.name, old, placement, moved_bytes(old, placement, table, problem)))
        moves.sort(key=lambda move: -move.moved_bytes)
        old_value = None if self.start is None else self.model.value(self.start)
        return Replan(
            plan, self.model.value(self.best), old_value, tuple(moves), sum(m.moved_bytes for m in moves), self.cost,
            self.bound,
        )  # fmt: skip
