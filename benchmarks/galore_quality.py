"""Quality of embedding optimizers at equal tuning: AUC, logloss and state bytes on two real sets and a planted one.

    python -m benchmarks.galore_quality run   --out runs/galore_quality.jsonl --cache ~/.cache/surco --seconds 500
    python -m benchmarks.galore_quality table --out runs/galore_quality.jsonl

``run`` appends one line a finished run and skips what the file has, so it can be cut at any time and called again.
Every optimizer has four learning rates and the same seeds; the rate is chosen by the mean validation AUC over seeds,
and the epoch by that of the run, which stops after an epoch without gain. Seeds vary initial weights and order; the
split is one and the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def run(out: Path, cache: Path, seconds: float, tasks: list[str], seeds: int) -> tuple[int, int]:
    """Do unfinished runs for ``seconds``; (runs done now, runs left)."""
    out.parent.mkdir(parents=True, exist_ok=True)
    done = {(row["seed"], row["task"], row["label"], row["lr"]) for row in read(out)}
    left = [cell for cell in cells(tasks, seeds) if (cell[0], cell[1], cell[2].label, cell[3]) not in done]
    data: dict[str, ClickData] = {}
    begin, count = time.perf_counter(), 0
    for seed, task, entry, rate in left:
        if time.perf_counter() - begin > seconds:
            break
        if task not in data:
            data[task] = TASKS[task](cache)
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
        )
        result = train(data[task], config, ModelConfig(dim=DIM))
        row = {"seed": seed, "task": task, "label": entry.label, "lr": rate, **result.best}
        row |= {
            "bytes_per_row": result.state_bytes_per_row,
            "cpu_s": result.cpu_seconds,
            "bayes_auc": data[task].bayes_auc,
        }
        with out.open("a") as handle:
            handle.write(json.dumps(row) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        count += 1
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
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "surco")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many; call again to go on")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    arguments = parser.parse_args()
    if arguments.action == "run":
        count, left = run(arguments.out, arguments.cache, arguments.seconds, arguments.tasks, arguments.seeds)
        print(f"{count} runs done, {left} left")
    else:
        print(show(table(read(arguments.out))))


if __name__ == "__main__":
    main()
