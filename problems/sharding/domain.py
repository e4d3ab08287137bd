"""Registered sharding ids and what each stands for; the makers are imported when a problem is asked for."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from surco.errors import InvalidInputError, UnknownIdError
from surco.registry import closest

if TYPE_CHECKING:
    from problems.sharding.joint.problem import JointProblem
    from problems.sharding.problem import ShardingProblem
    from surco.instance_family import Family

NAME = "sharding"
NETWORK = "h100"  # measured cost networks in the package's data
MEASURED_SIZES = ((20, 2), (40, 2), (40, 4), (80, 4))  # tables and devices of the measured ids
_MODELS = {"": "TorchRec's additive estimate", "-nonlinear": "nonlinear fused-kernel model, H100 figures"}


def measured_id(tables: int, devices: int) -> str:
    """Id of a registered instance, and of the family of such instances."""
    return f"{NAME}/measured-{NETWORK}-{tables}t-{devices}d-v0"


@functools.cache
def _catalog() -> dict[str, tuple[str, str, tuple[Any, ...]]]:
    """Id -> (description, name of its maker, first arguments of the maker without the id)."""
    entries: dict[str, tuple[str, str, tuple[Any, ...]]] = {}
    for suffix, words in _MODELS.items():
        for count in (8, 16):
            line = f"26 tables of MLPerf DLRM-DCNv2 on {count} devices of 80 GiB; {words}"
            entries[f"{NAME}/mlperf-dlrm-v2-{count}gpu{suffix}-v0"] = (line, f"mlperf{suffix}", (count,))
        for tables in (50, 200, 856):
            for count in (4, 8, 16, 64):
                line = f"{tables} drawn DLRM-like tables on {count} devices (seed=); {words}"
                entries[f"{NAME}/dlrm-{tables}t-{count}d{suffix}-v0"] = (line, f"dlrm{suffix}", (tables, count))
    for tables in (50, 200, 856):
        for count in (4, 8, 64, 128):
            line = f"sharding type and ranks of {tables} drawn tables on {count} devices (seed=, objective=)"
            entries[f"{NAME}/dlrm-{tables}t-{count}d-joint-v0"] = (line, "joint", (tables, count))
    for tables, count in MEASURED_SIZES:
        line = f"{tables} drawn tables on {count} H100 (seed=); cost networks trained on measured kernels"
        entries[measured_id(tables, count)] = (line, "measured", (tables, count))
    return entries


def _maker(id: str) -> Callable[..., ShardingProblem | JointProblem]:
    """The maker of an id, still to be called with overrides."""
    from problems.sharding import makers
    from problems.sharding.costs import AdditiveCost
    from problems.sharding.fused import FusedCost

    _, name, sizes = _catalog()[id]
    kind, _, model = name.partition("-")
    costs = () if kind in ("joint", "measured") else (FusedCost() if model else AdditiveCost(),)
    return functools.partial(getattr(makers, kind), *sizes, id, *costs)


class ShardingDomain:
    """Entry point of the domain."""

    name = NAME

    def ids(self) -> Mapping[str, str]:
        """Versioned id -> one line of description."""
        return {id: line for id, (line, _, _) in _catalog().items()}

    def make(self, id: str, **overrides: Any) -> ShardingProblem | JointProblem:
        """Build a registered instance; overrides are the keyword arguments of its maker in `problems.sharding.makers`.

        Raises:
            UnknownIdError: no such id.
            InvalidInputError: no such override, or a value out of range.
        """
        if id not in _catalog():
            raise UnknownIdError(f"No problem `{id}`.{closest(id, _catalog())}")
        maker = _maker(id)
        known = [p.name for p in inspect.signature(maker).parameters.values() if p.kind is p.KEYWORD_ONLY]
        for key in overrides:
            if key not in known:
                raise InvalidInputError(f"`{id}` has no override `{key}`.{closest(key, known)}")
        return maker(**overrides)

    def from_spec(self, spec: Mapping[str, Any]) -> ShardingProblem | JointProblem:
        """Build a problem from its JSON object; ``"kind": "joint"`` asks for sharding types too."""
        from problems.sharding.joint.problem import JointProblem
        from problems.sharding.joint.spec import KIND
        from problems.sharding.problem import ShardingProblem

        return (JointProblem if spec.get("kind") == KIND else ShardingProblem).from_spec(spec)

    def families(self) -> Mapping[str, str]:
        """Family id -> one line of description."""
        from problems.sharding import family

        described = {id: line for id, (line, _) in family.catalog().items()}
        measured = [measured_id(*size) for size in MEASURED_SIZES]
        return described | {id: f"{self.ids()[id]}; as in the problem of that id" for id in measured}

    def family(self, id: str) -> Family:
        """The family of an id of ``families``."""
        from problems.sharding import family
        from problems.sharding.measured.instances import MeasuredFamily

        for tables, count in MEASURED_SIZES:
            if id == measured_id(tables, count):
                return MeasuredFamily(NETWORK, (tables, tables), count, id=id)
        return family.family(id)


DOMAIN = ShardingDomain()
