"""Backends of the MILP oracle: one small file each, made by name in `solvers.backends.base`."""
