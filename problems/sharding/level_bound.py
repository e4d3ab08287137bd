"""Lower bound on the fused, non-convex cost: devices sorted into cache levels, a linear program over the levels.

The step time is a sum over phases p of smooth maxima of the times t_pd, with temperature T. Three forms bound it below:

    weighted   sum_p sum_d w_pd (t_pd - T log w_pd), for any weights of sum 1 over the devices of each phase (convex
               duality); tight where one heavy table rules. The weights are the smooth max's own at a known plan,
               averaged over alike devices.
    compute    the same for the compute phases only, plus the bound of each comms phase alone (which counts tables).
    balanced   2 T log sum_d exp(g_d / (2 T)), g_d = compute time, both ways (Hoelder's inequality), plus the bound of
               each comms phase alone; tight where all devices are as busy as each other.

The load of a device is streamed + repeated * factor(S) with S the working set of the device; the product is what makes
the cost non-convex. A device is at *level* k if low_k <= S <= high_k; then its load is at least the *sum* over its
groups of streamed + repeated * factor(max(low_k, own working set)). With x[t, k] the share of group t on the devices of
level k, and n_k their number, every plan satisfies

    sum_k x[t, k] = 1,    sum_k n_k = D,    low_k n_k <= sum_t S_t x[t, k] <= high_k n_k,    memory alike,
    sum over devices of level k of G_d  >=  h_k >= n_k G(U_k / n_k),   U_k the loads at level k,

with G = exp(g / 2T) in the balanced form and G = sum_p w_p t_p in the others, all convex in the loads: the perspective
of a convex function, under-estimated by tangents, which are linear and homogeneous in (U_k, n_k). Minimizing sum h_k
over this polyhedron gives a bound; cutting planes make the tangents tight and the levels in use are split until the gap
is small or the time is up. Devices that differ form classes of their own; of alike devices, the one that holds the
heaviest group is a class by itself.

The value of every linear program is recomputed from its dual prices, so that tolerances cannot make it invalid.
"""

from __future__ import annotations

import enum
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

FIRST_POINTS = (0.0, 0.8, 1.0, 1.2)  # tangents of a new level, as multiples of the mean load
HEAVY = 6  # groups, by load and by working set, that may not be spread thinly
MAX_EXPONENT = 30.0  # tangents steeper than exp(30) times the incumbent's carry no information


@dataclass(slots=True)
class Block:
    """One level of one class of devices: columns x [G], n, h.

    Attributes:
        kind: class of devices.
        low: least working set of a device at this level.
        high: largest.
        loads: [3, G] forward, comms and backward load of each group at this level.
        tangents: where the tangents are taken: loads [3], the weighted time g there and its gradient [3].
    """

    kind: int
    low: float
    high: float
    loads: Array
    tangents: list[tuple[Array, float, Array]] = field(default_factory=list)


class Form(enum.StrEnum):
    """Which of the bounds a program minimizes."""

    WEIGHTED = "weighted"
    COMPUTE = "compute"
    BALANCED = "balanced"


