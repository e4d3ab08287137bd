"""The report of a benchmark: tables in Markdown and HTML, with anytime plots and the origin of every number."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import plots, statistics, suite
from benchmarks.statistics import Line, Mean
from benchmarks.store import RESULTS, RUNS, SUITE, read_lines
from benchmarks.suite import Suite
from surco.atomic import write_text
from surco.errors import InvalidInputError
from surco.report_page import Cell, escaped, number, page, percent, preformatted, section, table, themed_figure

REFERENCE = Path(__file__).parent / "reference"
LEGEND = (
    "distance: (value - best known) / |best known|, or the difference itself where the suite says `absolute`; best "
    "known is the least value that any method, or a reference, has for the instance.",
    "±: half width of the 95 % interval of the mean (Student's t over instances, each averaged over its seeds first; "
    "over seeds where there is one instance).",
    "behind the best: mean of the paired differences of distance to the first row, with its interval; an interval "
    "that holds 0 means that the two cannot be told apart (such rows are set in bold in the HTML report).",
    "best: share of all cells, failed ones too, within the suite's tolerance of the best known value. proven: share "
    "that proved its own design optimal. gap: to the best bound known for the instance.",
    "Calls and CPU seconds are means per run; CPU seconds leave out building the problem, imports and compilation.",
)


def write(folder: str | Path) -> tuple[Path, Path]:
    """Write ``report.md`` and ``report.html`` of a benchmark's folder; returns the two files."""
    folder = Path(folder)
    plan, rows = read(folder)
    reference = load_reference(plan.name)
    groups = statistics.tables(plan, rows, reference)
    known = statistics.best_known(rows, reference)
    origins = read_lines(folder / RUNS)
    summary = _summary(plan, rows)
    markdown = [f"# {plan.name}", "", plan.description, "", summary, ""]
    html = [
        f"<h1>{escaped(plan.name)}</h1>",
        f"<p>{escaped(plan.description)}</p>",
        f"<p class=soft>{escaped(summary)}</p>",
    ]
    for group, lines in groups.items():
        head, body = _cells(plan, lines)
        markdown += [f"## {group}", "", *_markdown(head, body), ""]
        picture = ""
        if any(line.n for line in lines):
            words = "Mean distance to the best known value; the band is its 95 % interval."
            picture = themed_figure(plots.anytime(plan, group, rows, known), group, words)
        html.append(section(group, table(head, [_html_row(row) for row in body], best=_best(lines)) + picture))
    failures = _failures(rows)
    if failures:
        markdown += ["## Cells without a design", "", *(f"- {line}" for line in failures), ""]
        html.append(section("Cells without a design", preformatted("\n".join(failures))))
    markdown += ["## Legend", "", *LEGEND, "", "## Origin", "", *_origin_lines(origins)]
    html.append(section("Legend", preformatted("\n".join(LEGEND), wrap=True)))
    html.append(section("Origin", preformatted("\n".join(_origin_lines(origins)), wrap=True)))
    write_text(folder / "report.md", "\n".join(markdown) + "\n")
    write_text(folder / "report.html", page(f"Benchmark {plan.name}", "\n".join(html)))
    return folder / "report.md", folder / "report.html"


def read(folder: Path) -> tuple[Suite, list[dict[str, Any]]]:
    """Suite and rows of a benchmark's folder."""
    if not (folder / SUITE).is_file():
        raise InvalidInputError(f"Expected `{SUITE}` in `{folder}`, found none. `python -m benchmarks run` writes it.")
    plan = suite.load(folder / SUITE)
    keys = {cell.key for cell in plan.cells()}
    return plan, [row for row in read_lines(folder / RESULTS) if row["cell"] in keys]


def load_reference(name: str) -> dict[str, dict[str, Any]]:
    """Instance -> reference value and bound of a suite; {} where there is no reference file."""
    path = REFERENCE / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["values"] if path.is_file() else {}


