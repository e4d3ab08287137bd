"""Turn a model file, a `pyscipopt.Model` or a MathOpt `Model` into arrays; found by their methods, not by import."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from solvers.polyhedron import Polyhedron

_FILE_KINDS = (".mps", ".lp", ".mps.gz", ".lp.gz")


def read_model(model: object) -> Polyhedron:
    """Arrays of a model: a path of an MPS or LP file, a `pyscipopt.Model`, or an OR-Tools MathOpt `Model`.

    Variables keep the order of the model (for SCIP that of ``model.getVars(transformed=False)``: binary before integer
    before continuous ones). A maximized objective comes back with its sign turned.

    Raises:
        ValueError: a constraint that is not linear; the message names it.
        TypeError: something else than a model.
        FileNotFoundError: no such file.
    """
    if isinstance(model, (str, os.PathLike)):
        return _read_file(Path(model))
    if hasattr(model, "getConss") and hasattr(model, "getVars"):
        return _read_scip(model)
    if hasattr(model, "export_model"):
        return _read_math_opt(model)
    raise TypeError(
        "Expected a path of an MPS or LP file, a pyscipopt.Model or an OR-Tools MathOpt Model, "
        f"got {type(model).__name__}. For arrays use milp(matrix=..., row_lower=..., row_upper=...)."
    )


def _read_file(path: Path) -> Polyhedron:
    from pyscipopt import Model

    if not path.exists():
        raise FileNotFoundError(f"No model file at {path}.")
    if not path.name.lower().endswith(_FILE_KINDS):
        raise ValueError(f"Expected a file that ends with one of {', '.join(_FILE_KINDS)}, got {path.name}.")
    model = Model()
    model.hideOutput()
    try:
        model.readProblem(str(path))
    except OSError as error:  # SCIP reports a syntax error as an input error without a place
        raise ValueError(f"SCIP cannot read {path}: {error}. Is it a well-formed MPS or LP file?") from error
    polyhedron = _read_scip(model)
    if polyhedron.n == 0:  # SCIP reads a text that is no model as an empty one
        raise ValueError(f"Expected a model with variables in {path}, got none. Is it a well-formed MPS or LP file?")
    return polyhedron


def _read_scip(model: Any) -> Polyhedron:
    variables = model.getVars(transformed=False)  # the model may have been solved before
    column = {variable.ptr(): index for index, variable in enumerate(variables)}
    infinity = model.infinity()
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    row_lower: list[float] = []
    row_upper: list[float] = []
    for constraint in model.getConss(transformed=False):
        if not constraint.isLinear():
            raise ValueError(
                f"Expected linear constraints only, got {constraint.getConshdlrName()!r} for {constraint.name!r}. "
                "Write it with linear rows, or wrap your own solve in solvers.function(...)."
            )
        row = len(row_lower)
        for variable, value in zip(model.getConsVars(constraint), model.getConsVals(constraint), strict=True):
            rows.append(row)
            columns.append(column[variable.ptr()])
            values.append(value)
        row_lower.append(model.getLhs(constraint))
        row_upper.append(model.getRhs(constraint))
    sign = -1.0 if model.getObjectiveSense() == "maximize" else 1.0
    return Polyhedron.from_arrays(
        sp.coo_array((values, (rows, columns)), shape=(len(row_lower), len(variables))).tocsr(),
        _open(row_lower, infinity),
        _open(row_upper, infinity),
        _open([variable.getLbOriginal() for variable in variables], infinity),
        _open([variable.getUbOriginal() for variable in variables], infinity),
        [variable.vtype() in ("BINARY", "INTEGER", "IMPLINT") for variable in variables],
        costs=sign * np.array([variable.getObj() for variable in variables]),
        names=tuple(variable.name for variable in variables),
    )


def _open(limits: list[float], infinity: float) -> np.ndarray:
    """Replace SCIP's finite stand-ins for infinity."""
    array = np.asarray(limits, dtype=np.float64)
    array[array >= infinity] = np.inf
    array[array <= -infinity] = -np.inf
    return array


def _read_math_opt(model: Any) -> Polyhedron:
    proto = model.export_model()
    for kind in (
        "quadratic_constraints",
        "second_order_cone_constraints",
        "sos1_constraints",
        "sos2_constraints",
        "indicator_constraints",
    ):
        if len(getattr(proto, kind, ())):
            raise ValueError(
                f"Expected linear constraints only, got {kind.replace('_', ' ')} in the MathOpt model. "
                "Write them with linear rows, or wrap your own solve in solvers.function(...)."
            )
    # Ids are increasing, and have holes where something was deleted.
    variable_ids = np.fromiter(proto.variables.ids, np.int64)
    row_ids = np.fromiter(proto.linear_constraints.ids, np.int64)
    entries = proto.linear_constraint_matrix
    matrix = sp.coo_array(
        (
            np.fromiter(entries.coefficients, np.float64),
            (
                np.searchsorted(row_ids, np.fromiter(entries.row_ids, np.int64)),
                np.searchsorted(variable_ids, np.fromiter(entries.column_ids, np.int64)),
            ),
        ),
        shape=(len(row_ids), len(variable_ids)),
    )
    costs = np.zeros(len(variable_ids))
    terms = proto.objective.linear_coefficients
    costs[np.searchsorted(variable_ids, np.fromiter(terms.ids, np.int64))] = np.fromiter(terms.values, np.float64)
    return Polyhedron.from_arrays(
        matrix.tocsr(),
        np.fromiter(proto.linear_constraints.lower_bounds, np.float64),
        np.fromiter(proto.linear_constraints.upper_bounds, np.float64),
        np.fromiter(proto.variables.lower_bounds, np.float64),
        np.fromiter(proto.variables.upper_bounds, np.float64),
        np.fromiter(proto.variables.integers, np.bool_),
        costs=-costs if proto.objective.maximize else costs,
        names=tuple(proto.variables.names),
    )
