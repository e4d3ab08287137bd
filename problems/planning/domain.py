"""Planning problems by id, by spec, and from files."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from problems.planning.instance import PlanningInstance
from problems.planning.network import compile_instance
from problems.planning.topologies import drawn_names, from_topohub, sane_names, zoo_names
from surco.errors import InvalidInputError, UnknownIdError
from surco.registry import closest

if TYPE_CHECKING:
    from problems.planning.problem import PlanningProblem

_WORDS = {
    "bulk": "turn-up prices and volume discounts",
    "delay": "prices plus M/M/1 delay of the intact traffic",
    "loss": "prices plus expected lost traffic under double failures",
    "power": "electric power of ports, amplifiers and chassis",
}
_ID = re.compile(r"planning/(.+?)(?:-(" + "|".join(_WORDS) + r"))?-v0")
_OVERRIDES = ("mean_load_units", "unit_gbps", "load_factor", "tolerance", "options", "seed")


class PlanningDomain:
    """Survivable capacity plans of real networks.

    Overrides of an id: ``mean_load_units`` (mean shortest-path load of a link direction, default 5), ``unit_gbps``
    (100), ``load_factor`` (1), ``tolerance`` of the exact method, ``options`` of a nonlinear objective; ``seed`` draws
    the demands of Topology Zoo networks (default 0) and changes nothing elsewhere, since nothing is drawn there.

    Ids: ``planning/<SNDlib name>-v0`` where topohub has distances, ``planning/<SNDlib name>-drawn-v0`` where positions
    are a drawing (lengths are nominal: the mean link counts as 100 km), ``planning/zoo-<name>-v0`` (lower case) with
    gravity demands between log-normal node weights.
    """

    name = "planning"

    @functools.cache  # noqa: B019 - there is one domain object
    def ids(self) -> Mapping[str, str]:
        """Versioned id -> one line of description."""
        table = {}
        for name in (*sane_names(), *(f"{name}-drawn" for name in drawn_names())):
            note = " (its positions are drawing units: nominal lengths)" if name.endswith("-drawn") else ""
            table[f"planning/{name}-v0"] = f"cheapest capacities of {name} that survive every single link failure{note}"
            for objective, words in _WORDS.items():
                table[f"planning/{name}-{objective}-v0"] = f"survivable capacities of {name}: {words}"
        for name in zoo_names():
            table[f"planning/zoo-{name.lower()}-v0"] = (
                f"cheapest survivable capacities of {name} (Topology Zoo), drawn demands"
            )
        return table

    def make(self, id: str, **overrides: Any) -> PlanningProblem:
        """Build the problem of an id.

        Raises:
            UnknownIdError: no such id.
            InvalidInputError: an override that does not exist or does not fit.
        """
        unknown = sorted(set(overrides) - set(_OVERRIDES))
        if unknown:
            raise InvalidInputError(f"`{id}` has no override `{unknown[0]}`.{closest(unknown[0], _OVERRIDES)}")
        if id not in self.ids():
            if any(id.startswith(f"planning/{name}-") for name in drawn_names()):
                name = next(name for name in drawn_names() if id.startswith(f"planning/{name}-"))
                raise UnknownIdError(
                    f"No problem `{id}`: positions of {name} are drawing units, so there are no distances. Read its "
                    f"SNDlib file, or take `planning/{name}-drawn-v0` with nominal lengths."
                )
            raise UnknownIdError(f"No problem `{id}`.{closest(id, self.ids())}")
        match = _ID.fullmatch(id)
        assert match is not None
        spec = {"domain": self.name, "id": id, **overrides}
        shape = {key: overrides[key] for key in ("mean_load_units", "unit_gbps") if key in overrides}
        if any(not value > 0 for value in shape.values()):
            raise InvalidInputError(f"Expected positive {', '.join(shape)}, got {shape}.")
        instance = _instance(match[1], int(overrides.get("seed", 0)), shape)
        if "load_factor" in overrides:
            instance = replace(instance, load_factor=float(overrides["load_factor"]))
        return _build(instance, match[2], overrides, id=id, spec=spec)

    def from_spec(self, spec: Mapping[str, Any]) -> PlanningProblem:
        """Build a problem from a JSON object: an ``id`` with overrides, or an ``instance`` (and an ``objective``).

        Raises:
            InvalidInputError: a key is missing, unknown or does not fit.
        """
        if "id" in spec:
            return self.make(str(spec["id"]), **{k: v for k, v in spec.items() if k not in ("domain", "id")})
        unknown = sorted(set(spec) - {"domain", "instance", "objective", "options", "tolerance"})
        if unknown or "instance" not in spec:
            raise InvalidInputError(f"Expected `instance` (or `id`) in a planning spec, got {sorted(spec)}.")
        instance = PlanningInstance.from_spec(spec["instance"])
        objective = spec.get("objective")
        if objective is not None and objective not in _WORDS:
            raise InvalidInputError(f"No objective `{objective}`.{closest(str(objective), _WORDS)}")
        overrides = {key: spec[key] for key in ("options", "tolerance") if key in spec}
        return _build(instance, objective, overrides, id=None, spec=spec)

    def from_file(self, path: str | Path) -> PlanningProblem | None:
        """A problem from a file of a network format; None if the file is none of them.

        SNDlib native, XML and JSON; GraphML and GML with capacities or demands; NeuroPlan's workbook; this package's
        JSON instances.
        """
        from problems.planning.formats import read_instance
        from problems.planning.problem import PlanningProblem

        instance = read_instance(path)
        return None if instance is None else PlanningProblem(instance)


def _instance(name: str, seed: int, shape: Mapping[str, Any]) -> PlanningInstance:
    """The instance behind an id's name."""
    if name.startswith("zoo-"):
        key = next(key for key in zoo_names() if key.lower() == name.removeprefix("zoo-"))
        return from_topohub(f"topozoo/{key}", model="lognormal", seed=seed, name=name, **shape)
    if name.endswith("-drawn"):
        return from_topohub(name.removesuffix("-drawn"), allow_drawing_units=True, name=name, **shape)
    return from_topohub(name, **shape)


