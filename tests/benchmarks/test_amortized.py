import json

import pytest

from benchmarks.amortized import main
from benchmarks.amortized_join import main as join

FAMILY = "paths/grid-5-paper-v0"


def test_a_table_of_some_rows_goes_on_where_it_was_cut(tmp_path, capsys):
    out = tmp_path / "table.json"
    command = [FAMILY, "--instances", "3", "--calls", "1", "5", "--long", "0", "--rows", "rules", "linear", "random"]
    command += ["--out", str(out)]
    assert main(command) == 0
    assert "3 test instances" in capsys.readouterr().out
    whole = json.loads(out.read_text())
    names = set(whole["table"])
    assert {"linear", "random"} < names
    assert all(name in ("linear", "random") or name.startswith("rule ") for name in names)
    assert str(tmp_path) not in whole["command"]
    assert all(whole["all_feasible"].values())
    assert whole["table"]["random"]["5"]["mean"] <= whole["table"]["random"]["1"]["mean"]
    cut = {**whole, "instances": 1}
    cut["raw"] = {name: {k: v[:1] for k, v in cells.items()} for name, cells in whole["raw"].items()}
    out.write_text(json.dumps(cut))
    assert main(command) == 0
    again = json.loads(out.read_text())
    assert again["raw"] == whole["raw"]
    assert again["instances"] == 3
    with pytest.raises(SystemExit, match="another command"):
        main([*command, "--calls", "1"])


def test_a_table_in_parts_is_the_whole_table(tmp_path, capsys):
    def table(first, count, calls):
        out = tmp_path / f"{first}-{count}.json"
        rows = ["--calls", *calls, "--long", "0", "--rows", "linear", "random", "--out", str(out)]
        assert main([FAMILY, "--instances", str(count), "--first", str(first), *rows]) == 0
        return json.loads(out.read_text())

    table(1, 2, ["1", "5"])
    table(3, 1, ["1"])
    whole = table(0, 4, ["1", "5"])
    table(0, 1, ["1", "5"])
    parts = [str(tmp_path / name) for name in ("0-1.json", "1-2.json", "3-1.json")]
    capsys.readouterr()
    assert join([*parts, "--out", str(tmp_path / "joined.json")]) == 0
    assert "[3]" in capsys.readouterr().out  # the cell of five calls lacks an instance
    found = json.loads((tmp_path / "joined.json").read_text())
    assert found["instances"] == 4
    assert found["raw"]["random"]["5"] == whole["raw"]["random"]["5"][:3]
    assert found["table"]["random"]["1"]["instances"] == 4
    with pytest.raises(ValueError, match="in common"):
        join([parts[0], parts[0], "--out", str(tmp_path / "twice.json")])
