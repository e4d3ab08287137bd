"""Checkpoints: nested plain data and tensors as one safetensors file, written atomically, read without pickle."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surco.atomic import write_atomic
from surco.errors import ResumeError
from surco.protocols import State

if TYPE_CHECKING:
    from torch import Tensor

FILE = "checkpoint.safetensors"
VERSION = "1"


def save(path: str | Path, state: State) -> None:
    """Write ``state`` (dicts, lists, tuples, tensors, numbers, strings, None) to the file ``path``."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_pack(state, "", tensors))
    write_atomic(path, lambda file: save_file(tensors, file, metadata={"version": VERSION, "tree": tree}))


def load(path: str | Path) -> State:
    """Read what :func:`save` wrote.

    Raises:
        ResumeError: no such file, or not a checkpoint.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise ResumeError(f"Expected a checkpoint at `{path}`, found none. Start without `resume`.")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if metadata.get("version") != VERSION:
            raise ResumeError(f"`{path}` is a checkpoint of version {metadata.get('version')}, expected {VERSION}.")
        return _unpack(json.loads(metadata["tree"]), tensors)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ResumeError(f"`{path}` is not a checkpoint of surco: {error}.") from error


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    from torch import Tensor

    if isinstance(value, Tensor):
        key = name or "tensor"
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {"$tensor": key}
    if isinstance(value, dict):
        return {str(k): _pack(v, f"{name}/{k}", tensors) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_pack(v, f"{name}/{i}", tensors) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"A checkpoint holds plain data and tensors, got {type(value).__name__} at `{name}`.")


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "$tensor" in value:
            return tensors[value["$tensor"]]
        if "$float" in value:
            return float(value["$float"])
        return {k: _unpack(v, tensors) for k, v in value.items()}
    if isinstance(value, list):
        return [_unpack(v, tensors) for v in value]
    return value
