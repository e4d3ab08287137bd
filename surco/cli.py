"""The command ``surco``; other distributions may add subcommands by entry point.

Exit codes: 0 a feasible design (or the command did its work), 1 an unexpected error, 2 bad input, 3 the rules leave no
design, 4 no design within the budget, 130 interrupted before there was anything to return.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NoReturn, Protocol

from surco import __version__
from surco.errors import InfeasibleError, InvalidInputError, MissingExtraError, NoDesignError, SurcoError

GROUP = "surco.commands"
COMMANDS = {
    "list": ("cli_list", "show the registered problems"),
    "check": ("cli_check", "check that a problem keeps the protocol, and judge its parts against each other"),
    "solve": ("cli_solve", "search for the best design of a problem"),
    "verify": ("cli_verify", "judge a saved result anew, by code that did not make it"),
    "train": ("cli_train", "train a prior on a family of instances"),
    "report": ("cli_report", "write the HTML report of a saved run"),
    "demo": ("cli_demo", "shard the MLPerf tables and route a real network, against every baseline"),
}
EPILOG = """\
exit codes: 0 a feasible design, 1 an unexpected error, 2 bad input, 3 the rules leave no design,
4 no design within the budget, 130 interrupted before there was a design. SURCO_DEBUG=1 shows tracebacks.
"""


class Command(Protocol):
    """A subcommand: a module or object with these two functions, as published in the group ``surco.commands``.

    A command that has a use for arguments it does not know sets the default ``accept``, a function of the namespace and
    these arguments, on its parser; else they are an error.
    """

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments."""
        ...

    def run(self, arguments: argparse.Namespace) -> int:
        """Do the work; returns the exit code."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    logging.getLogger("surco").addHandler(logging.NullHandler())  # notes are shown at the end, not as they come
    try:
        parser = _parser(argv)
        arguments, rest = parser.parse_known_args(argv)
        if rest and not hasattr(arguments, "accept"):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        if rest:
            arguments.accept(arguments, rest)
        arguments.argv = argv
        return arguments.run(arguments)
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except Exception as error:
        if os.environ.get("SURCO_DEBUG"):
            raise
        sys.stderr.write(f"error: {message(error)}\n")
        return exit_code(error)


def entry() -> NoReturn:
    """Run the command line as a process of its own."""
    code = main()
    if "surco.worker" in sys.modules:
        from surco import worker

        if worker.has_left_any():  # the result is out; a solver that does not stop must not abort the exit
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    raise SystemExit(code)


def exit_code(error: BaseException) -> int:
    """Exit code of an error."""
    if isinstance(error, InfeasibleError):
        return 3
    if isinstance(error, NoDesignError):
        return 4
    return 2 if isinstance(error, (InvalidInputError, MissingExtraError, OSError)) else 1


def message(error: BaseException) -> str:
    """One line about an error, without a traceback."""
    text = " ".join(str(error).split())
    if isinstance(error, (SurcoError, OSError)):
        return text
    return f"unexpected {type(error).__name__}: {text}. SURCO_DEBUG=1 shows where it comes from."


def plugins() -> dict[str, EntryPoint]:
    """Commands that installed distributions add, by name; surco's own names cannot be taken."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in COMMANDS}


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser, with only the chosen command loaded: ``surco list`` must not pay for ``surco solve``."""
    parser = argparse.ArgumentParser(
        prog="surco",
        description="Find combinatorial designs that are good for a nonlinear cost.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"surco {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    chosen = next((word for word in argv if not word.startswith("-")), "")
    added = plugins()
    for name, (_, line) in COMMANDS.items():
        _add(subparsers.add_parser(name, help=line, description=_sentence(line), allow_abbrev=False), name, chosen)
    for name, point in added.items():
        line = "" if chosen else _plugin_line(point)  # shown only where no command is chosen
        _add(subparsers.add_parser(name, help=line, allow_abbrev=False), name, chosen, point)
    return parser


def _add(parser: argparse.ArgumentParser, name: str, chosen: str, point: EntryPoint | None = None) -> None:
    if name != chosen:
        return
    command: Any = point.load() if point is not None else import_module(f"surco.{COMMANDS[name][0]}")
    command.configure(parser)
    parser.set_defaults(run=command.run)


def _plugin_line(point: EntryPoint) -> str:
    """What a plug-in says of itself: the first line of its docstring, or why it cannot be loaded."""
    try:
        text = point.load().__doc__ or ""
    except Exception as error:  # a broken stranger must not take the help of the others with it
        text = f"cannot be loaded: {message(error)}"
    first = next(iter(text.strip().splitlines()), "")
    usage, _, rest = first.partition("``: ")
    line = (rest if usage.startswith("``") and rest else first).rstrip(".")
    return (line or f"from {point.dist.name if point.dist else point.module}").replace("%", "%%")


def _sentence(line: str) -> str:
    return f"{line[0].upper()}{line[1:]}."


if __name__ == "__main__":
    entry()
