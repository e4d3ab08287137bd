"""``python -m benchmarks run SUITE.toml --out DIR`` and ``python -m benchmarks report DIR``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report, runner
from surco import provenance
from surco.cli import exit_code, message
from surco.errors import InvalidInputError, SurcoError

SUITES = Path(__file__).parent / "suites"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 where cells failed, 2 for bad input, 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(argv)
    try:
        return arguments.action(arguments, argv)
    except KeyboardInterrupt:
        print("interrupted; every finished cell is saved, go on with --resume", file=sys.stderr)
        return 130
    except (SurcoError, OSError) as error:
        print(f"error: {message(error)}", file=sys.stderr)
        return exit_code(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    actions = parser.add_subparsers(required=True, metavar="COMMAND")
    run = actions.add_parser("run", help="run a suite, or the rest of it")
    run.add_argument("suite", help=f"a TOML file, or one of {', '.join(sorted(p.stem for p in SUITES.glob('*.toml')))}")
    run.add_argument("--out", type=Path, required=True, metavar="DIR", help="results, provenance and report go here")
    run.add_argument("--resume", action="store_true", help="keep the finished cells in DIR and run the others")
    run.add_argument("--workers", type=int, default=1, help="processes at once (default 1)")
    run.add_argument(
        "--ray-address", metavar="ADDRESS", help="run the cells on a Ray cluster: auto, host:port, or local"
    )
    run.set_defaults(action=_run)
    shown = actions.add_parser("report", help="write report.md and report.html")
    shown.add_argument("folder", type=Path, metavar="DIR")
    shown.set_defaults(action=_report)
    reference = actions.add_parser("reference", help="merge the best values of DIR into the suite's reference file")
    reference.add_argument("folder", type=Path, metavar="DIR")
    reference.set_defaults(action=_reference)
    return parser


def _run(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    if arguments.workers < 1:
        raise InvalidInputError(f"Expected --workers of at least 1, got {arguments.workers}.")
    path = Path(arguments.suite)
    shipped = SUITES / f"{arguments.suite}.toml"
    path = shipped if not path.is_file() and shipped.is_file() else path
    failed = 0

    def show(done: int, every: int, row: dict[str, Any]) -> None:
        nonlocal failed
        failed += row["status"] != "ok"
        words = f"{row['value']:.6g}, {row['end']}" if row["status"] == "ok" else f"{row['status']}: {row['message']}"
        print(f"[{done}/{every}] {row['instance']}  {row['label']}  seed {row['seed']}: {words}", file=sys.stderr)

    command = provenance.command(["-m", "benchmarks", *argv], "python")
    count = runner.run(
        path,
        arguments.out,
        resume=arguments.resume,
        workers=arguments.workers,
        ray_address=arguments.ray_address,
        command=command,
        show=show,
    )
    print(f"{count} cells run, {failed} without a design; results in {arguments.out}", file=sys.stderr)
    return 1 if failed else 0


def _report(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    markdown, html = report.write(arguments.folder)
    print(markdown.read_text(encoding="utf-8"))
    print(f"Report with plots: {html}")
    return 0


def _reference(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    print(report.write_reference(arguments.folder))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
