"""The linear program of one branch of `branch_bound`: what its plans cost at least.

Columns, level by level (a level is an interval of the working set of the devices of a part): shares x of the free
groups, number of devices n, forward and backward load, forward and backward time; then the comms time of each part and
the smooth max of each phase. The module of the search derives the rows.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog

from problems.sharding.bounds import phase_bounds
from problems.sharding.fused import BoundFused
from problems.sharding.rules import features_of_choice
from problems.sharding.symmetry import Index
from solvers.oracle import Array

if TYPE_CHECKING:
    from problems.sharding.problem import ShardingProblem

WHOLE = 10  # free groups, the heaviest, that may not be spread thinly over the devices of a level
MAX_CUTS = 24  # weights kept a phase
TANGENTS = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5])  # as multiples of the mean load
COPIES = np.array([1.0, 2.0, 1.0])  # forward, comms (both ways alike), backward
OWN = 5  # columns of a level beside the shares: n, two loads, two times
TINY = 1e-12


@dataclass(slots=True)
class Part:
    """Devices with the same known groups, at first one level, later several.

    Attributes:
        devices: indices.
        known: groups on every one of them.
        edges: levels of the working set, increasing.
    """

    devices: list[int]
    known: list[int]
    edges: list[float]


@dataclass(slots=True, order=True)
class Branch:
    """Where the first groups of the order are.

    Attributes:
        bound: of every plan in it.
        places: device of each placed group.
        parts: devices by known groups.
        visits: how often it was worked on.
    """

    bound: float
    number: int
    places: tuple[int, ...] = field(compare=False)
    parts: list[Part] = field(compare=False)
    visits: int = field(default=0, compare=False)


@dataclass(slots=True)
class LevelUse:
    """What a solution does at one level: its number of devices, their mean compute loads [2] and times given [2]."""

    devices: float
    loads: Array
    times: Array


@dataclass(slots=True)
class Solution:
    """Of a branch's program; without a part there is no plan.

    Attributes:
        bound: of every plan of the branch, recomputed from the dual prices.
        times: mean times [C, 3] of the parts: forward, comms, backward.
        uses: of each part's levels.
    """

    bound: float
    times: Array
    uses: list[list[LevelUse]]


@dataclass(slots=True)
class _Level:
    part: int
    rows: Array  # [R, W], each <= 0
    loads: Array  # [2, count + 1]: of each free group, and of the device as it is
    upper: Array  # [W]


class BranchProgram:
    """Linear programs of branches, with the cuts that they have gathered.

    Args:
        problem: its groups, devices and cost, which is a `BoundFused`.
        choice: a known plan [G]; its times give the first weights of the phases.

    Attributes:
        weights: [6, G, D] features of a group on a device, memory [G] and capacity [D] in units of the largest device.
        may: [G, D], whether a group may be there.
        order: groups, the heaviest first.
        floor: bounds of forward, comms and backward alone.
        solved: programs so far.
    """

    def __init__(self, problem: ShardingProblem, choice: Index) -> None:
        assert isinstance(problem.cost, BoundFused)
        self.cost = problem.cost
        self.solved = 0
        self.weights = problem.group_weights.numpy()
        self.memory = problem.oracle.memory / max(float(problem.capacity_bytes.max()), 1.0)
        self.capacity = problem.oracle.limit / max(float(problem.capacity_bytes.max()), 1.0)
        self.may = np.isfinite(problem.oracle.blocked)
        self._hit = 1.0 / self.cost.model.cache_speedup
        self.order = np.argsort(-problem.single_ms.sum(0).min(axis=1), kind="stable")
        bounds = phase_bounds(problem)
        self.floor = np.array([bounds[0], max(bounds[1], bounds[2]), bounds[3]])
        self._latency = float(self.cost.times_ms(torch.zeros(4, 1, dtype=torch.float64))[1, 0])
        self._devices = len(problem.devices)
        mean = problem.single_ms[[0, 3]].min(axis=2).sum(1) / self._devices  # [2]
        self._points = [list(TANGENTS * max(m, 1e-9)) for m in mean]
        self._cuts: list[list[Array]] = [[np.full(self._devices, 1.0 / self._devices)] for _ in range(3)]
        plan = features_of_choice(problem, problem.oracle.canonical(choice[None]))[0]
        times = self.cost.times_ms(self.cost.loads_ms(plan))[[0, 1, 3]]
        for cuts, share in zip(self._cuts, torch.softmax(times / self.cost.temperature_ms, dim=1).numpy(), strict=True):
            cuts.append(share)

    def least(self, device: int, known: list[int]) -> float:
        """Bound of plans with the known groups together: the device's times against the bounds of the phases."""
        features = torch.from_numpy(self.weights[:, known, device].sum(axis=1)[:, None])
        times = self.cost.times_ms(self.cost.loads_ms(features)).numpy()[[0, 1, 3], 0]
        return float(COPIES @ np.maximum(times, self.floor))

    def solve(self, branch: Branch, best: float, seconds: float) -> Solution | None:
        """The program of a branch; None without an answer in time.

        Args:
            branch: its parts and placed groups.
            best: value of a known plan; only better ones are bounded.
            seconds: at most.
        """
        self.solved += 1
        placed = self.order[: len(branch.places)]
        free = np.setdiff1d(np.arange(self.weights.shape[1]), placed)
        is_whole = np.isin(free, self.order[len(placed) : len(placed) + WHOLE])
        tangents = [self._tangent(p, np.array(self._points[p])) for p in range(2)]
        levels = [
            self._level(branch.parts[c], c, low, high, free, is_whole, tangents, best)
            for c, part in enumerate(branch.parts)
            for low, high in itertools.pairwise(part.edges)
        ]
        count, width = len(free), len(free) + OWN
        sizes = np.array([len(part.devices) for part in branch.parts], dtype=float)
        tail = len(sizes) + 3
        columns = len(levels) * width + tail
        n_at = np.arange(len(levels)) * width + count
        member = np.array([level.part for level in levels])
        rows = sum(len(level.rows) for level in levels)
        alone = sp.hstack([sp.block_diag([level.rows for level in levels]), sp.csr_array((rows, tail))])
        cuts, right = self._phase_rows(branch, member, n_at, columns)
        a_ub = sp.csr_array(sp.vstack([alone, *self._part_rows(branch, levels, free, columns), sp.csr_array(cuts)]))
        b_ub = np.concatenate([np.zeros(rows + 2 * len(sizes)), right])
        of_part = sp.csr_array((np.ones(len(levels)), (member, n_at)), shape=(len(sizes), columns))
        each_once = sp.hstack([sp.eye_array(count), sp.csr_array((count, OWN))])
        assign = sp.hstack([*[each_once] * len(levels), sp.csr_array((count, tail))])
        a_eq = sp.csr_array(sp.vstack([assign, of_part]) if count else of_part)
        b_eq = np.concatenate([np.ones(count), sizes])
        top = np.concatenate([*(level.upper for level in levels), 4.0 * best * sizes, np.full(3, 4.0 * best)])
        bottom, costs = np.zeros(columns), np.zeros(columns)
        bottom[-3:], costs[-3:] = self.floor, COPIES
        answer = linprog(
            costs, A_ub=a_ub, b_ub=b_ub, A_eq=a_eq, b_eq=b_eq, bounds=np.stack([bottom, top], axis=1),
            method="highs", options={"time_limit": max(seconds, 0.01)},
        )  # fmt: skip
        if answer.status == 2:
            return Solution(best, np.zeros((0, 3)), [])
        if answer.status != 0 or answer.ineqlin is None or answer.eqlin is None or answer.x is None:
            return None
        prices = np.minimum(np.asarray(answer.ineqlin.marginals), 0.0)
        equal = np.asarray(answer.eqlin.marginals)
        reduced = costs - a_ub.T @ prices - a_eq.T @ equal
        bound = float(b_ub @ prices + b_eq @ equal + np.where(reduced > 0.0, reduced * bottom, reduced * top).sum())
        x = np.asarray(answer.x)
        return self._read(x[:-tail].reshape(len(levels), width), x[-tail:-3], levels, sizes, bound)

    def cut(self, branch: Branch, solution: Solution, best: float) -> bool:
        """Add the solution's tangents and weights where they say more; whether any was added."""
        is_new = False
        for p in range(2):
            for use in itertools.chain.from_iterable(solution.uses):
                if use.devices < 1e-4:
                    continue
                load = float(use.loads[p])
                true = float(self._tangent(p, use.loads[p : p + 1])[0][0])
                near = min(abs(load - point) for point in self._points[p])
                if use.devices * (true - use.times[p]) > 1e-5 * best and near > 1e-3 * max(load, 1e-9):
                    self._points[p].append(load)
                    is_new = True
        for p in range(3):
            times = solution.times[:, p]
            weight = np.zeros(self._devices)
            for part, time in zip(branch.parts, times, strict=True):
                weight[part.devices] = math.exp((time - times.max()) / self.cost.temperature_ms)
            weight /= weight.sum()
            if min(float(np.abs(weight - other).sum()) for other in self._cuts[p]) > 1e-3:
                self._cuts[p].append(weight)
                is_new = True
                if len(self._cuts[p]) > MAX_CUTS:
                    del self._cuts[p][1]
        return is_new

    # ------------------------------------------------------------------ rows

    def _factor(self, working_set: Array | float) -> Array:
        """Cache factor phi of the repeated loads."""
        s = np.asarray(working_set)
        return self._hit + (1.0 - self._hit) * s / (1.0 + s)

    def _tangent(self, phase: int, points: Array) -> tuple[Array, Array]:
        """Time and slope of the compute phases at loads [K]: phase 0 forward, 1 backward."""
        u = torch.from_numpy(np.asarray(points, dtype=float)).requires_grad_()
        zero = torch.zeros_like(u)
        loads = torch.stack([u, zero, zero, zero] if phase == 0 else [zero, zero, zero, u])
        times = self.cost.times_ms(loads)[0 if phase == 0 else 3]
        (slope,) = torch.autograd.grad(times.sum(), u)
        return times.detach().numpy(), slope.numpy()

    def _level(
        self,
        part: Part,
        index: int,
        low: float,
        high: float,
        free: Index,
        is_whole: NDArray[np.bool_],
        tangents: list[tuple[Array, Array]],
        best: float,
    ) -> _Level:
        """Rows of a level alone: its working sets, whole groups, loads, and times above their tangents."""
        device, size, count = part.devices[0], float(len(part.devices)), len(free)
        own = self.weights[4, free, device]
        streamed, again = self.weights[[0, 1]][:, free, device], self.weights[[2, 3]][:, free, device]
        known = self.weights[:, part.known, device].sum(axis=1)  # [6]
        slope = float(self._factor(high) - self._factor(low)) / (high - low) if high > low else 0.0
        loads = streamed + again * self._factor(np.maximum(low, known[4] + own)) + known[2:4, None] * slope * own
        base = known[0:2] + known[2:4] * (self._factor(low) + slope * (known[4] - low))
        loads = np.concatenate([loads, base[:, None]], axis=1)
        wholes = int(is_whole.sum())
        lines = np.zeros((2 + wholes, count + OWN))
        lines[0, :count], lines[0, count] = own, known[4] - high
        lines[1, :count], lines[1, count] = -own, low - known[4]
        lines[2 + np.arange(wholes), np.flatnonzero(is_whole)] = 1.0
        lines[2:, count] = -1.0
        rows = [lines]
        for p, (times, slopes) in enumerate(tangents):  # load <= U, n t(a) + t'(a) (U - n a) <= time
            above = np.zeros((1 + len(times), count + OWN))
            above[0, : count + 1], above[0, count + 1 + p] = loads[p], -1.0
            above[1:, count] = times - slopes * np.array(self._points[p])
            above[1:, count + 1 + p] = slopes
            above[1:, count + 3 + p] = -1.0
            rows.append(above)
        fits = self.may[free, device] & (known[4] + own <= high * (1 + TINY))
        upper = np.concatenate([fits.astype(float), [size], np.full(4, 4.0 * best * size)])
        return _Level(index, np.concatenate(rows), loads, upper)

    def _part_rows(
        self, branch: Branch, levels: list[_Level], free: Index, columns: int
    ) -> tuple[sp.csr_array, sp.csr_array]:
        """Memory and comms time of each part, over all its levels."""
        parts, count = len(branch.parts), len(free)
        memory, comms = np.zeros((parts, columns)), np.zeros((parts, columns))
        for b, level in enumerate(levels):
            part, c = branch.parts[level.part], level.part
            device = part.devices[0]
            at = slice(b * (count + OWN), b * (count + OWN) + count)
            memory[c, at] = self.memory[free]
            memory[c, at.stop] = self.memory[part.known].sum() - self.capacity[device] * (1 + 1e-9)
            comms[c, at] = self.weights[5, free, device]
            comms[c, at.stop] = self._latency + self.weights[5, part.known, device].sum()
            comms[c, c - parts - 3] = -1.0
        return sp.csr_array(memory), sp.csr_array(comms)

    def _phase_rows(self, branch: Branch, member: Index, n_at: Index, columns: int) -> tuple[Array, list[float]]:
        """Smooth max of each phase above its weighted sums: rows and right-hand sides."""
        temperature = self.cost.temperature_ms
        rows, right = [], []
        for p in range(3):
            for weight in self._cuts[p]:
                row = np.zeros(columns)
                row[columns - 3 + p] = -1.0
                entropy = 0.0
                for c, part in enumerate(branch.parts):
                    w = float(weight[part.devices].mean())
                    entropy -= temperature * len(part.devices) * w * math.log(max(w, 1e-300))
                    if p == 1:
                        row[c - len(branch.parts) - 3] = w
                    else:
                        row[n_at[member == c] + (3 if p == 0 else 4)] = w
                rows.append(row)
                right.append(-entropy)
        return np.array(rows), right

    def _read(self, blocks: Array, comms: Array, levels: list[_Level], sizes: Array, bound: float) -> Solution:
        count = blocks.shape[1] - OWN
        times = np.zeros((len(sizes), 3))
        times[:, 1] = comms
        uses: list[list[LevelUse]] = [[] for _ in sizes]
        for level, block in zip(levels, blocks, strict=True):
            n = float(block[count])
            loads = level.loads @ block[: count + 1] / max(n, TINY)
            uses[level.part].append(LevelUse(n, loads, block[count + 3 :] / max(n, TINY)))
            if n > 1e-7:
                spent = [float(self._tangent(p, loads[p : p + 1])[0][0]) for p in range(2)]
                times[level.part, [0, 2]] += n * np.array(spent)
        return Solution(bound, times / sizes[:, None], uses)
