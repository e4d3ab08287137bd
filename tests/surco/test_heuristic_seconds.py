"""Rules that take long hear how much time their turn has; others are asked plainly."""

import pytest
import torch

import surco
from tests.surco.toys import QuadraticChoice


class SlowRules(QuadraticChoice):
    heuristics_take_seconds = True

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.given = []

    def heuristics(self, *, seconds=None):
        self.given.append(seconds)
        x = torch.zeros(self.oracle.n, dtype=torch.float64)
        x[: self.oracle.k] = 1.0
        return {"first": x}


@pytest.mark.parametrize("method", ["auto", "first"])
def test_rules_hear_the_seconds_of_their_turn(method):
    problem = SlowRules()
    surco.solve(problem, method, seconds=2.0, seed=0)
    most = {"auto": 0.1 * 2.0, "first": 2.0}[method]  # in a portfolio: the opening's share, not the run's seconds
    assert 0.0 < problem.given[-1] <= most


def test_a_budget_in_calls_sets_no_seconds():
    problem = SlowRules()
    surco.solve(problem, "auto", calls=20, seed=0)
    assert problem.given[0] is None


def test_hints_have_defaults_and_limits():
    from surco.errors import InvalidInputError
    from surco.protocols import exact_goes_on, exact_is_fast, exact_share, heuristics_take_seconds

    plain = QuadraticChoice()
    assert not exact_is_fast(plain)
    assert not exact_goes_on(plain)
    assert exact_share(plain) == 0.0
    assert not heuristics_take_seconds(plain)
    plain.exact_share = 1.5  # type: ignore[attr-defined]
    with pytest.raises(InvalidInputError, match="exact_share"):
        exact_share(plain)
