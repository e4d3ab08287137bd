"""JSON and npz forms of an expert placement: strict in, complete out.

    {"domain": "moe", "id": "...", "gpus": 64, "nodes": 8, "slots": 5,
     "loads":  [[812, 90, ...], ...],                 one list a layer; a plain list is one layer
     "tokens": [[[3, 17, 200, ...], ...], ...],       recorded tokens a layer: the experts of each
     "groups": 8, "traffic_weight": 0.25, "max_copies": 16,
     "current": [[[0, 5, 9], ...], ...],              what runs now: a layer, a GPU, its experts
     "migration_cap": 40}

Only ``gpus``, ``slots`` and ``loads`` are required. ``current`` and ``migration_cap`` go together. An npz file has the
same names: arrays ``loads`` [E] or [L, E], ``tokens`` [P, k] or [L, P, k], ``current`` [G, S] or [L, G, S] with -1 for
an empty slot, and numbers.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from problems.moe.instance import Cluster, Index, Migration, Routing
from surco.errors import InvalidInputError
from surco.registry import closest

if TYPE_CHECKING:
    from problems.moe.problem import ExpertPlacement

DOMAIN_NAME = "moe"
KEYS = (
    "domain", "id", "gpus", "nodes", "slots", "loads", "tokens", "groups", "traffic_weight", "max_copies", "current",
    "migration_cap",
)  # fmt: skip


def problem_to_json(problem: ExpertPlacement) -> dict[str, Any]:
    """JSON object that `problem_from_json` turns back into an equal problem."""
    routing, cluster = problem.routing, problem.cluster
    found: dict[str, Any] = {
        "domain": DOMAIN_NAME,
        "id": problem.id,
        "gpus": cluster.gpus,
        "nodes": cluster.nodes,
        "slots": cluster.slots,
        "loads": routing.loads.tolist(),
        "groups": routing.groups,
        "traffic_weight": problem.traffic_weight,
    }
    if routing.has_tokens:
        found["tokens"] = routing.tokens.tolist()
    if problem.max_copies is not None:
        found["max_copies"] = problem.max_copies
    if problem.migration is not None:
        found["current"] = experts_of_gpus(problem.migration.current)
        found["migration_cap"] = problem.migration.cap
    return found


def problem_from_json(spec: Mapping[str, Any]) -> ExpertPlacement:
    """Read a JSON object.

    Raises:
        InvalidInputError: a key missing or unknown, a value of the wrong type, shape or range; the message says which.
    """
    from problems.moe.problem import ExpertPlacement

    if not isinstance(spec, Mapping):
        raise InvalidInputError(f"Expected the spec to be a JSON object, got {type(spec).__name__}.")
    for key in spec:
        if key not in KEYS:
            raise InvalidInputError(f"The spec has an unknown key {key!r}.{closest(str(key), KEYS)}")
    for key in ("gpus", "slots", "loads"):
        if key not in spec:
            raise InvalidInputError(f"Expected the spec to have {key!r}; it is missing.")
    if spec.get("domain", DOMAIN_NAME) != DOMAIN_NAME:
        raise InvalidInputError(f'Expected a spec with "domain": "{DOMAIN_NAME}", got {spec["domain"]!r}.')
    cluster = Cluster(spec["gpus"], spec.get("nodes", 1), spec["slots"])
    routing = routing_of(spec["loads"], spec.get("tokens"), spec.get("groups", 1))
    has_current = spec.get("current") is not None
    if has_current != (spec.get("migration_cap") is not None):
        raise InvalidInputError("Expected `current` and `migration_cap` together, got one of them.")
    migration = None
    if has_current:
        migration = Migration(plan_of_lists(spec["current"], routing, cluster), spec["migration_cap"])
    id = spec.get("id", "moe/custom")
    if not isinstance(id, str):
        raise InvalidInputError(f"Expected `id` to be text, got {id!r}.")
    return ExpertPlacement(
        routing,
        cluster,
        traffic_weight=spec.get("traffic_weight"),
        max_copies=spec.get("max_copies"),
        migration=migration,
        id=id,
    )


def problem_from_file(path: Path) -> ExpertPlacement | None:
    """Read an npz or JSON file of this domain; None for a file that is not of it."""
    if path.suffix == ".npz":
        return None if (found := _read_npz(path)) is None else problem_from_json(found)
    if path.suffix == ".json":
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, Mapping) and {"gpus", "slots", "loads"} <= set(found):
            return problem_from_json(found)
    return None


def measured(path: str | Path) -> dict[str, Any]:
    """``loads``, and ``tokens`` and ``groups`` where given, of an npz or JSON file.

    Raises:
        InvalidInputError: no such file, or one without loads.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidInputError(f"Expected a JSON or npz file of loads, but there is no file `{path}`.")
    try:
        found = _read_npz(path) if path.suffix == ".npz" else json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInputError(f"`{path}` is neither JSON nor an npz file: {error}.") from error
    if not isinstance(found, Mapping) or "loads" not in found:
        raise InvalidInputError(f"Expected `loads` in `{path}`, a number for each expert and layer.")
    return {key: found[key] for key in ("loads", "tokens", "groups") if key in found}


