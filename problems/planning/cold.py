"""Stateful checking with cold linear programs, as the published planner does it: the yardstick of the evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from problems.planning.compact import _by_source
from problems.planning.network import Array, Network
from problems.planning.survival import binding_scenarios


class ColdChecker:
    """Source-aggregated flow LPs, each from scratch; a check starts at the scenario that failed last.

    Capacities only grow within an episode, so the scenarios before that one need no second look until ``reset``.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._scenarios = [network.scenarios[s] for s in binding_scenarios(network)]
        self._models: dict[int, tuple[Any, Array, Any]] = {}
        self._first = 0
        self.n_lps = 0

    def reset(self) -> None:
        """A new episode begins."""
        self._first = 0

    def is_survivable(self, capacities: Array) -> bool:
        """Whether link capacities [m] survive every scenario from the last failed one on."""
        for s in range(self._first, len(self._scenarios)):
            if not self._routes(s, capacities):
                self._first = s
                return False
        self._first = len(self._scenarios)
        return True

    def _routes(self, s: int, capacities: Array) -> bool:
        network, scenario = self._network, self._scenarios[s]
        if s not in self._models:
            self._models[s] = self._model(s)
        balance, wanted, use = self._models[s]
        room = network.edge_capacities(capacities, scenario)
        room = room if network.is_symmetric else np.r_[room, room]
        self.n_lps += 1
        result = linprog(np.zeros(balance.shape[1]), A_ub=use, b_ub=room, A_eq=balance, b_eq=wanted, method="highs-ds")
        return bool(result.status == 0)

    def _model(self, s: int) -> tuple[Any, Array, Any]:
        network = self._network
        n_edges, n_nodes = len(network.edges), len(network.is_transit)
        sources, targets = _by_source(self._scenarios[s].demand, is_symmetric=network.is_symmetric)
        arcs = np.arange(n_edges)
        tail = np.r_[network.edges[:, 0], network.edges[:, 1]]
        head = np.r_[network.edges[:, 1], network.edges[:, 0]]
        both = np.r_[arcs, n_edges + arcs]
        incidence = sparse.csr_matrix(
            (np.r_[np.ones(2 * n_edges), -np.ones(2 * n_edges)], (np.r_[head, tail], np.r_[both, both])),
            shape=(n_nodes, 2 * n_edges),
        )
        use = sparse.hstack([sparse.identity(n_edges)] * 2) if network.is_symmetric else sparse.identity(2 * n_edges)
        count = len(sources)
        return (
            sparse.kron(sparse.identity(count), incidence).tocsr(),
            targets.reshape(-1),
            sparse.kron(np.ones((1, count)), use).tocsr(),
        )
