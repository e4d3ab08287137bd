"""Exact painting by CP-SAT: the best design for a reward, with a proven bound. For small windows and for certificates.

Booleans x (pixel class solid), s and v (touch of solid, of void): s_t -> x_p and v_t -> not x_p for every p under t;
x_p -> some s_t over p; not x_p -> some v_t over p.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from problems.photonics.painter import FloatArray, Incidence
from solvers.oracle import Status

_INTEGER_SCALE = 1e9  # rewards as integers of this size: CP-SAT is exact in integers


@dataclass(frozen=True, slots=True)
class Certificate:
    """Answer of the exact mode.

    Attributes:
        x: [n] int8, or None where nothing was found.
        value: reward . x, -inf without a point.
        bound: proven upper bound on the best reward.
        status: OPTIMAL when value and bound meet.
    """

    x: NDArray[np.int8] | None
    value: float
    bound: float
    status: Status


def paint_exact(
    table: Incidence,
    reward: FloatArray,
    *,
    seconds: float = 10.0,
    work: float | None = None,
    hint: NDArray[Any] | None = None,
    workers: int = 1,
    seed: int = 0,
) -> Certificate:
    """Maximize reward . x over the designs a brush can paint.

    Args:
        table: incidence of the brush.
        reward: [n], finite.
        seconds: time limit, wall clock.
        work: also a limit in the solver's deterministic seconds, which do not depend on the load of the machine.
        hint: [n] a feasible design to start from.
        workers: search threads.
        seed: of the search.
    """
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    n, m = table.n, len(table.touch_start) - 1
    x = [model.new_bool_var("") for _ in range(n)]
    touches = [[model.new_bool_var("") for _ in range(m)] for _ in range(2)]
    for t in range(m):
        for p in table.touch_pixel[table.touch_start[t] : table.touch_start[t + 1]]:
            model.add_implication(touches[0][t], x[p])
            model.add_implication(touches[1][t], x[p].negated())
    for p in range(n):
        over = table.pixel_touch[table.pixel_start[p] : table.pixel_start[p + 1]]
        model.add_bool_or([x[p].negated(), *(touches[0][t] for t in over)])
        model.add_bool_or([x[p], *(touches[1][t] for t in over)])
    unit = (float(np.abs(reward).max()) or 1.0) / _INTEGER_SCALE
    model.maximize(cp_model.LinearExpr.weighted_sum(x, np.rint(reward / unit).astype(np.int64).tolist()))
    if hint is not None:
        solid = np.asarray(hint) > 0.5
        for p in range(n):
            model.add_hint(x[p], int(solid[p]))
        for t in range(m):  # a complete hint, so that the search starts from it and not from nothing
            under = solid[table.touch_pixel[table.touch_start[t] : table.touch_start[t + 1]]]
            model.add_hint(touches[0][t], bool(under.all()))
            model.add_hint(touches[1][t], not under.any())
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    if work is not None:
        solver.parameters.max_deterministic_time = work
    solver.parameters.num_workers = workers
    solver.parameters.random_seed = seed
    status = solver.solve(model)
    trivial = float(np.maximum(reward, 0).sum())
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Certificate(None, -np.inf, trivial, Status.LIMIT)  # a search that has not begun reports a bound of 0
    bound = (solver.best_objective_bound + n / 2) * unit  # n / 2 pays for the rounding, so that the bound is valid
    bound = min(bound, trivial)
    answer = np.array([solver.boolean_value(variable) for variable in x], np.int8)
    value = float(reward @ answer)
    is_optimal = status == cp_model.OPTIMAL
    return Certificate(answer, value, max(bound, value), Status.OPTIMAL if is_optimal else Status.FEASIBLE)
