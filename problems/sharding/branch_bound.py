"""Lower bound on the fused cost by branching: where the heaviest groups go, one linear program a branch.

`LevelProgram` may cut a heavy group into pieces, and where several are heavy that is most of its gap. Here the groups
are placed one by one, heaviest first, onto a used device or onto the next of the alike unused ones (one labelling per
partition). In a branch, every used device d holds a known set F_d, the unused ones of a kind form a pool (F empty). All
of them are sorted into cache levels as in `level_bound`. With S the working set of the device, R_F the repeated load of
its known groups, phi the cache factor (concave and increasing) and x the share of a free group t, its load at a level
low <= S <= high is at least

    sum_F streamed + R_F chord(S) + sum_t x_t (streamed_t + repeated_t phi(max(low, S_F + S_t))),

chord the secant of phi over the level: what the known groups lose to crowding is followed, not only bounded. The times
are perspectives of convex functions of the loads, under-estimated by tangents. The smooth max of a phase with
temperature T is at least sum_d w_d t_d - T sum_d w_d log w_d for all weights of sum 1 (convex duality): the program
holds a row for each set of weights tried, and adds the weights of its own solution until they agree, so that the
weights of all phases are as good as can be; bounds of each phase alone join as bounds of its column.

Every plan lies in one of the open branches, so the bound is the least of theirs; that branch is worked on next. The
value of every program is recomputed from its dual prices, so that tolerances cannot make it invalid.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch
from scipy.optimize import linprog

from problems.sharding.bounds import phase_bounds
from problems.sharding.fused import BoundFused
from problems.sharding.rules import features_of_choice
from problems.sharding.symmetry import Index
from solvers.oracle import Array

if TYPE_CHECKING:
    from problems.sharding.problem import ShardingProblem

LEVELS = 4  # of a class of devices to begin with
PIECES = 3  # of a level that is split
ROUNDS = 3  # programs of a branch at one visit
WHOLE = 10  # free groups, the heaviest, that may not be spread thinly over the devices of a level
MAX_CUTS = 24  # weights kept a phase
TANGENTS = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5])  # as multiples of the mean load
COPIES = np.array([1.0, 2.0, 1.0])  # forward, comms (both ways alike), backward


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


class BranchBound:
    """Best-first search over the places of the heaviest groups, for one problem with a `BoundFused` cost.

    Args:
        problem: its groups, devices and cost.
        choice: a known plan [G]; only better plans need to be bounded.
        bound: one that is known.

    Attributes:
        best: value of the known plan.
        bound: proven; at most ``best``.
        programs: linear programs solved.
    """

    def __init__(self, problem: ShardingProblem, choice: Index, *, bound: float = -math.inf) -> None:
        assert isinstance(problem.cost, BoundFused)
        self.problem = problem
        self.cost = problem.cost
        self.best = float(problem.objective(problem.design(choice)))
        self.bound = min(bound, self.best)
        self.programs = 0
        self.weights = problem.group_weights.numpy()  # [6, G, D]
        self.memory = problem.oracle.memory / max(float(problem.capacity_bytes.max()), 1.0)
        self.capacity = problem.oracle.limit / max(float(problem.capacity_bytes.max()), 1.0)
        self.may = np.isfinite(problem.oracle.blocked)  # [G, D]
        hit = 1.0 / self.cost.model.cache_speedup
        self._factor = lambda s: hit + (1.0 - hit) * s / (1.0 + s)
        self.order = np.argsort(-problem.single_ms.sum(0).min(axis=1), kind="stable")
        bounds = phase_bounds(problem)
        self.floor = np.array([bounds[0], max(bounds[1], bounds[2]), bounds[3]])
        self._latency = float(self.cost.times_ms(torch.zeros(4, 1, dtype=torch.float64))[1, 0])
        self._make_kinds()
        mean = problem.single_ms[[0, 3]].min(axis=2).sum(1) / len(problem.devices)  # [2]
        self._points = [list(TANGENTS * max(m, 1e-9)) for m in mean]
        devices = len(problem.devices)
        self._cuts: list[list[Array]] = [[np.full(devices, 1.0 / devices)] for _ in range(3)]
        plan = features_of_choice(problem, problem.oracle.canonical(choice[None]))[0]
        times = self.cost.times_ms(self.cost.loads_ms(plan))[[0, 1, 3]]
        for cuts, share in zip(self._cuts, torch.softmax(times / self.cost.temperature_ms, dim=1).numpy(), strict=True):
            cuts.append(share)
        self._numbers = itertools.count()
        parts = [Part(kind, [], self._first_edges(kind[0], [])) for kind in self.kinds]
        self._open = [Branch(self.bound, next(self._numbers), (), parts)]

    def run(self, *, seconds: float, gap: float = 1e-5) -> float:
        """Branch until the bound is within ``gap`` of the known plan or the time is up; returns the bound."""
        deadline = time.perf_counter() + seconds
        while self._open and time.perf_counter() < deadline:
            branch = heapq.heappop(self._open)
            self.bound = max(self.bound, min(branch.bound, self.best))
            if self.best - self.bound <= gap * self.best:
                heapq.heappush(self._open, branch)
                return self.bound
            is_placed = len(branch.places) == len(self.order)
            children = [] if is_placed else self._children(branch)
            if is_placed or len(children) > 1:  # a single child is as good as its parent and says more
                if not self._work(branch, deadline):
                    continue
                if is_placed or time.perf_counter() > deadline:
                    heapq.heappush(self._open, branch)
                    if is_placed and branch.visits > 20:
                        break  # nothing left to place
                    continue
                children = self._children(branch)
            for child in children:
                heapq.heappush(self._open, child)
        least = self._open[0].bound if self._open else self.best
        self.bound = max(self.bound, min(least, self.best))
        return self.bound

    def offer(self, value: float) -> None:
        """Take note of a better plan's value."""
        self.best = min(self.best, value)

    # ------------------------------------------------------------------ branches

    def _make_kinds(self) -> None:
        keys: dict[bytes, list[int]] = {}
        for d in range(self.weights.shape[2]):
            key = self.weights[:, :, d].tobytes() + self.may[:, d].tobytes() + np.float64(self.capacity[d]).tobytes()
            keys.setdefault(key, []).append(d)
        self.kinds = list(keys.values())

    def _first_edges(self, device: int, known: list[int]) -> list[float]:
        own = self.weights[4, :, device]
        low, top = float(own[known].sum()), float(own[self.may[:, device]].sum())
        shares = np.linspace(low / (1.0 + low), top / (1.0 + top), LEVELS + 1)
        return [low, *(float(v) for v in (shares / (1.0 - shares))[1:-1]), max(top, low)]

    def _children(self, branch: Branch) -> list[Branch]:
        """Place the next group; children that are no better than the known plan are left out."""
        group = int(self.order[len(branch.places)])
        children = []
        for k, part in enumerate(branch.parts):
            device = part.devices[0]
            known = [*part.known, group]
            if not self.may[group, device] or self.memory[known].sum() > self.capacity[device] * (1 + 1e-9):
                continue
            least = self._least(device, known)
            if least >= self.best:
                continue
            low = float(self.weights[4, known, device].sum())
            edges = [low, *(edge for edge in part.edges if edge > low * (1.0 + 1e-9))]
            parts = list(branch.parts)
            parts[k] = Part([device], known, edges if len(edges) > 1 else [low, low])
            if len(part.devices) > 1:
                parts.append(Part(part.devices[1:], list(part.known), list(part.edges)))
            children.append(Branch(max(branch.bound, least), next(self._numbers), (*branch.places, device), parts))
        return children

    def _least(self, device: int, known: list[int]) -> float:
        """Bound of plans with the known groups together: the device's times against the bounds of the phases."""
        features = torch.from_numpy(self.weights[:, known, device].sum(axis=1)[:, None])
        times = self.cost.times_ms(self.cost.loads_ms(features)).numpy()[[0, 1, 3], 0]
        return float(COPIES @ np.maximum(times, self.floor))

    def _work(self, branch: Branch, deadline: float) -> bool:
        """Solve, cut and split; False if the branch holds no better plan."""
        branch.visits += 1
        for _ in range(ROUNDS):
            left = deadline - time.perf_counter()
            if left <= 0.0:
                return True
            answer = self._solve(branch, left)
            if answer is None:
                return True  # out of time
            if branch.bound >= self.best * (1.0 - 1e-9):
                return False
            is_cut = self._cut(branch, *answer)
            if not (self._split(branch, answer[1]) or is_cut):
                return True
        return True

    # ------------------------------------------------------------------ program

    def _tangent(self, phase: int, points: Array) -> tuple[Array, Array]:
        """Time and slope of the compute phases at loads [K]: phase 0 forward, 1 backward."""
        u = torch.from_numpy(np.asarray(points, dtype=float)).requires_grad_()
        zero = torch.zeros_like(u)
        loads = torch.stack([u, zero, zero, zero] if phase == 0 else [zero, zero, zero, u])
        times = self.cost.times_ms(loads)[0 if phase == 0 else 3]
        (slope,) = torch.autograd.grad(times.sum(), u)
        return times.detach().numpy(), slope.numpy()

    def _solve(self, branch: Branch, seconds: float) -> tuple[Array, list[list[tuple[float, Array, Array]]]] | None:
        """Solve the program and raise the branch's bound.

        Returns:
            Mean times [C, 3] of the parts, and for each part and level: number of devices, mean compute loads [2] and
            the times [2] that the program gives them. None without an answer; no part means no plan.
        """
        self.programs += 1
        groups = self.weights.shape[1]
        is_free = np.ones(groups, dtype=bool)
        is_free[self.order[: len(branch.places)]] = False
        free = np.flatnonzero(is_free)
        whole = np.isin(free, self.order[len(branch.places) : len(branch.places) + WHOLE])
        count = len(free)
        width = count + 5  # x, n, forward and backward load, forward and backward time
        levels = [(c, low, high) for c, part in enumerate(branch.parts) for low, high in itertools.pairwise(part.edges)]
        tangents = [self._tangent(p, np.array(self._points[p])) for p in range(2)]
        sizes = np.array([len(part.devices) for part in branch.parts], dtype=float)
        tail = len(sizes) + 3  # comms time of each part, smooth max of each phase
        rows, upper, load_rows = [], [], []
        for c, low, high in levels:
            part = branch.parts[c]
            device = part.devices[0]
            own = self.weights[4, free, device]
            streamed, again = self.weights[[0, 1]][:, free, device], self.weights[[2, 3]][:, free, device]
            known = self.weights[:, part.known, device].sum(axis=1)  # [6]
            slope = (self._factor(high) - self._factor(low)) / (high - low) if high > low else 0.0
            # loads [2, count + 1]: of each free group, and of the device as it is
            loads = streamed + again * self._factor(np.maximum(low, known[4] + own)) + known[2:4, None] * slope * own
            base = known[0:2] + known[2:4] * (self._factor(low) + slope * (known[4] - low))
            load_rows.append(np.concatenate([loads, base[:, None]], axis=1))
            lines = np.zeros((2 + int(whole.sum()), width))
            lines[0, :count], lines[0, count] = own, known[4] - high
            lines[1, :count], lines[1, count] = -own, low - known[4]
            lines[2 + np.arange(int(whole.sum())), np.flatnonzero(whole)] = 1.0
            lines[2:, count] = -1.0
            block = [lines]
            for p, (times, slopes) in enumerate(tangents):  # load <= U, n t(a) + t'(a) (U - n a) <= time
                cut = np.zeros((1 + len(times), width))
                cut[0, : count + 1], cut[0, count + 1 + p] = load_rows[-1][p], -1.0
                cut[1:, count] = times - slopes * np.array(self._points[p])
                cut[1:, count + 1 + p] = slopes
                cut[1:, count + 3 + p] = -1.0
                block.append(cut)
            rows.append(sp.csr_array(np.concatenate(block)))
            size = sizes[c]
            fits = self.may[free, device] & (known[4] + own <= high * (1 + 1e-12))
            upper.append(np.concatenate([fits.astype(float), [size], np.full(4, 4.0 * self.best * size)]))
        columns = len(levels) * width + tail
        member = np.array([c for c, _, _ in levels])
        n_at = np.arange(len(levels)) * width + count
        # classes: number of devices, memory
        counts = sp.csr_array((np.ones(len(levels)), (member, n_at)), shape=(len(sizes), columns))
        stack = np.zeros((len(sizes), columns))
        comms_of = np.zeros((len(sizes), columns))
        for b, (c, _, _) in enumerate(levels):
            part = branch.parts[c]
            device = part.devices[0]
            at = slice(b * width, b * width + count)
            stack[c, at] = self.memory[free]
            stack[c, n_at[b]] = self.memory[part.known].sum() - self.capacity[device] * (1 + 1e-9)
            comms_of[c, at] = self.weights[5, free, device]
            comms_of[c, n_at[b]] = self._latency + self.weights[5, part.known, device].sum()
            comms_of[c, c - tail] = -1.0
        cut_rows, cut_right = [], []
        temperature = self.cost.temperature_ms
        for p in range(3):
            for weight in self._cuts[p]:
                line = np.zeros(columns)
                line[columns - 3 + p] = -1.0
                entropy = 0.0
                for c, part in enumerate(branch.parts):
                    w = float(weight[part.devices].mean())
                    entropy -= temperature * len(part.devices) * w * math.log(max(w, 1e-300))
                    if p == 1:
                        line[c - tail] = w
                    else:
                        line[n_at[member == c] + (3 if p == 0 else 4)] = w
                cut_rows.append(line)
                cut_right.append(-entropy)
        a_ub = sp.csr_array(
            sp.vstack(
                [
                    sp.hstack([sp.block_diag(rows), sp.csr_array((sum(r.shape[0] for r in rows), tail))]),
                    sp.csr_array(stack),
                    sp.csr_array(comms_of),
                    sp.csr_array(np.array(cut_rows)),
                ]
            )
        )
        still = sum(r.shape[0] for r in rows) + 2 * len(sizes)
        b_ub = np.concatenate([np.zeros(still), cut_right])
        assign = sp.hstack([sp.eye_array(count), sp.csr_array((count, 5))])
        a_eq = sp.csr_array(
            sp.vstack([sp.hstack([*[assign] * len(levels), sp.csr_array((count, tail))]), counts]) if count else counts
        )
        b_eq = np.concatenate([np.ones(count), sizes])
        top = np.concatenate([*upper, 4.0 * self.best * sizes, np.full(3, 4.0 * self.best)])
        bottom = np.zeros(columns)
        bottom[-3:] = self.floor
        costs = np.zeros(columns)
        costs[-3:] = COPIES
        answer = linprog(
            costs, A_ub=a_ub, b_ub=b_ub, A_eq=a_eq, b_eq=b_eq, bounds=np.stack([bottom, top], axis=1),
            method="highs", options={"time_limit": max(seconds, 0.01)},
        )  # fmt: skip
        if answer.status == 2:
            branch.bound = self.best
            return np.zeros((0, 3)), []
        if answer.status != 0 or answer.ineqlin is None or answer.eqlin is None or answer.x is None:
            return None
        prices = np.minimum(np.asarray(answer.ineqlin.marginals), 0.0)
        equal = np.asarray(answer.eqlin.marginals)
        reduced = costs - a_ub.T @ prices - a_eq.T @ equal
        safe = float(b_ub @ prices + b_eq @ equal + np.where(reduced > 0.0, reduced * bottom, reduced * top).sum())
        branch.bound = max(branch.bound, min(safe, self.best))
        x = np.asarray(answer.x)
        blocks = x[:-tail].reshape(len(levels), width)
        times = np.zeros((len(sizes), 3))
        times[:, 1] = x[-tail:-3]
        found: list[list[tuple[float, Array, Array]]] = [[] for _ in branch.parts]
        for b, (c, _, _) in enumerate(levels):
            n = float(blocks[b, count])
            loads = load_rows[b] @ blocks[b, : count + 1] / max(n, 1e-12)
            given = blocks[b, count + 3 :]
            found[c].append((n, loads, given / max(n, 1e-12)))
            if n > 1e-7:
                times[c, [0, 2]] += n * np.array([float(self._tangent(p, loads[p : p + 1])[0][0]) for p in range(2)])
        return times / sizes[:, None], found

    def _cut(self, branch: Branch, times: Array, found: list[list[tuple[float, Array, Array]]]) -> bool:
        """Add the solution's weights and tangents where they say more; whether any was added."""
        temperature = self.cost.temperature_ms
        is_new = False
        for p in range(2):
            for n, loads, given in itertools.chain.from_iterable(found):
                if n < 1e-4:
                    continue
                true = float(self._tangent(p, loads[p : p + 1])[0][0])
                near = min(abs(loads[p] - point) for point in self._points[p])
                if n * (true - given[p]) > 1e-5 * self.best and near > 1e-3 * max(float(loads[p]), 1e-9):
                    self._points[p].append(float(loads[p]))
                    is_new = True
        for p in range(3):
            weight = np.zeros(len(self.problem.devices))
            for c, part in enumerate(branch.parts):
                weight[part.devices] = math.exp((times[c, p] - times[:, p].max()) / temperature)
            weight /= weight.sum()
            spread = min(float(np.abs(weight - other).sum()) for other in self._cuts[p])
            if spread > 1e-3:
                self._cuts[p].append(weight)
                is_new = True
                if len(self._cuts[p]) > MAX_CUTS:
                    del self._cuts[p][1]
        return is_new

    def _split(self, branch: Branch, found: list[list[tuple[float, Array, Array]]]) -> bool:
        """Split the levels in use, merge the others; whether any was split."""
        is_split = False
        for part, blocks in zip(branch.parts, found, strict=True):
            edges = [part.edges[0]]
            was_used = True
            for (low, high), (n, _, _) in zip(itertools.pairwise(part.edges), blocks, strict=True):
                is_used = n > 1e-5
                a, b = low / (1.0 + low), high / (1.0 + high)
                if not is_used and not was_used:
                    edges[-1] = high  # one level for both
                elif is_used and b - a > 2e-3:
                    inner = a + (b - a) * np.arange(1, PIECES) / PIECES
                    edges += [*(float(v) for v in inner / (1.0 - inner)), high]
                    is_split = True
                else:
                    edges.append(high)
                was_used = is_used
            part.edges = edges
        return is_split
