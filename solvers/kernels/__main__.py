"""Compile all loops now, so that no later call waits for it: ``python -m solvers.kernels``, once after installing."""

from __future__ import annotations

import networkx as nx
import numpy as np

import solvers


def compile_all() -> None:
    """Build and use each compiled oracle once; the machine code stays on disk."""
    solvers.shortest_path(nx.path_graph(3, create_using=nx.DiGraph), 0, 2)
    cyclic = solvers.shortest_path(nx.complete_graph(4, create_using=nx.DiGraph), 0, 3)
    cyclic.solve(np.array([[1.0] * cyclic.n, [-1.0] + [2.0] * (cyclic.n - 1)]))
    solvers.assignment(2)
    solvers.spanning_tree(nx.cycle_graph(3))
    solvers.knapsack([1.0, 2.0], 2.0)
    solvers.generalized_assignment([1.0, 2.0], [2.0, 2.0]).relaxation().solve(np.ones((1, 4)))


if __name__ == "__main__":
    compile_all()
