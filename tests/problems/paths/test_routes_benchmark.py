"""The routes benchmark: what it measures and how it adds up."""

import json

import pytest

from benchmarks import routes


@pytest.fixture(scope="module")
def rows():
    cases = [
        routes.Case(kind, 5, seed, name) for kind in ("code", "paper") for seed in (1, 2) for name in ("loose", "tight")
    ]
    return list(routes.measure(cases, seed=3))


def test_every_method_is_measured_on_every_case(rows):
    assert len(rows) == 8 * len(routes.METHODS)
    assert all(row.gap >= -1e-12 for row in rows)
    assert all(row.gap <= 1e-9 and row.status == "optimal" for row in rows if row.method in ("auto", "exact"))
    assert any(row.gap > 1e-3 for row in rows if row.method.startswith("heuristic"))
    assert all(0 < row.oracle_calls <= routes.CALLS for row in rows if row.method in ("random", "zero", "linear"))
    assert {row.oracle_calls for row in rows if row.method == "linear"} == {1}


def test_tables_hold_the_means(rows):
    part = [row for row in rows if (row.distribution, row.method) == ("paper", "random")]
    share = 100 * sum(row.gap <= 1e-9 for row in part) / len(part)
    line = next(line for line in routes.table(rows).splitlines() if line.startswith("| paper | 5x5 | random |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[3:5] == ["4", f"{share:.1f} %"]
    assert float(cells[6]) == pytest.approx(sum(row.probability for row in part) / 4, abs=1e-5)
    by_deadline = routes.deadline_table(rows).splitlines()
    assert len(by_deadline) == 2 + 4
    assert len({line.count("|") for line in by_deadline}) == 1


def test_command_writes_rows_table_and_provenance(tmp_path, capsys):
    assert routes.main(["--out", str(tmp_path), "--draws", "1", "--first-seed", "5", "--sizes", "5"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "routes.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * 3 * len(routes.METHODS)
    assert {line["grid_seed"] for line in lines} == {5}
    assert (tmp_path / "routes.md").read_text() in capsys.readouterr().out + "\n"
    assert json.loads((tmp_path / "provenance.json").read_text())["grid_seeds"] == [5]
