"""The HTML report: complete, escaped, self-contained, and honest about what is not known."""

from __future__ import annotations

import base64
import dataclasses
import html.parser
import io
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from solvers.oracle import Array, OracleBatch
from surco import report_page
from surco.report import command, comparison_rows, write_comparison, write_comparisons, write_report
from surco.report_curves import anytime
from surco.result import Point, Result, SolveStatus, Stats

VOID = {"meta", "img", "source", "br", "hr", "link", "input"}


class _Oracle:
    n = 3

    def solve(self, costs: Array) -> OracleBatch:
        return OracleBatch.exact((costs < 0).astype(float), costs)

    def violation(self, x: Array) -> Array:
        return np.zeros(x.shape[:-1])


class Shown:
    """A problem that describes and draws its designs."""

    oracle = _Oracle()
    fails = False

    def objective(self, x: Tensor) -> Tensor:
        return x.sum(-1)

    def violation(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:-1])

    def initial_costs(self) -> Tensor:
        return torch.ones(3, dtype=torch.float64)

    def describe(self, x: Tensor) -> str:
        return f"<b>design</b> of {len(x)} & more"

    def figures(self, x: Tensor) -> Mapping[str, Any]:
        if self.fails:
            raise RuntimeError("no <paint> left")
        figure = Figure(figsize=(2, 1))
        figure.subplots().plot(x.numpy())
        return {"loads <script>": figure}


def make_result(**changes: Any) -> Result:
    trace = (
        Point(1, 1, 0.01, 0.01, 9.0, None, "linear"),
        Point(1, 1, 0.02, 0.02, 9.0, 4.0, "linear"),
        Point(120, 80, 0.5, 0.4, 5.0, 4.0, "zero"),
    )
    base = Result(
        x=np.array([1.0, 0.0, 1.0]),
        value=5.0,
        bound=4.0,
        is_feasible=True,
        status=SolveStatus.BUDGET,
        method="auto",
        source="zero",
        seed=7,
        stats=Stats(200, 150, 1.0, 0.9),
        trace=trace,
        id="toy/<one>-v0",
        spec={"domain": "toy", "text": "</script><script>alert(1)</script>"},
        metrics={"load <GB>": 3.25},
        notes=("objective: not a finite number & more (3 times)",),
        problem=Shown(),
    )
    return dataclasses.replace(base, **changes)


