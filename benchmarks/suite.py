"""A suite: methods x instances x seeds under equal budgets, read from a TOML file and checked whole before it runs."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surco.errors import InvalidInputError
from surco.registry import closest

LIMITS = ("calls", "objective_calls", "seconds", "cpu_seconds")
REGRETS = ("relative", "absolute")
TOP = (
    "name",
    "description",
    "seeds",
    "regret",
    "tolerance",
    "metrics",
    "cell_seconds",
    "budget",
    "methods",
    "instances",
)


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One row of the tables: a label, the method behind it, and its options."""

    label: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Instance:
    """One problem: a registered id with overrides, the group that it is averaged in, and its budget."""

    group: str
    id: str
    overrides: Mapping[str, Any]
    budget: Mapping[str, float]

    @property
    def key(self) -> str:
        """The instance in one line: ``id {"seed": 3}``."""
        return f"{self.id} {_canonical(self.overrides)}" if self.overrides else self.id


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: an instance, a method and a seed."""

    instance: Instance
    row: MethodRow
    seed: int

    @property
    def key(self) -> str:
        """What identifies the run's outcome, as 16 hexadecimal digits: equal keys mean the same work."""
        work = {
            "id": self.instance.id,
            "set": self.instance.overrides,
            "budget": self.instance.budget,
            "method": self.row.method,
            "options": self.row.options,
            "seed": self.seed,
        }
        return hashlib.sha256(_canonical(work).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Suite:
    """What to run and how to compare it.

    Attributes:
        regret: ``relative`` to |best known value|, or ``absolute`` where values may be near 0.
        tolerance: a regret up to this counts as reaching the best known value.
        metrics: names of problem metrics to average in the tables.
        cell_seconds: wall seconds after which a cell is ended and labelled ``timeout``.
    """

    name: str
    description: str
    seeds: tuple[int, ...]
    methods: tuple[MethodRow, ...]
    instances: tuple[Instance, ...]
    regret: str = "relative"
    tolerance: float = 1e-6
    metrics: tuple[str, ...] = ()
    cell_seconds: float = 600.0

    def cells(self) -> Iterator[Cell]:
        """All runs, the methods of one instance next to each other."""
        for instance, seed, row in itertools.product(self.instances, self.seeds, self.methods):
            yield Cell(instance, row, seed)


def load(path: str | Path) -> Suite:
    """Read a suite file.

    Raises:
        InvalidInputError: no such file, not TOML, or not a suite; the message names the key and what was expected.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidInputError(f"Expected a suite file, but there is no `{path}`.")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"`{path}` is not TOML: {error}.") from error
    return parse(data)


def parse(data: Mapping[str, Any]) -> Suite:
    """Build a suite from its TOML data."""
    _known(data, TOP, "suite")
    common = _budget(data.get("budget", {}), "budget")
    rows = tuple(_row(item) for item in _list(data, "methods"))
    instances = tuple(i for k, item in enumerate(_list(data, "instances")) for i in _instances(item, common, k))
    seeds = data.get("seeds", [0])
    suite = Suite(
        name=_text(data, "name"),
        description=str(data.get("description", "")),
        seeds=tuple(_integers(seeds, "seeds")),
        methods=rows,
        instances=instances,
        regret=data.get("regret", "relative"),
        tolerance=_positive(data.get("tolerance", 1e-6), "`tolerance`", or_zero=True),
        metrics=_texts(data.get("metrics", []), "metrics"),
        cell_seconds=_positive(data.get("cell_seconds", 600.0), "`cell_seconds`"),
    )
    if suite.regret not in REGRETS:
        raise InvalidInputError(f"Expected `regret` to be one of {REGRETS}, got {suite.regret!r}.")
    labels = [row.label for row in rows]
    if len(set(labels)) < len(labels):
        raise InvalidInputError(f"Expected every method to have a label of its own, got {labels}.")
    keys = [cell.key for cell in suite.cells()]
    if len(set(keys)) < len(keys):
        raise InvalidInputError("Two cells of the suite are the same run: an instance, method or seed is listed twice.")
    return suite


def _row(item: Any) -> MethodRow:
    if isinstance(item, str):
        return MethodRow(item, item)
    if not isinstance(item, Mapping):
        raise InvalidInputError(f"Expected a method's name or a table with `label`, got {item!r}.")
    _known(item, ("label", "method", "options"), "method")
    label = _text(item, "label")
    method = _text(item, "method") if "method" in item else label
    return MethodRow(label, method, _table(item, "options", f"method `{label}`"))


def _instances(item: Any, common: Mapping[str, float], k: int) -> list[Instance]:
    if not isinstance(item, Mapping):
        raise InvalidInputError(f"Expected [[instances]] number {k + 1} to be a table with `id`, got {item!r}.")
    _known(item, ("id", "group", "set", "draws", "budget"), "instance")
    id = _text(item, "id")
    overrides = _table(item, "set", f"instance `{id}`")
    budget = _budget(item["budget"], "instance budget") if "budget" in item else dict(common)
    if not budget:
        raise InvalidInputError(f"Instance `{id}` has no budget. Expected a [budget] with one of {', '.join(LIMITS)}.")
    group = _text(item, "group") if "group" in item else id
    draws = item.get("draws")
    if draws is None:
        return [Instance(group, id, overrides, budget)]
    if "seed" in overrides:
        raise InvalidInputError(f"Instance `{id}` has both `draws` and a `seed` in `set`. Leave one of them out.")
    if type(draws) is int and draws < 1:
        raise InvalidInputError(f"Expected `draws` of instance `{id}` to be at least 1, got {draws}.")
    seeds = range(draws) if type(draws) is int else _integers(draws, "draws")
    return [Instance(group, id, {**overrides, "seed": seed}, budget) for seed in seeds]


def _budget(item: Any, where: str) -> dict[str, float]:
    if not isinstance(item, Mapping):
        raise InvalidInputError(f"Expected `{where}` to be a table with some of {', '.join(LIMITS)}, got {item!r}.")
    _known(item, LIMITS, where)
    for name, value in item.items():
        _positive(value, f"`{name}` of the {where}")
        if name.endswith("calls") and not isinstance(value, int):
            raise InvalidInputError(f"Expected `{name}` of the {where} to be an integer, got {value!r}.")
    return dict(item)


def _positive(value: Any, what: str, *, or_zero: bool = False) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not (0 < value < math.inf or (or_zero and value == 0)):
        raise InvalidInputError(f"Expected {what} to be a finite number {'>=' if or_zero else '>'} 0, got {value!r}.")
    return value


def _table(item: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    value = item.get(name, {})
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"Expected `{name}` of {where} to be a table, got {value!r}.")
    return dict(value)


def _texts(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidInputError(f"Expected `{name}` to be a list of texts, got {value!r}.")
    return tuple(value)


def _known(item: Mapping[str, Any], names: Sequence[str], what: str) -> None:
    for name in item:
        if name not in names:
            raise InvalidInputError(f"A {what} has no key `{name}`.{closest(name, names)}")


def _list(data: Mapping[str, Any], name: str) -> list[Any]:
    value = data.get(name)
    if not isinstance(value, list) or not value:
        raise InvalidInputError(f"Expected `{name}` to be a list that is not empty, got {value!r}.")
    return value


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f"Expected `{name}` to be a text that is not empty, got {value!r}.")
    return value


def _integers(value: Any, name: str) -> list[int]:
    if not isinstance(value, list) or not value or not all(type(item) is int and item >= 0 for item in value):
        raise InvalidInputError(f"Expected `{name}` to be a list of integers >= 0, got {value!r}.")
    return value


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(", ", ": "), default=str)
