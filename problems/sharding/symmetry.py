"""Identical devices: which they are, and the one labelling of a plan that stands for all its relabellings.

Devices are alike if they have the same memory, the same speed and the same allowed tables. Swapping two of them
changes nothing, so a plan on D alike devices has up to D! names. The canonical one opens devices in order: walking
through the groups of tables in a fixed order, device k of a class receives its first group before device k + 1 does.
The canonical plans are exactly one per partition, and form the feasible set of the oracle.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]


def device_classes(keys: Sequence[Hashable], allowed: NDArray[np.bool_]) -> tuple[Index, ...]:
    """Classes of at least two alike devices, each in increasing order.

    Args:
        keys: per device, everything a cost or a capacity may depend on.
        allowed: [G, D]; devices with different columns are not alike.
    """
    classes: dict[Hashable, list[int]] = {}
    for d, key in enumerate(keys):
        classes.setdefault((key, allowed[:, d].tobytes()), []).append(d)
    return tuple(np.array(members) for members in classes.values() if len(members) > 1)


def first_positions(choice: Index, order: Index, devices: int) -> Index:
    """Position in ``order`` of the first group on each device, [B, G] -> [B, D]; G where the device is empty."""
    batch, groups = choice.shape
    first = np.full((batch, devices), groups, dtype=np.int64)
    backwards = np.arange(groups)[::-1]
    first[np.arange(batch)[:, None], choice[:, order[backwards]]] = backwards  # the last write, the smallest, stays
    return first


def is_canonical(choice: Index, order: Index, classes: Sequence[Index], devices: int) -> NDArray[np.bool_]:
    """[B] bool, whether each choice [B, G] of a device per group is its canonical labelling."""
    if not classes:
        return np.ones(len(choice), dtype=bool)
    first = first_positions(choice, order, devices)
    verdict = np.ones(len(choice), dtype=bool)
    for members in classes:
        verdict &= (np.diff(first[:, members], axis=1) >= 0).all(axis=1)  # ties are empty devices only
    return verdict


def canonical(choice: Index, order: Index, classes: Sequence[Index], devices: int) -> Index:
    """Canonical labelling of each choice [B, G]; devices only change names within their class."""
    if not classes:
        return choice
    first = first_positions(choice, order, devices)
    rename = np.tile(np.arange(devices), (len(choice), 1))
    for members in classes:
        ranked = members[np.argsort(first[:, members], axis=1, kind="stable")]
        np.put_along_axis(rename, ranked, np.broadcast_to(members, ranked.shape), axis=1)
    return np.take_along_axis(rename, choice, axis=1)
