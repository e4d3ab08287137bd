"""Networks with prices that are not linear, written exactly as integer programs: the yardstick of SurCo's answers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from problems.planning.network import COVER, STEP, Array, Network
from surco.errors import InvalidInputError


def stepped_network(network: Network, price: Sequence[Array]) -> tuple[Network, float]:
    """The same plans, priced ``price[l][k]`` for k units on link l (any shape), and the price of installing nothing.

    One 0-1 variable per unit: x_l = sum_k s_lk, s_l1 >= s_l2 >= ..., cost sum_k (price[k] - price[k - 1]) s_lk. Cuts
    stay on x alone.

    Args:
        network: one module size per link, no set-up costs.
        price: per link, prices of 0, 1, ..., upper units.

    Raises:
        InvalidInputError: links with several modules, or a price table of the wrong length.
    """
    m = network.n_links
    if network.n != m or (network.variable_link != np.arange(m)).any():
        raise InvalidInputError("Expected exactly one module size per link for tabulated prices.")
    counts = network.upper.astype(int)
    for link, (table, count) in enumerate(zip(price, counts, strict=True)):
        if len(table) != count + 1:
            name = network.instance.links[link].name
            raise InvalidInputError(
                f"Link {name!r}: expected {count + 1} prices (0 to {count} units), got {len(table)}."
            )
    steps = int(counts.sum())
    link_of_step = np.repeat(np.arange(m), counts)
    first = m + np.concatenate([[0], np.cumsum(counts)[:-1]])
    rows, limits, names = [], [], []
    for link in range(m):
        mine = np.arange(first[link], first[link] + counts[link])
        for sign, word in ((1.0, "most"), (-1.0, "least")):
            row = np.zeros(m + steps)
            row[link] = sign
            row[mine] = -sign
            rows.append(row)
            limits.append(0.0)
            names.append(f"units of link {network.instance.links[link].name} ({word})")
        slopes = np.diff(price[link])
        for before, after in itertools.pairwise(mine):
            if slopes[after - mine[0]] < slopes[before - mine[0]] - 1e-12:  # convex parts order themselves
                row = np.zeros(m + steps)
                row[after], row[before] = 1.0, -1.0
                rows.append(row)
                limits.append(0.0)
                names.append(f"order of units of link {network.instance.links[link].name}")
    base = np.hstack([network.rows, np.zeros((len(network.rows), steps))])
    return replace(
        network,
        variable_link=np.r_[network.variable_link, link_of_step],
        variable_module=np.r_[network.variable_module, np.full(steps, STEP)],
        gbps=np.r_[network.gbps, np.zeros(steps)],
        cost=np.r_[np.zeros(m), np.concatenate([np.diff(table) for table in price]) if m else np.zeros(0)],
        module_cost=np.r_[network.module_cost, np.zeros(steps)],
        upper=np.r_[network.upper, np.ones(steps)],
        rows=np.vstack([base, *[row[None] for row in rows]]) if rows else base,
        limits=np.r_[network.limits, limits],
        row_names=(*network.row_names, *names),
    ), float(sum(table[0] for table in price))


def covering_network(network: Network, groups: Sequence[tuple[str, Array, float, float]], cost: Array) -> Network:
    """The same plans with whole numbers y of shared things: a.x <= size y, at a price each.

    Args:
        network: any; its own set-up variables stay.
        groups: (name, a [n] >= 0, size, price) of each thing, such as a chassis of ``size`` ports at a node.
        cost: [n] linear prices of the network's own variables from now on.
    """
    count = len(groups)
    rows = np.zeros((count, network.n + count))
    upper = []
    for i, (_, weights, size, _) in enumerate(groups):
        rows[i, : network.n] = weights
        rows[i, network.n + i] = -size
        upper.append(np.ceil(float(weights @ network.upper) / size))
    base = np.hstack([network.rows, np.zeros((len(network.rows), count))])
    zeros = np.zeros(count)
    return replace(
        network,
        variable_link=np.r_[network.variable_link, np.zeros(count, dtype=np.int64)],
        variable_module=np.r_[network.variable_module, np.full(count, COVER)],
        gbps=np.r_[network.gbps, zeros],
        cost=np.r_[cost, [price for *_, price in groups]],
        module_cost=np.r_[network.module_cost, zeros],
        upper=np.r_[network.upper, upper],
        rows=np.vstack([base, rows]),
        limits=np.r_[network.limits, zeros],
        row_names=(*network.row_names, *(f"size of {name}" for name, *_ in groups)),
    )
