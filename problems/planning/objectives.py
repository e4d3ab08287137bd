"""Costs of a plan that are not linear in its units: module prices, delay, expected loss, power.

Letters: k = x_l units on link l (topologies with one module size per link), C_l = usable Gbps. Each objective is a
plain object with ``value(x)`` in torch, a gradient where there is one, and, where a piecewise-linear integer program
is exact, that program.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from problems.planning.expected_loss import ExpectedLoss
from problems.planning.network import Array, Network
from problems.planning.pricing import covering_network, stepped_network
from problems.planning.routing import shortest_path_loads


class Objective(Protocol):
    """A cost of plans: ``value`` [..., n] -> [...]."""

    @property
    def is_convex(self) -> bool:
        """Whether ``value`` is convex."""
        ...

    @property
    def is_differentiable(self) -> bool:
        """Whether its gradient is of use."""
        ...

    @property
    def linear(self) -> Array:
        """[n], natural linear costs."""
        ...

    def value(self, x: Tensor) -> Tensor:
        """Cost of plans x [..., n]."""
        ...

    def integer_program(self) -> tuple[Network, float] | None:
        """A network whose linear cost plus a constant is this cost at whole plans, or None where there is none."""
        ...

    def metrics(self, x: Array) -> Mapping[str, float]:
        """Parts of the cost of one plan [n]."""
        ...


@dataclass(frozen=True)
class BulkPrices:
    """Turn-up price and volume discount per link: price_l(k) = cost_l (t (1 - e^(-6 k)) + k^beta), concave for k >= 1.

    ``turn_up`` is t in units' prices; 1 - e^(-6 k) is 0 at 0 and 1 to 0.3 % from the first unit on, so the cost is
    smooth in between. Economies of scale in transport prices are commonly modeled by a power of 0.6 to 0.9.
    """

    network: Network
    turn_up: float = 2.0
    power: float = 0.8
    is_convex: bool = field(default=False, init=False)
    is_differentiable: bool = field(default=True, init=False)

    @property
    def linear(self) -> Array:
        """Prices of a unit at the shortest-path plan's volume: its total price over its units."""
        return self.network.cost

    def value(self, x: Tensor) -> Tensor:
        """Cost of plans x [..., n]."""
        cost = torch.from_numpy(self.network.cost).to(x)
        k = x.clamp_min(0.0)
        bulk = (k + 1e-3) ** self.power - 1e-3**self.power
        return ((self.turn_up * (1.0 - torch.exp(-6.0 * k)) + bulk) * cost).sum(-1)

    def integer_program(self) -> tuple[Network, float]:
        """The exact piecewise-linear program; see :class:`Objective`."""
        return stepped_network(self.network, _tabulate(self, self.network))

    def metrics(self, x: Array) -> Mapping[str, float]:
        """Parts of the cost of one plan [n]."""
        return {"linear_price": float(self.network.cost @ x), "links_turned_up": float((x > 0.5).sum())}


@dataclass(frozen=True)
class QueueDelay:
    """Price of capacity plus mean M/M/1 delay of the failure-free traffic on its shortest paths.

    f(x) = sum_l cost_l x_l + weight sum_{l, direction} phi(load / C_l), phi(u) = u / (1 - u) up to u = 0.9; below the
    capacity load / 0.9 the tangent in C goes on, so f is finite, convex and smooth for every plan. ``weight`` is the
    price of one Gbps-mean queue, default: such that the shortest-path plan pays a tenth of its price for delay.

    Source: Kleinrock 1964, "Communication Nets"; the linear tail as in Fortz and Thorup 2000.
    """

    network: Network
    weight: float | None = None
    load: Array = field(init=False, repr=False)  # [2, m] Gbps
    is_convex: bool = field(default=True, init=False)
    is_differentiable: bool = field(default=True, init=False)
    knee: float = 0.9

    def __post_init__(self) -> None:
        network = self.network
        demand = network.scenarios[0].demand
        load = shortest_path_loads(len(network.is_transit), network.link_ends, network.cost, demand)
        object.__setattr__(self, "load", load)
        if self.weight is None:
            roomy = torch.from_numpy(np.ceil(1.5 * load.max(axis=0) / network.gbps) + 1.0)
            object.__setattr__(self, "weight", 0.1 * float(network.cost @ roomy.numpy()) / float(self._queue(roomy)))

    @property
    def linear(self) -> Array:
        """Prices of capacity."""
        return self.network.cost

    def _queue(self, x: Tensor) -> Tensor:
        load = torch.from_numpy(self.load).to(x)
        offset, gbps = torch.from_numpy(self.network.offset).to(x), torch.from_numpy(self.network.gbps).to(x)
        capacity = (offset + gbps * x)[..., None, :]
        bend = load / self.knee
        inside = torch.maximum(capacity, bend)
        queue = load / (inside - load).clamp_min(1e-12)
        slope = -load / ((bend - load) ** 2).clamp_min(1e-12)
        tail = slope * torch.minimum(capacity - bend, torch.zeros_like(capacity))
        return torch.where(load > 0, queue + tail, torch.zeros_like(queue)).sum((-1, -2))

    def value(self, x: Tensor) -> Tensor:
        """Cost of plans x [..., n]."""
        assert self.weight is not None
        return x @ torch.from_numpy(self.network.cost).to(x) + self.weight * self._queue(x)

    def integer_program(self) -> tuple[Network, float]:
        """The exact piecewise-linear program; see :class:`Objective`."""
        return stepped_network(self.network, _tabulate(self, self.network))

    def metrics(self, x: Array) -> Mapping[str, float]:
        """Parts of the cost of one plan [n]."""
        queue = float(self._queue(torch.from_numpy(np.ascontiguousarray(x))))
        return {
            "price": float(self.network.cost @ x),
            "mean_queue": queue,
            "delay_price": float(self.weight or 0) * queue,
        }


