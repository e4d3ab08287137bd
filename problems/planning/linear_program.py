"""Persistent linear programs that keep their basis between solves: the HiGHS inside SciPy, or GLOP of OR-Tools.

SciPy's bindings are private (``scipy.optimize._highspy``), so they are looked for, never assumed; GLOP is the public
second choice and a log line says so. HiGHS is 2 to 3 times as fast on far jumps of the right-hand side.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_LOG = logging.getLogger(__name__)


class LinearProgram(Protocol):
    """min cost.x over lower <= x <= upper, row_lower <= A x <= row_upper; rows and columns may be added any time."""

    def add_rows(self, lower: Array, upper: Array, entries: Sequence[tuple[Array, Array]]) -> None:
        """Append rows; ``entries`` holds (column numbers, values) of each."""
        ...

    def add_columns(self, cost: Array, lower: Array, upper: Array, entries: Sequence[tuple[Array, Array]]) -> None:
        """Append columns; ``entries`` holds (row numbers, values) of each."""
        ...

    def add_packed_columns(
        self, cost: Array, lower: Array, upper: Array, starts: Array, index: Array, value: Array
    ) -> None:
        """Append columns given column by column: the entries of column j begin at ``starts[j]``."""
        ...

    def change_rows(self, rows: Array, lower: Array, upper: Array) -> None:
        """New bounds of some rows."""
        ...

    def change_columns(self, columns: Array, lower: Array, upper: Array) -> None:
        """New bounds of some columns."""
        ...

    def delete_rows(self, rows: Array) -> None:
        """Remove rows; the later ones move up."""
        ...

    def solve(self) -> tuple[float, Array, Array]:
        """Objective, x and row duals of an optimum; raises ``ArithmeticError`` if there is none."""
        ...

    def row_values(self) -> Array:
        """A x of the last optimum."""
        ...


def _pack(entries: Sequence[tuple[Array, Array]]) -> tuple[NDArray[np.int32], NDArray[np.int32], Array]:
    sizes = np.array([len(index) for index, _ in entries], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
    if not sizes.sum():
        return starts, np.zeros(0, np.int32), np.zeros(0)
    return (
        starts,
        np.concatenate([np.asarray(index) for index, _ in entries]).astype(np.int32),
        np.concatenate([np.asarray(value, dtype=np.float64) for _, value in entries]),
    )


class HighsProgram:
    """The HiGHS that SciPy ships."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self._highs = core._Highs()
        for name, value in (("output_flag", False), ("threads", 1), ("presolve", "off")):
            self._highs.setOptionValue(name, value)
        self._is_primal = False

    def add_rows(self, lower: Array, upper: Array, entries: Sequence[tuple[Array, Array]]) -> None:
        """Append rows."""
        self._use(primal=False)
        starts, index, value = _pack(entries)
        self._highs.addRows(
            len(lower), np.asarray(lower, float), np.asarray(upper, float), len(index), starts, index, value
        )

    def add_columns(self, cost: Array, lower: Array, upper: Array, entries: Sequence[tuple[Array, Array]]) -> None:
        """Append columns."""
        self.add_packed_columns(cost, lower, upper, *_pack(entries))

    def add_packed_columns(
        self, cost: Array, lower: Array, upper: Array, starts: Array, index: Array, value: Array
    ) -> None:
        """Append columns given column by column."""
        bounds = np.asarray(cost, float), np.asarray(lower, float), np.asarray(upper, float)
        self._highs.addCols(len(cost), *bounds, len(index), starts.astype(np.int32), index.astype(np.int32), value)
        self._use(primal=True)  # the basis stays primal feasible

    def _use(self, *, primal: bool) -> None:
        if primal != self._is_primal:
            self._highs.setOptionValue("simplex_strategy", 4 if primal else 1)
            self._is_primal = primal

    def change_rows(self, rows: Array, lower: Array, upper: Array) -> None:
        """New bounds of some rows."""
        change = self._highs.changeRowBounds
        self._use(primal=False)  # the basis stays dual feasible
        for i, low, high in zip(rows.tolist(), lower.tolist(), upper.tolist(), strict=True):
            change(i, low, high)

    def change_columns(self, columns: Array, lower: Array, upper: Array) -> None:
        """New bounds of some columns."""
        self._highs.changeColsBounds(
            len(columns), columns.astype(np.int32), np.asarray(lower, float), np.asarray(upper, float)
        )

    def delete_rows(self, rows: Array) -> None:
        """Remove rows."""
        self._highs.deleteRows(len(rows), np.sort(rows).astype(np.int32))

    def solve(self) -> tuple[float, Array, Array]:
        """Objective, x and row duals of an optimum."""
        self._highs.run()
        status = self._highs.getModelStatus()
        if status != self._core.HighsModelStatus.kOptimal:
            self._highs.clearSolver()  # numerical trouble: once more, from scratch
            self._highs.run()
            status = self._highs.getModelStatus()
            if status != self._core.HighsModelStatus.kOptimal:
                raise ArithmeticError(
                    f"Expected an optimal LP, HiGHS says {self._highs.modelStatusToString(status)!r}."
                )
        solution = self._highs.getSolution()
        value = self._highs.getInfo().objective_function_value
        return (
            float(value),
            np.asarray(solution.col_value, dtype=np.float64),
            np.asarray(solution.row_dual, dtype=np.float64),
        )

    def row_values(self) -> Array:
        """A x of the last optimum."""
        return np.asarray(self._highs.getSolution().row_value, dtype=np.float64)


