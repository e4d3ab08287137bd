"""The cuts of every slot's topology, side by side, and what they say about the slots' plans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from problems.planning.network import Array
from rl.topology import TOLERANCE, Topology


@dataclass(frozen=True, slots=True)
class CutView:
    """What the cuts say about the plans of b slots.

    Attributes:
        short: [b, k] by how much each cut is missed; right-hand sides are 1.
        worst: [b] the largest shortfall, 0 where all cuts are kept.
        need: [b, M] units of each option that alone mend all violated cuts through it.
        through: [b, M] float32, largest shortfall of a cut through the option.
        pressure: [b, M] mean weight in violated cuts, deep ones first.
        top: [b, M] weight in the worst cut; 0 where none is violated.
        mending: [b, M] of all shortfalls together that one unit more of each option would take away.
    """

    short: Array
    worst: Array
    need: Array
    through: NDArray[np.float32]
    pressure: Array
    top: Array
    mending: Array


class CutBoard:
    """Copies of the pools of B slots, padded to K cuts of M options.

    Args:
        slots: B.
        options: M.

    Attributes:
        rows: [B, K, M], with right-hand sides ``rhs`` [B, K] of 1, or 0 in padding.
        inverse: [B, K, M] 1 / rows where positive, else 0; ``indicator`` says where, as float32.
        size: [B] cuts of each slot.
    """

    def __init__(self, slots: int, options: int) -> None:
        self._k = 0
        self.rows, self.rhs = np.zeros((slots, 0, options)), np.zeros((slots, 0))
        self.inverse = np.zeros((slots, 0, options))
        self.indicator = np.zeros((slots, 0, options), dtype=np.float32)
        self.size = np.zeros(slots, dtype=np.int64)

    def forget(self, b: int) -> None:
        """Slot b gets another topology."""
        self.size[b] = -1

    def refresh(self, b: int, topology: Topology) -> None:
        """Copy the cuts of slot b's topology if there are new ones."""
        size, options = len(topology.rhs), len(topology.options)
        if self.size[b] == size:
            return
        if size > self._k:
            grow = max(size, self._k + 32) - self._k
            pad = ((0, 0), (0, grow))
            self.rhs = np.pad(self.rhs, pad)
            self.rows, self.inverse = np.pad(self.rows, (*pad, (0, 0))), np.pad(self.inverse, (*pad, (0, 0)))
            self.indicator = np.pad(self.indicator, (*pad, (0, 0)))
            self._k += grow
        self.rows[b] = self.rhs[b] = self.inverse[b] = self.indicator[b] = 0.0
        rows = topology.rows
        self.rows[b, :size, :options], self.rhs[b, :size] = rows, topology.rhs
        positive = rows > 1e-9
        self.inverse[b, :size, :options] = np.divide(1.0, rows, out=np.zeros_like(rows), where=positive)
        self.indicator[b, :size, :options] = positive
        self.size[b] = size

    def truncate(self, b: int, size: int) -> None:
        """Drop the cuts of slot b behind the first ``size``."""
        for array in (self.rows, self.rhs, self.inverse, self.indicator):
            array[b, size:] = 0.0
        self.size[b] = size

    def _width(self, slots: NDArray[np.int64]) -> int:
        """Cuts of the largest pool among ``slots``, one at least; 0 on an empty board."""
        return max(int(self.size[slots].max()), 1) if self._k else 0

    def compare(self, index: Any, slots: NDArray[np.int64], units: Array) -> CutView:
        """What the cuts say about ``units`` [b, M] of ``slots`` [b], which ``index`` selects."""
        k = self._width(slots)
        rows = self.rows[index, :k]
        short = self.rhs[index, :k] - (rows @ units[:, :, None])[:, :, 0]
        short[short <= TOLERANCE] = 0.0
        narrow = short.astype(np.float32)
        worst = short.max(axis=1, initial=0.0)
        need = (short[:, :, None] * self.inverse[index, :k]).max(axis=1, initial=0.0)
        through = (narrow[:, :, None] * self.indicator[index, :k]).max(axis=1, initial=0.0)
        weight = np.square(short)
        weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1e-12)
        pressure = (weight[:, None, :] @ rows)[:, 0]
        top = rows[np.arange(len(slots)), short.argmax(axis=1)] if k else np.zeros_like(units)
        mending = np.minimum(rows, short[:, :, None]).sum(axis=1)
        return CutView(short, worst, need, through, pressure, top * (worst > 0.0)[:, None], mending)

    def spare(self, index: Any, slots: NDArray[np.int64], units: Array) -> Array:
        """[b, M] units of each option that no known cut needs, at most what there is."""
        k = self._width(slots)
        rows = self.rows[index, :k]
        spare = (rows @ units[:, :, None])[:, :, 0] - self.rhs[index, :k]
        room = np.where(self.indicator[index, :k] > 0.0, spare[:, :, None] * self.inverse[index, :k], np.inf)
        return np.minimum(room.min(axis=1, initial=np.inf), units)
