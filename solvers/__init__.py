"""Linear oracles over fixed feasible sets: MILP backends, graph and selection oracles, caches, pools. NumPy only."""
