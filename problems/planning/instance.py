"""What is planned: nodes, fibers, links with their modules, demands with classes of service, and failures."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from problems.planning import codec
from surco.errors import InvalidInputError

FORMAT = "surco-planning-instance/1"


class Disconnection(enum.StrEnum):
    """What to do with a failure that cuts two end points of a demand apart, whatever the capacities (a bridge)."""

    SKIP = "skip"  # leave the failure out of the plan's duties; it is listed by name in every report
    DROP = "drop"  # keep the failure, and carry in it only the demands that are still connected
    REFUSE = "refuse"  # the instance is infeasible; the error names the cut


@dataclass(frozen=True, slots=True)
class Node:
    """A site. ``x``, ``y`` are longitude and latitude in degrees where ``PlanningInstance.is_geographic``."""

    name: str
    x: float | None = None
    y: float | None = None
    has_transit: bool = True  # False: a stub, only its own traffic passes


@dataclass(frozen=True, slots=True)
class Fiber:
    """A fiber route between two sites; several links may run over it.

    Attributes:
        spectrum_ghz: usable spectrum over all its pairs; None means no limit. Binds owned fibers.
        lease_gbps: most capacity that the lease allows; None means no limit.
    """

    name: str
    source: str
    target: str
    length_km: float = 0.0
    spectrum_ghz: float | None = None
    is_leased: bool = False
    lease_gbps: float | None = None


@dataclass(frozen=True, slots=True)
class Module:
    """A capacity step that may be installed any whole number of times on one link."""

    capacity_gbps: float
    cost: float


@dataclass(frozen=True, slots=True)
class Link:
    """An IP link: full duplex, the installed capacity is there in each direction. Parallel links are allowed.

    Attributes:
        modules: what can be installed.
        fibers: names of the fibers below; the link fails if any of them fails.
        existing_gbps: capacity that is there already, at no cost.
        max_gbps: most capacity, existing and new; None means no limit.
        setup_cost: paid once if anything is installed.
        is_exclusive: at most one module, once (explicit capacities), instead of any combination.
        ghz_per_gbps: spectrum that one Gbps takes on each of its fibers; ``fiber_ghz_per_gbps`` instead gives it fiber
            by fiber, in the order of ``fibers``.
    """

    name: str
    source: str
    target: str
    modules: tuple[Module, ...]
    fibers: tuple[str, ...] = ()
    existing_gbps: float = 0.0
    max_gbps: float | None = None
    setup_cost: float = 0.0
    is_exclusive: bool = False
    ghz_per_gbps: float = 0.0
    length_km: float = 0.0
    fiber_ghz_per_gbps: tuple[float, ...] = ()

    def ghz_on(self, fiber: str) -> float:
        """Spectrum in GHz that one Gbps of the link takes on ``fiber``; 0 on fibers below others."""
        if fiber not in self.fibers:
            return 0.0
        return self.fiber_ghz_per_gbps[self.fibers.index(fiber)] if self.fiber_ghz_per_gbps else self.ghz_per_gbps


@dataclass(frozen=True, slots=True)
class Demand:
    """Traffic from ``source`` to ``target``; ``service`` is its class."""

    source: str
    target: str
    gbps: float
    service: str = "default"


@dataclass(frozen=True, slots=True)
class Failure:
    """Things that fail together. A link is down if it, one of its fibers or one of its end nodes is listed.

    Attributes:
        services: classes that must still be carried; None means all. Traffic of a failed node is never carried.
        probability: of being in this state, where it is known.
    """

    name: str
    links: tuple[str, ...] = ()
    fibers: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    services: tuple[str, ...] | None = None
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class PlanningInstance:
    """A survivable capacity planning instance.

    Choose whole numbers x of modules, at least cost, so that in the failure-free state and in each failure all traffic
    that must be carried fits into ``load_factor`` times the capacity that is left, with free (fractional) rerouting.

    Attributes:
        load_factor: usable share of every capacity, in (0, 1].
        is_two_way: each demand stands for its traffic in both directions; otherwise one direction each.
        services: classes to carry without failure; None means all.
        is_geographic: whether x and y of nodes are longitude and latitude.
        provenance: where it comes from, in words.
    """

    name: str
    nodes: tuple[Node, ...]
    links: tuple[Link, ...]
    demands: tuple[Demand, ...]
    failures: tuple[Failure, ...] = ()
    fibers: tuple[Fiber, ...] = ()
    load_factor: float = 1.0
    is_two_way: bool = False
    services: tuple[str, ...] | None = None
    on_disconnection: Disconnection = Disconnection.SKIP
    is_geographic: bool = False
    provenance: str = ""

    def __post_init__(self) -> None:
        _check(self)

    def __repr__(self) -> str:
        sizes = f"{len(self.nodes)} nodes, {len(self.links)} links, {len(self.demands)} demands"
        return f"PlanningInstance({self.name!r}: {sizes}, {len(self.failures)} failures)"

    def to_spec(self) -> dict[str, Any]:
        """JSON object that ``from_spec`` reads."""
        return {"format": FORMAT, **codec.to_json(self)}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> PlanningInstance:
        """Read a JSON object; strict about keys and types.

        Raises:
            InvalidInputError: not of this format, or not consistent.
        """
        if not isinstance(spec, Mapping) or spec.get("format") != FORMAT:
            got = spec.get("format") if isinstance(spec, Mapping) else type(spec).__name__
            raise InvalidInputError(f"Expected a JSON object with format {FORMAT!r}, got {got!r}.")
        return codec.from_json(cls, {k: v for k, v in spec.items() if k != "format"})

    @staticmethod
    def schema() -> dict[str, Any]:
        """JSON schema of ``to_spec``."""
        result = codec.schema(PlanningInstance)
        result["properties"]["format"] = {"const": FORMAT}
        result["required"].insert(0, "format")
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **result}

    def with_failures(self, failures: Iterable[Failure]) -> PlanningInstance:
        """The same network with other failures."""
        return replace(self, failures=tuple(failures))


def single_link_failures(instance: PlanningInstance) -> tuple[Failure, ...]:
    """One failure per link."""
    return tuple(Failure(f"link {link.name}", links=(link.name,)) for link in instance.links)


def single_fiber_failures(instance: PlanningInstance, *, leased: bool = True) -> tuple[Failure, ...]:
    """One failure per fiber that carries a link; without leased ones if ``leased`` is False."""
    used = {name for link in instance.links for name in link.fibers}
    return tuple(
        Failure(f"fiber {f.name}", fibers=(f.name,))
        for f in instance.fibers
        if f.name in used and (leased or not f.is_leased)
    )


def single_node_failures(instance: PlanningInstance) -> tuple[Failure, ...]:
    """One failure per node that has transit; its own traffic is lost, the rest must be carried."""
    return tuple(Failure(f"node {n.name}", nodes=(n.name,)) for n in instance.nodes if n.has_transit)


def shared_risk_failures(groups: Mapping[str, Iterable[str]], *, of: str = "fibers") -> tuple[Failure, ...]:
    """One failure per group of ``of`` ("links", "fibers" or "nodes"): name -> members."""
    if of not in ("links", "fibers", "nodes"):
        raise InvalidInputError(f'Expected `of` to be "links", "fibers" or "nodes", got {of!r}.')
    return tuple(
        Failure(
            name,
            links=tuple(members) if of == "links" else (),
            fibers=tuple(members) if of == "fibers" else (),
            nodes=tuple(members) if of == "nodes" else (),
        )
        for name, members in groups.items()
    )


def _check(instance: PlanningInstance) -> None:
    nodes, links, fibers = (
        _unique("node", (n.name for n in instance.nodes)),
        _unique("link", (x.name for x in instance.links)),
        _unique("fiber", (f.name for f in instance.fibers)),
    )
    _unique("failure", (f.name for f in instance.failures))
    if not 0.0 < instance.load_factor <= 1.0:
        raise InvalidInputError(f"Expected `load_factor` in (0, 1], got {instance.load_factor}.")
    for item in (*instance.links, *instance.fibers, *instance.demands):
        what = f"{type(item).__name__.lower()} {getattr(item, 'name', f'{item.source}-{item.target}')}"
        for end in (item.source, item.target):
            if end not in nodes:
                raise InvalidInputError(f"{what}: expected a known node, got {end!r}.")
        if item.source == item.target:
            raise InvalidInputError(f"{what}: expected two different ends, got {item.source!r} twice.")
    for link in instance.links:
        _members(f"link {link.name}", "fiber", link.fibers, fibers)
        _not_negative(
            f"link {link.name}", link, ("existing_gbps", "setup_cost", "ghz_per_gbps", "length_km", "max_gbps")
        )
        for module in link.modules:
            _not_negative(f"link {link.name}: module", module, ("cost",))
            if module.capacity_gbps <= 0.0:
                raise InvalidInputError(
                    f"link {link.name}: expected module capacities > 0, got {module.capacity_gbps}."
                )
        if link.max_gbps is not None and link.max_gbps < link.existing_gbps:
            raise InvalidInputError(
                f"link {link.name}: expected max_gbps >= existing_gbps, got {link.max_gbps} < {link.existing_gbps}."
            )
    for fiber in instance.fibers:
        _not_negative(f"fiber {fiber.name}", fiber, ("length_km", "spectrum_ghz", "lease_gbps"))
    for demand in instance.demands:
        _not_negative(f"demand {demand.source}-{demand.target}", demand, ("gbps",))
    for failure in instance.failures:
        for kind, members, known in (
            ("link", failure.links, links),
            ("fiber", failure.fibers, fibers),
            ("node", failure.nodes, nodes),
        ):
            _members(f"failure {failure.name}", kind, members, known)


def _unique(kind: str, names: Iterable[str]) -> frozenset[str]:
    counts = Counter(names)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise InvalidInputError(f"Expected distinct {kind} names, got {twice[0]!r} more than once.")
    return frozenset(counts)


def _members(what: str, kind: str, members: Iterable[str], known: frozenset[str]) -> None:
    for name in members:
        if name not in known:
            raise InvalidInputError(f"{what}: expected a known {kind}, got {name!r}.")


def _not_negative(what: str, item: object, names: Iterable[str]) -> None:
    for name in names:
        value = getattr(item, name)
        if value is not None and value < 0.0:
            raise InvalidInputError(f"{what}: expected {name} >= 0, got {value}.")
