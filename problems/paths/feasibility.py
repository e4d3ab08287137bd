"""Whether a vector is one simple route from source to target, judged without the oracle."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from problems.paths.network import RouteNetwork
from solvers.oracle import Array


class RouteRules:
    """The rules of a route, as incidence matrices.

    1. Each column is 0 or 1.
    2. Flow balance. Directed: out - in is 1 at the source, -1 at the target, 0 elsewhere. Undirected: one edge at the
       source, one at the target, none or two elsewhere.
    3. The columns are one path from the source that visits no node twice: no cycle beside it or on it.
    """

    def __init__(self, network: RouteNetwork, source: int, target: int) -> None:
        self.network, self.source, self.target = network, source, target
        size, n = len(network.nodes), len(network.edges)
        ends = np.concatenate([network.tail, network.head])
        columns = np.tile(np.arange(n), 2)
        sign = np.repeat([1.0, -1.0 if network.is_directed else 1.0], n)
        self._incidence = csr_array((sign, (ends, columns)), shape=(size, n))
        self._balance = np.zeros(size)
        self._balance[source] = 1.0
        self._balance[target] = -1.0 if network.is_directed else 1.0

    def violation(self, x: Array) -> Array:
        """Largest violation of any rule, [..., n] -> [...]; 0 for a route, infinite for NaN.

        The violation of rule 3 is the number of columns off the path; it is looked at where the others hold to 1/2.
        """
        rows = x.reshape(-1, x.shape[-1])
        worst = np.full(len(rows), np.inf)
        finite = np.flatnonzero(np.isfinite(rows).all(axis=1))
        usable = rows[finite]
        fraction = np.abs(usable - np.clip(np.rint(usable), 0.0, 1.0)).max(axis=1, initial=0.0)
        worst[finite] = np.maximum(fraction, self._imbalance(usable))
        for row in finite[worst[finite] < 0.5]:
            columns = np.flatnonzero(rows[row] > 0.5).tolist()
            _, used = self.network.walk(columns, self.source)
            worst[row] = max(worst[row], float(len(columns) - len(used)))
        return worst.reshape(x.shape[:-1])

    def _imbalance(self, rows: Array) -> Array:
        flow = (self._incidence @ rows.T).T
        excess = np.abs(flow - self._balance)
        if not self.network.is_directed:
            inner = np.ones(len(self._balance), dtype=bool)
            inner[[self.source, self.target]] = False
            excess[:, inner] = np.minimum(excess[:, inner], np.abs(flow[:, inner] - 2.0))
        return excess.max(axis=1, initial=0.0)
