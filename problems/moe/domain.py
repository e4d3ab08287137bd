"""Registered expert placements: drawn routing traces on clusters of several sizes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from problems.moe.instance import Cluster, Migration
from problems.moe.routing import Router
from surco.errors import InvalidInputError, UnknownIdError
from surco.registry import closest

if TYPE_CHECKING:
    from problems.moe.problem import ExpertPlacement

NAME = "moe"


@dataclass(frozen=True, slots=True)
class Shape:
    """A registered size: the router, the cluster, the layers, and a line about it."""

    router: Router
    cluster: Cluster
    layers: int
    line: str


@functools.cache
def _catalog() -> dict[str, Shape]:
    deepseek = Router(256, 8, groups=8, top_groups=4)
    shapes = {
        "8e-4g-2n": (Router(8, 2, groups=2, topics=4, topic_experts=2), Cluster(4, 2, 3), 1, "small enough to list"),
        "16e-8g-2n": (Router(16, 2, groups=4, top_groups=2, topics=8, topic_experts=3), Cluster(8, 2, 3), 1, "small"),
        "64e-16g-2n": (Router(64, 6, groups=4, top_groups=2, topics=16), Cluster(16, 2, 5), 1, "16 redundant"),
        "64e-16g-2n-4l": (Router(64, 6, groups=4, top_groups=2, topics=16), Cluster(16, 2, 5), 4, "16 redundant"),
        "128e-16g-2n": (Router(128, 8), Cluster(16, 2, 10), 1, "32 redundant, a router without groups"),
        "256e-32g-4n": (deepseek, Cluster(32, 4, 9), 1, "32 redundant, group-limited routing"),
        "256e-64g-8n": (deepseek, Cluster(64, 8, 5), 1, "64 redundant, group-limited routing"),
    }
    found = {}
    for name, (router, cluster, layers, words) in shapes.items():
        many = f"{layers} layers of " if layers > 1 else ""
        line = (
            f"{many}{router.experts} experts, {router.top_k} a token, on {cluster.gpus} GPUs in {cluster.nodes} nodes "
            f"({words}; seed=, window=, file=)"
        )
        found[f"{NAME}/{name}-v0"] = Shape(router, cluster, layers, line)
    return found


ROUTER_KEYS = ("skew", "topics", "topic_experts", "topic_lift", "drift")
OVERRIDES = (
    "seed", "window", "layers", "file", "slots", "traffic_weight", "max_copies", "current", "migration_cap",
    *ROUTER_KEYS,
)  # fmt: skip


def make(
    id: str,
    *,
    seed: int = 0,
    window: int = 0,
    layers: int | None = None,
    file: str | None = None,
    slots: int | None = None,
    traffic_weight: float | None = None,
    max_copies: int | None = None,
    current: Any = None,
    migration_cap: int | None = None,
    **router: Any,
) -> ExpertPlacement:
    """A registered instance, changed by overrides.

    Args:
        id: one of the catalog.
        seed: of the drawn trace.
        window: of the trace; loads drift from one to the next.
        layers: number of layers.
        file: JSON or npz file with measured ``loads`` (and ``tokens``, ``groups``) in place of drawn ones.
        slots: of every GPU.
        traffic_weight: of one further node per token.
        max_copies: of one expert.
        current: what runs now, experts of every GPU of every layer.
        migration_cap: most copies to send; goes with ``current``.
        router: ``skew``, ``topics``, ``topic_experts``, ``topic_lift``, ``drift`` of the drawn router.

    Raises:
        InvalidInputError: a value out of range, or overrides that do not go together.
    """
    from problems.moe.problem import ExpertPlacement
    from problems.moe.spec import measured, plan_of_lists, routing_of

    shape = _catalog()[id]
    if file is not None:
        found = measured(file)
        routing = routing_of(found["loads"], found.get("tokens"), found.get("groups", shape.router.groups))
        if routing.experts != shape.router.experts:
            raise InvalidInputError(
                f"Expected loads of {shape.router.experts} experts for `{id}`, `{file}` has {routing.experts}."
            )
    else:
        drawn = dataclasses.replace(shape.router, **router)
        routing = drawn.window(window, layers=shape.layers if layers is None else layers, seed=seed)
    cluster = shape.cluster if slots is None else dataclasses.replace(shape.cluster, slots=slots)
    if (current is None) != (migration_cap is None):
        raise InvalidInputError("Expected `current` and `migration_cap` together, got one of them.")
    migration = None
    if current is not None and migration_cap is not None:
        migration = Migration(plan_of_lists(current, routing, cluster), migration_cap)
    return ExpertPlacement(
        routing, cluster, traffic_weight=traffic_weight, max_copies=max_copies, migration=migration, id=id
    )


class MoEDomain:
    """Entry point of the domain."""

    name = NAME

    def ids(self) -> Mapping[str, str]:
        """Versioned id -> one line of description."""
        return {id: shape.line for id, shape in _catalog().items()}

    def make(self, id: str, **overrides: Any) -> ExpertPlacement:
        """Build a registered instance; the overrides are the keyword arguments of `make`.

        Raises:
            UnknownIdError: no such id.
            InvalidInputError: no such override, or a value out of range.
        """
        if id not in _catalog():
            raise UnknownIdError(f"No problem `{id}`.{closest(id, _catalog())}")
        for key in overrides:
            if key not in OVERRIDES:
                raise InvalidInputError(f"{id} has no override {key!r}.{closest(key, OVERRIDES)}")
        return make(id, **overrides)

    def from_spec(self, spec: Mapping[str, Any]) -> ExpertPlacement:
        """Build a problem from its JSON object."""
        from problems.moe.spec import problem_from_json

        return problem_from_json(spec)

    def from_file(self, path: Path) -> ExpertPlacement | None:
        """Read a JSON or npz file with ``gpus``, ``slots`` and ``loads``; None for any other."""
        from problems.moe.spec import problem_from_file

        return problem_from_file(path)


DOMAIN = MoEDomain()
