"""The bones of a report: one self-contained, escaped HTML page, readable in light and dark, without a network."""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SVG_BYTES = 1_500_000  # a drawing larger than this is shown as a PNG picture instead

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5b6472; --line: #d9dee6; --paper: #ffffff; --card: #f5f7fa;
  --accent: #2463c5; --good: #16794c; --warn: #9a5b00; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #a2abb8; --line: #343b47; --paper: #14171c;
  --card: #1d2129; --accent: #7db0ff; --good: #5fce98; --warn: #f0b35a; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 1.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.55rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p { margin: .4rem 0; } .soft { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem; margin: 1rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .8rem; }
.card b { display: block; font-size: 1.12rem; font-variant-numeric: tabular-nums; overflow-wrap: break-word; }
.card span { color: var(--soft); font-size: .82rem; }
.good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0;
  font-size: .92rem; }
th, td { padding: .3rem .65rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; font-size: .85rem; white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; }
tr.best td { font-weight: 650; background: var(--card); }
figure { margin: .8rem 0; } figcaption { color: var(--soft); font-size: .88rem; margin-bottom: .3rem; }
figure img { max-width: 100%; height: auto; display: block; }
figure.sheet img { background: #fff; border-radius: .4rem; padding: .4rem; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem;
  overflow-x: auto; font: 13px/1.45 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; margin: .5rem 0; }
pre.wrap { white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--accent); }
@media print { body { max-width: none; } details { break-inside: avoid; } }
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table: its text and whether it is set like a number."""

    text: str
    is_number: bool = False


def escaped(text: object) -> str:
    """HTML text of anything."""
    return html.escape(str(text), quote=True)


def prose(text: object) -> str:
    """HTML of a sentence whose `names` stand between backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped(text))


def number(value: float | int | None, digits: int = 6, none: str = "none") -> str:
    """A number as a person reads it; ``none`` where there is none."""
    if value is None or not math.isfinite(value):
        return none
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}g}"


def percent(value: float | None, none: str = "none") -> str:
    """A share as percent, three significant digits."""
    return none if value is None or not math.isfinite(value) else f"{100 * value:.3g} %"


def table(headers: Sequence[str], rows: Iterable[Sequence[Cell | str]], best: Iterable[int] = ()) -> str:
    """A table; a column is set like numbers where all its cells are. ``best`` are the rows to mark.

    Headers that are all empty are left out.
    """
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    numeric = [bool(cells) and all(row[k].is_number for row in cells) for k in range(len(headers))]
    marked = set(best)

    def line(tag: str, texts: Iterable[str]) -> str:
        parts = [
            f"<{tag}{' class=number' if is_number else ''}>{escaped(text)}</{tag}>"
            for text, is_number in zip(texts, numeric, strict=True)
        ]
        return "".join(parts)

    body = "".join(
        f"<tr{' class=best' if k in marked else ''}>{line('td', [cell.text for cell in row])}</tr>\n"
        for k, row in enumerate(cells)
    )
    return (
        f"<div class=scroll><table><thead><tr>{line('th', headers)}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def cards(items: Iterable[tuple[str, str, str]]) -> str:
    """Big numbers: (label, text, tone), tone one of "", good, warn, bad."""
    parts = [
        f"<div class=card><b class='{escaped(tone)}'>{escaped(text)}</b><span>{escaped(label)}</span></div>"
        for label, text, tone in items
    ]
    return f"<div class=cards>{''.join(parts)}</div>"


def preformatted(text: str, *, wrap: bool = False) -> str:
    """Text as it is."""
    return f"<pre{' class=wrap' if wrap else ''}>{escaped(text)}</pre>"


def folded(title: str, body: str) -> str:
    """A part that opens on a click; ``body`` is HTML."""
    return f"<details><summary>{escaped(title)}</summary>{body}</details>"


def section(title: str, body: str) -> str:
    """A part with a heading; ``body`` is HTML."""
    return f"<section><h2>{escaped(title)}</h2>\n{body}\n</section>"


def figure(drawing: Figure, title: str) -> str:
    """A drawing made for white paper: shown on a white sheet in dark mode too."""
    caption = f"<figcaption>{escaped(title)}</figcaption>" if title else ""
    return f"<figure class=sheet>{caption}<img alt='{escaped(title)}' src='{data_uri(drawing)}'></figure>"


def themed_figure(drawings: Mapping[str, Figure], title: str, caption: str = "") -> str:
    """A drawing in two versions, ``light`` and ``dark``; the reader's browser chooses."""
    words = f"<figcaption>{escaped(caption)}</figcaption>" if caption else ""
    return (
        f"<figure>{words}<picture><source media='(prefers-color-scheme: dark)' srcset='{data_uri(drawings['dark'])}'>"
        f"<img alt='{escaped(title)}' src='{data_uri(drawings['light'])}'></picture></figure>"
    )


def data_uri(drawing: Figure) -> str:
    """The drawing as a ``data:`` address: SVG, or PNG where the SVG would be huge."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "surco", "svg.fonttype": "path"}):
        drawing.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    kind = "svg+xml"
    if buffer.tell() > SVG_BYTES:
        buffer = io.BytesIO()
        drawing.savefig(buffer, format="png", dpi=160, bbox_inches="tight")
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def page(title: str, body: str) -> str:
    """The whole document. The policy forbids every request, so the page can only show what it holds."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escaped(title)}</title>
<style>{STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""
