"""Problems by name: versioned ids, found through entry points, so that any distribution can add a domain."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from surco.errors import InvalidInputError, UnknownIdError
from surco.protocols import Problem

GROUP = "surco.problems"
MODEL_FILES = (".mps", ".lp", ".mps.gz", ".lp.gz")  # what solvers.milp reads


@runtime_checkable
class Domain(Protocol):
    """A family of problems, published as an entry point of the group ``surco.problems``.

    A domain may also offer ``from_file(path) -> Problem | None`` for formats of its own.
    """

    @property
    def name(self) -> str:
        """Part of every id before the first slash."""
        ...

    def ids(self) -> Mapping[str, str]:
        """Versioned id -> one line of description."""
        ...

    def make(self, id: str, **overrides: Any) -> Problem:
        """Build the problem of that id; an UnknownIdError names what there is instead."""
        ...

    def from_spec(self, spec: Mapping[str, Any]) -> Problem:
        """Build a problem from a JSON object with ``"domain": name``."""
        ...


@functools.cache
def _domain(name: str) -> Domain:
    for point in entry_points(group=GROUP):
        if point.name == name:
            try:
                return point.load()
            except Exception as error:  # somebody else's code: name it instead of failing as if it were ours
                raise InvalidInputError(
                    f"The domain `{name}` of {_distribution(point)} cannot be loaded: {type(error).__name__}: {error}."
                ) from error
    raise UnknownIdError(f"No domain `{name}`.{closest(name, domain_names())}")


def domain_names() -> list[str]:
    """Names of all installed domains."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def broken_domains() -> dict[str, str]:
    """Installed domains that cannot be loaded, with the reason."""
    broken: dict[str, str] = {}
    for name in domain_names():
        try:
            _domain(name)
        except InvalidInputError as error:
            broken[name] = str(error)
    return broken


def ids() -> dict[str, str]:
    """All registered ids with a line of description each; domains that cannot be loaded are left out."""
    broken = broken_domains()
    return {id: line for name in domain_names() if name not in broken for id, line in _domain(name).ids().items()}


def make(id: str, /, **overrides: Any) -> Problem:
    """Build a registered problem.

    Args:
        id: for example ``"sharding/mlperf-dlrm-v2-8gpu-v0"``; ``surco list`` shows all.
        overrides: what the domain lets one change, ``seed=`` for drawn instances.

    Raises:
        UnknownIdError: no such id; the message names the closest one.

    Example:
        >>> import surco
        >>> surco.make("paths/grid-5-code-v0", seed=1).oracle.n
        40
    """
    name = id.partition("/")[0]
    if name not in domain_names():
        raise UnknownIdError(f"No problem `{id}`.{closest(id, ids())}")
    return _domain(name).make(id, **overrides)


def from_spec(spec: Mapping[str, Any]) -> Problem:
    """Build a problem from its JSON object, which names its domain under ``"domain"``."""
    if not isinstance(spec, Mapping) or "domain" not in spec:
        raise InvalidInputError(
            f"Expected a JSON object with a `domain` (one of {', '.join(domain_names())}), got {_shown(spec)}."
        )
    return _domain(str(spec["domain"])).from_spec(spec)


def load(source: str | Path, /, **overrides: Any) -> Problem:
    """Build a problem from an id, a JSON spec file, a saved ``result.json``, or a file of a domain's own format."""
    text = str(source)
    path = Path(text)
    if not path.is_file():
        if path.suffix and "/" not in text and text not in ids():
            raise InvalidInputError(f"Expected an id or a file, but there is no file `{text}` here. Try `surco list`.")
        return make(text, **overrides)
    if overrides:
        raise InvalidInputError(
            f"Overrides {sorted(overrides)} fit an id, not the file `{text}`; edit the file instead."
        )
    if path.suffix == ".json":
        try:
            spec = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:  # the latter where thousands of brackets are nested
            raise InvalidInputError(f"`{text}` is not JSON: {error}.") from error
        if isinstance(spec, Mapping) and "domain" not in spec and isinstance(spec.get("spec"), Mapping):
            spec = spec["spec"]
        if isinstance(spec, Mapping) and "domain" in spec:
            return from_spec(spec)
    for name in domain_names():
        reader = getattr(_domain(name), "from_file", None)
        problem = reader(path) if reader else None
        if problem is not None:
            return problem
    if text.lower().endswith(MODEL_FILES):
        raise InvalidInputError(
            f"`{text}` holds rules but no true cost. Try `surco.problem({text!r}, objective)` from Python."
        )
    known = ", ".join(domain_names())
    raise InvalidInputError(f'No installed domain reads `{text}`; a JSON spec needs a "domain" (one of {known}).')


def closest(name: str, choices: Iterable[str]) -> str:
    """``" Did you mean `x`?"`` for the nearest choice; otherwise the choices, shortened."""
    choices = sorted(choices)
    if not choices:
        return " There is none."
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    if near:
        return f" Did you mean `{near[0]}`?"
    shown = ", ".join(choices[:8]) + (" ..." if len(choices) > 8 else "")
    return f" Known: {shown}."


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unnamed distribution"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
