"""Quality of embedding optimizers at equal tuning: AUC, logloss and state bytes on two real sets and a planted one.

    python -m benchmarks.galore_quality run   --out runs/galore_quality.jsonl --cache ~/.cache/surco --seconds 500
    python -m benchmarks.galore_quality table --out runs/galore_quality.jsonl

For a GPU machine without a package index: ``prepare --cache .carry/galore`` here, then there

    python -m benchmarks.galore_quality run --cache .carry/galore --device cuda --workers 12 --out OUT/quality.jsonl

``run`` appends one line a finished run and skips what the file has, so it can be cut at any time and called again.
Every optimizer has four learning rates and the same seeds; the rate is chosen by the mean validation AUC over seeds,
and the epoch by that of the run, which stops after an epoch without gain. Seeds vary initial weights and order; the
split is one and the same.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from problems.sharding.embeddings import ClickData, ModelConfig, PlantedClicks, TrainConfig, train
from problems.sharding.embeddings.real import DATA_SETS

DIM = 32
SEEDS = 5
EPOCHS = 4
BATCH_SIZE = 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the table: an optimizer with its options and learning rates."""

    optimizer: str
    rates: tuple[float, ...]
    rank: int = 4
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """Name in the table."""
        has_rank = self.optimizer in ("galore", "galore-8bit", "fira", "apollo")
        extra = "".join(f" {key}={value}" for key, value in self.options)
        return self.optimizer + (f" r={self.rank}" if has_rank else "") + extra


