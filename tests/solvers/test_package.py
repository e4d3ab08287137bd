"""``import solvers`` is light, and its names load on first use."""

from __future__ import annotations

import subprocess
import sys

import pytest

import solvers


def test_import_is_light() -> None:
    code = """
import sys, solvers
heavy = {"ortools", "pyscipopt", "numba", "scipy", "networkx", "torch", "highspy", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
solvers.cardinality(3, 1), solvers.pool(2), solvers.function(abs, 1)
solvers.cached(solvers.cardinality(3, 1)), solvers.parallel(solvers.cardinality(3, 1), workers=1)
heavy = {"ortools", "pyscipopt", "numba", "torch", "highspy", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
solvers.milp(matrix=[[1.0]], row_upper=1, upper=1, backend="highs")
assert not {"ortools", "pyscipopt", "numba", "highspy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


def test_every_name_loads_and_others_do_not() -> None:
    for name in solvers.__all__:
        value = getattr(solvers, name)
        if callable(value):
            assert value.__doc__, name
    assert set(solvers.__all__) <= set(dir(solvers))
    assert set(solvers._HOME) == set(solvers.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        solvers.no_such_name  # noqa: B018


def test_no_backend_needs_highspy() -> None:
    code = """
import sys, numpy as np, solvers
sys.modules["highspy"] = None
for backend in ("scip", "highs", "cp-sat", "choice", "scip-reoptimize"):
    oracle = solvers.milp(matrix=[[3, 4, 2]], row_upper=6, upper=1, backend=backend)
    assert oracle.solve(np.array([[-1.0, -2.0, -3.0]])).objective[0] == -5.0
    oracle.relaxation().solve(np.ones((1, 3)))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
