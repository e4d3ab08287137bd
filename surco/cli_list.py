"""``surco list``: the registered problems."""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys

from surco.errors import InvalidInputError
from surco.registry import broken_domains, closest, ids


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "pattern",
        nargs="?",
        default="",
        metavar="PATTERN",
        help="part of an id, or a glob like '*-v0'; upper or lower case",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, id -> description")


def run(arguments: argparse.Namespace) -> int:
    """Print one line a problem: id, tab-free, and what it is."""
    known = ids()
    for name, reason in broken_domains().items():
        sys.stderr.write(f"note: the domain `{name}` cannot be loaded ({reason}); its problems are missing here.\n")
    pattern = arguments.pattern
    glob = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    found = {id: line for id, line in known.items() if fnmatch.fnmatchcase(id.lower(), glob.lower())}
    if arguments.json:
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    if not found:
        raise InvalidInputError(f"No problem matches `{pattern}`.{closest(pattern, known)}")
    width = max(map(len, found))
    sys.stdout.write("".join(f"{id:<{width}}  {line}\n" for id, line in found.items()))
    return 0
