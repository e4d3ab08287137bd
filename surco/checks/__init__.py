"""Checks for oracles, problems and estimators of one's own, as `surco check` runs them.

    from surco.checks import check_problem
    print(check_problem(MyProblem()))

Each check judges one part of the contract by another one, and says what was expected, what came, and what to try.
"""

from surco.checks.estimator import check_estimator
from surco.checks.oracle import check_oracle
from surco.checks.problem import check_problem
from surco.checks.report import Check, Report

__all__ = ["Check", "Report", "check_estimator", "check_oracle", "check_problem"]
