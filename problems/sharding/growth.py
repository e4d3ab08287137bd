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
        batch, groups, _ = costs.shape
        value = np.full((batch, self.states), np.inf)
        value[:, 0] = 0.0
        opening = np.zeros((groups, batch, self.states), dtype=np.int8)  # 0: went to an open device, j + 1: opened in j
        for i, g in enumerate(self.order):
            value, opening[i] = self._advance(value, costs[:, g])
        state = value.argmin(axis=1)
        rows = np.arange(batch)
        best = value[rows, state]
        choice = np.zeros((batch, groups), dtype=np.int64)
        for i in range(groups - 1, -1, -1):
            g = self.order[i]
            kind = opening[i, rows, state]
            choice[:, g] = np.where(self.is_open[state], costs[:, g], np.inf).argmin(axis=1)
            for j, members in enumerate(self.classes):
                opens = kind == j + 1
                if opens.any():
                    choice[opens, g] = members[self.opened[j, state[opens]] - 1]
                    state[opens] -= self.strides[j]
        return choice, best

    def _advance(self, value: Array, cost: Array) -> tuple[Array, NDArray[np.int8]]:
        """One group: value [B, S] and its cost [B, D] -> new value [B, S] and what was opened [B, S]."""
        batch = len(cost)
        base = cost[:, self.single].min(axis=1) if len(self.single) else np.full(batch, np.inf)
        cheapest = np.repeat(base[:, None], self.states, axis=1)
        for j, members in enumerate(self.classes):
            prefix = np.full((batch, len(members) + 1), np.inf)
            np.minimum.accumulate(cost[:, members], axis=1, out=prefix[:, 1:])
            np.minimum(cheapest, prefix[:, self.opened[j]], out=cheapest)
        new = value + cheapest
        what = np.zeros(new.shape, dtype=np.int8)
        for j, members in enumerate(self.classes):
            to = np.flatnonzero(self.opened[j] > 0)
            candidate = value[:, to - self.strides[j]] + cost[:, members[self.opened[j, to] - 1]]
            better = candidate < new[:, to]
            new[:, to] = np.where(better, candidate, new[:, to])
            what[:, to] = np.where(better, np.int8(j + 1), what[:, to])
        return new, what