def _build(
    instance: PlanningInstance, objective: str | None, overrides: Mapping[str, Any], **identity: Any
) -> PlanningProblem:
    from problems.planning.objectives import OBJECTIVES
    from problems.planning.problem import NonlinearPlanning, PlanningProblem, ProgrammedPlanning

    tolerance = overrides.get("tolerance", 1e-4)
    if not 0 < tolerance < 1:
        raise InvalidInputError(f"Expected `tolerance` in (0, 1), got {tolerance!r}.")
    if objective is None:
        if "options" in overrides:
            raise InvalidInputError("`options` belong to a nonlinear objective; this problem has none.")
        return PlanningProblem(instance, tolerance=tolerance, **identity)
    kind = OBJECTIVES[objective]
    options = dict(overrides.get("options") or {})
    family = NonlinearPlanning if objective == "loss" else ProgrammedPlanning
    try:
        return family(bounded(instance), kind, options=options, tolerance=tolerance, **identity)
    except TypeError as error:
        raise InvalidInputError(f"Objective `{objective}`: {error}.") from error


def bounded(instance: PlanningInstance) -> PlanningInstance:
    """The instance with a largest capacity on each link that has none: twice the shortest-path plan plus two units.

    Costs that are not linear can reward capacity, so the feasible set needs an end; this one is part of the ids.

    Raises:
        InvalidInputError: the shortest-path plan breaks a rule, so it cannot serve as the measure.
    """
    from problems.planning.construction import shortest_path_plan

    network = compile_instance(instance)
    greedy = shortest_path_plan(network)
    if greedy is None:
        raise InvalidInputError("Set `max_gbps` on every link: the shortest-path plan breaks a rule of this instance.")
    new = np.bincount(network.variable_link, greedy * network.gbps, network.n_links) / instance.load_factor
    links = tuple(
        link
        if link.max_gbps is not None or not link.modules
        else replace(link, max_gbps=link.existing_gbps + 2.0 * float(gbps) + 2.0 * link.modules[0].capacity_gbps)
        for link, gbps in zip(instance.links, new, strict=True)
    )
    return replace(instance, links=links)


DOMAIN = PlanningDomain()
"""The entry point ``planning`` of the group ``surco.problems``."""
