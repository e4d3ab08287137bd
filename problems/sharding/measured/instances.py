"""Instances inside of what was measured, and the family that a prior learns from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from problems.sharding.family import Distribution, ShardingFamily
from problems.sharding.measured.cost import Comms, MeasuredCost
from problems.sharding.measured.features import FEATURES
from problems.sharding.measured.inputs import draw_pool
from problems.sharding.problem import ShardingProblem
from problems.sharding.tables import GIB_BYTES, Device, Workload
from surco.errors import InvalidInputError

if TYPE_CHECKING:
    from surco.instance_family import Split

MEMORY_GIB = 80
FIRST_STREAM = 20_000  # keeps the draws of instances apart from those of pools
TRIES = 100


def cost_of(network: str, devices: int) -> MeasuredCost:
    """The networks as a cost among ``devices``: exchanges as measured where that many took part, else by bandwidth."""
    is_measured = MeasuredCost(network, comms=Comms.NONE).networks().world == devices
    return MeasuredCost(network, comms=Comms.MEASURED if is_measured else Comms.BANDWIDTH)


def drawn(
    network: str, tables: int, devices: int, *, rng: np.random.Generator, id: str | None = None, samples: int = 0
) -> ShardingProblem:
    """Tables drawn like the pool of a campaign and within its limits, on alike devices of 80 GiB.

    Args:
        network: file of cost networks, or a name in the package's data.
        tables: how many.
        devices: how many.
        rng: decides the tables.
        id: of the instance.
        samples: of a step, all devices together; 0 takes the most that were measured.

    Raises:
        InvalidInputError: no such networks, or tables that do not fit.
    """
    cost = cost_of(network, devices)
    low, high = (cost.networks().limits.double().exp() - 1.0).tolist()
    at = {name: k for k, name in enumerate(FEATURES)}
    pool = draw_pool(
        tables,
        rng=rng,
        rows=(low[at["rows"]], high[at["rows"]]),
        dims=[2**k for k in range(12) if 0.99 * low[at["dim"]] <= 2**k <= 1.01 * high[at["dim"]]],
        pooling=(low[at["pooling factor"]], high[at["pooling factor"]]),
        max_bytes=high[at["weight bytes"]],
    )
    return ShardingProblem(
        pool,
        [Device(f"gpu{d}", MEMORY_GIB * GIB_BYTES) for d in range(devices)],
        cost,
        workload=Workload(batch_size=max(1, round(samples or high[at["samples"]]) // devices)),
        id=id or f"sharding/measured-{tables}t-{devices}d",
    )


def numbered(
    network: str, tables: int, devices: int, seed: int, *, samples: int = 0, id: str | None = None
) -> ShardingProblem:
    """`drawn` with the generator of a seed.

    Raises:
        InvalidInputError: no such seed, besides what `drawn` raises.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InvalidInputError(f"Expected `seed` to be a non-negative integer, got {seed!r}.")
    rng = np.random.default_rng([FIRST_STREAM, seed])
    return drawn(
        network, tables, devices, rng=rng, id=id or f"sharding/measured-{tables}t-{devices}d-{seed}", samples=samples
    )


class MeasuredFamily(ShardingFamily):
    """Drawn tables under cost networks, for SurCo-prior and SurCo-hybrid.

    Args:
        network: file of cost networks, or a name in the package's data.
        tables: least and most tables of an instance, log-uniform between.
        devices: how many.
        id: of the family.
    """

    def __init__(self, network: str, tables: tuple[int, int], devices: int, *, id: str | None = None) -> None:
        self.network_name = network
        distribution = Distribution(tables, (devices, devices), cost_of(network, devices))
        super().__init__(id or f"sharding/measured-{tables[0]}to{tables[1]}t-{devices}d", distribution)

    def draw(self, split: Split, rng: np.random.Generator) -> ShardingProblem:
        """Draw a size, then tables that fit."""
        low, high = self.distribution.tables
        for _ in range(TRIES):
            tables = round(math.exp(rng.uniform(math.log(low), math.log(high))))
            try:
                problem = drawn(self.network_name, tables, self.distribution.devices[0], rng=rng, id=self.id)
            except InvalidInputError:  # more than the devices hold: other tables
                continue
            if problem.rule_choices:
                return problem
        raise InvalidInputError(f"{self.id}: a hundred draws in a row do not fit into memory. Draw fewer tables.")
