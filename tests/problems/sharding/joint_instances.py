"""Small joint instances, and all their plans by enumeration."""

from __future__ import annotations

import itertools

import numpy as np

from problems.sharding import DataType, Device, Optimizer, Table, Workload
from problems.sharding.joint import JointConstraints, JointSpec, Objective
from problems.sharding.joint.problem import JointProblem

MIB = 2**20


def devices(count, per_host, memory_bytes=80 * 2**30, **speed):
    return tuple(Device(f"gpu{r}", memory_bytes, host=r // per_host, **speed) for r in range(count))


def some_tables(dtype=DataType.FLOAT32):
    dims, pooling = (4, 16, 32, 64, 96, 128, 256, 512), (0.0, 0.05, 0.7, 1.0, 3.3, 20.0, 140.0, 2.5)
    rows = (3, 1000, 39060, 10**6, 77, 4 * 10**6, 12345, 5000)
    return tuple(Table(f"t{i}", r, d, p, dtype) for i, (r, d, p) in enumerate(zip(rows, dims, pooling, strict=True)))


def tiny(world=4, per_host=2, tables=4, objective=Objective.RATING, memory_bytes=80 * 2**30, seed=0, **rules):
    """A few tables of unlike shape; the last one is wide enough for column shards."""
    rng = np.random.default_rng(seed)
    drawn = [
        Table(f"t{i}", int(rng.integers(50, 40_000)), int(rng.choice([16, 64, 128])), float(rng.uniform(0.2, 40)))
        for i in range(tables - 1)
    ]
    drawn.append(Table(f"t{tables - 1}", 9_000, 256, 12.0))
    spec = JointSpec(
        tuple(drawn),
        devices(world, per_host, memory_bytes),
        Workload(batch_size=256, optimizer=Optimizer.ADAGRAD),
        JointConstraints(**rules),
        objective,
    )
    return JointProblem(spec)


def unit_options(problem):
    """For each unit, the atoms of each of its plans."""
    space = problem.space
    found = []
    for unit in range(len(space.units)):
        options = []
        for mode in range(space.unit_start[unit], space.unit_start[unit + 1]):
            pieces = [
                range(space.piece_start[p], space.piece_start[p + 1])
                for p in range(space.mode_start[mode], space.mode_start[mode + 1])
            ]
            options += [list(atoms) for atoms in itertools.product(*pieces)]
        found.append(options)
    return found


def all_designs(problem, limit=60_000):
    """[K, A] all designs, fitting or not."""
    options = unit_options(problem)
    total = int(np.prod([len(o) for o in options]))
    assert total <= limit, total
    x = np.zeros((total, problem.oracle.n))
    for row, atoms in enumerate(itertools.product(*options)):
        x[row, [a for part in atoms for a in part]] = 1.0
    return x
