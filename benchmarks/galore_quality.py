"""Quality of embedding optimizers at equal tuning: AUC, logloss and state bytes on two real sets and a planted one.

    python -m benchmarks.galore_quality run   --out runs/galore_quality.jsonl --cache ~/.cache/surco --seconds 500
    python -m benchmarks.galore_quality table --out runs/galore_quality.jsonl --json runs/galore_quality.json

For a GPU machine without a package index: ``prepare --cache .carry/galore`` here, then there

    python -m benchmarks.galore_quality run --cache .carry/galore --device cuda --workers 12 --out OUT/quality.jsonl

``run`` appends one line a finished run and skips what the file has, so it can be cut at any time and called again.
Every optimizer has six learning rates. The rate is chosen by the mean validation AUC of two tuning seeds, which count
nowhere else; the table shows five or more other seeds at that rate. All have the same budget of two epochs, of which
the better by validation AUC counts (longer runs overfit: SparseAdam is best in the second). A seed fixes initial
weights and order, the same for all optimizers, so that differences from SparseAdam are taken seed by seed; the split is
one and the same.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from problems.sharding.embeddings import ClickData, ModelConfig, PlantedClicks, TrainConfig, train
from problems.sharding.embeddings.real import DATA_SETS

DEFAULT_OUT = Path("runs/galore_quality.jsonl")
DIM = 32
SEEDS = 5
TUNING_SEEDS = (100, 101)
EPOCHS = 2
BATCH_SIZE = 1024
UPDATE_GAP = 10  # steps; a run has about 160
# A batch touches few rows, so that its gradient alone is a noisy sample of the row space.
BASIS_OPTIONS = {"covariance_decay": 0.9}
LEARNED_BASIS = ("galore", "galore-8bit", "galore-rowwise", "galore-rowwise-8bit", "fira")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the table: an optimizer with its options and learning rates."""

    optimizer: str
    rates: tuple[float, ...]
    rank: int = 4
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def has_learned_basis(self) -> bool:
        """Whether gradients are projected onto their dominant directions."""
        return self.optimizer in LEARNED_BASIS

    @property
    def label(self) -> str:
        """Name in the table."""
        has_rank = self.has_learned_basis or self.optimizer == "apollo"
        extra = "".join(f" {key}={value}" for key, value in self.options)
        return self.optimizer + (f" r={self.rank}" if has_rank else "") + extra


