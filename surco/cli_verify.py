"""``surco verify``: judge a saved result anew, by code that did not make it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from surco.bridge import to_torch
from surco.errors import InvalidInputError
from surco.protocols import HasJudges, Verification
from surco.registry import closest
from surco.result import Result
from surco.saved import load_result

VALUE_TOLERANCE = 1e-6  # relative


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("result", type=Path, metavar="RESULT", help="a result.json, or the folder that holds it")
    parser.add_argument(
        "--with",
        dest="judges",
        action="append",
        default=[],
        metavar="JUDGE",
        help="a judge of the problem's domain too",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, judge -> what it found")


def run(arguments: argparse.Namespace) -> int:
    """Print one line a judge; exit code 0 when all of them confirm the result, 1 when one does not."""
    result = load_result(arguments.result)
    found = verify(result, arguments.judges)
    if arguments.json:
        data = {name: {"is_confirmed": v.is_confirmed, **v.facts} for name, v in found.items()}
        sys.stdout.write(json.dumps(data) + "\n")
    else:
        for name, verification in found.items():
            facts = ", ".join(f"{key} {_text(value)}" for key, value in verification.facts.items())
            sys.stdout.write(f"{name}: {'confirmed' if verification.is_confirmed else 'NOT CONFIRMED'}; {facts}\n")
    return 0 if all(verification.is_confirmed for verification in found.values()) else 1


def verify(result: Result, judges: list[str]) -> dict[str, Verification]:
    """What the problem's rules, a fresh evaluation and the named judges say of a result.

    Args:
        result: one whose problem can be rebuilt from its spec.
        judges: names of :meth:`surco.protocols.HasJudges.judges`.

    Raises:
        InvalidInputError: the problem cannot be rebuilt, the design does not fit it, or there is no such judge.
    """
    from surco.ledger import FEASIBILITY_TOLERANCE

    problem = result.problem
    if problem is None:
        raise InvalidInputError(
            "Expected a result whose spec rebuilds its problem (a registered id or a JSON spec); this one's does not."
        )
    if result.x.shape != (problem.oracle.n,):
        raise InvalidInputError(f"Expected a design of shape [{problem.oracle.n}], got {list(result.x.shape)}.")
    offered = problem.judges() if isinstance(problem, HasJudges) else {}
    for name in judges:
        if name not in offered:
            raise InvalidInputError(f"No judge `{name}` for this problem.{closest(name, offered)}")
    x = to_torch(result.x)
    violation = float(problem.violation(x[None])[0])
    value = float(problem.objective(x[None])[0].detach())
    is_equal = abs(value - result.value) <= VALUE_TOLERANCE * max(abs(value), abs(result.value), 1e-9)
    found = {
        "rules": Verification(violation <= FEASIBILITY_TOLERANCE, {"violation": violation}),
        "value": Verification(is_equal, {"claimed": result.value, "found": value}),
    }
    return found | {name: offered[name](x) for name in judges}


def _text(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)
