"""Who leads and who polishes in a portfolio."""

from types import SimpleNamespace

import pytest
import torch

from surco.budget import Budget
from surco.errors import InvalidInputError
from surco.methods.auto import Auto
from surco.protocols import search_share


@pytest.mark.parametrize(
    ("exact_gain", "search_gain", "chosen"),
    [(0.0, 1e-3, "local_search"), (2e-3, 1e-3, "exact_turn"), (0.0, 0.0, "exact_turn")],
)
def test_the_polish_goes_to_what_gains(monkeypatch, exact_gain, search_gain, chosen):
    played = []

    def turn(self, problem, name, arm, share, generator):
        played.append(name)
        return {}

    monkeypatch.setattr(Auto, "_turn", turn)
    monkeypatch.setattr(Auto, "_clock", lambda self, problem: 0.95)
    problem = SimpleNamespace(ledger=SimpleNamespace(value=1.0, budget=Budget(seconds=1.0)))
    arms = ("exact_turn", "local_search", "zero", "random")
    state = {
        "opening": [],
        "is_exact_due": False,
        "goes_on": True,
        "arms": {},
        "gain": dict.fromkeys(arms, 0.0) | {"exact_turn": exact_gain, "local_search": search_gain},
        "waited": dict.fromkeys(arms, 1),
        "turns": 2,
        "current": "",
    }
    Auto().step(problem, state, generator=torch.Generator())  # type: ignore[arg-type]
    assert played == [chosen]


class Opening:
    """As much of a counted problem as the plan of the opening looks at."""

    is_differentiable = False

    def __init__(self, inner, seconds):
        self.inner = inner
        self.ledger = SimpleNamespace(budget=SimpleNamespace(seconds=seconds))


@pytest.mark.parametrize(("share", "seconds", "leads"), [(0.6, 5.0, True), (0.0, 5.0, False), (0.6, None, False)])
def test_local_search_leads_where_a_problem_says_so(share, seconds, leads):
    problem = Opening(SimpleNamespace(search_share=share), seconds)
    state = Auto().init(problem, generator=torch.Generator())  # type: ignore[arg-type]
    assert state["opening"] == ["linear"] + ["local_search"] * leads


def _exact(**options):
    raise AssertionError


@pytest.mark.parametrize(
    ("talents", "opening"),
    [
        ({"exact": _exact, "exact_share": 0.8, "heuristics_take_seconds": True}, ["lead", "heuristics", "linear"]),
        ({"exact": _exact, "exact_share": 0.8}, ["heuristics", "linear", "lead"]),
        ({"search_share": 0.8, "heuristics_take_seconds": True}, ["linear", "local_search", "heuristics"]),
        ({"search_share": 0.8}, ["heuristics", "linear", "local_search"]),
    ],
)
def test_only_free_heuristics_come_before_a_leader(talents, opening):
    problem = Opening(SimpleNamespace(heuristics=dict, **talents), 5.0)
    state = Auto().init(problem, generator=torch.Generator())  # type: ignore[arg-type]
    assert state["opening"] == opening


def test_a_share_is_a_share():
    with pytest.raises(InvalidInputError, match="search_share"):
        search_share(SimpleNamespace(search_share=1.5))


@pytest.mark.parametrize(
    ("used", "waited", "chosen"),
    [
        (0.5, {"zero": 5, "random": 4}, "random"),  # the longest wait, but zero's turns are ten slices long
        (0.5, {"zero": 50, "random": 4}, "zero"),
        (0.85, {"zero": 500, "random": 4}, "random"),  # no time for another turn of zero
    ],
)
def test_an_arm_that_overruns_its_turn_waits_longer(monkeypatch, used, waited, chosen):
    played = []
    monkeypatch.setattr(Auto, "_turn", lambda self, problem, name, *others: played.append(name) or {})
    monkeypatch.setattr(Auto, "_clock", lambda self, problem: used)
    state = {
        "opening": [],
        "is_exact_due": False,
        "goes_on": False,
        "arms": {},
        "gain": dict.fromkeys(("local_search", "zero", "random"), 0.0),
        "waited": {"local_search": 0, **waited},
        "length": {"zero": 0.2, "random": 0.02},
        "turns": 2,
        "current": "",
    }
    found, _ = Auto().step(
        SimpleNamespace(ledger=SimpleNamespace(value=1.0, budget=Budget(seconds=1.0))),  # type: ignore[arg-type]
        state,
        generator=torch.Generator(),
    )
    assert played == [chosen]
    assert found["length"][chosen] < 0.01  # its last turn, as it was
