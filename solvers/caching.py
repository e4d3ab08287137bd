"""Remember answers: an exact cache of cost vectors, and a pool of vertices."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solvers.oracle import Array, LinearOracle, OracleBatch, Status, as_costs

_LASTING = (Status.OPTIMAL, Status.INFEASIBLE, Status.UNBOUNDED)


def cached(oracle: LinearOracle, size: int = 4096) -> CachedOracle:
    """The same oracle, with the answers to the last ``size`` distinct cost vectors remembered.

    Examples:
        >>> import numpy as np, solvers
        >>> oracle = cached(solvers.cardinality(3, 1))
        >>> batch = oracle.solve(np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]]))
        >>> oracle.hits, oracle.misses
        (1, 1)
    """
    return CachedOracle(oracle, size)


class CachedOracle:
    """Keeps answers by the exact bytes of a cost vector; the least recently used one goes first.

    A row that is asked for twice in one batch is solved once. Only lasting answers are kept (an optimum, an empty or an
    unbounded set): a row stopped by a limit or an error is tried again.

    Attributes:
        oracle: the oracle behind the cache.
        hits: rows answered without the oracle.
        misses: rows that the oracle had to solve.
    """

    def __init__(self, oracle: LinearOracle, size: int = 4096) -> None:
        if size < 1:
            raise ValueError(f"Expected `size` >= 1, got {size}.")
        self.oracle, self._size = oracle, int(size)
        self.hits = self.misses = 0
        self._known: OrderedDict[bytes, tuple[Array, float, float, Status, str]] = OrderedDict()

    @property
    def n(self) -> int:
        """Number of variables."""
        return self.oracle.n

    def __len__(self) -> int:
        return len(self._known)

    def violation(self, x: Array) -> Array:
        """Of the oracle behind the cache."""
        return self.oracle.violation(x)

    @property
    def needs_nonnegative_costs(self) -> bool:
        """Of the oracle behind the cache."""
        return bool(getattr(self.oracle, "needs_nonnegative_costs", False))

    @property
    def takes_seconds(self) -> bool:
        """Of the oracle behind the cache."""
        return bool(getattr(self.oracle, "takes_seconds", False))

    def solve(self, costs: Array, *, seconds: float | None = None) -> OracleBatch:
        """Minimize each row of ``costs`` [B, n]; known rows are free. ``seconds`` goes to an oracle that takes it."""
        checked = as_costs(costs, self.n) + 0.0  # no negative zeros
        keys = [row.tobytes() for row in checked]
        new = {key: row for row, key in reversed(list(enumerate(keys))) if key not in self._known}
        rows = sorted(new.values())
        self.misses += len(rows)
        self.hits += len(keys) - len(rows)
        fresh: dict[bytes, tuple[int, OracleBatch]] = {}
        if rows:
            oracle: Any = self.oracle
            is_limited = seconds is not None and self.takes_seconds
            batch = oracle.solve(checked[rows], seconds=seconds) if is_limited else oracle.solve(checked[rows])
            fresh = {keys[row]: (place, batch) for place, row in enumerate(rows)}
        size = len(keys)
        x = np.empty((size, self.n))
        objective, bound, spent = np.empty(size), np.empty(size), np.zeros(size)
        status: list[Status] = []
        message: list[str] = []
        for row, key in enumerate(keys):
            if key in fresh:
                place, batch = fresh[key]
                text = batch.message[place] if batch.message else ""
                entry = (
                    batch.x[place].copy(), float(batch.objective[place]), float(batch.bound[place]),
                    batch.status[place], text,
                )  # fmt: skip
                if new[key] == row:
                    spent[row] = batch.seconds[place]
                if batch.status[place] in _LASTING:
                    self._known[key] = entry
            else:
                entry = self._known[key]
                self._known.move_to_end(key)
            x[row], objective[row], bound[row] = entry[:3]
            status.append(entry[3])
            message.append(entry[4])
        while len(self._known) > self._size:
            self._known.popitem(last=False)
        return OracleBatch(x, objective, bound, tuple(status), spent, tuple(message))

    def clear(self) -> None:
        """Forget all answers and counts."""
        self._known.clear()
        self.hits = self.misses = 0


def pool(n: int, size: int = 1024) -> SolutionPool:
    """An empty pool for at most ``size`` distinct vertices of n variables.

    Examples:
        >>> import numpy as np
        >>> vertices = pool(2)
        >>> vertices.add(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
        2
        >>> x, objective = vertices.best(np.array([[3.0, 2.0]]))
        >>> x.tolist(), objective.tolist()
        ([[0.0, 1.0]], [2.0])
    """
    return SolutionPool(n, size)


class SolutionPool:
    """Distinct vertices; `best` is one matrix product, far cheaper than a solver call, and gives an upper bound.

    A full pool drops the vertex that was added, or was last the best, longest ago.
    """

    def __init__(self, n: int, size: int = 1024) -> None:
        if n < 1 or size < 1:
            raise ValueError(f"Expected n >= 1 and size >= 1, got {n} and {size}.")
        self._n = int(n)
        self._points = np.empty((size, n))
        self._last_use: NDArray[np.int64] = np.zeros(size, np.int64)
        self._place: dict[bytes, int] = {}
        self._clock = 0

    @property
    def n(self) -> int:
        """Number of variables."""
        return self._n

    def __len__(self) -> int:
        return len(self._place)

    @property
    def points(self) -> Array:
        """[P, n], the vertices; a read-only view."""
        view = self._points[: len(self)]
        view.flags.writeable = False
        return view

    def add(self, x: OracleBatch | Array) -> int:
        """Add the points of a batch, or of an array [..., n]; returns how many were new. Rows with NaN are left out."""
        points = np.asarray(x.x if isinstance(x, OracleBatch) else x, dtype=np.float64)
        if points.shape[-1:] != (self._n,):
            raise ValueError(f"Expected points of shape [..., {self._n}], got {list(points.shape)}.")
        points = points.reshape(-1, self._n) + 0.0
        count = 0
        self._clock += 1
        for point in points[np.isfinite(points).all(axis=1)]:
            key = point.tobytes()
            if key in self._place:
                self._last_use[self._place[key]] = self._clock
                continue
            place = len(self._place)
            if place == len(self._points):
                place = int(np.argmin(self._last_use))
                del self._place[self._points[place].tobytes()]
            self._points[place] = point
            self._last_use[place] = self._clock
            self._place[key] = place
            count += 1
        return count

    def best(self, costs: Array) -> tuple[Array, Array]:
        """Best stored vertex for each row of ``costs`` [B, n]: x [B, n] and c.x [B]; NaN and inf without one."""
        checked = as_costs(costs, self._n)
        if not len(self):
            return np.full_like(checked, np.nan), np.full(len(checked), np.inf)
        values = checked @ self._points[: len(self)].T
        values[~np.isfinite(values)] = np.inf
        place = values.argmin(axis=1)
        objective = values[np.arange(len(checked)), place]
        good = np.isfinite(objective)
        x = np.where(good[:, None], self._points[place], np.nan)
        self._clock += 1
        self._last_use[place[good]] = self._clock
        return x, objective
