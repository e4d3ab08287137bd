"""Exact dynamic program over canonical placements without memory limits, for a batch of costs.

Groups are placed one after another in the canonical order; the state is how many devices of each class of alike
devices are open. A group goes to an open device, to a device without a twin, or opens the next device of a class:

    V_0(0, ..., 0) = 0
    V_i(k) = min( V_{i-1}(k) + cheapest open device,  min over classes j of V_{i-1}(k - e_j) + c(i, device k_j of j) )

With one class of D devices this takes G (D + 1) states, each in constant time thanks to prefix minima.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.int64]

MAX_STATES = 4096
MAX_CELLS = 4_000_000  # rows times groups times states that are held at once


def tractable_classes(classes: Sequence[Index], max_states: int = MAX_STATES) -> tuple[Index, ...]:
    """The classes, largest first, whose joint state count stays within ``max_states``; the rest keep their symmetry."""
    kept: list[Index] = []
    states = 1
    for members in sorted(classes, key=len, reverse=True):
        if states * (len(members) + 1) <= max_states:
            states *= len(members) + 1
            kept.append(members)
    return tuple(kept)


class GrowthProgram:
    """The dynamic program for fixed devices, classes and order of groups.

    Args:
        order: [G] permutation of the groups.
        classes: classes of alike devices.
        devices: number of devices D.
    """

    def __init__(self, order: Index, classes: Sequence[Index], devices: int) -> None:
        self.order = order
        self.classes = tuple(classes)
        self.devices = devices
        sizes = [len(members) + 1 for members in self.classes]
        self.states = int(np.prod(sizes, dtype=np.int64)) if sizes else 1
        self.strides = [int(np.prod(sizes[j + 1 :], dtype=np.int64)) for j in range(len(sizes))]
        opened = np.indices(sizes).reshape(len(sizes), self.states) if sizes else np.zeros((0, 1), dtype=np.int64)
        self.opened = opened  # [C, S] open devices of each class in each state
        is_twin = np.zeros(devices, dtype=bool)
        for members in self.classes:
            is_twin[members] = True
        self.single = np.flatnonzero(~is_twin)
        self.moves: list[tuple[Index | slice, Index | slice]] = []  # per class: states before and after it opens one
        for j, stride in enumerate(self.strides):
            after = np.flatnonzero(opened[j] > 0)
            one = len(self.classes) == 1  # then the states are the counts, and views do
            self.moves.append((slice(0, -1), slice(1, None)) if one else (after - stride, after))
        self.is_open = np.zeros((self.states, devices), dtype=bool)  # [S, D]
        self.is_open[:, self.single] = True
        for j, members in enumerate(self.classes):
            self.is_open[:, members] = np.arange(len(members)) < opened[j][:, None]

    def solve(self, costs: Array) -> tuple[Index, Array]:
        """Cheapest canonical choice of a device per group.

        Args:
            costs: [B, G, D], +inf where not allowed, never NaN or -inf.

        Returns:
            choice [B, G] (arbitrary where the value is inf) and value [B].
        """
        rows = max(1, MAX_CELLS // max(1, costs.shape[1] * self.states))
        parts = [self._solve(costs[low : low + rows]) for low in range(0, len(costs), rows)]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def _solve(self, costs: Array) -> tuple[Index, Array]:
        batch, groups, _ = costs.shape
        ordered = np.ascontiguousarray(costs[:, self.order].swapaxes(0, 1))  # [G, B, D]
        stay, opens = self._transitions(ordered)
        value = np.full((batch, self.states), np.inf)
        value[:, 0] = 0.0
        opening = np.zeros((groups, batch, self.states), dtype=np.int8)  # 0: to an open device, j + 1: opened one of j
        for i in range(groups):
            new = value + stay[i]
            for j, (before, after) in enumerate(self.moves):
                candidate = value[:, before] + opens[j][i]
                here = new[:, after]
                better = candidate < here
                new[:, after] = np.minimum(candidate, here)
                opening[i][:, after] = np.where(better, np.int8(j + 1), opening[i][:, after])
            value = new
        state = value.argmin(axis=1)
        rows = np.arange(batch)
        best = value[rows, state]
        states, kinds = np.zeros((2, groups, batch), dtype=np.int64)
        steps = np.array([0, *self.strides])
        for i in range(groups - 1, -1, -1):
            states[i], kinds[i] = state, opening[i, rows, state]
            state = state - steps[kinds[i]]
        placed = np.where(self.is_open[states], ordered, np.inf).argmin(axis=2)  # [G, B]
        for j, members in enumerate(self.classes):
            placed = np.where(kinds == j + 1, members[np.maximum(self.opened[j][states], 1) - 1], placed)
        choice = np.empty((batch, groups), dtype=np.int64)
        choice[:, self.order] = placed.T
        return choice, best

    def _transitions(self, ordered: Array) -> tuple[Array, list[Array]]:
        """Costs [G, B, D] in order -> cheapest open device [G, B, S], and per class the opening cost [G, B, states]."""
        groups, batch, _ = ordered.shape
        single = ordered[:, :, self.single]
        base = single.min(axis=2) if len(self.single) else np.full((groups, batch), np.inf)
        stay = np.repeat(base[:, :, None], self.states, axis=2)
        opens = []
        for j, members in enumerate(self.classes):
            cost = ordered[:, :, members]
            prefix = np.full((groups, batch, len(members) + 1), np.inf)
            np.minimum.accumulate(cost, axis=2, out=prefix[:, :, 1:])
            np.minimum(stay, prefix[:, :, self.opened[j]], out=stay)
            opens.append(cost[:, :, self.opened[j][self.moves[j][1]] - 1])
        return stay, opens
