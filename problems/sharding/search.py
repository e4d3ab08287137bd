"""Local search over plans: all shifts and swaps of busy devices, scored in batches through the cost's features."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from problems.sharding.rules import features_of_choice
from problems.sharding.symmetry import Index

if TYPE_CHECKING:
    from problems.sharding.problem import ShardingProblem

CHUNK = 1024  # candidates scored at once
MAX_SPLIT = 11  # groups of two devices whose every split is tried
SPLITS = 50  # such splits between two descents
TIE_WEIGHT = 1e-6  # of the root mean square device time, against the value: among equal values, the evener plan


class PlanSearch:
    """Iterated local search from a feasible choice [G].

    A move changes two devices only, so K candidates cost K feature updates of two columns, not K full evaluations.

    Attributes:
        choice: [G] current plan.
        best: [G] plan of the smallest value seen.
        best_value: its value in ms.
        evaluations: candidates scored.
    """

    def __init__(self, problem: ShardingProblem, choice: Index, *, rng: np.random.Generator) -> None:
        self.problem = problem
        self.oracle = problem.oracle
        self.weights = problem.group_weights  # [F, G, D]
        self.rng = rng
        self.evaluations = 0
        self._start(choice)
        self.best, self.best_value = self.choice.copy(), self.value

    def run(self, *, seconds: float, target: float = -np.inf, rounds: int | None = None) -> None:
        """Descend; then re-split pairs of devices, kick every other time, and descend again, while there is time.

        Args:
            seconds: wall seconds.
            target: stop at this value or below.
            rounds: of splits and descents, at most; None leaves it to the time.
        """
        deadline = time.perf_counter() + seconds
        self.descend(deadline, target)
        if len(self.used) < 2:
            return
        done = 0
        while time.perf_counter() < deadline and self.best_value > target and (rounds is None or done < rounds):
            before, merit = self.choice.copy(), self.merit
            for _ in range(SPLITS):
                self._resplit()
                if time.perf_counter() > deadline or self.best_value <= target:
                    break
            if done % 2:
                self._kick(int(self.rng.integers(2, 7)))
            self.descend(deadline, target)
            if self.merit > merit * (1.0 + 1e-3 * self.rng.random() ** 4):  # rarely keep a slightly worse plan
                self._start(before)
            done += 1
            if done % 50 == 0:
                self._start(self.best)

    def descend(self, deadline: float = np.inf, target: float = -np.inf) -> None:
        """Best improving move of the busiest devices, then of all, until there is none."""
        while time.perf_counter() < deadline and self.best_value > target:
            if not (self._improve(self._critical()) or self._improve(None)):
                return

    def offer(self, choice: Index) -> None:
        """Go on from another feasible plan if it is better than the best."""
        kept = self.choice
        self._start(choice)
        if self.value < self.best_value:
            self.best, self.best_value = self.choice.copy(), self.value
        else:
            self._start(kept)

    # ------------------------------------------------------------------ inside

    def _start(self, choice: Index) -> None:
        self.choice = choice.copy()
        self.features = features_of_choice(self.problem, choice[None])[0]  # [F, D]
        self.used = self.oracle.loads(choice[None])[0]
        self.times = self.problem.cost.times_ms(self.problem.cost.loads_ms(self.features))  # [4, D]
        self.value = float(self.problem.cost.value_ms(self.times))
        self.squares = self.times.sum(0).square()  # [D]
        self.merit = self.value + TIE_WEIGHT * float(self.squares.mean().sqrt())

    def _merit(self, changed: Tensor, others: Tensor, squares: Tensor) -> Tensor:
        """Merit of K candidates that change two devices.

        Args:
            changed: [K, 4, 2] times of the two devices after the move.
            others: [K, 4] or [1, 4], one time in each phase that stands for all other devices.
            squares: [K] or [1], sum of the squared totals of the others.
        """
        rows = len(changed)
        value = self.problem.cost.value_ms(torch.cat([changed, others.expand(rows, 4)[..., None]], dim=-1))
        total = changed.sum(1).square().sum(1) + squares
        return value + TIE_WEIGHT * (total / len(self.used)).sqrt()

    def _others(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """What stands for all devices but two [P]: times [P, 4] and the sum of squares [P]."""
        times = self.times.repeat(len(first), 1, 1)
        rows = torch.arange(len(first))
        times[rows, :, first] = times[rows, :, second] = -torch.inf
        squares = (self.squares.sum() - self.squares[first] - self.squares[second]).clamp(min=0.0)
        return self.problem.cost.merge_ms(times), squares

    def _critical(self) -> Index:
        """The busiest device of each phase and overall."""
        worst = [int(self.times.sum(0).argmax()), *(int(d) for d in self.times.argmax(1))]
        return np.unique(np.array(worst))

    def _improve(self, devices: Index | None) -> bool:
        """Take an improving move that starts on one of ``devices`` (None: any); False if there is none.

        The moves are scored chunk by chunk in random order; the best of the first chunk with an improvement is taken.
        """
        first, second, target = self._candidates(devices)
        order = self.rng.permutation(len(first))
        for low in range(0, len(first), CHUNK):
            part = order[low : low + CHUNK]
            merit = self._try(first[part], second[part], target[part])
            k = int(merit.argmin())
            if float(merit[k]) < self.merit - 1e-12 * abs(self.merit):
                move = part[k]
                self._apply(int(first[move]), int(second[move]), int(target[move]))
                return True
        return False

    def _candidates(self, devices: Index | None) -> tuple[Index, Index, Index]:
        """Feasible moves: group ``first`` goes to ``target``; ``second`` (or -1) comes back."""
        choice, memory, limit = self.choice, self.oracle.memory, self.oracle.limit
        groups = np.arange(len(choice))
        moving = groups if devices is None else groups[np.isin(choice, devices)]
        fits = np.isfinite(self.oracle.blocked)
        shift_to = fits[moving] & (self.used + memory[moving][:, None] <= limit)
        shift_to[np.arange(len(moving)), choice[moving]] = False
        i, target = np.nonzero(shift_to)
        # Swaps, each pair once: where both groups may move, the first has the smaller number.
        is_moving = np.zeros(len(choice), dtype=bool)
        is_moving[moving] = True
        a, b = moving[:, None], groups[None]
        swap = (choice[a] != choice[b]) & (~is_moving[b] | (a < b))
        swap &= fits[a, choice[b]] & fits[b, choice[a]]
        change = memory[a] - memory[b]
        swap &= (self.used[choice[b]] + change <= limit[choice[b]]) & (
            self.used[choice[a]] - change <= limit[choice[a]]
        )
        j, other = np.nonzero(swap)
        return (
            np.concatenate([moving[i], moving[j]]),
            np.concatenate([np.full(len(i), -1), other]),
            np.concatenate([target, choice[other]]),
        )

    def _try(self, first: Index, second: Index, target: Index) -> Tensor:
        """Merit of each candidate."""
        self.evaluations += len(first)
        f, s, t = (torch.from_numpy(np.ascontiguousarray(v)) for v in (first, second, target))
        source = torch.from_numpy(self.choice[first])
        is_swap = (s >= 0).to(torch.float64)
        s = s.clamp(min=0)
        leave = self.features[:, source] - self.weights[:, f, source] + is_swap * self.weights[:, s, source]
        enter = self.features[:, t] + self.weights[:, f, t] - is_swap * self.weights[:, s, t]
        pair = torch.stack([leave, enter], dim=-1).clamp(min=0.0).movedim(1, 0)  # [K, F, 2]
        changed = self.problem.cost.times_ms(self.problem.cost.loads_ms(pair))  # [K, 4, 2]
        devices = len(self.used)
        pairs, index = torch.unique(source * devices + t, return_inverse=True)
        others, squares = self._others(pairs // devices, pairs % devices)
        return self._merit(changed, others[index], squares[index])

    def _resplit(self) -> None:
        """Share the groups of a busy device and another one out anew: the best of all 2^m splits of m of them."""
        devices = self._critical() if self.rng.random() < 0.8 else np.arange(len(self.used))
        a = int(self.rng.choice(devices))
        b = int(self.rng.integers(len(self.used) - 1))
        b += b >= a
        fits = np.isfinite(self.oracle.blocked)
        both = np.flatnonzero(((self.choice == a) | (self.choice == b)) & fits[:, a] & fits[:, b])
        free = self.rng.permutation(both)[:MAX_SPLIT]
        if len(free) < 2:
            return
        bits = (np.arange(2 ** len(free))[:, None] >> np.arange(len(free))) & 1  # 1: on a
        memory = self.oracle.memory[free]
        on_a = self.choice[free] == a
        used_a = self.used[a] - memory[on_a].sum() + bits @ memory
        used_b = self.used[b] - memory[~on_a].sum() + (1 - bits) @ memory
        keep = np.flatnonzero((used_a <= self.oracle.limit[a]) & (used_b <= self.oracle.limit[b]))
        split = torch.from_numpy(bits[keep].astype(np.float64))  # [K, m]
        items, is_on_a = torch.from_numpy(free), torch.from_numpy(on_a)
        weight_a, weight_b = self.weights[:, items, a], self.weights[:, items, b]
        base_a = self.features[:, a] - weight_a[:, is_on_a].sum(1)
        base_b = self.features[:, b] - weight_b[:, ~is_on_a].sum(1)
        pair = torch.stack([base_a + split @ weight_a.T, base_b + (1.0 - split) @ weight_b.T], dim=-1).clamp(min=0.0)
        self.evaluations += len(keep)
        changed = self.problem.cost.times_ms(self.problem.cost.loads_ms(pair))
        merit = self._merit(changed, *self._others(torch.tensor([a]), torch.tensor([b])))
        row = int(merit.argmin())
        if float(merit[row]) < self.merit - 1e-12 * abs(self.merit):
            choice = self.choice.copy()
            choice[free] = np.where(bits[keep[row]] == 1, a, b)
            self._move_to(choice)

    def _apply(self, first: int, second: int, target: int) -> None:
        choice = self.choice.copy()
        if second >= 0:
            choice[second] = choice[first]
        choice[first] = target
        self._move_to(choice)

    def _move_to(self, choice: Index) -> None:
        self._start(choice)  # from scratch, so that rounding does not pile up
        if self.value < self.best_value:
            self.best, self.best_value = self.choice.copy(), self.value

    def _kick(self, length: int) -> None:
        """Random feasible moves, half of them from the busiest devices."""
        for _ in range(length):
            devices = self._critical() if self.rng.random() < 0.5 else None
            first, second, target = self._candidates(devices)
            if not len(first):
                return
            k = int(self.rng.integers(len(first)))
            self._apply(int(first[k]), int(second[k]), int(target[k]))