def write_reference(folder: str | Path, target: Path | None = None) -> Path:
    """Merge the best values and bounds found in a benchmark's folder into the suite's reference file."""
    folder = Path(folder)
    plan, rows = read(folder)
    path = target or REFERENCE / f"{plan.name}.json"
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"values": {}}
    known = statistics.best_known(rows, old["values"])
    values = {
        instance: {
            "value": found.value if found.value < float("inf") else None,
            "bound": found.bound if found.bound > float("-inf") else None,
        }
        for instance, found in sorted(known.items())
    }
    origins = read_lines(folder / RUNS)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"suite": plan.name, "origin": origins, "values": values}, indent=1) + "\n")
    return path


def _summary(plan: Suite, rows: Sequence[Mapping[str, Any]]) -> str:
    every = sum(1 for _ in plan.cells())
    words = f"{len(plan.methods)} methods, {len(plan.instances)} instances, {len(plan.seeds)} seeds"
    budgets = dict.fromkeys(json.dumps(instance.budget) for instance in plan.instances)
    return f"{words}: {len(rows)} of {every} cells are finished. Budget of every run: {'; '.join(budgets)}."


def _cells(plan: Suite, lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one group's table; a column that has nothing to say is left out."""
    shown = percent if plan.regret == "relative" else number
    columns: list[tuple[str, list[str]]] = [
        ("method", [line.label for line in lines]),
        ("runs", [str(line.n) for line in lines]),
        ("value", [_mean(line.value, number) for line in lines]),
        ("distance", [_mean(line.regret, shown) for line in lines]),
        ("worst", [shown(line.worst) for line in lines]),
        ("best", [percent(line.best_share) for line in lines]),
        ("behind the best", [_mean(line.behind, shown) for line in lines]),
        ("gap", [_mean(line.gap, shown) for line in lines]),
        ("proven", [percent(line.proven_share) for line in lines]),
    ]
    columns += [(name, [_mean((line.metrics or {}).get(name), number) for line in lines]) for name in plan.metrics]
    columns += [
        ("oracle calls", [number(line.oracle_calls, 4) for line in lines]),
        ("objective calls", [number(line.objective_calls, 4) for line in lines]),
        ("CPU s", [number(line.cpu_seconds, 3) for line in lines]),
    ]
    if any(line.failed for line in lines):
        columns.append(
            ("failed", [", ".join(f"{n} {status}" for status, n in line.failed.items()) or "0" for line in lines])
        )
    kept = [(name, texts) for name, texts in columns if any(text != "none" for text in texts)]
    return [name for name, _ in kept], [list(row) for row in zip(*(texts for _, texts in kept), strict=True)]


def _mean(value: Mean | None, shown: Any) -> str:
    """Mean and half width, ``4.31 ± 0.12``; the half width to two digits."""
    if value is None:
        return "none"
    if value.half_width is None:
        return shown(value.value)
    if shown is percent:
        return f"{100 * value.value:.3g} ± {_short(100 * value.half_width)} %"
    return f"{0.0 if abs(value.value) < 1e-12 else value.value:.5g} ± {_short(value.half_width)}"


def _short(half_width: float) -> str:
    half_width = 0.0 if half_width < 1e-12 else half_width
    return f"{half_width:.0f}" if 100 <= half_width < 1e6 else f"{half_width:.2g}"


def _best(lines: Sequence[Line]) -> list[int]:
    """Rows that cannot be told apart from the best: the first, and those whose paired interval holds 0."""
    return [
        k
        for k, line in enumerate(lines)
        if line.regret is not None
        and (k == 0 or (line.behind is not None and line.behind.value <= (line.behind.half_width or 0.0)))
    ]


def _html_row(row: Sequence[str]) -> list[Cell]:
    return [Cell(row[0]), *(Cell(text, True) for text in row[1:])]


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"

    return [line(head), "|" + "---|" + "---:|" * (len(head) - 1), *(line(row) for row in body)]


def _failures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"{row['status']}: {row['label']} on {row['instance']}, seed {row['seed']}: {row['message']}"
        for row in rows
        if row["status"] != "ok"
    ]


def _origin_lines(origins: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for origin in origins:
        versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
        machine = ", ".join(f"{key} {value}" for key, value in origin["machine"].items())
        lines += [f"`{origin['command']}`", f"{origin['date']}, commit {origin['commit']}; {machine}; {versions}", ""]
    return lines
