"""Rows of a table that are made one by one, kept as lines of JSON, and not made twice."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Hashable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

Row = TypeVar("Row")
Cell = TypeVar("Cell", bound=Hashable)


def rows_of_cells(
    file: Path,
    cells: Iterable[Cell],
    *,
    load: Callable[..., Row],
    cell_of: Callable[[Row], Cell],
    make: Callable[[Cell], Row],
    line_of: Callable[[Row], str],
) -> list[Row]:
    """All rows of ``file``, with those of the cells that it lacks made and appended, each at once.

    Args:
        file: lines of JSON; made where missing. A last line that was cut off is dropped.
        cells: what is wanted, in the order of the work; hashable.
        load: row of keyword arguments, which are the fields of the dataclass that ``make`` gives.
        cell_of: the cell that a row answers.
        make: the work.
        line_of: what to say of a new row.
    """
    text = file.read_text("utf-8") if file.is_file() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole, encoding="utf-8")
    rows = [load(**json.loads(line)) for line in whole.splitlines()]
    done = {cell_of(row) for row in rows}
    with file.open("a", encoding="utf-8") as output:
        for cell in cells:
            if cell in done:
                continue
            row: Any = make(cell)
            rows.append(row)
            output.write(json.dumps(asdict(row)) + "\n")
            output.flush()
            print(line_of(row), file=sys.stderr)
    return rows
