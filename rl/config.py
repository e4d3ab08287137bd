"""The configuration of a training run: a TOML file, checked whole before anything starts."""

from __future__ import annotations

import enum
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from rl.environments import POLICIES, EnvSpec
from surco.errors import InvalidInputError
from surco.registry import closest

T = TypeVar("T")


class Backend(enum.StrEnum):
    """Who trains."""

    NATIVE = "native"
    RLLIB = "rllib"


@dataclass(frozen=True, slots=True)
class EnvConfig:
    """Table ``[env]``.

    Attributes:
        id: of the environment.
        num_envs: copies in one process (of each worker).
        options: of the environment, see `rl.environments.EnvSpec`.
    """

    id: str
    num_envs: int = 64
    options: Mapping[str, Any] = field(default_factory=dict)

    def spec(self) -> EnvSpec:
        """As plain data for makers."""
        return EnvSpec(self.id, dict(self.options))


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """Table ``[policy]``.

    Attributes:
        name: of the policy; by default the one that plays the environment.
        settings: beyond the column counts, which the environment gives.
        start: folder of a saved policy whose weights training starts from.
    """

    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    start: str = ""


@dataclass(frozen=True, slots=True)
class PpoSettings:
    """Table ``[ppo]``, of both backends.

    Attributes:
        steps_per_iteration: environment steps between two updates; RLlib samples a few more.
        minibatch: steps of a gradient step.
        epochs: over the steps of an iteration.
        step_size: of Adam.
        discount: gamma; 1 as episodes end.
        smoothing: lambda of the advantages.
        clip: of the probability ratio.
        entropy: weight of the entropy bonus.
        value_weight: of the value loss.
        max_norm: of the gradient.
    """

    steps_per_iteration: int = 4096
    minibatch: int = 512
    epochs: int = 4
    step_size: float = 1e-3
    discount: float = 1.0
    smoothing: float = 0.95
    clip: float = 0.2
    entropy: float = 0.01
    value_weight: float = 0.5
    max_norm: float = 0.5


@dataclass(frozen=True, slots=True)
class TrainerConfig:
    """Table ``[trainer]``.

    Attributes:
        backend: ``native`` or ``rllib``.
        steps: environment steps after which training ends.
        seed: of weights, environments and sampling.
        workers: rollout processes (Ray actors); 0 samples in this process.
        cpus_per_worker: what a worker books.
        resources_per_worker: custom resources of Ray that pin workers to nodes.
        checkpoint_every: iterations between two checkpoints.
        stall_seconds: the run is given up after so many seconds without a new step.
        nan_limit: or after so many iterations in a row whose return or loss is not a number.
        threads: of torch.
        device: of the learner.
        tensorboard: whether events are written.
        target_kl: native only: the epochs of an iteration end where the policy has moved this far.
        value_warmup: native only: iterations in which only the value learns.
        anneal: native only: whether the step size falls linearly to zero.
    """

    steps: int
    backend: Backend = Backend.NATIVE
    seed: int = 0
    workers: int = 0
    cpus_per_worker: float = 1.0
    resources_per_worker: Mapping[str, float] = field(default_factory=dict)
    checkpoint_every: int = 5
    stall_seconds: float = 300.0
    nan_limit: int = 3
    threads: int = 1
    device: str = "cpu"
    tensorboard: bool = True
    target_kl: float = 0.03
    value_warmup: int = 0
    anneal: bool = False


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """Table ``[evaluation]``: the policy's best actions on held-out instances.

    Attributes:
        every: iterations between two evaluations; 0 for none.
        episodes: of an evaluation.
        seed: of the drawn instances, the same at every evaluation.
        options: that replace those of the environment.
    """

    every: int = 5
    episodes: int = 32
    seed: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunConfig:
    """A whole configuration file."""

    env: EnvConfig
    trainer: TrainerConfig
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    ppo: PpoSettings = field(default_factory=PpoSettings)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    @property
    def policy_name(self) -> str:
        """Of the configuration, or the one that plays the environment."""
        name = self.policy.name or POLICIES.get(self.env.id, "")
        if not name:
            raise InvalidInputError(f"Expected a `name` in [policy] for the environment `{self.env.id}`.")
        return name

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def load(path: str | Path, changes: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a configuration file.

    Args:
        path: of the TOML file.
        changes: dotted names to values that replace those of the file, such as ``{"trainer.seed": 3}``.

    Raises:
        InvalidInputError: no such file, not TOML, an unknown key (the message names the closest), or a wrong value.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidInputError(f"Expected a configuration file, but there is no `{path}`.")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError(f"`{path}` is not TOML: {error}.") from error
    for name, value in (changes or {}).items():
        *tables, key = name.split(".")
        place = data
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise InvalidInputError(f"Expected `{table}` of `{name}` to be a table.")
        place[key] = value
    return parse(data)


def parse(data: Mapping[str, Any]) -> RunConfig:
    """A configuration from its TOML data."""
    parts = {
        "env": EnvConfig,
        "policy": PolicyConfig,
        "trainer": TrainerConfig,
        "ppo": PpoSettings,
        "evaluation": EvaluationConfig,
    }
    for name in data:
        if name not in parts:
            raise InvalidInputError(f"A configuration has no table `{name}`.{closest(name, parts)}")
    for name in ("env", "trainer"):
        if name not in data:
            raise InvalidInputError(f"Expected a table [{name}], found none.")
    found: dict[str, Any] = {name: _table(cls, data.get(name, {}), name) for name, cls in parts.items()}
    config = RunConfig(**found)
    _at_least(config.env, "env", num_envs=1)
    _at_least(config.trainer, "trainer", steps=1, workers=0, checkpoint_every=1, nan_limit=1, threads=1, seed=0)
    _at_least(config.ppo, "ppo", steps_per_iteration=1, minibatch=1, epochs=1)
    _at_least(config.evaluation, "evaluation", every=0, episodes=1)
    return config


def _table(cls: type[T], data: Any, where: str) -> T:
    if not isinstance(data, Mapping):
        raise InvalidInputError(f"Expected [{where}] to be a table, got {data!r}.")
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in data.items():
        if name not in known:
            raise InvalidInputError(f"[{where}] has no key `{name}`.{closest(name, known)}")
        values[name] = _checked(value, str(known[name].type), f"{where}.{name}")
    for name, f in known.items():
        if f.default is MISSING and f.default_factory is MISSING and name not in values:
            raise InvalidInputError(f"Expected `{name}` in [{where}], found none.")
    return cls(**values)


def _checked(value: Any, kind: str, where: str) -> Any:
    if kind == "Backend":
        try:
            return Backend(value)
        except ValueError as error:
            raise InvalidInputError(
                f"Expected `{where}` to be one of {[b.value for b in Backend]}, got {value!r}."
            ) from error
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = {
        "int": is_number and value == int(value),
        "float": is_number,
        "str": isinstance(value, str),
        "bool": isinstance(value, bool),
    }.get(kind, isinstance(value, Mapping))
    if not fits:
        raise InvalidInputError(f"Expected `{where}` to be of type {kind.partition('[')[0]}, got {value!r}.")
    return {"int": int, "float": float}.get(kind, lambda v: v)(value)


def _at_least(table: Any, where: str, **limits: int) -> None:
    for name, least in limits.items():
        if getattr(table, name) < least:
            raise InvalidInputError(f"Expected `{where}.{name}` >= {least}, got {getattr(table, name)}.")
