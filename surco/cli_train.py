"""``surco train``: train a prior on a family of instances."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from surco.errors import InvalidInputError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("family", nargs="?", help="id of a family; `surco train --list` shows all")
    parser.add_argument("--list", action="store_true", help="list the families and end")
    parser.add_argument("--out", type=Path, metavar="DIR", help="prior, log and checkpoint go here")
    parser.add_argument("--steps", type=int, help="steps at most (default 1000 where --seconds is not given)")
    parser.add_argument("--seconds", type=float, help="seconds at most")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice (default 0)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in DIR")
    parser.add_argument("--overwrite", action="store_true", help="start afresh where DIR holds a prior or checkpoint")
    parser.add_argument("--start", type=Path, metavar="PRIOR", help="start from the weights of a saved prior")
    parser.add_argument("--workers", type=int, default=1, help="processes for the oracle calls (default 1)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of surco.TrainConfig, as JSON"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train and save."""
    from surco import checkpoint
    from surco.instance_family import families
    from surco.training import train
    from surco.training.prior import CARD

    if arguments.list:
        known = families()
        width = max(map(len, known), default=0)
        sys.stdout.write("".join(f"{id:<{width}}  {line}\n" for id, line in known.items()))
        return 0
    if arguments.family is None or arguments.out is None:
        raise InvalidInputError("Expected a family and --out DIR. `surco train --list` shows the families.")
    config = dict(_setting(text) for text in arguments.set)
    held = [name for name in (CARD, checkpoint.FILE) if (arguments.out / name).is_file()]
    if held and not arguments.resume and not arguments.overwrite:
        raise InvalidInputError(
            f"`{arguments.out}` holds the {held[0]} of an earlier run. Try --resume to go on with it, --overwrite to "
            "replace it, or another folder."
        )
    sys.stderr.write("drawing instances, then a line at each validation\n")

    def show(line: dict[str, Any]) -> None:
        loss = "" if line["loss"] is None else f"  loss {line['loss']:.5g}"
        sys.stderr.write(f"step {line['step']}  {line['seconds']:.0f} s{loss}  regret {line['regret']:.4%}\n")

    def go(pool: Any) -> int:
        prior = train(
            arguments.family,
            steps=arguments.steps,
            seconds=arguments.seconds,
            seed=arguments.seed,
            out=arguments.out,
            resume=arguments.resume,
            start=arguments.start,
            pool=pool,
            progress=show,
            **config,
        )
        known = prior.training
        sys.stdout.write(
            f"{arguments.out}: {known['steps']} steps in {known['seconds']:.0f} s, validation regret "
            f"{known['validation_regret']:.4%} of step {known['best_step']} against the field's best rule\n"
        )
        if known["steps"] == 0:
            sys.stderr.write("no step was taken: the seconds went to drawing instances; give more --seconds\n")
        return 0

    if arguments.workers < 1:
        raise InvalidInputError(f"Expected --workers of at least 1, got {arguments.workers}.")
    if arguments.workers == 1:
        return go(None)
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        return go(pool)


def _setting(text: str) -> tuple[str, Any]:
    name, is_given, value = text.partition("=")
    if not is_given:
        raise InvalidInputError(f"Expected --set NAME=VALUE, got {text!r}.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
