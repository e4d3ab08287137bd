"""Train a click model from a shell.

    python -m problems.sharding.embeddings --data planted --optimizer galore --rank 4 --out runs/planted
    python -m problems.sharding.embeddings --data ml-100k --cache ~/.cache/surco --optimizer rowwise-adagrad --lr 0.05

Prints one JSON object. Real data are fetched once into ``--cache`` (see ``problems.sharding.embeddings.real``).
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

from rich.progress import Progress

from problems.sharding.embeddings.config import Architecture, ModelConfig, TrainConfig
from problems.sharding.embeddings.data import ClickData
from problems.sharding.embeddings.export import tables_from_model
from problems.sharding.embeddings.optimizers import TABLE_OPTIMIZERS
from problems.sharding.embeddings.planted import PlantedClicks, mlperf_like
from problems.sharding.embeddings.real import DATA_SETS
from problems.sharding.embeddings.trainer import train
from surco.errors import SurcoError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    defaults = TrainConfig()
    result = argparse.ArgumentParser(prog="python -m problems.sharding.embeddings", description="Train a click model.")
    result.add_argument("--data", choices=["planted", "mlperf-like", *DATA_SETS], default="planted")
    result.add_argument("--samples", type=int, default=100_000, help="of synthetic data")
    result.add_argument("--total-rows", type=int, default=1_000_000, help="of all tables of --data mlperf-like")
    result.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "surco", help="for real data")
    result.add_argument("--architecture", choices=list(Architecture), default="dlrm")
    result.add_argument("--dim", type=int, default=32)
    result.add_argument("--optimizer", choices=list(TABLE_OPTIMIZERS), default=defaults.optimizer)
    result.add_argument("--lr", type=float, default=defaults.lr)
    result.add_argument("--rank", default=str(defaults.rank), help="a number or 'auto'")
    result.add_argument("--update-gap", type=int, default=defaults.update_gap)
    result.add_argument("--batch-size", type=int, default=defaults.batch_size)
    result.add_argument("--epochs", type=int, default=defaults.epochs)
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--device", default="cpu")
    result.add_argument("--weights", choices=["float32", "bfloat16"], default="float32")
    result.add_argument("--checkpoint-every", type=int, default=defaults.checkpoint_every)
    result.add_argument("--out", type=Path, help="folder for checkpoints, TensorBoard files and tables.json")
    result.add_argument("--resume", action="store_true")
    result.add_argument("--tensorboard", action="store_true")
    return result


def load_data(arguments: argparse.Namespace) -> ClickData:
    """The data that the command line names."""
    if arguments.data == "planted":
        return PlantedClicks().draw(arguments.samples, seed=1)
    if arguments.data == "mlperf-like":
        return mlperf_like(arguments.total_rows).draw(arguments.samples, seed=1)
    return DATA_SETS[arguments.data](arguments.cache)


def main(argv: list[str] | None = None) -> int:
    """Run; returns the exit code."""
    arguments = parser().parse_args(argv)
    try:
        data = load_data(arguments)
        config = TrainConfig(
            optimizer=arguments.optimizer,
            lr=arguments.lr,
            rank=arguments.rank if arguments.rank == "auto" else int(arguments.rank),
            update_gap=arguments.update_gap,
            batch_size=arguments.batch_size,
            epochs=arguments.epochs,
            seed=arguments.seed,
            device=arguments.device,
            weights=arguments.weights,
            checkpoint_every=arguments.checkpoint_every,
        )
        with Progress(disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("training", total=None)
            result = train(
                data,
                config,
                ModelConfig(architecture=arguments.architecture, dim=arguments.dim),
                folder=arguments.out,
                resume=arguments.resume,
                tensorboard=arguments.tensorboard,
                progress=lambda now: bar.update(task, completed=now["step"], total=now["steps"]),
            )
    except SurcoError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    summary = {
        "data": data.source,
        "bayes_auc": data.bayes_auc,
        "optimizer": arguments.optimizer,
        "best": result.best,
        "state_bytes_per_row": result.state_bytes_per_row,
        "steps": result.steps,
        "cpu_seconds": result.cpu_seconds,
        "is_interrupted": result.is_interrupted,
    }
    if arguments.out is not None:
        batches = itertools.islice(data.batches(arguments.batch_size), 20)
        tables = tables_from_model(result.model, result.optimizer, batches, energy=arguments.weights == "float32")
        (arguments.out / "tables.json").write_text(json.dumps(tables, indent=1))
    print(json.dumps(summary))  # noqa: T201
    return 130 if result.is_interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
