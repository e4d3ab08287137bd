"""The state of a decomposition on disk: cuts, bounds and incumbent survive a kill; warm programs are built again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from problems.planning.network import Network
from problems.planning.survival import MetricCut
from surco.atomic import write_atomic
from surco.errors import InvalidInputError

if TYPE_CHECKING:
    from problems.planning.decomposition import Decomposition

VERSION = 1


def fingerprint(network: Network) -> str:
    """Hash of everything that makes cuts valid: variables, prices, rules, scenarios."""
    digest = hashlib.sha256()
    arrays: list[Any] = [network.cost, network.gbps, network.upper, network.offset, network.rows, network.limits]
    arrays += [network.link_ends, network.variable_link, network.is_transit]
    for scenario in network.scenarios:
        arrays += [scenario.alive, scenario.demand]
    for array in arrays:
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def save(engine: Decomposition, path: str | Path) -> None:
    """Write the engine's state to ``path`` (npz without pickle), whole or not at all."""
    nothing = np.zeros(0)
    state = {
        "version": np.array(VERSION),
        "fingerprint": np.array(fingerprint(engine.network)),
        "rows": engine.master.rows,
        "rhs": engine.master.rhs,
        "cut_scenario": np.array([c.scenario for c in engine.metric_cuts], dtype=np.int64),
        "cut_weights": np.array([c.weights for c in engine.metric_cuts]).reshape(-1, engine.network.n_links),
        "cut_rhs": np.array([c.rhs for c in engine.metric_cuts], dtype=np.float64),
        "lower": np.array(engine.lower),
        "best": nothing if engine.best is None else engine.best,
        "root_point": nothing if engine.root_point is None else engine.root_point,
        "core": nothing if engine.core is None else engine.core,
        "is_root_done": np.array(engine.is_root_done),
        "constant": np.array(engine.constant),
    }

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **state)

    write_atomic(path, write)


def restore(engine: Decomposition, path: str | Path) -> None:
    """Put a saved state into a fresh engine of the same network.

    The incumbent is checked again before it counts; a bound above its cost is refused.

    Raises:
        InvalidInputError: not such a file, or one of another network.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            state = {key: data[key] for key in data.files}
        version, of = int(state["version"]), str(state["fingerprint"])
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise InvalidInputError(f"Expected a checkpoint of the exact engine in `{path}`: {error}.") from error
    if version != VERSION or of != fingerprint(engine.network) or float(state["constant"]) != engine.constant:
        raise InvalidInputError(f"The checkpoint `{path}` is of another network or version. Remove it to begin anew.")
    engine.master.add(state["rows"], state["rhs"], to_lp=False)
    engine.metric_cuts.extend(
        MetricCut(int(s), w, float(b))
        for s, w, b in zip(state["cut_scenario"], state["cut_weights"], state["cut_rhs"], strict=True)
    )
    if len(state["best"]):
        engine.offer_checked(state["best"])
    engine.lower = max(engine.lower, min(float(state["lower"]), engine.upper))
    engine.root_point = state["root_point"] if len(state["root_point"]) else None
    engine.core = state["core"] if len(state["core"]) else None
    engine.is_root_done = bool(state["is_root_done"])
