"""The one place where the statuses of all backends become a `Status`.

A backend's word is not enough: ``OPTIMAL`` and ``FEASIBLE`` are given only together with a point.
"""

from __future__ import annotations

from solvers.oracle import Status

# SCIP, `Model.getStatus()`. A stop at a limit is decided by whether there is a point.
SCIP = {
    "optimal": Status.OPTIMAL,
    "infeasible": Status.INFEASIBLE,
    "unbounded": Status.UNBOUNDED,
    "gaplimit": Status.FEASIBLE,
    "timelimit": Status.FEASIBLE,
    "nodelimit": Status.FEASIBLE,
    "totalnodelimit": Status.FEASIBLE,
    "stallnodelimit": Status.FEASIBLE,
    "memlimit": Status.FEASIBLE,
    "sollimit": Status.FEASIBLE,
    "bestsollimit": Status.FEASIBLE,
    "restartlimit": Status.FEASIBLE,
}

# HiGHS, `scipy.optimize.milp(...).status`.
HIGHS = {
    0: Status.OPTIMAL,
    1: Status.FEASIBLE,  # iteration or time limit
    2: Status.INFEASIBLE,
    3: Status.UNBOUNDED,
}

# CP-SAT, `CpSolver.status_name()`.
CP_SAT = {
    "OPTIMAL": Status.OPTIMAL,
    "FEASIBLE": Status.FEASIBLE,
    "INFEASIBLE": Status.INFEASIBLE,
    "UNKNOWN": Status.LIMIT,
}

# MathOpt, number of `TerminationReason`.
MATH_OPT = {
    1: Status.OPTIMAL,
    2: Status.INFEASIBLE,
    3: Status.UNBOUNDED,
    5: Status.FEASIBLE,  # imprecise: a point, not good enough to be called optimal
    6: Status.LIMIT,  # stopped by a limit, without a point
    9: Status.FEASIBLE,  # stopped by a limit, with a point
}


def translate(table: dict, code: object, *, has_point: bool) -> Status:
    """Status of a backend's ``code``, given whether the backend handed over a point.

    An unknown code, and an optimum or a stop without a point, is never passed off as an answer.
    """
    status = table.get(code, Status.ERROR)
    if has_point:
        return Status.FEASIBLE if status is Status.LIMIT else status
    if status is Status.OPTIMAL:
        return Status.ERROR
    return Status.LIMIT if status is Status.FEASIBLE else status
