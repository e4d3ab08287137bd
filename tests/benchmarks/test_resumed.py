"""Rows kept as lines: what is there is not made again, and a line that was cut off is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.resumed import rows_of_cells


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    draw: int
    value: float | None


def test_finished_cells_are_kept_and_a_cut_line_is_made_anew(tmp_path: Path) -> None:
    made: list[tuple[str, int]] = []

    def make(cell: tuple[str, int]) -> Row:
        made.append(cell)
        return Row(*cell, value=None if cell[1] else 1.5)

    def fill(*cells: tuple[str, int]) -> list[Row]:
        return rows_of_cells(
            tmp_path / "rows.jsonl",
            cells,
            load=Row,
            cell_of=lambda row: (row.name, row.draw),
            make=make,
            line_of=lambda row: row.name,
        )

    first = fill(("a", 0), ("a", 1))
    assert made == [("a", 0), ("a", 1)]
    again = fill(("a", 0), ("b", 0), ("a", 1))
    assert made == [("a", 0), ("a", 1), ("b", 0)]
    assert again[:2] == first
    file = tmp_path / "rows.jsonl"
    file.write_text(file.read_text("utf-8")[:-5], encoding="utf-8")
    assert fill(("b", 0)) == again
    assert made[3:] == [("b", 0)]
