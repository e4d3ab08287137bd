"""Canonical placements with memory limits as an integer program: the last resort of the placement oracle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from problems.sharding.symmetry import Index
from solvers.mixed_integer import milp
from solvers.oracle import Array, Status

if TYPE_CHECKING:
    from problems.sharding.oracle import PlacementOracle

LARGEST_INTEGER = 2**40  # what the integer backend takes as a coefficient


class PlacementMilp:
    """Binaries y[g, d] (group g on device d) and w[i, d] (device d of a class is open after i + 1 groups).

        sum_d y[g, d] = 1,                     sum_g memory_g y[g, d] <= capacity_d,
        w[i, d] <= w[i-1, d] + y[g_i, d],      y[g_i, d_k] <= w[i-1, d_{k-1}]     (g_i: i-th group of the order,
                                                                                   d_k: k-th device of its class)

    Bytes are whole numbers, so an integer backend keeps memory exactly, however full the devices are.
    """

    def __init__(self, oracle: PlacementOracle) -> None:
        self.oracle = oracle
        groups, devices = oracle.placement.allowed.shape
        self.groups, self.devices = groups, devices
        rows, columns, values, upper = [], [], [], []

        def add(terms: list[tuple[int, float]], limit: float) -> None:
            for column, value in terms:
                rows.append(len(upper))
                columns.append(column)
                values.append(value)
            upper.append(limit)

        unit = max(1, math.ceil(max(oracle.capacity.max(initial=1), oracle.memory.max(initial=1)) / LARGEST_INTEGER))
        for d in range(devices):
            used = np.ceil(oracle.memory / unit)
            add([(g * devices + d, used[g]) for g in range(groups)], math.floor(oracle.capacity[d] / unit))
        twins = [int(d) for members in oracle.classes for d in members]
        opened = {d: k for k, d in enumerate(twins)}
        offset = groups * devices

        def is_open(i: int, d: int) -> int:
            return offset + i * len(twins) + opened[d]

        for i, g in enumerate(oracle.order):
            for members in oracle.classes:
                for k, d in enumerate(members):
                    y = int(g) * devices + int(d)
                    before = [(is_open(i - 1, int(d)), -1.0)] if i else []
                    add([(is_open(i, int(d)), 1.0), (y, -1.0), *before], 0.0)
                    if k:
                        previous = [(is_open(i - 1, int(members[k - 1])), -1.0)] if i else []
                        add([(y, 1.0), *previous], 0.0)
        one = sp.kron(sp.eye_array(groups), np.ones((1, devices)))
        size = offset + groups * len(twins)
        one = sp.hstack([one, sp.csr_array((groups, size - offset))]) if size > offset else one
        inequality = sp.csr_array((values, (rows, columns)), shape=(len(upper), size))
        limits = np.ones(size)
        limits[:offset] = np.isfinite(oracle.blocked).ravel()
        self._size = size
        self._oracle = milp(
            matrix=sp.vstack([one, inequality]).tocsr(),
            row_lower=np.concatenate([np.ones(groups), np.full(len(upper), -np.inf)]),
            row_upper=np.concatenate([np.ones(groups), np.array(upper)]),
            lower=0.0,
            upper=limits,
            integrality=True,
            backend="cp-sat",
            seconds=oracle.seconds,
        )

    def solve(self, costs: Array, seconds: float) -> tuple[Index | None, float, Status, str]:
        """Minimize costs [G, D] (+inf where blocked) within ``seconds``: choice [G] or None, bound, status, message."""
        padded = np.zeros(self._size)
        padded[: costs.size] = np.where(np.isfinite(costs), costs, 0.0).ravel()
        batch = self._oracle.solve(padded[None], seconds=seconds if math.isfinite(seconds) else None)
        status = batch.status[0]
        if not status.has_point:
            return None, float(batch.bound[0]), status, batch.message[0]
        choice = batch.x[0, : costs.size].reshape(self.groups, self.devices).argmax(1)
        return choice, float(batch.bound[0]), status, batch.message[0]