ADAM_RATES = (0.001, 0.003, 0.01, 0.03)
LOW_RANK_RATES = (0.003, 0.01, 0.03, 0.1)
ENTRIES = (
    Entry("sgd", (0.1, 0.3, 1.0, 3.0)),
    Entry("rowwise-adagrad", (0.01, 0.03, 0.1, 0.3)),
    Entry("sparse-adam", ADAM_RATES),
    Entry("adamw", ADAM_RATES),
    Entry("galore", LOW_RANK_RATES, rank=DIM // 8),
    Entry("galore", LOW_RANK_RATES, rank=DIM // 4),
    Entry("galore-8bit", LOW_RANK_RATES, rank=DIM // 8),
    Entry("fira", LOW_RANK_RATES, rank=DIM // 8),
    Entry("apollo", LOW_RANK_RATES, rank=DIM // 8),
    Entry("apollo-mini", (0.0003, 0.001, 0.003, 0.01)),
)


def planted(_: Path) -> ClickData:
    """Synthetic clicks of the size of the real sets."""
    rows = (4000, 2000, 1000, 500, 200, 100, 40, 20, 7, 3)
    model = PlantedClicks(rows=rows, pooling=(1, 1, 5, 1, 1, 3, 1, 1, 1, 1), strength=2.0, bias=-0.5)
    return model.draw(100_000, seed=1)


TASKS: dict[str, Callable[[Path], ClickData]] = {**DATA_SETS, "planted": planted}


def cells(tasks: list[str], seeds: int) -> Iterator[tuple[int, str, Entry, float]]:
    """All runs, seeds outermost, so that an unfinished table is balanced."""
    for seed in range(seeds):
        for task in tasks:
            for entry in ENTRIES:
                for rate in entry.rates:
                    yield seed, task, entry, rate


_LOADED: dict[str, ClickData] = {}  # of this process


def load(task: str, cache: Path) -> ClickData:
    """The data of a task, from the file that ``prepare`` wrote or from the package."""
    if task not in _LOADED:
        path = cache / f"clicks_{task}.pt"
        if path.exists():
            content = torch.load(path, weights_only=True)
            ids = tuple(part.to(torch.int64) for part in content.pop("ids"))
            names, rows = tuple(content.pop("names")), tuple(content.pop("rows"))
            _LOADED[task] = ClickData(names=names, rows=rows, ids=ids, **content)
        else:
            _LOADED[task] = TASKS[task](cache)
    return _LOADED[task]


def prepare(cache: Path, tasks: list[str]) -> None:
    """Write each task as one file of plain tensors, for a machine that reaches no package index."""
    for task in tasks:
        data = load(task, cache)
        content = {
            "names": list(data.names),
            "rows": list(data.rows),
            "ids": [part.to(torch.int32) for part in data.ids],
            "dense": data.dense,
            "labels": data.labels,
            "bayes_auc": data.bayes_auc,
            "source": data.source,
        }
        torch.save(content, cache / f"clicks_{task}.pt")


def one(cell: tuple[int, str, Entry, float], cache: Path, device: str) -> dict[str, Any]:
    """One training run."""
    seed, task, entry, rate = cell
    torch.set_num_threads(1)
    data = load(task, cache)
    config = TrainConfig(
        optimizer=entry.optimizer,
        lr=rate,
        rank=entry.rank,
        update_gap=50,
        options=dict(entry.options),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        seed=seed,
        patience=1,
        device=device,
    )
    result = train(data, config, ModelConfig(dim=DIM))
    row = {"seed": seed, "task": task, "label": entry.label, "lr": rate, **result.best}
    row |= {"bytes_per_row": result.state_bytes_per_row, "cpu_s": result.cpu_seconds}
    return row | {"bayes_auc": data.bayes_auc, "device": device}


def run(
    out: Path, cache: Path, seconds: float, tasks: list[str], seeds: int, *, device: str = "cpu", workers: int = 1
) -> tuple[int, int]:
    """Do unfinished runs for ``seconds``; (runs done now, runs left)."""
    out.parent.mkdir(parents=True, exist_ok=True)
    done = {(row["seed"], row["task"], row["label"], row["lr"]) for row in read(out)}
    left = [cell for cell in cells(tasks, seeds) if (cell[0], cell[1], cell[2].label, cell[3]) not in done]
    begin, count = time.perf_counter(), 0

    def is_late() -> bool:
        return time.perf_counter() - begin > seconds

    def keep(row: dict[str, Any]) -> None:
        nonlocal count
        with out.open("a") as handle:
            handle.write(json.dumps(row) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        count += 1

    if workers == 1:
        for cell in itertools.takewhile(lambda _: not is_late(), left):
            keep(one(cell, cache, device))
        return count, len(left) - count
    queue = iter(left)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        # A few cells ahead of the workers at most, so that the end of the time leaves little to wait for.
        waiting = {pool.submit(one, cell, cache, device) for cell in itertools.islice(queue, workers + 2)}
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                keep(future.result())
                following = None if is_late() else next(queue, None)
                if following is not None:
                    waiting.add(pool.submit(one, following, cache, device))
    return count, len(left) - count


def read(out: Path) -> list[dict[str, Any]]:
    """Finished runs; a line that a kill cut short is dropped."""
    rows = []
    for line in out.read_text().splitlines() if out.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best rate of each optimizer and task by mean validation AUC, with test figures over the seeds."""
    result = []
    for task in dict.fromkeys(row["task"] for row in rows):
        for label in dict.fromkeys(row["label"] for row in rows if row["task"] == task):
            mine = [row for row in rows if row["task"] == task and row["label"] == label]
            rates = sorted({row["lr"] for row in mine})

            def mean_valid(rate: float, mine: list[dict[str, Any]] = mine) -> float:
                return statistics.mean(row["valid_auc"] for row in mine if row["lr"] == rate)

            best = max(rates, key=mean_valid)
            chosen = [row for row in mine if row["lr"] == best]
            aucs, losses = [row["test_auc"] for row in chosen], [row["test_logloss"] for row in chosen]
            result.append(
                {
                    "task": task,
                    "optimizer": label,
                    "lr": best,
                    "is_rate_at_edge": best in (rates[0], rates[-1]),
                    "seeds": len(chosen),
                    "auc": statistics.mean(aucs),
                    "auc_deviation": statistics.stdev(aucs) if len(aucs) > 1 else float("nan"),
                    "logloss": statistics.mean(losses),
                    "logloss_deviation": statistics.stdev(losses) if len(losses) > 1 else float("nan"),
                    "bytes_per_row": chosen[0]["bytes_per_row"],
                    "bayes_auc": chosen[0]["bayes_auc"],
                }
            )
    return result


def show(lines: list[dict[str, Any]]) -> str:
    """Markdown."""
    text = ["| task | optimizer | bytes/row | lr | AUC | logloss | seeds |", "|---|---|---|---|---|---|---|"]
    for line in lines:
        edge = " (edge)" if line["is_rate_at_edge"] else ""
        text.append(
            f"| {line['task']} | {line['optimizer']} | {line['bytes_per_row']:.1f} | {line['lr']:g}{edge} "
            f"| {line['auc']:.4f} ± {line['auc_deviation']:.4f} "
            f"| {line['logloss']:.4f} ± {line['logloss_deviation']:.4f} | {line['seeds']} |"
        )
    return "\n".join(text)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("action", choices=["prepare", "run", "table"])
    parser.add_argument("--out", type=Path, default=Path("runs/galore_quality.jsonl"))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "surco")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many; call again to go on")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes; on a CPU no more than idle cores")
    arguments = parser.parse_args()
    if arguments.action == "prepare":
        prepare(arguments.cache, arguments.tasks)
    elif arguments.action == "run":
        place = {"device": arguments.device, "workers": arguments.workers}
        count, left = run(arguments.out, arguments.cache, arguments.seconds, arguments.tasks, arguments.seeds, **place)
        print(f"{count} runs done, {left} left")
    else:
        print(show(table(read(arguments.out))))


if __name__ == "__main__":
    main()
