"""Cuts that see set-up prices: a link that must be opened to carry anything counts by its 0-1 variable if that is less.

If a.x >= b is valid, a >= 0, and x_j = 0 wherever its link's gate y is 0, then for any set B of links

    sum_{j not in B} a_j x_j + b sum_{l in B} y_l >= b

is valid too: one open link of B satisfies it alone, and with all of B closed it is the old row. At a fractional point,
where y is only as open as x needs it, B takes the links whose gate counts less than their modules.

Source: Padberg, Van Roy, Wolsey 1985, "Valid linear inequalities for fixed charge problems".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from problems.planning.cuts import gates
from problems.planning.network import Array, Network


def gate_of_variables(network: Network) -> NDArray[np.int64]:
    """[n] number of the 0-1 variable without which a module variable is 0, or -1."""
    gate = gates(network)
    result = np.full(network.n, -1)
    is_module = network.variable_module >= 0
    result[is_module] = gate[network.variable_link[is_module]]
    return result


def gated_row(gate_of: NDArray[np.int64], row: Array, rhs: float, x: Array) -> Array:
    """The form of row @ x >= rhs > 0 that is deepest at x [n]; see the module."""
    per_gate, gates_used = _uses(gate_of, row[None], x)
    closed = gates_used[(per_gate[0] > rhs * x[gates_used])]
    if not len(closed):
        return row
    result = np.where(np.isin(gate_of, closed), 0.0, row)
    result[closed] = rhs
    return result


def gated_depths(gate_of: NDArray[np.int64], rows: Array, rhs: Array, x: Array) -> Array:
    """Violation [K] of the deepest forms of rows [K, n] @ x >= rhs [K] at x [n]."""
    per_gate, gates_used = _uses(gate_of, rows, x)
    free = rows[:, gate_of < 0] @ x[gate_of < 0]
    return rhs - free - np.minimum(per_gate, rhs[:, None] * x[gates_used]).sum(axis=1)


def _uses(gate_of: NDArray[np.int64], rows: Array, x: Array) -> tuple[Array, NDArray[np.int64]]:
    """What the modules behind each gate contribute to rows, [K, G], and the gates [G]."""
    used = np.unique(gate_of[gate_of >= 0])
    behind = (gate_of[:, None] == used).astype(np.float64)
    return (rows * x) @ behind, used


def depth_of(row: Array, rhs: float, x: Array) -> float:
    """Violation over the row's norm."""
    return float((rhs - row @ x) / max(np.linalg.norm(row), 1e-12))


def narrow_sets(network: Network, x: Array, *, wanted: float = 2.0) -> NDArray[np.bool_]:
    """Node sets [C, N] that are left by fewer than ``wanted`` opened links at x [n], found by minimum cuts from node 0.

    Where every link has a gate and may fail, at least two links of every set that traffic leaves must be open.
    """
    scale = 10**6
    gate = gates(network)
    n_nodes = len(network.is_transit)
    open_share = np.where(gate >= 0, x[gate], 1.0)
    capacity = np.round(scale * open_share).astype(np.int32)
    u, v = network.link_ends.T
    graph = sparse.csr_matrix((np.r_[capacity, capacity], (np.r_[u, v], np.r_[v, u])), shape=(n_nodes, n_nodes))
    found: dict[bytes, NDArray[np.bool_]] = {}
    for sink in range(1, n_nodes):
        flow = csgraph.maximum_flow(graph, 0, sink)
        if flow.flow_value >= (wanted - 1e-3) * scale:
            continue
        residual = graph - flow.flow
        residual.data = np.maximum(residual.data, 0)
        residual.eliminate_zeros()
        inside = np.zeros(n_nodes, dtype=bool)
        inside[csgraph.breadth_first_order(residual, 0, return_predecessors=False)] = True
        found[inside.tobytes()] = ~inside
    return np.array(list(found.values())).reshape(len(found), n_nodes)
