"""Runs read back from the folder that they were saved in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from surco.errors import InvalidInputError, SurcoError
from surco.registry import from_spec
from surco.result import Point, Result, SolveStatus, Stats

RESULT = "result.json"
INCUMBENT = "incumbent.json"  # what a run that was killed had saved
ORIGIN = "run.json"


def load_result(folder: str | Path) -> Result:
    """Read the result of a run, or the incumbent that a killed run left behind.

    The problem is rebuilt from its spec where it has one, so that it can describe and draw the design.

    Raises:
        InvalidInputError: no result there, not one of surco's, or its design does not fit its problem.
    """
    folder = Path(folder)
    path = folder if folder.is_file() else folder / RESULT
    is_whole = path.is_file()
    if not is_whole:
        path = folder / INCUMBENT
    if not path.is_file():
        raise InvalidInputError(
            f"Expected `{RESULT}` in `{folder}`, found none. `surco solve ... --out {folder}` writes it."
        )
    data = _json(path)
    try:
        result = _result(data, is_whole=is_whole)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(f"`{path}` is not a result of surco: {type(error).__name__}: {error}.") from error
    if result.problem is not None and result.x.shape != (result.problem.oracle.n,):
        raise InvalidInputError(
            f"Expected a design `x` of shape [{result.problem.oracle.n}] in `{path}`, got {list(result.x.shape)}. "
            "Its `x` or its `spec` was changed or cut off. Try `surco solve` again, or a whole copy of the file."
        )
    return result


def load_origin(folder: str | Path) -> dict[str, Any] | None:
    """Provenance of a saved run, None where there is none."""
    path = Path(folder) / ORIGIN
    return _json(path) if path.is_file() else None


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"`{path}` is not JSON: {error}.") from error
    if not isinstance(data, dict):
        raise InvalidInputError(f"Expected a JSON object in `{path}`, got {type(data).__name__}.")
    return data


def _result(data: Mapping[str, Any], *, is_whole: bool) -> Result:
    columns = data.get("trace_columns", list(Point.__slots__))
    trace = tuple(Point(**dict(zip(columns, row, strict=True))) for row in data.get("trace", ()))
    stats = Stats(**{name: data[name] for name in Stats.__slots__ if name in data})
    notes = tuple(data.get("notes", ()))
    if not is_whole:
        notes += ("the run was killed before it ended; this is the incumbent that it had saved",)
    spec = data.get("spec") or {}
    return Result(
        x=np.asarray(data["x"], dtype=np.float64),
        value=float(data["value"]),
        bound=None if data.get("bound") is None else float(data["bound"]),
        is_feasible=bool(data.get("is_feasible", True)),  # an incumbent has passed the check, or it would not be one
        status=SolveStatus(data["status"]) if is_whole else SolveStatus.INTERRUPTED,
        method=str(data["method"]),
        source=str(data.get("source", "")),
        seed=int(data["seed"]),
        stats=stats,
        trace=trace,
        id=str(data.get("id", "")),
        spec=spec,
        metrics={name: float("nan") if v is None else v for name, v in data.get("metrics", {}).items()},
        notes=notes,
        problem=_problem(spec),
    )


def _problem(spec: Mapping[str, Any]) -> Any:
    """The problem of a spec; None where the spec is not of an installed domain."""
    if "domain" not in spec:
        return None
    try:
        return from_spec(spec)
    except SurcoError:
        return None
