"""``surco train-policy CONFIG``: train a policy on this machine, on a running Ray cluster, or as a Ray job.

``python -m rl.train CONFIG`` is the same; CONFIG is a TOML file, or the name of one in ``rl/configs``.

The same command is what ``ray job submit`` runs: inside of a job the cluster is found by itself. Exit codes: 0 all
steps are done, 2 bad input, 75 the run stalled or its returns were not numbers (a checkpoint was written, ``--resume``
goes on), 130 interrupted (the last checkpoint stands).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from surco.errors import InvalidInputError, MissingExtraError, SurcoError

BAD_INPUT, INTERRUPTED = 2, 130
CONFIGS = Path(__file__).parent / "configs"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    names = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.toml")))
    parser.add_argument("config", type=Path, metavar="CONFIG", help=f"a TOML file, or one of {names}")
    parser.add_argument("--out", type=Path, metavar="DIR", help="journal, checkpoint and policy (default runs/NAME)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in DIR, if there is one")
    parser.add_argument(
        "--address",
        "--ray-address",
        dest="address",
        metavar="ADDRESS",
        help="Ray cluster to join: `auto` or host:port; `local` starts one on this machine "
        "(default: the job's cluster inside `ray job submit`, else `local`)",
    )
    parser.add_argument("--backend", choices=("native", "rllib"), help="replaces the configuration's")
    parser.add_argument("--steps", type=int, help="replaces the configuration's")
    parser.add_argument("--seed", type=int, help="replaces the configuration's")
    parser.add_argument("--workers", type=int, help="replaces the configuration's")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument(
        "--set", action="append", default=[], metavar="TABLE.NAME=VALUE", help="replaces any setting, as JSON"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train; returns the exit code."""
    from rl import config as configs
    from rl.stall import EXIT_CODE, StallError

    changes: dict[str, Any] = {
        f"trainer.{name}": value
        for name in ("backend", "steps", "seed", "workers")
        if (value := getattr(arguments, name)) is not None
    }
    changes |= dict(_setting(text) for text in arguments.set)
    shipped = CONFIGS / f"{arguments.config}.toml"
    path = shipped if not arguments.config.is_file() and shipped.is_file() else arguments.config
    config = configs.load(path, changes)
    out = arguments.out or Path("runs") / f"{arguments.config.stem}-{config.trainer.seed}"
    try:
        with _ending_by_signal():
            last = train(
                config,
                out,
                resume=arguments.resume,
                address=arguments.address,
                progress=None if arguments.quiet else _show,
            )
    except StallError as error:
        sys.stderr.write(f"given up: {error} The last checkpoint is in {out}.\n")
        return EXIT_CODE
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted; go on with --resume --out {out}\n")
        return INTERRUPTED
    sys.stdout.write(f"{out}: {last.get('steps', config.trainer.steps)} steps, policy and journal in {out}\n")
    return 0


def train(
    config: Any, out: str | Path, *, resume: bool = False, address: str | None = None, progress: Any = None
) -> dict[str, Any]:
    """Train what a configuration says; Ray is used only where the backend or its workers need it.

    Args:
        config: a `rl.config.RunConfig`.
        out: folder of journal, checkpoint and policy.
        resume: go on from the checkpoint in ``out``.
        address: see the command.
        progress: called with every line of the journal.

    Returns:
        The last line of the journal.
    """
    from rl.config import Backend
    from rl.ray_session import LOCAL, session

    trainer = config.trainer
    if trainer.backend is Backend.NATIVE:
        from rl.native_train import train as go
    else:
        from rl.rllib_train import train as go
    if trainer.backend is Backend.NATIVE and trainer.workers == 0:
        if address is not None:
            raise InvalidInputError("Expected `workers` >= 1 with an address: without workers nothing runs on Ray.")
        return go(config, out, resume=resume, progress=progress)
    where = address or ("auto" if os.environ.get("RAY_ADDRESS") else LOCAL)
    cpus = max(1, round(trainer.workers * trainer.cpus_per_worker + 0.5)) if where == LOCAL else None
    with session(where, cpus=cpus):
        return go(config, out, resume=resume, progress=progress)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m rl.train", description=(__doc__ or "").partition("\n")[0])
    configure(parser)
    try:
        return run(parser.parse_args(argv))
    except (InvalidInputError, MissingExtraError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return BAD_INPUT
    except SurcoError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 1


def _show(line: dict[str, Any]) -> None:
    """One line of progress."""
    cost = line.get("cost_over_bound")
    best, held_out = line.get("best_return"), line.get("evaluation_cost_over_bound")
    parts = [
        f"step {line.get('steps', 0):,}",
        f"{line.get('seconds', 0.0):.0f} s",
        f"{line.get('steps_per_second', 0.0):,.0f} steps/s",
        "" if line.get("return") is None else f"return {line['return']:.4f}",
        "" if best is None else f"best {best:.4f}",
        "" if cost is None else f"cost/bound {cost:.4f} (gap {100.0 * (cost - 1.0):.2f} %)",
        "" if "evaluation_r" not in line else f"held out {line['evaluation_r']:.4f}",
        "" if held_out is None else f"gap {100.0 * (held_out - 1.0):.2f} %",
        "" if not line.get("restarts") else f"restarts {line['restarts']}",
    ]
    sys.stderr.write("  ".join(part for part in parts if part) + "\n")
    sys.stderr.flush()


def _setting(text: str) -> tuple[str, Any]:
    name, is_given, value = text.partition("=")
    if not is_given or "." not in name:
        raise InvalidInputError(f"Expected --set TABLE.NAME=VALUE, got {text!r}.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


@contextlib.contextmanager
def _ending_by_signal() -> Iterator[None]:
    """Let SIGTERM (``ray job stop``, a scheduler) end the run as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    raise SystemExit(main())
