"""The linear relaxation of placements: fractional tables on devices, for gradients where memory is scarce."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from solvers import multiple_choice
from solvers.oracle import Array, OracleBatch, as_costs

if TYPE_CHECKING:
    from problems.sharding.oracle import PlacementOracle


class PlacementRelaxation:
    """{ y >= 0 : sum_d y[g, d] = 1, sum_g memory_g y[g, d] <= capacity_d, y[g, d] = 0 where not allowed }.

    The rows go to the compiled dual simplex of `solvers.multiple_choice`; its points are vertices, with at most one
    fractional group per full device. Alike devices keep their own names: no label is canonical here.

    Args:
        oracle: of the placements.
    """

    def __init__(self, oracle: PlacementOracle) -> None:
        self._oracle = oracle
        groups, devices = oracle.placement.allowed.shape
        unit = max(float(oracle.limit.max(initial=0.0)), 1.0)
        eye = sp.eye_array(devices)
        self._inner = multiple_choice(
            np.repeat(np.arange(groups), devices),
            sp.hstack([bytes_ * eye for bytes_ in oracle.memory / unit]),
            oracle.limit / unit,
            allowed=np.isfinite(oracle.blocked).ravel(),
        ).relaxation()

    @property
    def n(self) -> int:
        """Number of variables, tables times devices."""
        return self._oracle.n

    def solve(self, costs: Array) -> OracleBatch:
        """Minimize each row of ``costs`` [B, n] over the relaxation."""
        o = self._oracle
        costs = as_costs(costs, o.n)
        grouped = o.placement.sum_groups(costs.reshape(len(costs), o.tables, o.devices))
        found = self._inner.solve(grouped.reshape(len(costs), -1))
        y = found.x.reshape(len(costs), -1, o.devices)
        return dataclasses.replace(found, x=y[:, o.placement.group].reshape(len(costs), o.n))

    def violation(self, x: Array) -> Array:
        """Largest violation of the groups' first members, [..., n] -> [...]."""
        o = self._oracle
        plan = np.asarray(x, dtype=np.float64)
        plan = plan.reshape(*plan.shape[:-1], o.tables, o.devices)
        first = [members[0] for members in o.placement.members]
        together = np.abs(plan - plan[..., first, :][..., o.placement.group, :]).max((-2, -1))
        rules = self._inner.violation(plan[..., first, :].reshape(*plan.shape[:-2], -1))
        return np.maximum(together, rules)
