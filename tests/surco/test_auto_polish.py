"""Who gets the last share of a portfolio's budget."""

from types import SimpleNamespace

import pytest
import torch

from surco.methods.auto import Auto


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
    problem = SimpleNamespace(ledger=SimpleNamespace(value=1.0))
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