class _Checker(html.parser.HTMLParser):
    """Balanced tags, no script, and no address but data:."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses.extend(v or "" for k, v in attrs if k in ("src", "href", "srcset"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(path: Path) -> tuple[_Checker, str]:
    checker = _Checker()
    checker.feed(path.read_text(encoding="utf-8"))
    checker.close()
    assert checker.open == []
    assert "script" not in checker.tags
    assert checker.addresses
    assert all(address.startswith("data:image/") for address in checker.addresses)
    return checker, " ".join(" ".join(checker.text).split())


def test_report_is_complete_escaped_and_self_contained(tmp_path: Path) -> None:
    path = write_report(make_result(), tmp_path / "deep" / "report.html")
    checker, text = read(path)
    assert len(checker.addresses) == 3  # curves in two themes, and the problem's own figure
    for expected in (
        "toy/<one>-v0",
        "at most 20 % from the optimum, by the proven lower bound 4",
        "feasible",
        "budget",
        "<b>design</b> of 3 & more",
        "loads <script>",
        "load <GB>",
        "objective: not a finite number & more (3 times)",
        "</script><script>alert(1)</script>",
        "surco solve 'toy/<one>-v0' --method auto --calls 200 --seed 7",
        "torch 2.",
        "The budget ended; raise seconds or calls",  # names are code elements, without backticks
    ):
        assert expected in text, expected


def test_no_bound_is_shown_as_none(tmp_path: Path) -> None:
    _, text = read(write_report(make_result(bound=None, trace=()), tmp_path / "r.html"))
    assert "nothing is proven about the value" in text
    assert "none proven lower bound none gap" in text


def test_an_infeasible_or_foreign_result_is_shown_as_such(tmp_path: Path) -> None:
    result = make_result(is_feasible=False, id="", spec={}, metrics={}, notes=(), problem=None)
    _, text = read(write_report(result, tmp_path / "r.html"))
    assert "NOT feasible" in text
    assert "A problem of your own" in text


def test_a_failing_drawing_is_named_and_survived(tmp_path: Path) -> None:
    problem = Shown()
    problem.fails = True
    _, text = read(write_report(make_result(problem=problem), tmp_path / "r.html"))
    assert "could not show the design: RuntimeError: no <paint> left" in text
    assert "How it got there" in text


def test_given_origin_is_shown(tmp_path: Path) -> None:
    origin = {
        "command": "surco solve x --seconds 3",
        "versions": {"torch": "9.9"},
        "machine": {"cores": 64},
        "date": "D",
    }
    _, text = read(write_report(make_result(), tmp_path / "r.html", origin=origin))
    assert "surco solve x --seconds 3" in text
    assert "64 cores" in text
    assert "torch 9.9" in text


def test_comparison_uses_the_best_bound_in_every_row(tmp_path: Path) -> None:
    results = {
        "auto": make_result(),
        "greedy": make_result(value=6.0, bound=None, method="greedy", trace=()),
        "exact": make_result(value=5.0, bound=4.5, method="exact"),
    }
    rows = {row[0]: row[1:4] for row in comparison_rows(results)}
    assert rows == {"auto": ["5", "10 %", "0 %"], "greedy": ["6", "25 %", "20 %"], "exact": ["5", "10 %", "0 %"]}
    page = write_comparison(results, tmp_path / "c.html").read_text(encoding="utf-8")
    assert page.count("<tr class=best>") == 2
    _, text = read(tmp_path / "c.html")
    assert "Best proven bound: 4.5." in text


def test_comparisons_of_several_problems_share_a_page(tmp_path: Path) -> None:
    parts = {"one & two": {"auto": make_result()}, "three": {"auto": make_result(bound=None), "slp": make_result()}}
    checker, text = read(write_comparisons(parts, tmp_path / "c.html", title="Both"))
    assert len(checker.addresses) == 6
    assert "one & two" in text


@pytest.mark.parametrize("trace", [(), (Point(1, 0, 0.0, 0.0, None, 1.0, "exact"),)])
@pytest.mark.parametrize("value", [0.0, -3.0, 5.0])
def test_curves_of_any_trace_can_be_drawn(trace: tuple[Point, ...], value: float) -> None:
    drawings = anytime({"a": make_result(trace=trace, value=value, bound=None), "b": make_result(value=value)})
    for drawing in drawings.values():
        low, high = drawing.axes[0].get_ylim()
        assert low < value < high


def test_many_decades_of_cost_keep_their_labels_apart() -> None:
    points = [Point(10**k, 2 * 10**k, 0.1 * 10**k, 0.1 * 10**k, 9.0 - k, None, "") for k in range(5)]
    figure = anytime({"a": make_result(trace=tuple(points), value=4.0)})["light"]
    figure.savefig(io.BytesIO(), format="png")
    for axis in figure.axes:
        low, high = axis.get_xlim()
        shown = [
            label for label, at in zip(axis.get_xticklabels(), axis.get_xticks(), strict=True) if low <= at <= high
        ]
        boxes = [label.get_window_extent() for label in shown]
        assert len(boxes) >= 3
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


def test_a_wild_start_does_not_flatten_the_curve() -> None:
    points = [Point(1, 1, 0.0, 0.0, 1e6, None, "")] + [
        Point(k, k, 0.1, 0.1, 10.0 - 0.1 * k, None, "") for k in range(2, 40)
    ]
    result = make_result(trace=tuple(points), value=6.1, bound=6.0)
    axis = anytime({"a": result})["light"].axes[0]
    assert axis.get_ylim()[1] < 100
    assert any("1e+06" in text.get_text() for text in axis.texts)


def test_a_huge_drawing_becomes_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot(np.sin(np.arange(1000.0)))
    small = report_page.data_uri(figure)
    assert small.startswith("data:image/svg+xml;base64,")
    assert b"<svg" in base64.b64decode(small.partition(",")[2])
    monkeypatch.setattr(report_page, "SVG_BYTES", 5_000)
    assert report_page.data_uri(figure).startswith("data:image/png;base64,")


def test_reports_are_repeatable(tmp_path: Path) -> None:
    origin = {"command": "c", "date": "D"}
    first = write_report(make_result(), tmp_path / "a.html", origin=origin).read_text(encoding="utf-8")
    again = write_report(make_result(), tmp_path / "b.html", origin=origin).read_text(encoding="utf-8")
    assert first == again


def test_names_in_backticks_become_code() -> None:
    assert report_page.prose("raise `seconds` or <b>") == "raise <code>seconds</code> or &lt;b&gt;"
    assert report_page.prose("a ` alone") == "a ` alone"


def test_numbers_read_well() -> None:
    assert report_page.number(1234567) == "1,234,567"
    assert report_page.number(float("nan")) == "none"
    assert report_page.percent(0.00123) == "0.123 %"
    assert re.search(r"<th class=number>v", report_page.table(("n", "v"), [["a", report_page.Cell("1", True)]]))


def test_command_of_a_problem_without_id_is_python() -> None:
    assert command(make_result(id="")) == "surco.solve(problem, 'auto', calls=200, seed=7)"
