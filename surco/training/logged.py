"""Training instances from logged runs, whose designs are to be imitated."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from surco.errors import InvalidInputError
from surco.instance_family import VARIABLES, Family, Instance, Split
from surco.registry import from_spec
from surco.result import Result
from surco.training.steps import TARGET


def logged_instances(family: Family, runs: Iterable[Result | str | Path]) -> list[Instance]:
    """The problems of logged runs, with their designs as a feature.

    Raises:
        InvalidInputError: no run, one without a spec, or of a problem that the family cannot describe.
    """
    found = []
    for k, run in enumerate(runs):
        data = run.to_json() if isinstance(run, Result) else _read(Path(run))
        problem = from_spec(data["spec"])
        features = family.features(problem)
        shape = features[VARIABLES].shape
        features = {**features, TARGET: torch.tensor(data["x"], dtype=torch.float64).reshape(shape)}
        found.append(Instance(problem, features, Split.TRAIN, k))
    if not found:
        raise InvalidInputError("Expected at least one run to imitate, got none.")
    return found


def _read(path: Path) -> dict[str, Any]:
    """A saved result: its file, or the folder of ``result.json``."""
    file = path / "result.json" if path.is_dir() else path
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        return {"spec": data["spec"], "x": data["x"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(f"Expected a saved result at `{file}`: {error}. Try `result.save(folder)`.") from error
