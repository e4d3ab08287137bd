"""The linear oracle: what it takes, what it gives back, and the statuses it may report."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Status(enum.StrEnum):
    """What a backend says of one row of a batch.

    Only ``OPTIMAL`` and ``FEASIBLE`` rows carry a point.
    """

    OPTIMAL = "optimal"  # proven to the backend's gap tolerance
    FEASIBLE = "feasible"  # a point, stopped by a time, node or gap limit
    INFEASIBLE = "infeasible"  # the feasible set is empty
    UNBOUNDED = "unbounded"
    LIMIT = "limit"  # a limit stopped the backend before it had a point
    ERROR = "error"  # the backend raised, hung, or returned something that is not a point

    @property
    def has_point(self) -> bool:
        """Whether a row of this status carries a point."""
        return self in (Status.OPTIMAL, Status.FEASIBLE)


@dataclass(frozen=True, slots=True)
class OracleBatch:
    """Answers of an oracle to a batch of B cost vectors over n variables.

    Attributes:
        x: [B, n] float64; a row without a point is all NaN.
        objective: [B] float64, ``costs @ x`` of each row; NaN without a point.
        bound: [B] float64, proven lower bound on min c.x; -inf where none is known, ``objective`` where optimal.
        status: B statuses.
        seconds: [B] float64, wall seconds spent on each row (a batched solve is shared out equally).
        message: B strings, empty where there is nothing to say; the reason of an ``ERROR``.
    """

    x: Array
    objective: Array
    bound: Array
    status: tuple[Status, ...]
    seconds: Array
    message: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.status)

    @property
    def has_point(self) -> NDArray[np.bool_]:
        """[B] bool, which rows carry a point."""
        return np.fromiter((s.has_point for s in self.status), bool, len(self.status))

    @classmethod
    def exact(cls, x: Array, costs: Array, seconds: float = 0.0) -> OracleBatch:
        """Wrap proven-optimal points x [B, n] for ``costs`` [B, n]; ``seconds`` is the whole batch's wall time."""
        objective = np.einsum("bn,bn->b", costs, x)
        batch = len(x)
        share = np.empty(batch)
        share.fill(seconds / max(batch, 1))
        return cls(x, objective, objective.copy(), (Status.OPTIMAL,) * batch, share, ("",) * batch)


@runtime_checkable
class LinearOracle(Protocol):
    """Minimizes a linear cost over one fixed feasible set."""

    @property
    def n(self) -> int:
        """Number of variables."""
        ...

    def solve(self, costs: Array) -> OracleBatch:
        """Minimize each row of ``costs`` [B, n] float64. Never raises for a row: a bad row is labelled."""
        ...

    def violation(self, x: Array) -> Array:
        """Largest violation of any rule, [..., n] -> [...]; 0 if feasible. Does not trust how ``solve`` found x."""
        ...


def as_costs(costs: object, n: int) -> Array:
    """Check and convert a batch of cost vectors to [B, n] float64, C order.

    Raises:
        ValueError: wrong shape; the message says which shape was expected and what came.
    """
    array = np.ascontiguousarray(costs, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != n:
        hint = " Try `costs[None]`." if array.shape == (n,) else ""
        raise ValueError(f"Expected `costs` of shape [B, {n}], got {list(array.shape)}.{hint}")
    return array
