"""The feasible set of a mixed-integer linear program as plain arrays, and the judge of its points."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from solvers.oracle import Array
from solvers.points import as_points, settle

FEASIBILITY_TOLERANCE = 1e-6
"""Largest row or column violation that a backend is forgiven, relative to max(1, |activity bound|)."""

ROUNDING_TOLERANCE = 1e-9
"""Violations below this, relative to max(1, |activity bound|), are float rounding and count as zero."""


@dataclass(frozen=True, slots=True, eq=False)
class Polyhedron:
    """The set { x : row_lower <= A x <= row_upper, lower <= x <= upper, x_j integer where ``is_integer`` }.

    Attributes:
        matrix: [m, n] sparse CSR float64.
        row_lower: [m], -inf where open.
        row_upper: [m], inf where open.
        lower: [n], -inf where open.
        upper: [n], inf where open.
        is_integer: [n] bool.
        costs: [n], the objective that came with the model, turned to minimization; zeros where there was none.
        names: n names of the variables; empty where the model had none.
    """

    matrix: sp.csr_array
    row_lower: Array
    row_upper: Array
    lower: Array
    upper: Array
    is_integer: NDArray[np.bool_]
    costs: Array
    names: tuple[str, ...] = field(default=())

    @property
    def n(self) -> int:
        """Number of variables."""
        return len(self.lower)

    @property
    def m(self) -> int:
        """Number of rows."""
        return len(self.row_lower)

    @property
    def is_pure_integer(self) -> bool:
        """Whether every variable is integer."""
        return bool(self.is_integer.all())

    @classmethod
    def from_arrays(
        cls,
        matrix: object,
        row_lower: object,
        row_upper: object,
        lower: object = 0.0,
        upper: object = np.inf,
        integrality: object = True,
        *,
        costs: object = None,
        names: tuple[str, ...] = (),
    ) -> Polyhedron:
        """Check and convert arrays; scalars are broadcast.

        Args:
            matrix: [m, n] dense or scipy sparse.
            row_lower: [m] or a number; -inf where open.
            row_upper: [m] or a number; inf where open.
            lower: [n] or a number.
            upper: [n] or a number.
            integrality: [n] or one truth value; nonzero means integer.
            costs: [n] or None.
            names: n names, or none.

        Raises:
            ValueError: shapes that do not fit, NaN, or coefficients that are not finite.
        """
        a = _sparse(matrix)
        a.sum_duplicates()
        m, n = int(a.shape[0]), int(a.shape[1])
        if not np.isfinite(a.data).all():
            raise ValueError("Expected finite coefficients in `matrix`, got NaN or infinity.")
        vectors = {
            "row_lower": _vector("row_lower", row_lower, m),
            "row_upper": _vector("row_upper", row_upper, m),
            "lower": _vector("lower", lower, n),
            "upper": _vector("upper", upper, n),
        }
        integers = _vector("integrality", integrality, n) != 0
        objective = np.zeros(n) if costs is None else _vector("costs", costs, n)
        if names and len(names) != n:
            raise ValueError(f"Expected {n} names, got {len(names)}.")
        return cls(a, **vectors, is_integer=integers, costs=objective, names=tuple(names))

    def violation(self, x: object) -> Array:
        """Largest violation of a row, a bound or integrality, [..., n] -> [...]; absolute, 0 up to float rounding."""
        points, finite = as_points(x, self.n)
        flat = points.reshape(-1, self.n)
        worst = np.zeros(len(flat))
        if self.m:
            activity = (self.matrix @ flat.T).T
            worst = np.maximum(worst, _excess(activity, self.row_lower, self.row_upper))
        worst = np.maximum(worst, _excess(flat, self.lower, self.upper))
        if self.is_integer.any():
            part = flat[:, self.is_integer]
            off = np.abs(part - np.rint(part)).max(axis=1)
            worst = np.maximum(worst, np.where(off <= ROUNDING_TOLERANCE, 0.0, off))
        return settle(finite, worst.reshape(points.shape[:-1]))

    def tolerant(self, tolerance: float = FEASIBILITY_TOLERANCE) -> Tolerant:
        """The limits widened by ``tolerance``, relative to their size, for quick checks of many points."""
        return Tolerant(
            self.matrix,
            self.row_lower - tolerance * _scale(self.row_lower),
            self.row_upper + tolerance * _scale(self.row_upper),
            self.lower - tolerance * _scale(self.lower),
            self.upper + tolerance * _scale(self.upper),
            np.flatnonzero(self.is_integer),
            tolerance,
        )

    def relaxed(self) -> Polyhedron:
        """The same set without integrality."""
        return Polyhedron(
            self.matrix,
            self.row_lower,
            self.row_upper,
            self.lower,
            self.upper,
            np.zeros(self.n, bool),
            self.costs,
            self.names,
        )

    def fingerprint(self) -> str:
        """Hexadecimal digest of everything that defines the set (not of costs or names)."""
        digest = hashlib.sha256()
        for part in (self.matrix.indptr, self.matrix.indices, self.matrix.data, self.row_lower, self.row_upper):
            digest.update(np.ascontiguousarray(part).tobytes())
        for part in (self.lower, self.upper, self.is_integer):
            digest.update(part.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Tolerant:
    """A polyhedron with slightly wider limits; see `Polyhedron` for the fields."""

    matrix: Any
    row_lower: Array
    row_upper: Array
    lower: Array
    upper: Array
    integers: NDArray[np.intp]
    tolerance: float

    def holds(self, x: Array) -> bool:
        """Whether one point [n] keeps every row, bound and integrality."""
        activity = self.matrix @ x
        part = x[self.integers]
        return bool(
            np.isfinite(x).all()
            and (activity >= self.row_lower).all()
            and (activity <= self.row_upper).all()
            and (x >= self.lower).all()
            and (x <= self.upper).all()
            and (np.abs(part - np.rint(part)) <= self.tolerance).all()
        )


def _sparse(matrix: Any) -> Any:
    if sp.issparse(matrix):
        return sp.csr_array(matrix, dtype=np.float64, copy=True)
    array = np.asarray(matrix, dtype=np.float64)
    if array.ndim != 2:
        raise ValueError(f"Expected `matrix` of shape [m, n], got {list(array.shape)}.")
    return sp.csr_array(array)


def _vector(name: str, value: object, size: int) -> Array:
    array = np.asarray(value, dtype=np.float64)
    if array.ndim > 1 or (array.ndim == 1 and array.shape != (size,)):
        raise ValueError(f"Expected `{name}` to be a number or of shape [{size}], got {list(array.shape)}.")
    if np.isnan(array).any():
        raise ValueError(f"Expected numbers in `{name}`, got NaN. Use -numpy.inf or numpy.inf for an open side.")
    return np.ascontiguousarray(np.broadcast_to(array, (size,))).copy()


def _scale(limit: Array) -> Array:
    return np.where(np.isfinite(limit), np.maximum(1.0, np.abs(limit)), 1.0)


def _excess(values: Array, low: Array, high: Array) -> Array:
    """Largest distance of each row of ``values`` [B, k] from [low, high]; float rounding counts as zero."""
    below = np.where(np.isneginf(low), -np.inf, low - values)
    above = np.where(np.isposinf(high), -np.inf, values - high)
    below = np.where(below <= ROUNDING_TOLERANCE * _scale(low), 0.0, below)
    above = np.where(above <= ROUNDING_TOLERANCE * _scale(high), 0.0, above)
    return np.maximum(below, above).max(axis=1, initial=0.0)