class LevelProgram:
    """The linear program for one problem with a `BoundFused` cost.

    Args:
        problem: its groups, devices and cost.
        choice: a known plan [G]; only better plans need to be bounded.
        form: which bound.
        levels: levels of each class to begin with.
    """

    def __init__(self, problem: ShardingProblem, choice: Index, form: Form = Form.WEIGHTED, *, levels: int = 8) -> None:
        assert isinstance(problem.cost, BoundFused)
        self.problem = problem
        self.cost = problem.cost
        self.best = float(problem.objective(problem.design(choice)))
        self.form = form
        self.weights = problem.group_weights.numpy()  # [6, G, D]
        self.groups = self.weights.shape[1]
        self.bound = -math.inf
        total = problem.single_ms.sum(0).min(axis=1)
        self.heavy = np.unique(
            np.concatenate([np.argsort(-total)[:HEAVY], np.argsort(-self.weights[4].max(1))[:HEAVY]])
        )
        loads = problem.cost.loads_ms(features_of_choice(problem, choice[None])[0])
        self.plan_loads = loads.numpy()[[0, 1, 3]].T  # [D, 3]
        self._make_classes()
        self._weigh(problem.cost.times_ms(loads).numpy(), choice)
        self.blocks: list[Block] = []
        for kind, members in enumerate(self.kinds):
            own = self.weights[4, :, members[0]]
            top = float(own[np.isfinite(problem.oracle.blocked[:, members[0]])].sum())
            shares = np.linspace(0.0, self._share(top), levels + 1)
            edges = shares / (1.0 - shares)
            edges[-1] = top
            for low, high in itertools.pairwise(edges):
                self.blocks.append(self._block(kind, float(low), float(high)))

    def run(self, *, seconds: float, gap: float = 1e-4) -> float:
        """Tighten until the bound is within ``gap`` of the known plan or the time is up; returns the bound."""
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline and self.best - self.bound > gap * self.best:
            before = self.bound
            solution = self._solve(deadline - time.perf_counter())
            if solution is None:
                break
            if not self._cut(solution) and not self._split(solution):
                break
            if self.bound < before - 1e-9:
                self.bound = before
        return self.bound

    def offer(self, value: float) -> None:
        """Take note of a better plan's value."""
        self.best = min(self.best, value)

    # ------------------------------------------------------------------ building

    def _share(self, working_set: Array | float) -> Array | float:
        return working_set / (1.0 + working_set)

    def _make_classes(self) -> None:
        """Classes of devices (indices), and [C, G] bool of groups that may be in each class."""
        blocked = self.problem.oracle.blocked
        keys: dict[bytes, list[int]] = {}
        for d in range(self.weights.shape[2]):
            key = self.weights[:, :, d].tobytes() + np.isfinite(blocked[:, d]).tobytes()
            key += np.float64(self.problem.capacity_bytes[d]).tobytes()
            keys.setdefault(key, []).append(d)
        self.kinds: list[Index] = [np.array(members) for members in keys.values()]
        self.may = np.array([np.isfinite(blocked[:, members[0]]) for members in self.kinds])
        self.heaviest: int | None = None
        if len(self.kinds) == 1 and len(self.kinds[0]) > 1 and self.groups:
            self.heaviest = int(self.problem.single_ms.sum(0)[:, 0].argmax())
            self.kinds = [self.kinds[0][:1], self.kinds[0][1:]]
            self.may = np.repeat(self.may, 2, axis=0)
            self.may[1, self.heaviest] = False

    def _weigh(self, times: Array, choice: Index) -> None:
        """Weights of the phases in G, [C, 3] forward, comms, backward; and the constant that the form adds.

        Args:
            times: [4, D] phase times of the known plan.
            choice: [G] the plan.
        """
        temperature = self.cost.temperature_ms
        comms = float(phase_bounds(self.problem)[1:3].sum())
        if self.form is Form.BALANCED:
            self.phase_weights = np.tile([1.0, 0.0, 1.0], (len(self.kinds), 1))
            self.constant = comms
            self.scale = 2.0 * temperature
            self.center = self.best - self.constant  # exponents are taken relative to it
            return
        share = np.exp((times - times.max(axis=1, keepdims=True)) / temperature)
        share /= share.sum(axis=1, keepdims=True)
        if self.heaviest is not None:  # its device goes first, as in the classes
            device = int(choice[self.heaviest])
            share[:, [0, device]] = share[:, [device, 0]]
        even = np.zeros_like(share)
        for members in self.kinds:
            even[:, members] = share[:, members].mean(axis=1, keepdims=True)
        entropy = -temperature * np.sum(even * np.log(np.maximum(even, 1e-300)), axis=1)  # [4]
        first = [members[0] for members in self.kinds]
        if self.form is Form.WEIGHTED:
            self.phase_weights = np.stack([even[0], even[1] + even[2], even[3]], axis=1)[first]
            self.constant = float(entropy.sum())
        else:
            self.phase_weights = np.stack([even[0], np.zeros_like(even[0]), even[3]], axis=1)[first]
            self.constant = comms + float(entropy[0] + entropy[3])
        self.scale = self.center = 1.0  # not used

    def _block(
        self, kind: int, low: float, high: float, tangents: list[tuple[Array, float, Array]] | None = None
    ) -> Block:
        forward, backward, again_forward, again_backward, own, comms = self.weights[:, :, self.kinds[kind][0]]
        hit = 1.0 / self.cost.model.cache_speedup
        factor = hit + (1.0 - hit) * self._share(np.maximum(own, low))
        loads = np.stack([forward + again_forward * factor, comms, backward + again_backward * factor])
        if tangents is None:
            mean = loads.sum(axis=1) / len(self.problem.devices)
            tangents = self._tangents(kind, np.concatenate([np.outer(FIRST_POINTS, mean), self.plan_loads]))
        return Block(kind, low, high, loads, list(tangents))

    def _tangents(self, kind: int, loads: Array) -> list[tuple[Array, float, Array]]:
        """Weighted time g of devices with loads [K, 3], and its gradient, point by point."""
        u = torch.from_numpy(loads.T.copy()).requires_grad_()  # [3, K]
        times = self.cost.times_ms(torch.stack([u[0], u[1], u[1], u[2]]))[[0, 1, 3]]
        totals = (times * torch.from_numpy(self.phase_weights[kind])[:, None]).sum(0)  # [K]
        (gradient,) = torch.autograd.grad(totals.sum(), u)
        return list(zip(loads, totals.tolist(), gradient.T.numpy(), strict=True))

    def _tangent_row(self, block: Block, tangent: tuple[Array, float, Array]) -> Array | None:
        """Row over (x, n, h) of the block: tangent of n G(U / n) at a point, minus h, at most 0; None if too steep."""
        point, g, slope = tangent
        if self.form is not Form.BALANCED:
            return np.concatenate([slope @ block.loads, [g - slope @ point, -1.0]])
        if (g - self.center) / self.scale > MAX_EXPONENT:
            return None
        height = math.exp((g - self.center) / self.scale)
        slope = slope * height / self.scale
        return np.concatenate([slope @ block.loads, [height - slope @ point, -1.0]])

    # ------------------------------------------------------------------ solving

    def _solve(self, seconds: float) -> list[tuple[Array, float, float]] | None:
        """Solve the program, raise the bound, and return (x, n, h) of each block; None if complete or out of time."""
        groups = self.groups
        memory, capacity = self.problem.oracle.memory, self.problem.capacity_bytes
        scale = max(float(capacity.max()), 1.0)
        rows, upper, assign = [], [], []
        share = np.zeros((len(self.kinds), len(self.blocks) * (groups + 2)))
        for b, block in enumerate(self.blocks):
            own = self.weights[4, :, self.kinds[block.kind][0]]
            lines = [
                np.concatenate([own, [-block.high, 0.0]]),
                np.concatenate([-own, [block.low, 0.0]]),
                np.concatenate([memory, [-capacity[self.kinds[block.kind][0]], 0.0]]) / scale,
            ]
            for t in self.heavy:  # a group is at most once on the devices of a level, which may be a part of one here
                line = np.zeros(groups + 2)
                line[t], line[groups] = 1.0, -1.0
                lines.append(line)
            lines += [row for t in block.tangents if (row := self._tangent_row(block, t)) is not None]
            rows.append(sp.csr_array(np.array(lines)))
            size = len(self.kinds[block.kind])
            fits = self.may[block.kind] & (own <= block.high)
            upper.append(np.concatenate([fits.astype(float), [size, size * self._height(self.best - self.constant)]]))
            assign.append(sp.hstack([sp.eye_array(groups), sp.csr_array((groups, 2))]))
            share[block.kind, b * (groups + 2) + groups] = 1.0
        a_ub = sp.csr_array(sp.block_diag(rows))
        a_eq = sp.csr_array(sp.vstack([sp.hstack(assign), sp.csr_array(share)]))
        b_eq = np.concatenate([np.ones(groups), [len(members) for members in self.kinds]])
        top = np.concatenate(upper)
        costs = np.zeros(len(top))
        costs[groups + 1 :: groups + 2] = 1.0
        answer = linprog(
            costs,
            A_ub=a_ub,
            b_ub=np.zeros(a_ub.shape[0]),  # pyright: ignore[reportOptionalSubscript]
            A_eq=a_eq,
            b_eq=b_eq,
            bounds=np.stack([np.zeros(len(top)), top], axis=1),
            method="highs",
            options={"time_limit": max(seconds, 0.01)},
        )
        if answer.status == 2:  # no plan is better than the known one
            self.bound = self.best
            return None
        if answer.status != 0 or answer.ineqlin is None or answer.eqlin is None or answer.x is None:
            return None
        prices = np.minimum(np.asarray(answer.ineqlin.marginals), 0.0)
        reduced = costs - a_ub.T @ prices - a_eq.T @ answer.eqlin.marginals
        safe = float(b_eq @ answer.eqlin.marginals + np.minimum(reduced, 0.0) @ top)
        parts = np.asarray(answer.x).reshape(len(self.blocks), groups + 2)
        if self.form is not Form.BALANCED:
            self.bound = max(self.bound, min(self.constant + safe, self.best))
            return [(part[:groups], float(part[groups]), float(part[-1])) for part in parts]
        if safe > 1e-12:
            value = self.constant + self.center + self.scale * math.log(safe)
            self.bound = max(self.bound, min(value, self.best))
        # Keep the exponents near 1 for the next program: h is measured relative to the center.
        estimate = self.center + self.scale * math.log(max(answer.fun, 1e-12))
        shift, self.center = estimate - self.center, estimate
        return [(part[:groups], float(part[groups]), float(part[-1]) * math.exp(-shift / self.scale)) for part in parts]

    def _cut(self, solution: list[tuple[Array, float, float]]) -> bool:
        """Add tangents at the loads of the solution where they are violated; False if none is by more than a little."""
        found = False
        tolerance = 2e-3 if self.form is Form.BALANCED else 1e-5 * self.best
        for block, (x, count, height) in zip(self.blocks, solution, strict=True):
            if count < 1e-7:
                continue
            (tangent,) = self._tangents(block.kind, (block.loads @ x / count)[None])
            if count * self._height(tangent[1]) > height + tolerance:
                block.tangents.append(tangent)
                found = True
        return found

    def _height(self, g: float) -> float:
        """G of a device with weighted time g."""
        return g if self.form is not Form.BALANCED else math.exp(min((g - self.center) / self.scale, 600.0))

    def _split(self, solution: list[tuple[Array, float, float]]) -> bool:
        """Halve (in the cache factor) the levels that the solution uses; False if all are fine."""
        blocks: list[Block] = []
        found = False
        for block, (_, count, _) in zip(self.blocks, solution, strict=True):
            low, high = float(self._share(block.low)), float(self._share(block.high))
            if count < 1e-6 or high - low < 1e-4:
                blocks.append(block)
                continue
            middle = (low + high) / 2.0
            edge = middle / (1.0 - middle)
            blocks.append(self._block(block.kind, block.low, edge, block.tangents))
            blocks.append(self._block(block.kind, edge, block.high, block.tangents))
            found = True
        self.blocks = blocks
        return found