def routing_of(loads: Any, tokens: Any, groups: Any) -> Routing:
    """Routing of nested lists or arrays, with or without the axis of layers."""
    measured_loads = _array(loads, "loads", np.float64)
    if measured_loads.ndim == 1:
        measured_loads = measured_loads[None]
    if tokens is None:
        recorded: Index = np.zeros((len(measured_loads), 0, 0), dtype=np.int64)
    else:
        recorded = _array(tokens, "tokens", np.int64)
        recorded = recorded[None] if recorded.ndim == 2 else recorded
    return Routing(measured_loads, recorded, groups)


def plan_of_lists(lists: Any, routing: Routing, cluster: Cluster) -> NDArray[np.bool_]:
    """[L, E, G] bool of the experts of each GPU in each layer; -1 is an empty slot.

    Raises:
        InvalidInputError: another number of layers or GPUs, or an expert that does not exist.
    """
    if isinstance(lists, np.ndarray):
        lists = lists.tolist()
    if isinstance(lists, list) and lists and isinstance(lists[0], list) and (not lists[0] or _is_int(lists[0][0])):
        lists = [lists]  # one layer
    plan = np.zeros((routing.layers, routing.experts, cluster.gpus), dtype=np.bool_)
    fits = isinstance(lists, list) and len(lists) == routing.layers
    if not fits or any(not isinstance(layer, list) or len(layer) != cluster.gpus for layer in lists):
        raise InvalidInputError(
            f"Expected `current` to list the experts of {cluster.gpus} GPUs for each of {routing.layers} layers."
        )
    for layer, gpus in enumerate(lists):
        for gpu, experts in enumerate(gpus):
            for expert in experts:
                if not _is_int(expert) or not -1 <= expert < routing.experts:
                    raise InvalidInputError(
                        f"current[{layer}][{gpu}]: expected experts from 0 to {routing.experts - 1}, got {expert!r}."
                    )
                if expert >= 0:
                    plan[layer, expert, gpu] = True
    return plan


def experts_of_gpus(plan: NDArray[np.bool_]) -> list[list[list[int]]]:
    """Inverse of `plan_of_lists`: experts in order of number, without empty slots."""
    return [[np.flatnonzero(layer[:, g]).tolist() for g in range(layer.shape[1])] for layer in plan]


def _read_npz(path: Path) -> dict[str, Any] | None:
    """Arrays and numbers of an npz file, never objects; None for one without our names."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if "loads" not in file.files:
                return None
            return {name: value.item() if (value := file[name]).ndim == 0 else value for name in file.files}
    except zipfile.BadZipFile as error:
        raise InvalidInputError(f"`{path}` is not an npz file: {error}.") from error


def _array(values: Any, name: str, dtype: type) -> Any:
    try:
        found = np.asarray(values)
        if found.dtype.kind not in "iuf" or (dtype is np.int64 and found.dtype.kind == "f"):
            raise ValueError(f"numbers of type {found.dtype}")
    except ValueError as error:
        raise InvalidInputError(f"Expected `{name}` as an array of numbers, all rows alike, got {error}.") from error
    return found.astype(dtype)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
