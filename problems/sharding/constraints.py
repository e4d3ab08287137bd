"""Placement rules of the user: pin, forbid, colocate; and what they mean for groups of tables."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from problems.sharding.tables import Device, Table
from surco.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Constraints:
    """Placement rules by name.

    Attributes:
        pin: table -> the device it must be on.
        forbid: (table, device) pairs that may not be.
        colocate: groups of tables that must share one device.
    """

    pin: Mapping[str, str] = field(default_factory=dict)
    forbid: Sequence[tuple[str, str]] = ()
    colocate: Sequence[tuple[str, ...]] = ()


@dataclass(frozen=True, slots=True)
class Placement:
    """The rules resolved to indices over G groups of tables (a table that is colocated with none is its own group).

    Attributes:
        group: [T] int, group of each table; groups are numbered by their first table.
        allowed: [G, D] bool.
        members: table indices of each group.
    """

    group: NDArray[np.int64]
    allowed: NDArray[np.bool_]
    members: tuple[tuple[int, ...], ...]

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.members)

    def sum_groups(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum [..., T, D] (or [T]) over the tables of each group, giving [..., G, D] (or [G])."""
        if self.groups == len(self.group):
            return values
        is_member = np.zeros((self.groups, len(self.group)))
        is_member[self.group, np.arange(len(self.group))] = 1.0
        return is_member @ values


def resolve(tables: Sequence[Table], devices: Sequence[Device], constraints: Constraints) -> Placement:
    """Resolve names to indices.

    Rules that contradict each other are no error here: they leave a group without a device, and
    ``explain_infeasibility`` names them.

    Raises:
        InvalidInputError: a name that does not exist, or a malformed rule.
    """
    table_index = {table.name: t for t, table in enumerate(tables)}
    device_index = {device.name: d for d, device in enumerate(devices)}
    allowed = np.ones((len(tables), len(devices)), dtype=bool)
    for table, device in constraints.pin.items():
        t, d = _find(table, table_index, "pin", "table"), _find(device, device_index, "pin", "device")
        allowed[t, np.arange(len(devices)) != d] = False
    for pair in constraints.forbid:
        if len(pair) != 2:
            raise InvalidInputError(f"Expected each rule of `forbid` to be a pair (table, device), got {pair!r}.")
        t, d = _find(pair[0], table_index, "forbid", "table"), _find(pair[1], device_index, "forbid", "device")
        allowed[t, d] = False

    root = list(range(len(tables)))

    def find_root(t: int) -> int:
        while root[t] != t:
            root[t] = root[root[t]]
            t = root[t]
        return t

    for names in constraints.colocate:
        indices = [_find(name, table_index, "colocate", "table") for name in names]
        for t in indices[1:]:
            a, b = sorted((find_root(indices[0]), find_root(t)))
            root[b] = a
    roots = [find_root(t) for t in range(len(tables))]
    number = {r: g for g, r in enumerate(dict.fromkeys(roots))}
    group = np.array([number[r] for r in roots], dtype=np.int64)
    members = tuple(tuple(int(t) for t in np.flatnonzero(group == g)) for g in range(len(number)))
    group_allowed = np.array([allowed[list(ts)].all(axis=0) for ts in members]).reshape(len(members), len(devices))
    return Placement(group, group_allowed, members)


def _find(name: object, index: Mapping[str, int], rule: str, what: str) -> int:
    if not isinstance(name, str):
        raise InvalidInputError(f"Expected `{rule}` to give a {what} by its name, got {name!r}.")
    if name not in index:
        raise InvalidInputError(f"Rule `{rule}` names an unknown {what} {name!r}.{suggestion(name, index)}")
    return index[name]


def suggestion(name: str, known: Iterable[str]) -> str:
    """' Did you mean ...?' or a short list of what there is."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f" Did you mean {close[0]!r}?"
    shown = ", ".join(repr(k) for k in known[:6])
    return f" Known: {shown}{', ...' if len(known) > 6 else ''}."
