"""Whether a sparse step on a CPU grows with the size of the table, and where that comes from.

    OMP_NUM_THREADS=1 python -m benchmarks.galore_growth --out runs/galore_growth.json
    THP_MEM_ALLOC_ENABLE=1 OMP_NUM_THREADS=1 python -m benchmarks.galore_growth --out runs/galore_growth_huge.json

The rows touched are as many whatever the size, but 64 batches in turn visit other pages each time. The second command
lets torch allocate in huge pages: what it saves is the walk through the page tables. About 13 GB at 16M rows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.galore_peers import times_ms
from surco.optim import GaLore, RowwiseAdagrad
from surco.provenance import origin

CPU = torch.device("cpu")
DIM, RANK, TOUCHED, BATCHES = 64, 16, 4000, 64
Row = dict[str, Any]
MAKERS: dict[str, Callable[[Tensor], torch.optim.Optimizer]] = {
    "row-wise Adagrad": lambda p: RowwiseAdagrad([p], lr=1e-2),
    "ours": lambda p: GaLore([p], lr=1e-2, rank=RANK, update_gap=10**6),
    "ours, 8-bit": lambda p: GaLore([p], lr=1e-2, rank=RANK, update_gap=10**6, inner="adamw8bit"),
    "ours, rowwise": lambda p: GaLore([p], lr=1e-2, rank=RANK, update_gap=10**6, mode="rowwise"),
    "SparseAdam": lambda p: torch.optim.SparseAdam([p], lr=1e-3),
}


def summary(times: list[float]) -> Row:
    """Fastest, the best tenth (least disturbed by other programs), median."""
    times = sorted(times)
    return {"fastest_ms": times[0], "tenth_ms": times[len(times) // 10], "median_ms": times[len(times) // 2]}


def growth_rows(sizes: list[int]) -> Iterator[Row]:
    """Steps of each optimizer, then the reads and writes of rows that they are made of."""
    for rows in sizes:
        weight = nn.Parameter(torch.zeros(rows, DIM))
        generator = torch.Generator().manual_seed(0)
        gradients, numbers = [], []
        for _ in range(BATCHES):
            distinct = torch.randint(rows, (TOUCHED,), generator=generator).unique()
            index = torch.cat([distinct, distinct[: TOUCHED // 2]])
            values = torch.randn(len(index), DIM, generator=generator) * 0.01
            gradients.append(torch.sparse_coo_tensor(index[None], values, (rows, DIM), check_invariants=True))
            numbers.append(distinct)
        for name, make in MAKERS.items():
            optimizer, turn = make(weight), itertools.cycle(gradients)

            def step(
                weight: nn.Parameter = weight,
                optimizer: torch.optim.Optimizer = optimizer,
                turn: Iterator[Tensor] = turn,
            ) -> None:
                weight.grad = next(turn)
                optimizer.step()

            times = times_ms(step, repeats=3 * BATCHES, device=CPU, warm_up=BATCHES)
            yield {"rows": rows, "optimizer": name} | summary(times)
        for width in (1, RANK, DIM):
            table = weight.detach() if width == DIM else torch.zeros(rows, width)
            turn = itertools.cycle(numbers)
            part = torch.zeros(TOUCHED, width)

            def read(table: Tensor = table, turn: Iterator[Tensor] = turn) -> None:
                table.index_select(0, next(turn))

            def write(table: Tensor = table, turn: Iterator[Tensor] = turn, part: Tensor = part) -> None:
                place = next(turn)
                table.index_copy_(0, place, part[: len(place)])

            for name, call in (("read", read), ("write", write)):
                times = times_ms(call, repeats=4 * BATCHES, device=CPU, warm_up=BATCHES)
                yield {"rows": rows, "operation": f"{name} rows of {width}"} | summary(times)


def main() -> None:
    """Measure and write one JSON file, again after every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 16_000_000])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = ["--rows", *map(str, arguments.rows)]
    source = origin([*sizes, "--out", "FILE"], "python -m benchmarks.galore_growth")
    source |= {"THP_MEM_ALLOC_ENABLE": os.environ.get("THP_MEM_ALLOC_ENABLE"), "load": os.getloadavg()[0]}
    rows = []
    for row in growth_rows(arguments.rows):
        rows.append(row)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({"provenance": source, "rows": rows}, indent=1) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
