"""Methods of other distributions: found by entry point, loaded when asked for, named when broken."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pytest

import surco
from surco import methods
from surco.errors import InvalidInputError, UnknownIdError


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    points = [
        EntryPoint("borrowed", "surco.methods.one_shot:Linear", methods.GROUP),
        EntryPoint("broken", "surco.no_such_module:Method", methods.GROUP),
        EntryPoint("zero", "surco.methods.one_shot:Linear", methods.GROUP),
    ]

    def entry_points(*, group: str) -> list[Any]:
        return [point for point in points if point.group == group]

    monkeypatch.setattr(methods, "entry_points", entry_points)
    methods._points.cache_clear()  # entry points are read once a process: those of other tests must not stay
    yield
    methods._points.cache_clear()


@pytest.mark.usefixtures("_installed")
def test_an_installed_method_solves_by_name_and_a_broken_one_is_named() -> None:
    problem = surco.make("paths/grid-5-code-v0")
    result = surco.solve(problem, method="borrowed", calls=2)
    assert result.value == surco.solve(problem, method="linear", calls=2).value
    with pytest.raises(InvalidInputError, match="no option `speed`"):
        surco.solve(problem, method="borrowed", calls=2, speed=1)
    with pytest.raises(InvalidInputError, match=r"`broken` \(surco.no_such_module:Method\) cannot be loaded"):
        surco.solve(problem, method="broken", calls=2)
    with pytest.raises(UnknownIdError, match="borrowed"):
        surco.solve(problem, method="borowed", calls=2)
    assert set(methods.installed_methods()) == {"borrowed", "broken"}  # the engine's own names stay its own
