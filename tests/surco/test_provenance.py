"""Where a number comes from: the command can be pasted, and the rest is plain data."""

from __future__ import annotations

import json
import shlex

from surco import provenance


def test_a_command_is_what_a_shell_takes() -> None:
    text = provenance.command(["--out", "a folder"], "python -m benchmarks.routes")
    assert text == "python -m benchmarks.routes --out 'a folder'"
    assert shlex.split(text) == ["python", "-m", "benchmarks.routes", "--out", "a folder"]


def test_origin_is_json_and_says_where_when_and_with_what() -> None:
    origin = provenance.origin(["--json"], "surco")
    assert json.loads(json.dumps(origin)) == origin
    assert origin["command"] == "surco --json"
    assert set(origin) == {"command", "date", "commit", "machine", "versions"}
    assert {"python", "torch"} <= set(origin["versions"])
