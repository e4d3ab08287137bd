"""Reports: one self-contained HTML page on a run, or on several runs of one problem side by side."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from surco import provenance
from surco.atomic import write_text
from surco.report_page import (
    Cell,
    cards,
    escaped,
    figure,
    folded,
    number,
    page,
    percent,
    preformatted,
    prose,
    section,
    table,
    themed_figure,
)
from surco.result import Result, SolveStatus, relative_gap

SHOWN_METRICS = 12  # a longer table is folded
TONES = {SolveStatus.OPTIMAL: "good", SolveStatus.CONVERGED: "good"}


def write_report(result: Result, path: str | Path, *, origin: Mapping[str, Any] | None = None) -> Path:
    """Write the report of one run.

    Args:
        result: the run; its ``problem``, where present, adds its words and pictures.
        path: the HTML file; folders are made.
        origin: provenance of the run (``command``, ``versions``, ``machine``, ``date``); of this process where None.

    Returns:
        ``path``.
    """
    title = result.id or "A problem of your own"
    found = result.source and result.source != result.method
    method = f"{result.method} (design found by {result.source})" if found else result.method
    body = [
        f"<h1>{escaped(title)}</h1>",
        f"<p class=soft>Method {escaped(method)}, seed {result.seed}; {certificate(result)}</p>",
        _headline(result),
        f"<p><b>Status {escaped(result.status.value)}.</b> {prose(result.remedy)}</p>",
        _notes(result),
        design(result),
        section("How it got there", _curves({result.source or result.method: result})),
        section("What it cost", _costs(result)),
        section("Reproduce", _reproduce(result, origin)),
    ]
    return _write(path, page(f"{title}: {result.method}", "\n".join(body)))


def write_comparison(
    results: Mapping[str, Result], path: str | Path, *, title: str = "", origin: Mapping[str, Any] | None = None
) -> Path:
    """Write the report of several runs on one problem, the first being the one to explain; see :func:`comparison`."""
    first = next(iter(results.values()))
    title = title or first.id or "A problem of your own"
    body = [f"<h1>{escaped(title)}</h1>", comparison(results), section("Reproduce", _reproduce(first, origin))]
    return _write(path, page(title, "\n".join(body)))


def write_comparisons(
    parts: Mapping[str, Mapping[str, Result]], path: str | Path, *, title: str, origin: Mapping[str, Any] | None = None
) -> Path:
    """Write comparisons on several problems (title -> label -> run) as one page."""
    body = [f"<h1>{escaped(title)}</h1>"]
    for name, results in parts.items():
        body.append(section(name, comparison(results)))
    first = next(iter(next(iter(parts.values())).values()))
    body.append(section("Reproduce", _origin(origin, first.seed)))
    return _write(path, page(title, "\n".join(body)))


def comparison(results: Mapping[str, Result]) -> str:
    """Table of the runs, their curves overlaid, and the first run's design, as HTML."""
    bound = best_bound(results.values())
    best = min(result.value for result in results.values())
    rows = comparison_rows(results)
    marked = [k for k, result in enumerate(results.values()) if result.value <= best + 1e-9 * abs(best)]
    words = "No lower bound is proven for this problem." if bound is None else f"Best proven bound: {bound:.6g}."
    label, first = next(iter(results.items()))
    parts = [
        table(COMPARISON_HEADERS, [[Cell(row[0]), *(Cell(text, True) for text in row[1:])] for row in rows], marked),
        f"<p class=soft>{escaped(words)} The gap is (value - bound) / |value| with that bound in every row.</p>",
        _curves(results),
        f"<h3>The design of {escaped(label)}</h3>",
        design(first, heading=False),
    ]
    return "\n".join(parts)


COMPARISON_HEADERS = ("method", "value", "gap to bound", "behind the best", "oracle calls", "objective calls", "CPU s")


def comparison_rows(results: Mapping[str, Result]) -> list[list[str]]:
    """Text of the comparison table, for a page and for a terminal: the rows of ``COMPARISON_HEADERS``."""
    bound = best_bound(results.values())
    best = min(result.value for result in results.values())
    return [
        [
            label,
            number(result.value),
            percent(relative_gap(result.value, bound)),
            percent((result.value - best) / abs(best) if best else result.value - best),
            number(result.stats.oracle_calls),
            number(result.stats.objective_calls),
            number(result.stats.cpu_seconds, 3),
        ]
        for label, result in results.items()
    ]


def best_bound(results: Sequence[Result] | Any) -> float | None:
    """The largest bound that any of the runs proved: valid for all, since the problem is the same."""
    return max((result.bound for result in results if result.bound is not None), default=None)


