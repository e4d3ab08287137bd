"""``surco report``: the HTML report of a saved run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from surco.report import write_report
from surco.saved import load_origin, load_result


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("folder", metavar="RESULT_DIR", type=Path, help="the folder given to `surco solve --out`")
    parser.add_argument("--to", type=Path, metavar="FILE", help="the HTML file, RESULT_DIR/report.html by default")


def run(arguments: argparse.Namespace) -> int:
    """Write the report and print where it is."""
    result = load_result(arguments.folder)
    path = write_report(result, arguments.to or arguments.folder / "report.html", origin=load_origin(arguments.folder))
    sys.stdout.write(f"{path}\n")
    return 0
