"""The low-rank optimizer on a CPU: equality with galore-torch, state bytes, refreshes, steps.

    python -m benchmarks.galore_corpus --out .carry/galore
    OMP_NUM_THREADS=1 python -m benchmarks.galore --carry .carry/galore --out runs/galore_cpu.json

One thread, CPU time of the process, medians; the variants of a comparison take turns.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import galore_kernels, galore_resume
from benchmarks.galore_peers import galore_torch_adamw, spectrum_matrix, state_bytes
from surco import provenance
from surco.optim import GaLore

CPU = torch.device("cpu")
MOMENTS = ("exp_avg", "exp_avg_sq")
Row = dict[str, Any]


def equality_rows(folder: Path) -> Iterator[Row]:
    """Largest relative difference of the weights from galore-torch after 1 and 50 steps, with its conventions."""
    reference = galore_torch_adamw(folder)
    for shape in [(1024, 64), (64, 1024), (256, 256)]:
        for refresh, gap in (("auto", 10), ("gram", 200)):
            generator = torch.Generator().manual_seed(0)
            start = torch.randn(shape, generator=generator)
            signal = spectrum_matrix(*shape, "k^-0.5", device=CPU)
            ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
            group = {"params": [theirs], "rank": 16, "update_proj_gap": gap, "scale": 0.25, "proj_type": "std"}
            first = reference([group], lr=1e-2, weight_decay=0.1, no_deprecation_warning=True)
            second = GaLore(
                [ours], lr=1e-2, weight_decay=0.1, rank=16, update_gap=gap, refresh=refresh, eps=1e-6,
                conventions="galore-torch", rotate_moments=False, stagger=False,
            )  # fmt: skip
            for step in range(1, 51):
                gradient = signal + 0.002 * torch.randn(shape, generator=generator)
                ours.grad, theirs.grad = gradient.clone(), gradient.clone()
                first.step()
                second.step()
                if step in (1, 50):
                    difference = (ours - theirs).detach().abs() / theirs.detach().abs().clamp_min(1e-2)
                    yield {
                        "shape": list(shape),
                        "refresh": refresh,
                        "gap": gap,
                        "steps": step,
                        "largest_relative_difference": float(difference.max()),
                        "is_within_1e-4": bool(torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)),
                    }


def touched_row_rows() -> Iterator[Row]:
    """The sparse path beside the dense path in which untouched rows, and their moments, are put back by hand."""
    for rank in (4, 16):
        rows, dim = 300, 32
        generator = torch.Generator().manual_seed(rank)
        start = torch.randn(rows, dim, generator=generator)
        mixing = torch.randn(dim, dim, generator=generator) * 0.9 ** torch.arange(dim)[:, None]
        sparse, dense = nn.Parameter(start.clone()), nn.Parameter(start.clone())
        options: Row = {"lr": 1e-2, "rank": rank, "update_gap": 200, "refresh": "gram"}
        first, second = GaLore([sparse], **options), GaLore([dense], **options)
        for step in range(1, 51):
            index = torch.randint(rows, (80,), generator=generator)
            values = torch.randn(80, dim, generator=generator) @ mixing
            sparse.grad = torch.sparse_coo_tensor(index[None], values, (rows, dim), check_invariants=False)
            dense.grad = torch.zeros(rows, dim).index_add_(0, index, values)
            idle = torch.ones(rows, dtype=torch.bool)
            idle[index] = False
            state = second.state[dense]
            weight = dense.detach().clone()
            moments = {key: state[key].clone() if step > 1 else torch.zeros(rows, rank) for key in MOMENTS}
            first.step()
            second.step()
            dense.data[idle] = weight[idle]
            for key, old in moments.items():
                state[key][idle] = old[idle]
        difference = (sparse - dense).detach().abs() / dense.detach().abs().clamp_min(1e-2)
        row = {"rows": rows, "dim": dim, "rank": rank, "steps": 50}
        yield row | {"largest_relative_difference": float(difference.max())}


def state_rows() -> Iterator[Row]:
    """State bytes by walking the state, beside the formulas 4 (2 N r + d r) and, "rowwise", 4 (N (r + 1) + d r)."""
    for rows, dim, rank in [(100_000, 64, 16), (100_000, 128, 16), (100_000, 32, 4)]:
        for inner, mode in itertools.product(("adamw", "adamw8bit"), ("galore", "rowwise")):
            formula = 4 * (rows * (2 * rank if mode == "galore" else rank + 1) + dim * rank)
            weight = nn.Parameter(torch.zeros(rows, dim))
            optimizer = GaLore([weight], rank=rank, inner=inner, mode=mode)
            index = torch.randint(rows, (1, 1000), generator=torch.Generator().manual_seed(0))
            weight.grad = torch.sparse_coo_tensor(index, torch.ones(1000, dim), (rows, dim), check_invariants=False)
            optimizer.step()
            size = state_bytes(optimizer)
            yield {
                "rows": rows,
                "dim": dim,
                "rank": rank,
                "inner": inner,
                "mode": mode,
                "bytes": size,
                "over_formula": size / formula,
            }


def sections(carry: Path, *, is_large: bool) -> Iterator[tuple[str, Iterable[Row]]]:
    """Title and rows of every table."""
    yield "equality", equality_rows(carry)
    yield "sparse against dense", touched_row_rows()
    yield "state bytes", state_rows()
    tall = [(100_000, 64, 16)] + ([(1_000_000, 64, 16)] if is_large else [])
    yield "refresh, tall", galore_kernels.refresh_rows(tall, ["k^-0.5", "noise"], CPU, repeats=3)
    kinds = ["k^-0.5", "k^-1", "rank 8", "noise"]
    yield "refresh, squarish", galore_kernels.refresh_rows([(2048, 512, 128), (1024, 1024, 128)], kinds, CPU, repeats=3)
    yield "refresh on training gradients", galore_kernels.drift_rows(CPU, width=768, rank=64, steps=61, gap=20)
    yield "dense step", galore_kernels.dense_rows(galore_kernels.BLOCK, [32, 128, 256], CPU, carry, repeats=15)
    counts = [1_000_000] + ([16_000_000] if is_large else [])
    for batches in (4, 64):  # few, whose rows stay in the caches, and many, whose rows do not
        yield "sparse step", galore_kernels.sparse_rows(counts, 64, 16, CPU, touched=4000, batches=batches)
    yield "kill -9 and resume", galore_resume.resume_rows()


def main() -> None:
    """Run all tables and write one JSON file, again after every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--carry", type=Path, default=Path(".carry/galore"))
    parser.add_argument("--out", type=Path, default=Path("runs/galore_cpu.json"))
    parser.add_argument("--large", action="store_true", help="tables of 1 and 16 million rows too (about 6 GB)")
    parser.add_argument("--only", nargs="+", help="titles of the tables to run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "provenance": {
            "command": "python -m benchmarks.galore --carry FOLDER --out FILE"
            + (" --large" if arguments.large else ""),
            "commit": provenance.commit(),
            "versions": provenance.versions(),
            "machine": provenance.machine(),
            "load": os.getloadavg()[0],
            "date": time.strftime("%Y-%m-%d"),
        }
    }
    for title, rows in sections(arguments.carry, is_large=arguments.large):
        if arguments.only and title not in arguments.only:
            continue
        for row in rows:
            result.setdefault(title, []).append(row)
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(result, indent=1))
            print(title, json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
