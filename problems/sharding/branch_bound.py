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
from typing import TYPE_CHECKING

import numpy as np

from problems.sharding.branch_program import Branch, BranchProgram, Part, Solution
from problems.sharding.symmetry import Index

if TYPE_CHECKING:
    from problems.sharding.problem import ShardingProblem

LEVELS = 4  # of a class of devices to begin with
PIECES = 3  # of a level that is split
ROUNDS = 3  # programs of a branch at one visit


class BranchBound:
    """Best-first search over the places of the heaviest groups, for one problem with a `BoundFused` cost.

    Args:
        problem: its groups, devices and cost.
        choice: a known plan [G]; only better plans need to be bounded.
        bound: one that is known.

    Attributes:
        best: value of the known plan.
        bound: proven; at most ``best``.
    """

    def __init__(self, problem: ShardingProblem, choice: Index, *, bound: float = -math.inf) -> None:
        self.best = float(problem.objective(problem.design(choice)))
        self.bound = min(bound, self.best)
        self._program = BranchProgram(problem, choice)
        self._numbers = itertools.count()
        parts = [Part(kind, [], self._first_edges(kind[0])) for kind in self._kinds()]
        self._open = [Branch(self.bound, next(self._numbers), (), parts)]

    @property
    def programs(self) -> int:
        """Linear programs solved."""
        return self._program.solved

    def run(self, *, seconds: float, gap: float = 1e-5) -> float:
        """Branch until the bound is within ``gap`` of the known plan or the time is up; returns the bound."""
        deadline = time.perf_counter() + seconds
        while self._open and time.perf_counter() < deadline:
            branch = heapq.heappop(self._open)
            self.bound = max(self.bound, min(branch.bound, self.best))
            if self.best - self.bound <= gap * self.best:
                heapq.heappush(self._open, branch)
                return self.bound
            is_placed = len(branch.places) == len(self._program.order)
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

    def _kinds(self) -> list[list[int]]:
        """Devices that are alike."""
        program = self._program
        kinds: dict[bytes, list[int]] = {}
        for d in range(program.weights.shape[2]):
            capacity = np.float64(program.capacity[d]).tobytes()
            key = program.weights[:, :, d].tobytes() + program.may[:, d].tobytes() + capacity
            kinds.setdefault(key, []).append(d)
        return list(kinds.values())

    def _first_edges(self, device: int) -> list[float]:
        own = self._program.weights[4, self._program.may[:, device], device]
        top = float(own.sum())
        shares = np.linspace(0.0, top / (1.0 + top), LEVELS + 1)
        return [0.0, *(float(v) for v in (shares / (1.0 - shares))[1:-1]), top]

    def _children(self, branch: Branch) -> list[Branch]:
        """Place the next group; children that are no better than the known plan are left out."""
        program = self._program
        group = int(program.order[len(branch.places)])
        children = []
        for k, part in enumerate(branch.parts):
            device = part.devices[0]
            known = [*part.known, group]
            if not program.may[group, device] or program.memory[known].sum() > program.capacity[device] * (1 + 1e-9):
                continue
            least = program.least(device, known)
            if least >= self.best:
                continue
            low = float(program.weights[4, known, device].sum())
            edges = [low, *(edge for edge in part.edges if edge > low * (1.0 + 1e-9))]
            parts = list(branch.parts)
            parts[k] = Part([device], known, edges if len(edges) > 1 else [low, low])
            if len(part.devices) > 1:
                parts.append(Part(part.devices[1:], list(part.known), list(part.edges)))
            children.append(Branch(max(branch.bound, least), next(self._numbers), (*branch.places, device), parts))
        return children

    def _work(self, branch: Branch, deadline: float) -> bool:
        """Solve, cut and split; False if the branch holds no better plan."""
        branch.visits += 1
        for _ in range(ROUNDS):
            left = deadline - time.perf_counter()
            if left <= 0.0:
                return True
            solution = self._program.solve(branch, self.best, left)
            if solution is None:
                return True  # out of time
            branch.bound = max(branch.bound, min(solution.bound, self.best))
            if branch.bound >= self.best * (1.0 - 1e-9):
                return False
            is_cut = self._program.cut(branch, solution, self.best)
            if not (self._split(branch, solution) or is_cut):
                return True
        return True

    def _split(self, branch: Branch, solution: Solution) -> bool:
        """Split the levels in use, merge the others; whether any was split."""
        is_split = False
        for part, uses in zip(branch.parts, solution.uses, strict=True):
            edges = [part.edges[0]]
            was_used = True
            for (low, high), use in zip(itertools.pairwise(part.edges), uses, strict=True):
                is_used = use.devices > 1e-5
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
