"""Policies: plain modules from observations to masked logits and values, and their files (safetensors and JSON)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from surco.atomic import write_atomic, write_text
from surco.errors import InvalidInputError, UnknownIdError
from surco.registry import closest

FORMAT = "surco-policy/1"
WEIGHTS = "policy.safetensors"
DESCRIPTION = "policy.json"
ILLEGAL = -1e9  # logit of a masked action: finite, so that entropies and exports stay finite

Observation = Mapping[str, Tensor]


class Policy(Protocol):
    """What trainers, rollouts and files ask of a policy; it is an ``nn.Module`` besides.

    ``config`` is a JSON object of keyword arguments that rebuilds the module. ``forward`` maps a dict of batched
    observations, which hold ``action_mask`` [B, A], to logits [B, A], ``ILLEGAL`` where the mask is 0, and values [B].
    """

    config: dict[str, Any]

    def __call__(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Masked logits [B, A] and values [B]."""
        ...


POLICIES: dict[str, type[nn.Module]] = {}
"""Name -> class. A module that defines a policy registers it with :func:`register`."""

_HOMES = {"planning-gnn": "rl.planning_policy", "sharding-set": "rl.sharding_policy"}  # imported when first asked for

T = TypeVar("T", bound=type[nn.Module])


def register(name: str) -> Callable[[T], T]:
    """Class decorator: make the class known to :func:`build` and :func:`load` as ``name``."""

    def enter(cls: T) -> T:
        if POLICIES.get(name, cls).__qualname__ != cls.__qualname__:
            raise InvalidInputError(f"Two policies want the name {name!r}: {POLICIES[name]} and {cls}.")
        POLICIES[name] = cls
        cls.policy_name = name  # type: ignore[attr-defined]
        return cls

    return enter


def build(name: str, config: Mapping[str, Any], *, seed: int | None = None) -> nn.Module:
    """A policy by name; with ``seed`` its first weights are drawn from it, and no global generator is touched.

    Raises:
        UnknownIdError: no such policy.
        InvalidInputError: the configuration does not fit.
    """
    if name not in POLICIES and name in _HOMES:
        import importlib

        importlib.import_module(_HOMES[name])
    if name not in POLICIES:
        raise UnknownIdError(f"No policy `{name}`.{closest(name, {*POLICIES, *_HOMES})}")
    try:
        if seed is None:
            return POLICIES[name](**config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return POLICIES[name](**config)
    except TypeError as error:
        raise InvalidInputError(f"Policy `{name}` does not take the configuration {dict(config)}: {error}.") from error


def masked(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits [B, A] with ``ILLEGAL`` where ``mask`` [B, A] is 0."""
    return torch.where(mask > 0.5, logits, torch.full_like(logits, ILLEGAL))


def save(policy: nn.Module, folder: str | Path, *, about: Mapping[str, Any] | None = None) -> Path:
    """Write the policy into ``folder``: weights as safetensors, and name, configuration and ``about`` as JSON."""
    from safetensors.torch import save as to_bytes

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in policy.state_dict().items()}
    write_atomic(folder / WEIGHTS, lambda path: path.write_bytes(to_bytes(tensors)))
    description = {
        "format": FORMAT,
        "policy": policy.policy_name,
        "config": policy.config,
        "parameters": sum(t.numel() for t in tensors.values()),
        "sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        "about": dict(about or {}),
    }
    write_text(folder / DESCRIPTION, json.dumps(description, indent=1) + "\n")
    return folder


def describe(folder: str | Path) -> dict[str, Any]:
    """The JSON object of a saved policy.

    Raises:
        InvalidInputError: there is none, or it is of another format.
    """
    path = Path(folder) / DESCRIPTION
    if not path.is_file():
        raise InvalidInputError(f"Expected a policy in the folder `{folder}`, but it has no {DESCRIPTION}.")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInputError(f"`{path}` is not JSON: {error}.") from error
    got = description.get("format") if isinstance(description, dict) else type(description).__name__
    if got != FORMAT:
        raise InvalidInputError(f"Expected a policy of format {FORMAT!r} in `{path}`, got {got!r}.")
    return description


def load(folder: str | Path, *, device: str | torch.device = "cpu") -> nn.Module:
    """Read what :func:`save` wrote, in evaluation mode.

    Raises:
        InvalidInputError: missing, damaged, of another format, or weights that do not fit the configuration.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as load_tensors

    description = describe(folder)
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise InvalidInputError(f"Expected the weights of the policy at `{path}`, found none.")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != description.get("sha256"):
        raise InvalidInputError(f"`{path}` is not the file that `{DESCRIPTION}` describes: its SHA-256 differs.")
    policy = build(str(description.get("policy")), description.get("config") or {})
    try:
        policy.load_state_dict(load_tensors(data))
    except (SafetensorError, RuntimeError) as error:
        raise InvalidInputError(f"`{path}` does not fit its configuration: {error}.") from error
    return policy.to(device).eval()


def to_tensors(observation: Mapping[str, Any], device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """NumPy observation (a batch) to tensors of their own memory.

    The copy matters: matrix products may round differently where memory is aligned differently, as NumPy's is from one
    process to the next, and a resumed run would not be bit-equal.
    """
    return {key: torch.as_tensor(value).to(device, copy=True) for key, value in observation.items()}