def certificate(result: Result) -> str:
    """What is proven about the value, in a sentence."""
    if result.bound is None:
        return "no lower bound is known, so nothing is proven about the value."
    if result.status is SolveStatus.OPTIMAL:
        return f"proven optimal by the lower bound {result.bound:.6g}."
    return f"at most {percent(result.gap)} from the optimum, by the proven lower bound {result.bound:.6g}."


def design(result: Result, *, heading: bool = True) -> str:
    """The design in words, numbers and pictures, by the problem itself where it can, as HTML."""
    from surco.bridge import to_torch
    from surco.protocols import HasDescription

    parts = []
    if isinstance(result.problem, HasDescription):
        x = to_torch(result.x)
        try:
            parts.append(preformatted(result.problem.describe(x)))
            parts.extend(figure(drawing, title) for title, drawing in result.problem.figures(x).items())
        except Exception as error:  # a user's drawing may raise anything; the rest of the report is still of use
            why = f"The problem could not show the design: {type(error).__name__}: {error}"
            parts.append(f"<p class=bad>{escaped(why)}</p>")
    if result.metrics:
        rows = [[Cell(name), Cell(number(float(value)), True)] for name, value in result.metrics.items()]
        metrics = table(("metric", "value"), rows)
        parts.append(metrics if len(rows) <= SHOWN_METRICS else folded(f"Metrics, {len(rows)} of them", metrics))
    parts.append(folded(f"x, {len(result.x)} numbers", preformatted(json.dumps(result.x.tolist()), wrap=True)))
    return section("The design", "\n".join(parts)) if heading else "\n".join(parts)


def _headline(result: Result) -> str:
    stats = result.stats
    verdict, tone = ("feasible", "good") if result.is_feasible else ("NOT feasible", "bad")
    return cards(
        [
            ("value", number(result.value), ""),
            ("proven lower bound", number(result.bound), ""),
            ("gap", percent(result.gap), "good" if result.gap is not None and result.gap <= 1e-9 else ""),
            ("independent check", verdict, tone),
            ("status", result.status.value, TONES.get(result.status, "warn")),
            ("oracle calls", number(stats.oracle_calls), ""),
            ("objective calls", number(stats.objective_calls), ""),
            ("CPU seconds", number(stats.cpu_seconds, 3), ""),
        ]
    )


def _notes(result: Result) -> str:
    if not result.notes:
        return ""
    items = "".join(f"<li>{prose(note)}</li>" for note in result.notes)
    return section("What went wrong and was survived", f"<ul>{items}</ul>")


def _costs(result: Result) -> str:
    stats = result.stats
    rows = [(name, getattr(stats, name)) for name in type(stats).__slots__]
    words = {"seconds": "wall seconds", "rejected": "answers rejected by the independent check"}
    return table(
        ("cost", "spent"),
        [[Cell(words.get(name, name.replace("_", " "))), Cell(number(v, 4), True)] for name, v in rows],
    )


def _curves(results: Mapping[str, Result]) -> str:
    from surco.report_curves import anytime

    return themed_figure(
        anytime(results),
        "value and bound against cost",
        "Best value so far (lines) and best proven bound (dashed); lower is better.",
    )


def _reproduce(result: Result, origin: Mapping[str, Any] | None) -> str:
    parts = [_origin(origin or {"command": command(result)}, result.seed)]
    if result.spec:
        text = json.dumps(dict(result.spec), indent=1, default=str)
        parts.append(folded("Spec of the problem (JSON; `surco solve` reads it)", preformatted(text)))
    return "\n".join(parts)


def _origin(origin: Mapping[str, Any] | None, seed: int) -> str:
    origin = origin or {}
    parts = [preformatted(str(origin["command"]))] if origin.get("command") else []
    machine = origin.get("machine") or provenance.machine()
    versions = origin.get("versions") or provenance.versions()
    commit = origin.get("commit") or provenance.commit()
    facts = [
        ("seed", str(seed)),
        ("date", str(origin.get("date") or provenance.now())),
        ("machine", ", ".join(f"{value} cores" if key == "cores" else str(value) for key, value in machine.items())),
        ("versions", ", ".join(f"{name} {value}" for name, value in versions.items())),
        *([("commit", str(commit))] if commit else []),
    ]
    parts.append(table(("", ""), facts))
    return "\n".join(parts)


def command(result: Result) -> str:
    """The command that repeats a run by the oracle calls that it spent, or words where the problem has no id."""
    if not result.id:
        return f"surco.solve(problem, {result.method!r}, calls={result.stats.oracle_calls}, seed={result.seed})"
    calls = str(result.stats.oracle_calls)
    return shlex.join(
        ["surco", "solve", result.id, "--method", result.method, "--calls", calls, "--seed", str(result.seed)]
    )


def _write(path: str | Path, text: str) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path
