"""A plan: how many of each module go on each link."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from problems.planning.instance import PlanningInstance
from problems.planning.network import Array, Network
from surco.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Plan:
    """Whole numbers of modules, ``counts[link][module]``, in the order of the instance."""

    counts: tuple[tuple[int, ...], ...]

    def cost(self, instance: PlanningInstance) -> float:
        """Price of the modules, and of the set-up of each link that gets any."""
        return sum(
            sum(k * module.cost for k, module in zip(row, link.modules, strict=True)) + link.setup_cost * any(row)
            for row, link in zip(self.counts, instance.links, strict=True)
        )

    def installed_gbps(self, instance: PlanningInstance) -> tuple[float, ...]:
        """New capacity per link, before the load factor."""
        return tuple(
            sum(k * module.capacity_gbps for k, module in zip(row, link.modules, strict=True))
            for row, link in zip(self.counts, instance.links, strict=True)
        )

    def to_json(self, instance: PlanningInstance) -> dict[str, object]:
        """JSON object: cost, and per link its modules and capacities."""
        new = self.installed_gbps(instance)
        return {
            "format": "surco-plan/1",
            "instance": instance.name,
            "cost": self.cost(instance),
            "links": {
                link.name: {"modules": list(row), "new_gbps": gbps, "total_gbps": link.existing_gbps + gbps}
                for link, row, gbps in zip(instance.links, self.counts, new, strict=True)
            },
        }

    @classmethod
    def from_json(cls, data: dict[str, object], instance: PlanningInstance) -> Plan:
        """Read ``to_json``'s object for ``instance``; links that it does not name get nothing.

        Raises:
            InvalidInputError: unknown link, wrong number of modules, or counts that are not whole and >= 0.
        """
        links = data.get("links")
        if data.get("format") != "surco-plan/1" or not isinstance(links, dict):
            raise InvalidInputError('Expected a plan with format "surco-plan/1" and an object "links".')
        names = {link.name for link in instance.links}
        unknown = sorted(set(links) - names)
        if unknown:
            raise InvalidInputError(f"The plan names link {unknown[0]!r}, which {instance.name!r} does not have.")
        rows = []
        for link in instance.links:
            row = links.get(link.name, {}).get("modules", [0] * len(link.modules))
            if len(row) != len(link.modules) or any(not isinstance(k, int) or k < 0 for k in row):
                raise InvalidInputError(f"Link {link.name!r}: expected {len(link.modules)} whole counts, got {row!r}.")
            rows.append(tuple(row))
        return cls(tuple(rows))


def plan_of(network: Network, x: Array) -> Plan:
    """Plan of variables x [n]; they must be whole."""
    rounded = np.round(np.asarray(x, dtype=np.float64))
    if rounded.shape != (network.n,) or not np.allclose(rounded, x, atol=1e-6):
        raise InvalidInputError(f"Expected {network.n} whole numbers, got shape {np.shape(x)}, values {x!r}.")
    counts = [[0] * len(link.modules) for link in network.instance.links]
    for j in np.flatnonzero(network.variable_module >= 0):
        counts[network.variable_link[j]][network.variable_module[j]] += int(rounded[j])
    return Plan(tuple(tuple(row) for row in counts))


def variables_of(network: Network, plan: Plan) -> Array:
    """Variables x [n] of a plan that uses the network's (undominated) modules.

    Raises:
        InvalidInputError: it uses a module that the network left out as never worth buying.
    """
    known = {
        (int(i), int(k)): j for j, (i, k) in enumerate(zip(network.variable_link, network.variable_module, strict=True))
    }
    x = np.zeros(network.n)
    for i, row in enumerate(plan.counts):
        for k, count in enumerate(row):
            if count and (i, k) not in known:
                name = network.instance.links[i].name
                raise InvalidInputError(f"Module {k} of link {name!r} is dominated by others; use those.")
            if count:
                x[known[i, k]] = count
    return network.complete(x)
