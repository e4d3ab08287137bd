"""``surco report``: the HTML report of a saved run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from surco.report import write_report
from surco.saved import load_origin, load_result


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    words = "the folder given to `surco solve --out`, or its result.json"
    parser.add_argument("folder", metavar="RESULT_DIR", type=Path, help=words)
    parser.add_argument("--to", type=Path, metavar="FILE", help="the HTML file, RESULT_DIR/report.html by default")


def run(arguments: argparse.Namespace) -> int:
    """Write the report and print where it is."""
    result = load_result(arguments.folder)
    folder: Path = arguments.folder.parent if arguments.folder.is_file() else arguments.folder
    path = write_report(result, arguments.to or folder / "report.html", origin=load_origin(folder))
    sys.stdout.write(f"{path}\n")
    return 0
