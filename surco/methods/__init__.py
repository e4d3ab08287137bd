"""The methods: SurCo's learner and the baselines that could embarrass it, as equal citizens of one loop."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from importlib.metadata import entry_points
from typing import Any

from surco.errors import InvalidInputError, UnknownIdError
from surco.methods.aggregates import Aggregates
from surco.methods.auto import Auto
from surco.methods.exact import ExactMethod
from surco.methods.hybrid import Hybrid
from surco.methods.local_search import LocalSearch
from surco.methods.one_shot import Heuristic, Linear
from surco.methods.prior import PriorMethod
from surco.methods.random_perturbation import RandomPerturbation
from surco.methods.slp import SequentialLinearization
from surco.methods.zero import Zero
from surco.protocols import HasHeuristics, HasMethods, Method, Problem
from surco.registry import closest

METHODS: dict[str, type[Any]] = {
    "linear": Linear,
    "random": RandomPerturbation,
    "local_search": LocalSearch,
    "slp": SequentialLinearization,
    "aggregates": Aggregates,
    "zero": Zero,
    "prior": PriorMethod,
    "hybrid": Hybrid,
    "exact": ExactMethod,
    "auto": Auto,
}
"""Name -> class; ``prior`` and ``hybrid`` need the option ``prior=``, a trained surrogate."""


GROUP = "surco.methods"
"""Entry-point group by which other distributions add methods: ``name = "module:Class"``, a dataclass of its options."""


def installed_methods() -> dict[str, Any]:
    """Methods of other rooms and distributions, name -> entry point; they are loaded when they are first asked for."""
    return _points(tuple(sys.path))


@functools.lru_cache(maxsize=4)
def _points(path: tuple[str, ...]) -> dict[str, Any]:
    """Entry points that are visible on this search path; reading them takes milliseconds, more than a small solve."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in METHODS}


def _class_of(method: str) -> type[Any] | None:
    """The class behind a method's name, or None.

    Raises:
        InvalidInputError: an installed method that cannot be loaded.
    """
    if method in METHODS:
        return METHODS[method]
    point = installed_methods().get(method)
    if point is None:
        return None
    try:
        return point.load()
    except Exception as error:  # somebody else's code: name it instead of failing as if it were ours
        raise InvalidInputError(
            f"The method `{method}` ({point.value}) cannot be loaded: {type(error).__name__}: {error}."
        ) from error


def build_method(method: str | Method, problem: Problem, options: dict[str, Any]) -> Method:
    """Resolve a method's name (also a heuristic of the problem) and its options.

    Raises:
        UnknownIdError: no such method; the message names the closest one.
        InvalidInputError: an option that the method does not have.
    """
    if not isinstance(method, str):
        if options:
            raise InvalidInputError(f"Options {sorted(options)} go into the {type(method).__name__} itself.")
        return method
    offered = problem.methods() if isinstance(problem, HasMethods) else {}
    if method == "auto" and not options and isinstance(problem, HasMethods) and problem.auto_method:
        return offered[problem.auto_method]
    if method in offered:
        if not options:
            return offered[method]
        if not dataclasses.is_dataclass(offered[method]):
            raise InvalidInputError(f"Options {sorted(options)} go into the {type(offered[method]).__name__} itself.")
        _check_options(method, type(offered[method]), options)
        return dataclasses.replace(offered[method], **options)
    cls = _class_of(method)
    if cls is not None:
        _check_options(method, cls, options)
        return cls(**options)
    names = sorted(problem.heuristics()) if isinstance(problem, HasHeuristics) else []
    if method in names:
        return Heuristic(method)
    raise UnknownIdError(f"No method `{method}`.{closest(method, [*METHODS, *installed_methods(), *offered, *names])}")


def _check_options(method: str, cls: type[Any], options: dict[str, Any]) -> None:
    """Raise for an option that a method's dataclass does not have, or a number that it cannot work with."""
    known = {f.name for f in dataclasses.fields(cls) if f.init}
    unknown = sorted(set(options) - known)
    if unknown:
        raise InvalidInputError(f"Method `{method}` has no option `{unknown[0]}`.{closest(unknown[0], known)}")
    for field in dataclasses.fields(cls):
        if field.name in options:
            _check_number(f"{method}'s `{field.name}`", str(field.type), options[field.name])


def _check_number(what: str, type_: str, value: Any) -> None:
    """Raise unless an option whose type is a plain number is one, of a size that a method can work with."""
    kind = type_.removesuffix(" | None")
    if kind not in ("int", "float") or (value is None and kind != type_):
        return
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if kind == "int" and not (number >= 1 and float(number).is_integer()):
        raise InvalidInputError(f"Expected {what} to be an integer of at least 1, got {value!r}.")
    if not 0 <= number < math.inf:
        raise InvalidInputError(f"Expected {what} to be a number of at least 0, got {value!r}.")


__all__ = [
    "METHODS",
    "Aggregates",
    "Auto",
    "ExactMethod",
    "Heuristic",
    "Hybrid",
    "Linear",
    "LocalSearch",
    "PriorMethod",
    "RandomPerturbation",
    "SequentialLinearization",
    "Zero",
    "build_method",
    "installed_methods",
]