# Six rates each, a factor of about three apart: with four, the best of SGD and SparseAdam lay at the edge.
ADAM_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
LOW_RANK_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
ENTRIES = (
    Entry("sgd", (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)),
    Entry("rowwise-adagrad", (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)),
    Entry("sparse-adam", ADAM_RATES),
    Entry("adamw", ADAM_RATES),
    Entry("galore", LOW_RANK_RATES, rank=DIM // 8),
    Entry("galore", LOW_RANK_RATES, rank=DIM // 4),
    Entry("galore-8bit", LOW_RANK_RATES, rank=DIM // 8),
    Entry("galore-8bit", LOW_RANK_RATES, rank=DIM // 4),
    Entry("galore-rowwise", LOW_RANK_RATES, rank=DIM // 8),
    Entry("galore-rowwise", LOW_RANK_RATES, rank=DIM // 4),
    Entry("galore-rowwise-8bit", LOW_RANK_RATES, rank=DIM // 8),
    Entry("galore-rowwise-8bit", LOW_RANK_RATES, rank=DIM // 4),
    Entry("fira", LOW_RANK_RATES, rank=DIM // 8),
    Entry("apollo", LOW_RANK_RATES, rank=DIM // 8),
    Entry("apollo-mini", ADAM_RATES),
)


def planted(_: Path) -> ClickData:
    """Synthetic clicks of the size of the real sets."""
    rows = (4000, 2000, 1000, 500, 200, 100, 40, 20, 7, 3)
    model = PlantedClicks(rows=rows, pooling=(1, 1, 5, 1, 1, 3, 1, 1, 1, 1), strength=2.0, bias=-0.5)
    return model.draw(100_000, seed=1)


TASKS: dict[str, Callable[[Path], ClickData]] = {**DATA_SETS, "planted": planted}


Cell = tuple[int, str, Entry, float]


def tuning_cells(tasks: list[str], entries: Sequence[Entry]) -> list[Cell]:
    """Every learning rate with the tuning seeds."""
    pairs = [(task, entry) for task in tasks for entry in entries]
    return [(seed, task, entry, rate) for seed in TUNING_SEEDS for task, entry in pairs for rate in entry.rates]


def table_cells(tasks: list[str], entries: Sequence[Entry], seeds: int, rows: list[dict[str, Any]]) -> list[Cell]:
    """The chosen rates with the seeds of the table, seeds outermost, so that an unfinished table is balanced.

    Raises:
        ValueError: tuning runs are missing in ``rows``.
    """
    chosen = [(task, entry, best_rate(entry, task, rows)) for task in tasks for entry in entries]
    return [(seed, *choice) for seed in range(seeds) for choice in chosen]


def best_rate(entry: Entry, task: str, rows: list[dict[str, Any]]) -> float:
    """The learning rate with the best mean validation AUC over the tuning seeds."""
    scores: dict[float, list[float]] = {rate: [] for rate in entry.rates}
    for row in rows:
        if row["task"] == task and row["label"] == entry.label and row["seed"] in TUNING_SEEDS and row["lr"] in scores:
            scores[row["lr"]].append(row["valid_auc"])
    if any(len(values) != len(TUNING_SEEDS) for values in scores.values()):
        raise ValueError(f"Expected all tuning runs of {entry.label} on {task} before its rate is chosen.")
    return max(scores, key=lambda rate: statistics.mean(scores[rate]))


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


def one(cell: Cell, cache: Path, device: str) -> dict[str, Any]:
    """One training run."""
    seed, task, entry, rate = cell
    torch.set_num_threads(1)
    data = load(task, cache)
    config = TrainConfig(
        optimizer=entry.optimizer,
        lr=rate,
        rank=entry.rank,
        update_gap=UPDATE_GAP,
        options=(BASIS_OPTIONS if entry.has_learned_basis else {}) | dict(entry.options),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        seed=seed,
        device=device,
    )
    result = train(data, config, ModelConfig(dim=DIM))
    row = {"seed": seed, "task": task, "label": entry.label, "lr": rate, **result.best}
    row |= {"bytes_per_row": result.state_bytes_per_row, "cpu_s": result.cpu_seconds}
    return row | {"bayes_auc": data.bayes_auc, "device": device}


def run(
    out: Path,
    cache: Path,
    seconds: float,
    tasks: list[str],
    seeds: int,
    *,
    entries: Sequence[Entry],
    device: str = "cpu",
    workers: int = 1,
) -> tuple[int, int]:
    """Do unfinished runs for ``seconds``; (runs done now, runs left)."""
    out.parent.mkdir(parents=True, exist_ok=True)
    begin, count = time.perf_counter(), 0
    made_by = {"torch": torch.__version__, "python": platform.python_version()}

    def open_cells(cells: list[Cell]) -> list[Cell]:
        done = {(row["seed"], row["task"], row["label"], row["lr"]) for row in read([out])}
        return [cell for cell in cells if (cell[0], cell[1], cell[2].label, cell[3]) not in done]

    def is_late() -> bool:
        return time.perf_counter() - begin > seconds

    def keep(row: dict[str, Any]) -> None:
        nonlocal count
        with out.open("a") as handle:
            handle.write(json.dumps(row | made_by) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        count += 1

    def work(left: list[Cell]) -> None:
        if workers == 1:
            for cell in itertools.takewhile(lambda _: not is_late(), left):
                keep(one(cell, cache, device))
            return
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

    tuning = tuning_cells(tasks, entries)
    work(open_cells(tuning))
    left = len(open_cells(tuning))
    if left:
        return count, left + seeds * len(tasks) * len(entries)
    cells = table_cells(tasks, entries, seeds, read([out]))
    work(open_cells(cells))
    return count, len(open_cells(cells))


def read(paths: list[Path]) -> list[dict[str, Any]]:
    """Finished runs; a line that a kill cut short is dropped."""
    rows = []
    for line in itertools.chain.from_iterable(path.read_text().splitlines() for path in paths if path.exists()):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def table(rows: list[dict[str, Any]], entries: Sequence[Entry] = ENTRIES) -> list[dict[str, Any]]:
    """Test figures over the seeds at the tuned rate, and the difference from SparseAdam on the same seeds."""
    result = []
    for task in dict.fromkeys(row["task"] for row in rows):
        peers: dict[int, float] = {}
        order = sorted(entries, key=lambda entry: entry.optimizer != "sparse-adam")
        lines = {}
        for entry in order:
            best = best_rate(entry, task, rows)
            mine = {
                row["seed"]: row
                for row in rows
                if row["task"] == task and row["label"] == entry.label and row["lr"] == best
            }
            chosen = {seed: row for seed, row in mine.items() if seed not in TUNING_SEEDS}
            aucs = {seed: row["test_auc"] for seed, row in chosen.items()}
            losses = [row["test_logloss"] for row in chosen.values()]
            peers = peers or aucs
            common = [aucs[seed] - peers[seed] for seed in aucs if seed in peers]
            first = next(iter(chosen.values()))
            lines[entry.label] = {
                "task": task,
                "optimizer": entry.label,
                "lr": best,
                "is_rate_at_edge": best in (min(entry.rates), max(entry.rates)),
                "seeds": len(chosen),
                "auc": statistics.mean(aucs.values()),
                "auc_deviation": statistics.stdev(aucs.values()),
                "auc_minus_sparse_adam": statistics.mean(common),
                "auc_minus_sparse_adam_error": statistics.stdev(common) / len(common) ** 0.5,
                "logloss": statistics.mean(losses),
                "logloss_deviation": statistics.stdev(losses),
                "bytes_per_row": first["bytes_per_row"],
                "bayes_auc": first["bayes_auc"],
            }
        result += [lines[entry.label] for entry in entries]
    return result


def show(lines: list[dict[str, Any]]) -> str:
    """Markdown."""
    text = [
        "| task | optimizer | bytes/row | lr | AUC | minus SparseAdam | logloss | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        edge = " (edge)" if line["is_rate_at_edge"] else ""
        text.append(
            f"| {line['task']} | {line['optimizer']} | {line['bytes_per_row']:.1f} | {line['lr']:g}{edge} "
            f"| {line['auc']:.4f} ± {line['auc_deviation']:.4f} "
            f"| {line['auc_minus_sparse_adam']:+.4f} ± {line['auc_minus_sparse_adam_error']:.4f} "
            f"| {line['logloss']:.4f} ± {line['logloss_deviation']:.4f} | {line['seeds']} |"
        )
    return "\n".join(text)


def provenance(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How the table was made; the runs themselves say by which versions, perhaps on another machine."""
    return {
        "command": "python -m benchmarks.galore_quality run --cache FOLDER --workers N --out FILE; "
        "python -m benchmarks.galore_quality table --out FILE --json FILE",
        "torch": sorted({row["torch"] for row in rows if "torch" in row}),
        "python": sorted({row["python"] for row in rows if "python" in row}),
        "date": time.strftime("%Y-%m-%d"),
        "dim": DIM,
        "batch_size": BATCH_SIZE,
        "epochs": EPOCHS,
        "update_gap": UPDATE_GAP,
        "basis_options": BASIS_OPTIONS,
        "tuning_seeds": list(TUNING_SEEDS),
        "rates": {entry.label: list(entry.rates) for entry in ENTRIES},
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("action", choices=["prepare", "run", "table"])
    parser.add_argument("--out", type=Path, nargs="+", default=[DEFAULT_OUT], help="one file for 'run'")
    parser.add_argument("--json", type=Path, help="of 'table': also write it there, with its provenance")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "surco")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many; call again to go on")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    labels = [entry.label for entry in ENTRIES]
    parser.add_argument("--optimizers", nargs="+", choices=labels, default=labels, help="rows of the table to run")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes; on a CPU no more than idle cores")
    arguments = parser.parse_args()
    entries = [entry for entry in ENTRIES if entry.label in arguments.optimizers]
    if arguments.action == "prepare":
        prepare(arguments.cache, arguments.tasks)
    elif arguments.action == "run":
        if len(arguments.out) != 1:
            parser.error("'run' appends to one file")
        place = {"entries": entries, "device": arguments.device, "workers": arguments.workers}
        count, left = run(
            arguments.out[0], arguments.cache, arguments.seconds, arguments.tasks, arguments.seeds, **place
        )
        print(f"{count} runs done, {left} left")
    else:
        rows = read(arguments.out)
        lines = table(rows, entries)
        print(show(lines))
        if arguments.json:
            cost = {"runs": len(rows), "cpu_s": sum(row["cpu_s"] for row in rows)}
            content = {"provenance": provenance(rows) | cost, "table": lines, "runs": rows}
            arguments.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
