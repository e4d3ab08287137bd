import json

import pytest

from benchmarks.amortized import main

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
