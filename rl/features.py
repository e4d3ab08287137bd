"""What agents see of a network: the columns of observations, all relative to the instance's own sizes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from problems.planning.network import Array
from rl.topology import Topology

CLIP = 10.0  # features stay in [-CLIP, CLIP]

STATIC_LINK_FEATURES = (
    "relaxed capacity",  # point of the cutset relaxation, over the scale
    "relaxed remainder",  # its fractional part in units
    "shortest-path load, intact",
    "shortest-path capacity, all failures",
    "log price per Gbps over the mean",
    "log length over the mean",
    "dual share",  # share of the price that cuts of the relaxation pay for
    "unit over scale",
    "existing capacity",
    "failures that take the link down",  # share of all
    "links on its fibers",  # log of their number
    "demand between its ends",
)
DYNAMIC_LINK_FEATURES = (
    "capacity",
    "capacity minus relaxed",
    "capacity minus shortest-path load",
    "capacity minus shortest-path capacity",
    "worst shortfall of a cut through it",
    "pressure",  # mean weight in violated cuts, deep ones first
    "weight in the worst cut",
    "capacity that alone mends all cuts through it",
    "headroom",  # units that limits, spectrum and leases leave
    "mending per price",  # of all violated cuts, by one unit, against the best option; half of the logarithm
    "mending per price, worst cut",
)
NODE_FEATURES = ("demand", "largest demand", "degree", "has transit", "demand over degree", "relaxed capacity")
CONTEXT_FEATURES = (
    "log scale in units",
    "log links",
    "links per node",
    "worst shortfall",
    "violated share",
    "cost over bound",
)


def static_link_features(topology: Topology) -> NDArray[np.float32]:
    """[M, len(STATIC_LINK_FEATURES)] float32."""
    network, scale = topology.network, topology.scale_gbps
    links = network.instance.links
    price = topology.cost / topology.gbps
    length = np.array([max(links[i].length_km, 1e-3) for i in topology.link])
    alive = np.array([s.alive for s in network.scenarios])
    fibers = [set(links[i].fibers) for i in topology.link]
    sharing = np.array([sum(not mine.isdisjoint(other) for other in fibers) or 1 for mine in fibers])
    demand = network.scenarios[0].demand
    u, v = topology.ends.T
    columns = [
        topology.relaxed * topology.gbps / scale,
        topology.relaxed - np.floor(topology.relaxed + 1e-6),
        topology.intact_gbps / scale,
        topology.greedy * topology.gbps / scale,
        np.log(np.maximum(price / max(float(price.mean()), 1e-12), 1e-3)),
        np.log(length / length.mean()),
        topology.dual_share,
        topology.gbps / scale,
        network.offset[topology.link] / scale,
        (~alive[:, topology.link]).mean(axis=0) * len(links) / 2.0,
        np.log(sharing),
        np.maximum(demand[u, v], demand[v, u]) / scale,
    ]
    return _clipped(np.stack(columns, axis=1))


def node_features(topology: Topology) -> NDArray[np.float32]:
    """[N, len(NODE_FEATURES)] float32."""
    network, scale = topology.network, topology.scale_gbps
    demand = network.scenarios[0].demand
    own = np.maximum(demand.sum(axis=0), demand.sum(axis=1))
    largest = np.maximum(demand.max(axis=0), demand.max(axis=1))
    count = len(network.is_transit)
    degree = np.bincount(network.link_ends.ravel(), minlength=count).astype(np.float64)
    around = np.zeros(count)
    for end in topology.ends.T:
        np.add.at(around, end, topology.relaxed * topology.gbps)
    columns = [
        own / scale / 4.0,
        largest / scale,
        degree / 4.0,
        network.is_transit.astype(np.float64),
        own / np.maximum(degree - 1.0, 1.0) / scale,
        around / scale / 4.0,
    ]
    return _clipped(np.stack(columns, axis=1))


def against_best(values: Array, price: Array) -> Array:
    """[b, M] half of the logarithm of values per price over the largest of each row, at least -CLIP / 2.

    Args:
        values: [b, M] >= 0.
        price: [b, M]; free options count as a millionth of the dearest.
    """
    rate = values / np.maximum(price, np.maximum(1e-6 * price.max(axis=1, keepdims=True), 1e-12))
    share = rate / np.maximum(rate.max(axis=1, keepdims=True), 1e-300)
    return 0.5 * np.log(np.maximum(share, np.exp(-CLIP)))


def static_context(topology: Topology) -> Array:
    """[3]: the part of the context that does not change."""
    count = len(topology.options)
    return np.array(
        [
            np.log(topology.scale_gbps / float(topology.gbps.mean())) / 2.0,
            np.log(count) / 4.0,
            count / len(topology.network.is_transit) / 2.0,
        ]
    )


def _clipped(values: Array) -> NDArray[np.float32]:
    return np.clip(values, -CLIP, CLIP).astype(np.float32)
