"""What a MILP backend is, what each can do, and how one is made by name."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

import numpy as np

from solvers.oracle import Array
from solvers.polyhedron import Polyhedron
from solvers.rows import Answer


class Backend(Protocol):
    """Minimizes linear costs over one polyhedron, one cost vector after the other.

    Attributes:
        is_stateless: whether an answer never depends on the calls before it.
    """

    is_stateless: bool

    def solve(self, costs: Array, seconds: float | None, gap: float) -> Answer:
        """Answer finite ``costs`` [n] within ``seconds`` of wall time and a relative ``gap``."""
        ...

    def close(self) -> None:
        """Free what the backend holds; the next `solve` builds it anew."""
        ...


class BackendName(enum.StrEnum):
    """Names of the MILP backends."""

    SCIP = "scip"
    SCIP_REOPTIMIZE = "scip-reoptimize"
    HIGHS = "highs"
    CP_SAT = "cp-sat"
    GLOP = "glop"
    CHOICE = "choice"
    CHOICE_LP = "choice-lp"


@dataclass(frozen=True, slots=True)
class Capability:
    """What a backend can do, as data."""

    module: str
    maker: str
    has_continuous: bool = True
    has_integers: bool = True
    needs_binaries: bool = False


CAPABILITIES: dict[BackendName, Capability] = {
    BackendName.SCIP: Capability("solvers.backends.scip", "ScipBackend"),
    BackendName.SCIP_REOPTIMIZE: Capability(
        "solvers.backends.scip", "ReoptimizingScipBackend", has_continuous=False, needs_binaries=True
    ),
    BackendName.HIGHS: Capability("solvers.backends.highs", "HighsBackend"),
    BackendName.CP_SAT: Capability("solvers.backends.cp_sat", "CpSatBackend", has_continuous=False),
    BackendName.CHOICE: Capability(
        "solvers.backends.choice", "ChoiceBackend", has_continuous=False, needs_binaries=True
    ),
    BackendName.CHOICE_LP: Capability("solvers.backends.choice", "ChoiceLpBackend", has_integers=False),
    BackendName.GLOP: Capability("solvers.backends.glop", "GlopBackend", has_integers=False),
}

_CP_SAT_LARGEST = 2.0**40


def why_not(name: BackendName, polyhedron: Polyhedron) -> str:
    """Why a backend cannot take a set, or an empty string if it can."""
    able = CAPABILITIES[name]
    if polyhedron.is_integer.any() and not able.has_integers:
        return f"{name} solves linear programs only, and the set has integer variables; use `.relaxation()`"
    if not polyhedron.is_pure_integer and not able.has_continuous:
        return f"{name} needs integer variables only, and the set has continuous ones"
    if able.needs_binaries and not ((polyhedron.lower >= 0) & (polyhedron.upper <= 1)).all():
        return f"{name} needs 0/1 variables"
    if name is BackendName.CP_SAT:
        if not (np.isfinite(polyhedron.lower) & np.isfinite(polyhedron.upper)).all():
            return f"{name} needs finite bounds of every variable"
        data = polyhedron.matrix.data
        if data.size and ((data != np.rint(data)).any() or np.abs(data).max() > _CP_SAT_LARGEST):
            return f"{name} needs integral row coefficients"
    if name in (BackendName.CHOICE, BackendName.CHOICE_LP):
        from solvers.backends.choice import MOST_RESOURCES, find_choice_form

        if find_choice_form(polyhedron) is None:
            return f"{name} needs 0 <= x <= 1, disjoint rows 'sum = 1' or '<= 1', at most {MOST_RESOURCES} other limits"
    return ""


def make_backend(name: BackendName, polyhedron: Polyhedron) -> Backend:
    """Make the backend ``name`` for one set; the package behind it is imported here.

    Raises:
        ValueError: the backend cannot take such a set.
    """
    reason = why_not(name, polyhedron)
    if reason:
        raise ValueError(f"Backend {reason}.")
    able = CAPABILITIES[name]
    maker: Callable[[Polyhedron], Backend] = getattr(import_module(able.module), able.maker)
    return maker(polyhedron)
