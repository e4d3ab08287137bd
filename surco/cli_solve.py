"""``surco solve``: search for the best design of one problem."""

from __future__ import annotations

import argparse
import difflib
import functools
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from surco import provenance
from surco.atomic import write_text
from surco.bridge import to_torch
from surco.checkpoint import FILE as CHECKPOINT
from surco.cli import message
from surco.cli_progress import Progress
from surco.errors import InfeasibleError, InvalidInputError, NoDesignError, ResumeError
from surco.protocols import HasExports, Problem
from surco.registry import closest
from surco.report import certificate, write_report
from surco.result import Result
from surco.saved import INCUMBENT, ORIGIN, RESULT, load_origin

if TYPE_CHECKING:
    from torch import Tensor

REPORT = "report.html"
METRICS_SHOWN = 12  # on a terminal; a problem may report several of each device
SETTINGS = ("source", "set", "option", "method", "seed")  # what a resumed run must share with the run it goes on with


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "source", metavar="ID|FILE", help="a registered id, a JSON spec, a saved result.json, or a domain's file"
    )
    methods = (
        "auto (default), linear, random, local_search, slp, aggregates, zero, exact, prior, hybrid, "
        "or a heuristic of the problem"
    )
    parser.add_argument("--method", default="auto", help=methods)
    budget = parser.add_argument_group("budget", "the first limit reached ends the run; 10 seconds if none is given")
    budget.add_argument("--seconds", type=float, help="wall seconds")
    budget.add_argument("--calls", type=int, help="oracle calls")
    budget.add_argument("--objective-calls", type=int, help="objective calls")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice of the method (default 0)")
    many = {"action": "append", "default": [], "metavar": "KEY=VALUE"}
    parser.add_argument(
        "--set", **many, help="change the instance, as in --set robust=1; may be repeated; --robust 1 after ID does too"
    )
    parser.set_defaults(accept=functools.partial(accept, parser))
    parser.add_argument("--option", **many, help="of the method, as in --option step_size=0.1; may be repeated")
    parser.add_argument("--prior", type=Path, metavar="DIR", help="what `surco train` saved: for prior, hybrid, auto")
    parser.add_argument("--out", type=Path, metavar="DIR", help="save checkpoint, result.json and report.html here")
    parser.add_argument(
        "--export",
        nargs=2,
        action="append",
        default=[],
        metavar=("KIND", "PATH"),
        help="write the design in a format of the problem's domain too, as in --export torchrec plan.json",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on the last line")
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="show progress on stderr (default: only on a terminal)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Solve, save, and print."""
    import surco

    if arguments.resume and arguments.out is None:
        raise InvalidInputError("Expected --out DIR together with --resume: the folder to go on from.")
    if arguments.prior is not None:
        arguments.option = [*arguments.option, f"prior={json.dumps(str(arguments.prior))}"]
    overrides, options = pairs(arguments.set, "--set"), pairs(arguments.option, "--option")
    with interruptible():
        try:
            problem = surco.load(arguments.source, **overrides)
            writers = exporters(problem, [kind for kind, _ in arguments.export])
            for _, path in arguments.export:  # before the search, so that no design is lost to a missing folder
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            _prepare(arguments)
            with Progress(arguments.progress) as progress:
                result = surco.solve(
                    problem,
                    arguments.method,
                    seconds=arguments.seconds,
                    calls=arguments.calls,
                    objective_calls=arguments.objective_calls,
                    seed=arguments.seed,
                    callback=progress.update if progress.is_shown else None,
                    checkpoint=arguments.out,
                    resume=arguments.resume,
                    **options,
                )
        except (InfeasibleError, NoDesignError) as error:
            if arguments.json:
                _print_json(no_design(arguments, error))
            raise
    _save(arguments, result)
    for writer, (_, path) in zip(writers, arguments.export, strict=True):
        writer(to_torch(result.x), Path(path))
    _print(arguments, result)
    return 0 if result.is_feasible else 4


def accept(parser: argparse.ArgumentParser, arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Take options that the command does not know for changes of the instance: --robust 1 is --set robust=1.

    Raises:
        InvalidInputError: something else than --KEY VALUE or --KEY=VALUE, or what must be a misspelt option.
    """
    flags = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
    words, found = list(rest), list(arguments.set)
    while words:
        key, sign, value = words.pop(0).partition("=")
        if not key.startswith("--") or (not sign and (not words or words[0].startswith("--"))):
            raise InvalidInputError(f"Unrecognized argument `{key}`. Options of an instance are given as --KEY VALUE.")
        if near := difflib.get_close_matches(key, flags, n=1, cutoff=0.85):
            name = key[2:].replace("-", "_")
            raise InvalidInputError(
                f"Unrecognized argument `{key}`. Did you mean `{near[0]}`? An option `{name}` of the instance is given "
                f"as --set {name}=VALUE."
            )
        value = value if sign else words.pop(0)
        found.append(f"{key[2:].replace('-', '_')}={value}")
    arguments.set = found


def pairs(texts: Sequence[str], flag: str) -> dict[str, Any]:
    """KEY=VALUE texts as a mapping; a value that is JSON (3, 0.5, true, [1, 2]) is read as such, else it is text."""
    found: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.isidentifier():
            raise InvalidInputError(f"Expected {flag} KEY=VALUE, got `{text}`. Try {flag} seed=3.")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def exporters(problem: Problem, kinds: Sequence[str]) -> list[Callable[[Tensor, Path], None]]:
    """The problem's writers of some kinds; checked before the search, so that no run is lost to a typing error.

    Raises:
        InvalidInputError: a kind that the problem does not offer; the message names the closest one.
    """
    offered = problem.exports() if isinstance(problem, HasExports) else {}
    for kind in kinds:
        if kind not in offered:
            hint = closest(kind, offered) if offered else " It offers none."
            raise InvalidInputError(f"{type(problem).__name__} has no export `{kind}`.{hint}")
    return [offered[kind] for kind in kinds]


def summary(result: Result) -> dict[str, Any]:
    """The JSON object of ``--json``: everything of the result but its trace and spec."""
    return {key: value for key, value in result.to_json().items() if key not in ("trace", "trace_columns", "spec")}


def no_design(arguments: argparse.Namespace, error: Exception) -> dict[str, Any]:
    """The JSON object of a run that ended without a design."""
    return {
        "id": str(arguments.source),
        "method": arguments.method,
        "value": None,
        "bound": None,
        "gap": None,
        "is_feasible": False,
        "status": "infeasible" if isinstance(error, InfeasibleError) else "no_design",
        "oracle_calls": None,
        "objective_calls": None,
        "seconds": None,
        "cpu_seconds": None,
        "seed": arguments.seed,
        "error": message(error),
    }


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM (a batch system's polite kill) end the run as Ctrl-C does: with the incumbent."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: signals are the caller's business
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in SETTINGS}


def _prepare(arguments: argparse.Namespace) -> None:
    """Make ``--out`` ready, so that it never mixes two runs; a run that was cut off is not overwritten by mistake."""
    if arguments.out is None:
        return
    try:
        _make_ready(arguments.out, arguments)
    except (FileExistsError, NotADirectoryError) as error:  # a file there, or in the place of a folder above it
        raise InvalidInputError(
            f"Expected a folder for --out, but `{error.filename}` is a file or lies below one. Try another --out."
        ) from error
    except OSError as error:  # no permission, a full or read-only disk, a name that is too long
        raise InvalidInputError(
            f"Cannot write to the folder `{arguments.out}` of --out: {error.strerror}. Try another --out."
        ) from error


def _make_ready(folder: Path, arguments: argparse.Namespace) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    settings = _settings(arguments)
    origin = load_origin(folder)
    if arguments.resume:
        if origin is not None and (before := origin.get("settings")) != settings:
            raise ResumeError(f"`{folder}` holds the run {before}, which this run {settings} cannot go on with.")
    else:
        if (folder / CHECKPOINT).is_file() and not (folder / RESULT).is_file():
            raise InvalidInputError(
                f"`{folder}` holds a run that was cut off. Add --resume to go on with it, or choose another --out."
            )
        for name in (CHECKPOINT, INCUMBENT, RESULT, REPORT):
            (folder / name).unlink(missing_ok=True)
    if arguments.resume and origin is not None:
        data = {**origin, "resumed": [*origin.get("resumed", ()), provenance.now()]}
    else:
        data = {**provenance.origin(arguments.argv, "surco"), "settings": settings}
    write_text(folder / ORIGIN, json.dumps(data, indent=1))


def _save(arguments: argparse.Namespace, result: Result) -> None:
    if arguments.out is not None:
        result.save(arguments.out)
        write_report(result, arguments.out / REPORT, origin=load_origin(arguments.out))


def _print(arguments: argparse.Namespace, result: Result) -> None:
    for note in result.notes:
        sys.stderr.write(f"note: {note}\n")
    if arguments.json:
        _print_json(summary(result))
        return
    lines = [str(result), f"  {certificate(result)}", f"  {result.remedy}", *result.describe().splitlines()]
    lines += [f"  {name}: {value:.6g}" for name, value in list(result.metrics.items())[:METRICS_SHOWN]]
    if len(result.metrics) > METRICS_SHOWN:
        lines.append(f"  and {len(result.metrics) - METRICS_SHOWN} more (--json or --out shows all)")
    lines += [f"Export: {path} ({kind})" for kind, path in arguments.export]
    if arguments.out is not None:
        lines.append(f"Report: {arguments.out / REPORT}")
    sys.stdout.write("\n".join(lines) + "\n")


def _print_json(data: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(data, allow_nan=False) + "\n")
    sys.stdout.flush()
