"""Choose a MILP backend by measurement on the instance: a short trial with seeded costs.

Times differ from run to run, and backends may return different vertices where several are optimal. So the choice is
written down: once for the process, and once for the machine, in ``$SURCO_CACHE_DIR/backends`` (by default
``~/.cache/surco/backends``; an empty ``SURCO_CACHE_DIR`` keeps it in the process). Later runs read it, whatever they
would measure; `Trial` tells the user what it was. Pass ``backend=`` by name to depend on no record.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from solvers.backends.base import BackendName, make_backend, why_not
from solvers.oracle import Array, Status
from solvers.polyhedron import Polyhedron

_ROWS = 4
_SECONDS_A_ROW = 1.0
_ADVANTAGE = 1.5
"""A backend replaces one earlier in the order only if it is this many times faster: noise must not decide."""

_ORDER = (BackendName.CHOICE, BackendName.SCIP, BackendName.CP_SAT, BackendName.HIGHS)
_LINEAR_ORDER = (BackendName.CHOICE_LP, BackendName.GLOP, BackendName.HIGHS)
_HARD = (BackendName.CP_SAT, BackendName.SCIP, BackendName.HIGHS)
"""First able one where no backend answers the trial in time."""

_known: dict[str, Trial] = {}


@dataclass(frozen=True, slots=True)
class Trial:
    """What was measured, and what was chosen.

    Attributes:
        choice: the backend in use.
        seconds: mean CPU seconds of a row, for each backend that was tried; inf where it proved no optimum in time.
        skipped: why a backend was not tried.
        record: the file that holds the choice; empty where there is none.
    """

    choice: BackendName
    seconds: Mapping[str, float]
    skipped: Mapping[str, str]
    record: str = ""


def choose_backend(polyhedron: Polyhedron, seconds: float | None = None) -> Trial:
    """Read the record of this set, or try each able backend on a few seeded cost vectors and write it.

    Args:
        polyhedron: the set.
        seconds: wall seconds a row may take in use; the trial takes less for a row.
    """
    key = _fingerprint(polyhedron)
    if key not in _known:
        _known[key] = _read(key, polyhedron) or _write(key, _run_trial(polyhedron, seconds))
    return _known[key]


def trial_costs(polyhedron: Polyhedron) -> Array:
    """[4, n] seeded costs: noise around the model's own objective, where it has one."""
    noise = np.random.default_rng(0).standard_normal((_ROWS, polyhedron.n))
    scale = float(np.abs(polyhedron.costs).mean())
    return polyhedron.costs + scale * noise if scale > 0 else noise


def _run_trial(polyhedron: Polyhedron, seconds: float | None) -> Trial:
    costs = trial_costs(polyhedron)
    longest = _SECONDS_A_ROW if seconds is None else min(_SECONDS_A_ROW, seconds / 4)
    spent: dict[str, float] = {}
    skipped: dict[str, str] = {}
    best: BackendName | None = None
    for name in _ORDER if polyhedron.is_integer.any() else _LINEAR_ORDER:
        reason = why_not(name, polyhedron)
        if reason:
            skipped[name] = reason
            continue
        limit = longest if best is None else min(longest, 4 * spent[best] + 0.05)
        spent[name] = _measure(name, polyhedron, costs, limit)
        if np.isfinite(spent[name]) and (best is None or spent[name] * _ADVANTAGE < spent[best]):
            best = name
    if best is None:
        best = next(name for name in _HARD if name in spent)
    return Trial(best, spent, skipped)


def _measure(name: BackendName, polyhedron: Polyhedron, costs: Array, limit: float) -> float:
    """Mean CPU seconds of a row after a first one that pays for building the model; inf if a row is left open."""
    backend = make_backend(name, polyhedron)
    spent = []
    try:
        backend.solve(costs[0], limit + _SECONDS_A_ROW, 0.0)  # builds the model, compiles
        for cost in costs[1:]:
            start = time.process_time()
            answer = backend.solve(cost, limit, 0.0)
            if answer.status in (Status.LIMIT, Status.FEASIBLE, Status.ERROR):
                return float("inf")
            spent.append(time.process_time() - start)
    except Exception:  # whatever a backend raises here rules it out; in use it would be an ERROR row
        return float("inf")
    finally:
        backend.close()
    return float(np.mean(spent))


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("ortools", "pyscipopt", "scipy", "numba")}


def _fingerprint(polyhedron: Polyhedron) -> str:
    """Of the set and of the versions of the backends: a new version is tried anew."""
    text = polyhedron.fingerprint() + json.dumps(_versions(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _path(key: str) -> Path | None:
    folder = os.environ.get("SURCO_CACHE_DIR")
    if folder == "":
        return None
    home = Path(folder) if folder else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "surco"
    return home / "backends" / f"{key}.json"


def _read(key: str, polyhedron: Polyhedron) -> Trial | None:
    path = _path(key)
    if path is None:
        return None
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        choice = BackendName(data["choice"])
        seconds = {str(name): float(value) for name, value in data["seconds"].items()}
        skipped = {str(name): str(value) for name, value in data["skipped"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no record, or not one of ours: measure
        return None
    return None if why_not(choice, polyhedron) else Trial(choice, seconds, skipped, str(path))


def _write(key: str, trial: Trial) -> Trial:
    """Write the record unless another process was first; then its choice is the choice."""
    path = _path(key)
    if path is None:
        return trial
    data = {
        "choice": trial.choice,
        "seconds": dict(trial.seconds),
        "skipped": dict(trial.skipped),
        "versions": _versions(),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(data, file, indent=1)
            with contextlib.suppress(FileExistsError):
                os.link(name, path)  # fails where the record exists: the first writer wins
            winner = json.loads(path.read_text())["choice"]
        finally:
            os.unlink(name)
        return Trial(BackendName(winner), trial.seconds, trial.skipped, str(path))
    except (OSError, ValueError, KeyError, TypeError):  # a folder that cannot be written: the process remembers
        return trial
