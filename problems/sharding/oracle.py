"""The linear oracle of placements: one device per group of tables, memory limits, canonical labelling."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from problems.sharding.constraints import Placement
from problems.sharding.growth import GrowthProgram
from problems.sharding.symmetry import Index, canonical, is_canonical
from solvers.oracle import Array, OracleBatch, Status, as_costs

if TYPE_CHECKING:
    from problems.sharding.placement_lp import PlacementRelaxation
    from problems.sharding.placement_milp import PlacementMilp

MEMORY_SLACK = 1e-9  # relative; byte counts are exact, the slack only forgives sums of floats given by users
FEW_GROUPS = 64
MAX_WORK = 10_000  # relaxations times groups in the branch and bound of one row


class PlacementOracle:
    """Exact argmin of costs c [T, D] over canonical placements.

    The feasible set: every table on one device; tables of a group together; only allowed devices; the memory of the
    groups on a device within its capacity; and, of all relabellings of alike devices, only the canonical one (see
    ``problems.sharding.symmetry``). The last rule is part of the set, so costs that differ between alike devices are
    minimized exactly *over canonical plans*; no cost that is a function of the partition loses anything.

    How it works, from cheap to dear, per row of a batch:

    1. the cheapest allowed device of each group; the answer if it is canonical and fits;
    2. the dynamic program of ``problems.sharding.growth``; the answer if it fits;
    3. best-first branch and bound on overfull devices (a minimal set of groups that cannot be together: one must go),
       up to ``MAX_WORK``;
    4. prices on memory with repair (``problems.sharding.lagrange``); the answer where it is close enough to its bound;
    5. a MILP with rows for memory and canonical order.

    Args:
        placement: groups and allowed devices.
        memory: [G] bytes.
        capacity: [D] bytes.
        classes: classes of alike devices whose symmetry is broken.
        order: [G] order of groups for the canonical labelling.
        gap: step 4 may stop with status ``FEASIBLE`` within ``gap`` times the spread of the costs (the mean over
            devices less the least, summed over the groups); 0 asks for the proven optimum. None is 0 for up to
            ``FEW_GROUPS`` groups and 0.005 beyond, where step 5 takes seconds.
        seconds: wall seconds allowed for step 5 of each row; beyond them the best plan known, ``FEASIBLE``.
    """

    def __init__(
        self,
        placement: Placement,
        memory: Array,
        capacity: Array,
        classes: Sequence[Index],
        order: Index,
        *,
        gap: float | None = None,
        seconds: float = 5.0,
    ) -> None:
        self.placement = placement
        self.memory = memory
        self.capacity = capacity
        self.classes = tuple(classes)
        self.order = order
        self.gap = (0.0 if len(memory) <= FEW_GROUPS else 0.005) if gap is None else gap
        self.seconds = seconds
        self.tables = len(placement.group)
        self.devices = len(capacity)
        self.limit = capacity * (1.0 + MEMORY_SLACK)
        self.blocked = np.where(
            placement.allowed & (memory[:, None] <= self.limit), 0.0, np.inf
        )  # a group larger than a device is never there
        self._growth = GrowthProgram(order, self.classes, self.devices)
        self._milp: PlacementMilp | None = None

    @property
    def n(self) -> int:
        """Number of variables, tables times devices; x[t * D + d] = 1 puts table t on device d."""
        return self.tables * self.devices

    takes_seconds = True

    def solve(self, costs: Array, *, seconds: float | None = None) -> OracleBatch:
        """Minimize each row of ``costs`` [B, n]; rows without a plan are labelled.

        Args:
            costs: [B, n] float64.
            seconds: wall seconds for the whole batch; what is left then of steps 3 to 5 is not done.
        """
        start = time.perf_counter()
        deadline = math.inf if seconds is None else start + seconds
        costs = as_costs(costs, self.n)
        batch = len(costs)
        finite = np.asarray(np.isfinite(costs).all(axis=1))
        tables = np.where(finite[:, None], costs, 0.0).reshape(batch, self.tables, self.devices)
        grouped = self.placement.sum_groups(tables) + self.blocked
        choice, value = self.relax(grouped)
        status = [Status.OPTIMAL if ok else Status.ERROR for ok in finite]
        message = ["" if ok else "costs are not finite" for ok in finite]
        for b in np.flatnonzero(finite):
            if not np.isfinite(value[b]):
                status[b] = Status.INFEASIBLE
                message[b] = "a group of tables fits on no allowed device"
        bound = np.where(np.isfinite(value), value, -np.inf)
        has_row = finite & np.isfinite(value)
        hard: list[int] = []
        for b in np.flatnonzero(has_row & ~self.fits(choice)):
            found = self._search(grouped[b], choice[b], value[b], deadline)
            if found is None:
                hard.append(int(b))
            else:
                choice[b], bound[b], status[b], message[b] = found
        if hard:
            self._price(hard, grouped, choice, bound, status, message, deadline)
        x = self.design(choice)
        objective = np.einsum("bn,bn->b", tables.reshape(batch, -1), x)
        is_done = np.array([s is Status.OPTIMAL for s in status])
        bound = np.where(is_done, objective, np.minimum(bound, objective))
        for b, s in enumerate(status):
            if not s.has_point:
                x[b], objective[b], bound[b] = np.nan, np.nan, -np.inf
        spent = np.full(batch, (time.perf_counter() - start) / max(batch, 1))
        return OracleBatch(x, objective, bound, tuple(status), spent, tuple(message))

    def relaxation(self) -> PlacementRelaxation:
        """The linear program without integrality and without a canonical order, for gradients."""
        from problems.sharding.placement_lp import PlacementRelaxation

        return PlacementRelaxation(self)

    def violation(self, x: Array) -> Array:
        """Largest violation, [..., n] -> [...].

        Of integrality, one device each, groups, allowed devices, memory (as a share of the capacity, or of a byte
        where that is zero), canonical order (1 where broken). A design with NaN has violation inf.
        """
        x = np.asarray(x, dtype=np.float64)
        plan = x.reshape(*x.shape[:-1], self.tables, self.devices)
        worst = np.abs(plan - np.clip(np.rint(plan), 0.0, 1.0)).max((-2, -1))
        worst = np.maximum(worst, np.abs(plan.sum(-1) - 1.0).max(-1))
        for members in self.placement.members:
            first = plan[..., members[0], :]
            for t in members[1:]:
                worst = np.maximum(worst, np.abs(plan[..., t, :] - first).max(-1))
        first_members = [members[0] for members in self.placement.members]
        groups = plan[..., first_members, :]
        worst = np.maximum(worst, np.where(self.placement.allowed, 0.0, np.abs(groups)).max((-2, -1)))
        over = np.einsum("...gd,g->...d", groups, self.memory) - self.limit
        worst = np.maximum(worst, np.maximum(over / np.maximum(self.capacity, 1.0), 0.0).max(-1))
        flat = np.nan_to_num(groups).reshape(-1, *groups.shape[-2:]).argmax(-1)
        in_order = is_canonical(flat, self.order, self.classes, self.devices).reshape(worst.shape)
        worst = np.where(in_order, worst, np.maximum(worst, 1.0))
        return np.where(np.isnan(worst), np.inf, worst)

    # ------------------------------------------------------------------ choices: a device per group

    def design(self, choice: Index) -> Array:
        """Choice of a device per group [B, G] as x [B, n]."""
        x = np.zeros((len(choice), self.tables, self.devices))
        on = choice[:, self.placement.group]
        np.put_along_axis(x, on[..., None], 1.0, axis=-1)
        return x.reshape(len(choice), self.n)

    def choice(self, x: Array) -> Index:
        """Device of each group in designs x [B, n]."""
        plan = x.reshape(-1, self.tables, self.devices)
        return plan[:, [members[0] for members in self.placement.members]].argmax(-1).astype(np.int64)

    def canonical(self, choice: Index) -> Index:
        """Canonical labelling of choices [B, G]."""
        return canonical(choice, self.order, self.classes, self.devices)

    def loads(self, choice: Index) -> Array:
        """Bytes on each device, [B, G] -> [B, D]."""
        batch = len(choice)
        flat = choice + self.devices * np.arange(batch)[:, None]
        weights = np.broadcast_to(self.memory, choice.shape)
        total = np.bincount(flat.ravel(), weights.ravel(), batch * self.devices).astype(np.float64, copy=False)
        return total.reshape(batch, self.devices)

    def fits(self, choice: Index) -> NDArray[np.bool_]:
        """[B], whether every device holds its groups."""
        return np.all(self.loads(choice) <= self.limit, axis=1)

    def allows(self, choice: Index) -> NDArray[np.bool_]:
        """[B], whether every group is on an allowed device."""
        return np.all(self.placement.allowed[np.arange(choice.shape[1]), choice], axis=1)

    def relax(self, costs: Array) -> tuple[Index, Array]:
        """Cheapest canonical choice for costs [B, G, D] (+inf where not allowed) and its value; memory sums ignored."""
        choice = costs.argmin(axis=2).astype(np.int64)
        value = np.take_along_axis(costs, choice[..., None], axis=2).sum((1, 2))
        redo = np.flatnonzero(np.isfinite(value) & ~is_canonical(choice, self.order, self.classes, self.devices))
        if len(redo):
            choice[redo], value[redo] = self._growth.solve(costs[redo])
        return choice, value

    def _search(
        self, costs: Array, choice: Index, value: float, deadline: float
    ) -> tuple[Index, float, Status, str] | None:
        """Branch and bound for one row; ``choice`` and ``value`` solve the root's relaxation. None: too much work.

        Among equal bounds the plan with the least excess comes first, so that costs full of ties are no tree search.
        """
        count = itertools.count()
        ban = np.zeros(costs.shape, dtype=bool)
        heap = [(value, 0.0, next(count), choice, ban)]
        relaxations = 0
        while heap:
            bound, _, _, choice, ban = heapq.heappop(heap)
            over = self._overfull(choice)
            if over is None:
                return choice, bound, Status.OPTIMAL, ""
            device, cover = over
            relaxations += len(cover)
            if relaxations * len(choice) > MAX_WORK or time.perf_counter() > deadline:
                return None
            bans = np.repeat(ban[None], len(cover), axis=0)
            for j, g in enumerate(cover):
                bans[j, g, device] = True
                bans[j + 1 :, g, np.arange(self.devices) != device] = True
            choices, values = self.relax(np.where(bans, np.inf, costs))
            excess = np.maximum(self.loads(choices) - self.limit, 0.0).sum(axis=1)
            for j in np.flatnonzero(np.isfinite(values)):
                heapq.heappush(heap, (float(values[j]), float(excess[j]), next(count), choices[j], bans[j]))
        return choice, -np.inf, Status.INFEASIBLE, "the tables do not fit into the memory of the devices together"

    def _overfull(self, choice: Index) -> tuple[int, Index] | None:
        """Most overfull device and a minimal set of its largest groups that exceed it; None if all fits."""
        excess = self.loads(choice[None])[0] - self.limit
        device = int(excess.argmax())
        if excess[device] <= 0:
            return None
        groups = np.flatnonzero(choice == device)
        groups = groups[np.argsort(-self.memory[groups], kind="stable")]
        size = int(np.searchsorted(np.cumsum(self.memory[groups]), self.limit[device], side="right")) + 1
        return device, groups[:size]

    def _price(
        self,
        rows: list[int],
        costs: Array,
        choice: Index,
        bound: Array,
        status: list[Status],
        message: list[str],
        deadline: float,
    ) -> None:
        """Steps 4 and 5 for the given rows, written into the batch."""
        from problems.sharding.lagrange import priced_placement

        part = costs[rows]
        is_finite = np.isfinite(part)
        mean = np.where(is_finite, part, 0.0).sum(axis=2) / is_finite.sum(axis=2)
        slack = self.gap * (mean - part.min(axis=2)).sum(axis=1)
        plans, values, bounds = priced_placement(self, part, slack=slack, deadline=deadline)
        for b, plan, value, low, most in zip(rows, plans, values, bounds, slack, strict=True):
            choice[b], bound[b] = plan, low
            if np.isfinite(value) and value - low <= max(most, 1e-12 * abs(value)):
                is_proven = value - low <= 1e-9 * abs(value)
                status[b] = Status.OPTIMAL if is_proven else Status.FEASIBLE
                message[b] = "" if is_proven else f"within {self.gap:g} of the spread of the costs"
                continue
            answer, milp_bound, said, text = self._solve_milp(costs[b], deadline - time.perf_counter())
            bound[b] = max(low, milp_bound)
            if answer is not None and (said is Status.OPTIMAL or self._value(costs[b], answer) <= value):
                choice[b], status[b], message[b] = answer, said, text
            elif np.isfinite(value):
                status[b], message[b] = Status.FEASIBLE, f"repaired plan; the integer program: {text or said.value}"
            else:
                status[b], message[b] = said, text

    @staticmethod
    def _value(costs: Array, choice: Index) -> float:
        return float(costs[np.arange(len(choice)), choice].sum())

    def _solve_milp(self, costs: Array, seconds: float) -> tuple[Index | None, float, Status, str]:
        from problems.sharding.placement_milp import PlacementMilp

        if seconds <= 0:
            return None, -np.inf, Status.LIMIT, "no time left"
        if self._milp is None:
            self._milp = PlacementMilp(self)
        return self._milp.solve(costs, seconds)
