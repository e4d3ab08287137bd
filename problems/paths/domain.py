"""Route problems by id and by spec."""

from __future__ import annotations

import functools
import re
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

from problems.paths.instances import (
    DEADLINES,
    GRID_SIZES,
    MEAN_LIMITS,
    checked_seed,
    farthest_pair,
    grid,
    network_files,
    real_network,
)
from surco.errors import InvalidInputError, UnknownIdError
from surco.registry import closest

if TYPE_CHECKING:
    from problems.paths.route import OnTimeRoute
    from surco.instance_family import Family

_GRID = re.compile(r"paths/grid-(\d+)-(code|paper)-v0")
_NETWORK = re.compile(r"paths/(sndlib|topozoo)-(.+)-v0")


class PathsDomain:
    """On-time routes: random grids and real networks.

    Overrides of an id: ``seed`` (default 0) draws the grid, or the variances of a real network; ``deadline`` is a name
    of :data:`problems.paths.instances.DEADLINES` (default ``"loose"``) or a number; ``source`` and ``target`` are nodes
    (default: opposite corners of a grid, the farthest pair of a real network).
    """

    name = "paths"

    @functools.cache  # noqa: B019 - there is one domain object
    def ids(self) -> Mapping[str, str]:
        """Versioned id -> one line of description."""
        table = {
            f"paths/grid-{size}-{kind}-v0": (
                f"on-time route over a {size}x{size} grid, means U(0.1, {limit:g}), variances U(0.1, 0.3) (1 - mean)"
            )
            for kind, limit in MEAN_LIMITS.items()
            for size in GRID_SIZES
        }
        libraries = {"sndlib": "SNDlib", "topozoo": "Topology Zoo"}
        for library, name in network_files():
            table[f"paths/{library}-{name}-v0"] = (
                f"on-time route over the {libraries[library]} network {name}, mean = link length, seeded variance"
            )
        return table

    def make(
        self,
        id: str,
        *,
        seed: int = 0,
        deadline: str | float = "loose",
        source: Hashable | None = None,
        target: Hashable | None = None,
        **unknown: Any,
    ) -> OnTimeRoute:
        """Build the problem of an id.

        Raises:
            UnknownIdError: no such id.
            InvalidInputError: an override that does not exist or does not fit.
        """
        from problems.paths.route import OnTimeRoute

        if unknown:
            wrong = sorted(unknown)[0]
            raise InvalidInputError(
                f"`{id}` has no override `{wrong}`.{closest(wrong, ['seed', 'deadline', 'source', 'target'])}"
            )
        if id not in self.ids():
            raise UnknownIdError(f"No problem `{id}`.{closest(id, self.ids())}")
        seed = checked_seed(seed)
        if match := _GRID.fullmatch(id):
            size = int(match[1])
            graph = grid(size, match[2], seed)
            ends: tuple[Hashable, Hashable] = ((0, 0), (size - 1, size - 1))
        else:
            match = _NETWORK.fullmatch(id)
            assert match is not None  # ids() has no other form
            graph = real_network(match[1], match[2], seed)
            ends = farthest_pair(graph)
        start, end = (
            _tupled(given) if given is not None else own for given, own in zip((source, target), ends, strict=True)
        )
        spec = {"domain": self.name, "id": id, "seed": seed, "deadline": deadline}
        spec |= {key: _listed(node) for key, node in (("source", source), ("target", target)) if node is not None}
        problem = OnTimeRoute(graph, start, end, 0.0, id=id, spec=spec)
        return problem.with_deadline(_deadline(deadline, problem.least_expected_time), id=id, spec=spec)

    def from_spec(self, spec: Mapping[str, Any]) -> OnTimeRoute:
        """Build a problem from a JSON object: an ``id`` with overrides, or a whole graph.

        Raises:
            InvalidInputError: a key is missing, unknown or does not fit.
        """
        if "id" in spec and "edges" not in spec:
            overrides = {key: value for key, value in spec.items() if key not in ("domain", "id")}
            return self.make(str(spec["id"]), **overrides)
        from problems.paths import graph_spec
        from problems.paths.route import OnTimeRoute

        return OnTimeRoute(*graph_spec.read(spec))

    def families(self) -> Mapping[str, str]:
        """Family id -> one line of description."""
        from problems.paths import family

        return {id: line for id, (line, _) in family.catalog().items()}

    def family(self, id: str) -> Family:
        """The family of an id of ``families``."""
        from problems.paths import family

        return family.family(id)


def _deadline(deadline: str | float, least_expected_time: float) -> float:
    if not isinstance(deadline, str):
        return deadline
    if deadline not in DEADLINES:
        raise InvalidInputError(
            f"Expected `deadline` to be a number or one of {', '.join(DEADLINES)} (times the least expected time "
            f"{least_expected_time:.6g}), got {deadline!r}."
        )
    return DEADLINES[deadline] * least_expected_time


def _tupled(node: Any) -> Hashable:
    return tuple(_tupled(part) for part in node) if isinstance(node, list | tuple) else node


def _listed(node: Any) -> Any:
    return [_listed(part) for part in node] if isinstance(node, tuple) else node


DOMAIN = PathsDomain()
"""The entry point ``paths`` of the group ``surco.problems``."""
