"""One anytime table of tables that were run in parts (``--first``), with the same family and priors.

    python -m benchmarks.amortized_join PART PART ... --out FILE

A part may lack columns: each cell then says of how many instances it is the mean.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.amortized import markdown, summary
from surco.atomic import write_text


def joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The table over the instances of all parts.

    Raises:
        ValueError: parts of different families or priors, or that share instances.
    """
    first = parts[0]
    for part in parts[1:]:
        for name in ("family", "priors", "regret"):
            if part[name] != first[name]:
                raise ValueError(f"The parts differ in `{name}`: {part[name]!r} and {first[name]!r}.")
    taken: set[int] = set()
    for part in parts:
        seeds = set(range(part["first"], part["first"] + part["instances"]))
        if taken & seeds:
            raise ValueError(f"Two parts have the instances {sorted(taken & seeds)[:5]} ... in common.")
        taken |= seeds
    raw: dict[str, dict[str, list[float]]] = {}
    for part in parts:
        for name, cells in part["raw"].items():
            for calls, values in cells.items():
                raw.setdefault(name, {}).setdefault(calls, []).extend(values)
    return {
        **first,
        "instances": len(taken),
        "first": min(taken),
        "table": {name: {calls: summary(v) for calls, v in cells.items()} for name, cells in raw.items()},
        "raw": raw,
        "all_feasible": {name: all(p["all_feasible"].get(name, True) for p in parts) for name in raw},
        "feasible": {name: _mean(parts, "feasible", name) for name in raw},
        "seconds_per_run": {name: _mean(parts, "seconds_per_run", name) for name in _names(parts, "seconds_per_run")},
        "cpu_seconds": sum(part["cpu_seconds"] for part in parts),
        "command": " ; ".join(part["command"] for part in parts),
    }


def _names(parts: Sequence[dict[str, Any]], what: str) -> list[str]:
    return list(dict.fromkeys(name for part in parts for name in part[what]))


def _mean(parts: Sequence[dict[str, Any]], what: str, name: str) -> float:
    """Over the instances of the parts that have it."""
    known = [part for part in parts if name in part[what]]
    return sum(part[what][name] * part["instances"] for part in known) / sum(part["instances"] for part in known)


def main(argv: Sequence[str] | None = None) -> int:
    """Join, write and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.amortized_join", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("parts", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    result = joined([json.loads(path.read_text(encoding="utf-8")) for path in arguments.parts])
    write_text(arguments.out, json.dumps(result))
    wanted = sorted({int(calls) for cells in result["table"].values() for calls in cells})
    shown = {**result, "table": {n: {int(k): v for k, v in c.items()} for n, c in result["table"].items()}}
    sys.stdout.write(markdown(shown, wanted) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