class GlopProgram:
    """GLOP of OR-Tools, warm through its kept solver object."""

    def __init__(self) -> None:
        from ortools.linear_solver import pywraplp

        self._solver = pywraplp.Solver.CreateSolver("GLOP")
        self._solver.SetSolverSpecificParametersAsString("use_dual_simplex:true use_preprocessing:false")
        self._rows: list[Any] = []
        self._columns: list[Any] = []
        self._optimal = pywraplp.Solver.OPTIMAL

    def add_rows(self, lower: Array, upper: Array, entries: Sequence[tuple[Array, Array]]) -> None:
        """Append rows."""
        for low, high, (index, value) in zip(lower, upper, entries, strict=True):
            row = self._solver.Constraint(float(low), float(high))
            for j, v in zip(index, value, strict=True):
                row.SetCoefficient(self._columns[int(j)], float(v))
            self._rows.append(row)

    def add_columns(self, cost: Array, lower: Array, upper: Array, entries: Sequence[tuple[Array, Array]]) -> None:
        """Append columns."""
        for price, low, high, (index, value) in zip(cost, lower, upper, entries, strict=True):
            column = self._solver.NumVar(float(low), float(high), "")
            self._solver.Objective().SetCoefficient(column, float(price))
            for i, v in zip(index, value, strict=True):
                self._rows[int(i)].SetCoefficient(column, float(v))
            self._columns.append(column)

    def add_packed_columns(
        self, cost: Array, lower: Array, upper: Array, starts: Array, index: Array, value: Array
    ) -> None:
        """Append columns given column by column."""
        stops = np.append(starts[1:], len(index))
        entries = [(index[a:b], value[a:b]) for a, b in zip(starts, stops, strict=True)]
        self.add_columns(cost, lower, upper, entries)

    def change_rows(self, rows: Array, lower: Array, upper: Array) -> None:
        """New bounds of some rows."""
        for i, low, high in zip(rows.tolist(), lower.tolist(), upper.tolist(), strict=True):
            self._rows[i].SetBounds(low, high)

    def change_columns(self, columns: Array, lower: Array, upper: Array) -> None:
        """New bounds of some columns."""
        for j, low, high in zip(columns.tolist(), lower.tolist(), upper.tolist(), strict=True):
            self._columns[j].SetBounds(low, high)

    def delete_rows(self, rows: Array) -> None:
        """Remove rows."""
        gone = set(rows.tolist())
        for i in gone:  # GLOP has no deletion: an empty row without bounds is the same thing
            self._rows[i].Clear()
            self._rows[i].SetBounds(-self._solver.infinity(), self._solver.infinity())
        self._rows = [row for i, row in enumerate(self._rows) if i not in gone]

    def solve(self) -> tuple[float, Array, Array]:
        """Objective, x and row duals of an optimum."""
        status = self._solver.Solve()
        if status != self._optimal:
            raise ArithmeticError(f"Expected an optimal LP, GLOP ended with status {status}.")
        x = np.array([column.solution_value() for column in self._columns])
        dual = np.array([row.dual_value() for row in self._rows])
        return self._solver.Objective().Value(), x, dual

    def row_values(self) -> Array:
        """A x of the last optimum."""
        values = self._solver.ComputeConstraintActivities()
        return np.array([values[row.index()] for row in self._rows])


def highs_core() -> Any | None:
    """SciPy's private HiGHS module, or None where this SciPy has none with the needed methods."""
    try:
        from scipy.optimize._highspy import _core  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError:
        return None
    needed = (
        "addRows",
        "addCols",
        "changeRowBounds",
        "changeColsBounds",
        "deleteRows",
        "run",
        "getSolution",
        "clearSolver",
    )
    return _core if all(hasattr(getattr(_core, "_Highs", None), name) for name in needed) else None


def linear_program(backend: str = "auto") -> LinearProgram:
    """An empty program of ``backend`` "highs", "glop" or "auto" (HiGHS where SciPy has it).

    Raises:
        ValueError: no such backend, or no HiGHS bindings in this SciPy.
    """
    if backend not in ("auto", "highs", "glop"):
        raise ValueError(f'Expected backend "auto", "highs" or "glop", got {backend!r}.')
    core = None if backend == "glop" else highs_core()
    if core is not None:
        return HighsProgram(core)
    if backend == "highs":
        raise ValueError('This SciPy has no HiGHS bindings that can be kept warm. Use backend="glop".')
    if backend == "auto":
        _LOG.info("SciPy has no persistent HiGHS bindings; using GLOP, which is slower.")
    return GlopProgram()
