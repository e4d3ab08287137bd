"""``surco check``: does a problem keep its contract?"""

from __future__ import annotations

import argparse
import sys

import surco
from surco.cli_solve import pairs


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("source", metavar="ID|FILE", help="a registered id, a JSON spec, or a domain's file")
    parser.add_argument("--seed", type=int, default=0, help="of the random costs and designs (default 0)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change the instance, as in --set seed=3"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print one line a check; a check that fails is an error with its remedy (exit code 1)."""
    problem = surco.load(arguments.source, **pairs(arguments.set, "--set"))
    from surco.checks import check_problem  # imports torch, which a misspelt id need not wait for

    sys.stdout.write(f"{check_problem(problem, seed=arguments.seed)}\n")
    return 0
