"""Environments by plain data: an id and options, as a configuration file or a worker on another machine has them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gymnasium.vector import VectorEnv

from surco.errors import InvalidInputError, UnknownIdError
from surco.registry import closest

PLANNING = "surco/NetworkPlanning-v0"
SHARDING = "surco/TableSharding-v0"
POLICIES = {PLANNING: "planning-gnn", SHARDING: "sharding-set"}
"""The policy that plays an environment where a configuration names none."""


@dataclass(frozen=True, slots=True)
class EnvSpec:
    """An environment as plain data.

    Attributes:
        id: registered with Gymnasium, by this project or another; ``module:id`` imports the module first.
        options: keyword arguments of its vector environment. Of `PLANNING` besides: ``problems`` (ids), ``generated``
            (``count``, ``seed``, ``nodes``: random networks) and ``sndlib`` (whether the SNDlib networks of the
            training mixture join them).
    """

    id: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def vector(self, num_envs: int, *, seed: int) -> VectorEnv:
        """The environment, ``num_envs`` times in one object.

        Raises:
            UnknownIdError: no environment of that id.
            InvalidInputError: it has no vector form, or the options do not fit.
        """
        return make_vector_env(seed, id=self.id, options=json.dumps(dict(self.options)), num_envs=num_envs)

    def maker(self, num_envs: int) -> Callable[[int], VectorEnv]:
        """Makes the environment from a seed; can be pickled."""
        return functools.partial(make_vector_env, id=self.id, options=json.dumps(dict(self.options)), num_envs=num_envs)

    def changed(self, options: Mapping[str, Any]) -> EnvSpec:
        """With some options replaced, as evaluation on held-out instances has it."""
        return EnvSpec(self.id, {**self.options, **options})


def make_vector_env(seed: int, *, id: str, options: str, num_envs: int) -> VectorEnv:
    """See `EnvSpec.vector`; ``options`` is JSON text, so that makers are plain and equal ones compare equal."""
    arguments = json.loads(options)
    if id == PLANNING:
        return _planning(num_envs, seed, arguments)
    import gymnasium
    from gymnasium.envs.registration import load_env_creator

    module, _, name = id.rpartition(":")
    if module:
        import importlib

        importlib.import_module(module)
    if name not in gymnasium.registry:
        raise UnknownIdError(f"No environment `{name}`.{closest(name, [n for n in gymnasium.registry if '/' in n])}")
    entry = gymnasium.registry[name].vector_entry_point
    if entry is None:
        raise InvalidInputError(f"Expected an environment with a vector form, but `{name}` was registered without one.")
    maker: Any = load_env_creator(entry) if isinstance(entry, str) else entry
    return _called(maker, name, num_envs=num_envs, seed=seed, **arguments)


def policy_config(name: str, env: VectorEnv, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a policy for an environment: column counts of its observations, and ``settings``.

    Raises:
        UnknownIdError: a policy whose column counts this project does not know.
        InvalidInputError: the environment's observations are not those of the policy.
    """
    columns = {
        "planning-gnn": {"link_features": "links", "node_features": "nodes", "context_features": "context"},
        "sharding-set": {"table_features": "tables", "device_features": "devices", "context_features": "context"},
    }
    if name not in columns:
        raise UnknownIdError(f"No policy `{name}`.{closest(name, columns)}")
    spaces: Any = env.single_observation_space
    missing = [key for key in columns[name].values() if key not in getattr(spaces, "spaces", {})]
    if missing:
        raise InvalidInputError(f"The policy `{name}` needs observations {missing}; the environment has {spaces}.")
    found: dict[str, Any] = {key: int(spaces[source].shape[-1]) for key, source in columns[name].items()}
    if name == "planning-gnn":
        actions: Any = env.single_action_space
        found["heads"] = int(actions.n) // int(spaces["links"].shape[0])
    return {**found, **settings}


def _planning(num_envs: int, seed: int, arguments: dict[str, Any]) -> VectorEnv:
    from rl.vector_env import VectorPlanningEnv

    problems = arguments.pop("problems", [])
    generated = arguments.pop("generated", {})
    sndlib = bool(arguments.pop("sndlib", False))
    topologies = _topologies(json.dumps([problems, generated, sndlib]))
    for key in ("padding", "units"):
        if key in arguments:
            arguments[key] = tuple(arguments[key])
    return _called(VectorPlanningEnv, PLANNING, num_envs=num_envs, problems=topologies, seed=seed, **arguments)


@functools.lru_cache(maxsize=8)
def _topologies(key: str) -> list[Any]:
    """Topologies of ids, random networks and the mixture's own; shared between environments of this process."""
    from problems.planning.topologies import from_topohub
    from rl.generator import TRAINED_ON, random_instance
    from rl.planning_env import topologies_of

    problems, generated, sndlib = json.loads(key)
    sources: list[Any] = list(problems)
    if generated:
        known = ("count", "seed", "nodes")
        for name in generated:
            if name not in known:
                raise InvalidInputError(f"`generated` has no key `{name}`.{closest(name, known)}")
        first = 1000 * int(generated.get("seed", 0))
        low, high = generated.get("nodes", (8, 30))
        sources += [random_instance(first + k, nodes=(low, high)) for k in range(int(generated["count"]))]
    if sndlib:
        sources += [from_topohub(name) for name in TRAINED_ON]
    if not sources:
        raise InvalidInputError("Expected `problems`, `generated` or `sndlib` in the options of the environment.")
    return topologies_of(sources)


def _called(maker: Callable[..., VectorEnv], name: str, **arguments: Any) -> VectorEnv:
    try:
        return maker(**arguments)
    except TypeError as error:
        raise InvalidInputError(f"The environment `{name}` does not take its options: {error}.") from error