@dataclass(frozen=True)
class Power:
    """Electric power in watts: ports, amplifiers of lit links, and router chassis at the nodes.

    f(x) = sum_l (2 port x_l + lit_l [x_l > 0]) + sum_v chassis ceil(sum_{l at v} x_l / ports), with
    lit_l = amplifier (1 + floor(km / 80)). The steps have no useful gradient. The figures are round assumptions about
    present equipment, not measurements; give your own.
    """

    network: Network
    port_watts: float = 25.0
    amplifier_watts: float = 50.0
    chassis_watts: float = 600.0
    ports_per_chassis: int = 16
    span_km: float = 80.0
    is_convex: bool = field(default=False, init=False)
    is_differentiable: bool = field(default=False, init=False)

    @property
    def linear(self) -> Array:
        """Ports, a full chassis' share of each port, and the amplifiers spread over the links' expected units."""
        usual = np.maximum(np.ceil(self.load_units), 1.0)
        return 2 * (self.port_watts + self.chassis_watts / self.ports_per_chassis) + self.lit_watts / usual

    @property
    def load_units(self) -> Array:
        """[n] units that shortest paths load, intact."""
        network = self.network
        demand = network.scenarios[0].demand
        load = shortest_path_loads(len(network.is_transit), network.link_ends, network.module_cost, demand)
        return load.max(axis=0) / network.gbps

    @property
    def lit_watts(self) -> Array:
        """[n] power of a link that carries anything."""
        km = np.array([link.length_km for link in self.network.instance.links])
        return self.amplifier_watts * (1.0 + np.floor(km / self.span_km))

    def _incidence(self) -> Array:
        """[N, n] 1 where a link ends at a node."""
        incidence = np.zeros((len(self.network.is_transit), self.network.n))
        for j, link in enumerate(self.network.variable_link):
            incidence[self.network.link_ends[link], j] = 1.0
        return incidence

    def value(self, x: Tensor) -> Tensor:
        """Cost of plans x [..., n]."""
        lit = torch.from_numpy(self.lit_watts).to(x)
        ports = x @ torch.from_numpy(self._incidence().T).to(x)
        chassis = torch.ceil(ports / self.ports_per_chassis - 1e-9)
        return (2 * self.port_watts * x + lit * (x > 0.5)).sum(-1) + self.chassis_watts * chassis.sum(-1)

    def integer_program(self) -> tuple[Network, float]:
        """The exact piecewise-linear program; see :class:`Objective`."""
        network = self.network
        groups = [
            (f"chassis at {network.instance.nodes[v].name}", row, float(self.ports_per_chassis), self.chassis_watts)
            for v, row in enumerate(self._incidence())
        ]
        for j in range(network.n):
            row = np.zeros(network.n)
            row[j] = 1.0
            name = network.instance.links[network.variable_link[j]].name
            groups.append((f"line of {name}", row, float(max(network.upper[j], 1.0)), float(self.lit_watts[j])))
        return covering_network(network, groups, np.full(network.n, 2 * self.port_watts)), 0.0

    def metrics(self, x: Array) -> Mapping[str, float]:
        """Parts of the cost of one plan [n]."""
        chassis = np.ceil(self._incidence() @ x / self.ports_per_chassis - 1e-9)
        return {"chassis": float(chassis.sum()), "lit_links": float((x > 0.5).sum()), "ports": float(2 * x.sum())}


def _tabulate(objective: Objective, network: Network) -> list[Array]:
    """Price of 0, 1, ..., upper units of each link alone, from a separable objective; the joint constant is split."""
    n = network.n
    empty = float(objective.value(torch.zeros(n, dtype=torch.float64)))
    tables = []
    for j in range(n):
        count = int(network.upper[j])
        x = torch.zeros(count + 1, n, dtype=torch.float64)
        x[:, j] = torch.arange(count + 1, dtype=torch.float64)
        tables.append(objective.value(x).numpy() - empty + empty / n)
    return tables


OBJECTIVES = {"bulk": BulkPrices, "delay": QueueDelay, "loss": ExpectedLoss, "power": Power}
"""Name in ids -> class; ``planning/<network>-<name>-v0``."""
