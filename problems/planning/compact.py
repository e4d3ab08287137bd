"""The compact (extensive) integer program, every failure with its own copy of the flows: a yardstick, not the tool."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from problems.planning.network import Array, Network
from problems.planning.survival import binding_scenarios


@dataclass(frozen=True, slots=True)
class CompactAnswer:
    """Of the monolithic model: plan (or None), proven bound, sizes, CPU seconds, the backend's words."""

    x: Array | None
    bound: float
    n_variables: int
    n_rows: int
    cpu_seconds: float
    message: str


def solve_compact(
    network: Network, *, seconds: float, gap: float = 1e-4, most_variables: int = 1_000_000
) -> CompactAnswer:
    """Flows aggregated by source, one copy per binding scenario, HiGHS through SciPy.

    For symmetric demand one direction and a small vertex cover of sources are enough, which halves the model; the
    model gets this help so that the comparison is fair.

    Args:
        network: compiled instance without stub nodes.
        seconds: wall limit of the solver.
        gap: relative gap to stop at.
        most_variables: larger models are not built; the answer says so.

    Raises:
        ValueError: the network has stub nodes, which this formulation leaves out.
    """
    if not network.is_transit.all():
        raise ValueError("Expected a network without stub nodes.")
    begin = time.process_time()
    scenarios = [network.scenarios[s] for s in binding_scenarios(network)]
    n_nodes, n_edges, n = len(network.is_transit), len(network.edges), network.n
    demands = [_by_source(s.demand, is_symmetric=network.is_symmetric) for s in scenarios]
    flows = [len(sources) * 2 * n_edges for sources, _ in demands]
    total = n + sum(flows)
    if total > most_variables:
        return CompactAnswer(None, -np.inf, total, 0, 0.0, f"not built: {total:,} variables")
    arcs = np.arange(n_edges)
    incidence = sparse.csr_matrix(
        (
            np.r_[-np.ones(n_edges), np.ones(n_edges), np.ones(n_edges), -np.ones(n_edges)],
            (
                np.r_[network.edges[:, 0], network.edges[:, 1], network.edges[:, 0], network.edges[:, 1]],
                np.r_[arcs, arcs, n_edges + arcs, n_edges + arcs],
            ),
        ),
        shape=(n_nodes, 2 * n_edges),
    )
    use = sparse.hstack([sparse.identity(n_edges)] * 2) if network.is_symmetric else sparse.identity(2 * n_edges)
    copies = 1 if network.is_symmetric else 2
    blocks, upper, equal, capacity_left, capacity_right = [], [np.full(n, np.inf)], [], [], []
    for scenario, (sources, targets) in zip(scenarios, demands, strict=True):
        count = len(sources)
        blocks.append(sparse.kron(sparse.identity(count), incidence))
        equal.append(targets.reshape(-1))
        up = np.bincount(network.link_edge, scenario.alive, n_edges) > 0
        upper.append(np.tile(np.where(np.r_[up, up], np.inf, 0.0), count))
        by_edge = sparse.csr_matrix(
            (
                network.gbps * scenario.alive[network.variable_link],
                (network.link_edge[network.variable_link], np.arange(n)),
            ),
            shape=(n_edges, n),
        )
        capacity_left.append((sparse.kron(np.ones((1, count)), use), sparse.vstack([by_edge] * copies)))
        capacity_right.append(np.tile(network.edge_capacities(network.offset, scenario), copies))
    balance = sparse.hstack([sparse.csr_matrix((sum(len(e) for e in equal), n)), sparse.block_diag(blocks)]).tocsr()
    capacity = sparse.hstack(
        [-sparse.vstack([x for _, x in capacity_left]), sparse.block_diag([f for f, _ in capacity_left])]
    ).tocsr()
    constraints = [
        LinearConstraint(balance, np.concatenate(equal), np.concatenate(equal)),  # pyright: ignore[reportArgumentType]
        LinearConstraint(capacity, -np.inf, np.concatenate(capacity_right)),  # pyright: ignore[reportArgumentType]
    ]
    if len(network.limits):
        side = sparse.hstack([sparse.csr_matrix(network.rows), sparse.csr_matrix((len(network.limits), total - n))])
        constraints.append(LinearConstraint(side.tocsr(), -np.inf, network.limits))  # pyright: ignore[reportArgumentType]
    upper[0] = network.upper
    result = milp(
        np.r_[network.cost, np.zeros(total - n)],
        integrality=np.r_[np.ones(n), np.zeros(total - n)],
        bounds=Bounds(np.zeros(total), np.concatenate(upper)),  # pyright: ignore[reportArgumentType]
        constraints=constraints,
        options={"time_limit": seconds, "mip_rel_gap": gap},
    )
    bound = result.mip_dual_bound if result.mip_dual_bound is not None else -np.inf
    x = None if result.x is None else np.round(result.x[:n])
    return CompactAnswer(
        x,
        float(bound),
        total,
        balance.shape[0] + capacity.shape[0],  # pyright: ignore[reportOptionalSubscript]
        time.process_time() - begin,
        result.message,
    )


def _by_source(demand: Array, *, is_symmetric: bool) -> tuple[list[int], Array]:
    """Sources and [K, N] net inflow wanted at each node; a greedy vertex cover for symmetric demand."""
    left = demand.copy()
    sources, targets = [], []
    while (left > 0.0).any():
        source = int(np.argmax((left > 0.0).sum(axis=1)))
        row = left[source].copy()
        left[source] = 0.0
        if is_symmetric:
            left[:, source] = 0.0
        row[source] = -row.sum()
        sources.append(source)
        targets.append(row)
    return sources, np.array(targets).reshape(len(sources), len(demand))
