"""The optimizer on a GPU: refreshes, steps, a table of a hundred million rows, a small language model.

Needs torch alone, and the folder that ``python -m benchmarks.galore_corpus`` writes. Calls of under nine minutes:

    python -m benchmarks.gpu_galore kernels scale --carry .carry/galore --out OUT/galore_gpu_1.json
    python -m benchmarks.gpu_galore sparse --repeats 60 --out OUT/galore_gpu_sparse.json    # of `kernels`, longer
    python -m benchmarks.gpu_galore language --carry .carry/galore --out OUT/galore_gpu_2.json

The file is written again after every row, so that a call that is cut short leaves what it had.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import galore_kernels, galore_language, galore_scale
from surco.provenance import origin


def provenance(device: torch.device, parts: list[str]) -> dict[str, Any]:
    """What ran where."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        **origin([*parts, "--carry", "FOLDER", "--out", "FILE"], "python -m benchmarks.gpu_galore"),
        "device": name,
        "load": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
    }


def sections(
    name: str, arguments: argparse.Namespace, device: torch.device
) -> Iterator[tuple[str, Iterable[dict[str, Any]]]]:
    """The tables of one part of the command line."""
    small = arguments.small
    carry: Path = arguments.carry
    if name == "kernels":
        blocks = [galore_kernels.BLOCK] if small else [galore_kernels.BLOCK, galore_kernels.LARGE_BLOCK]
        for block in blocks:
            yield (
                "dense step",
                galore_kernels.dense_rows(
                    block, [32] if small else [128, 256], device, carry, repeats=3 if small else 30
                ),
            )
        yield from sections("sparse", arguments, device)
        shapes = (
            [(2000, 64, 8), (600, 600, 32)] if small else [(1_000_000, 128, 16), (4096, 4096, 128), (8192, 1024, 128)]
        )
        kinds = ["k^-0.5", "k^-1", "rank 8", "noise"]
        yield "refresh", galore_kernels.refresh_rows(shapes, kinds, device, repeats=5 if small else 11)
        wide = {"width": 300, "rank": 16, "steps": 40} if small else {}
        yield "refresh on training gradients", galore_kernels.drift_rows(device, **wide)
    elif name == "sparse":
        counts = [10_000, 100_000] if small else [1_000_000, 100_000_000]
        touched = 1000 if small else 100_000
        rows = galore_kernels.sparse_rows(counts, 128, 16, device, touched=touched, repeats=arguments.repeats)
        yield "sparse step", rows
    elif name == "scale":
        count = 100_000 if small else arguments.rows
        seconds = 3.0 if small else arguments.seconds
        yield "scale", galore_scale.scale_rows(count, 128, 16, device, seconds=seconds, batch=1024 if small else 16384)
    else:
        deadline = time.perf_counter() + arguments.budget
        tiny = {"width": 64, "layers": 1, "length": 32, "batch": 4, "steps": 20, "rank": 8, "gap": 5} if small else {}
        options: dict[str, Any] = tiny or {"steps": arguments.steps}
        options["names"] = arguments.names
        yield "language", galore_language.language_rows(carry, device, deadline=deadline, **options)


def main() -> None:
    """Run the named parts and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("parts", nargs="+", choices=["kernels", "sparse", "scale", "language"])
    parser.add_argument("--carry", type=Path, default=Path(".carry/galore"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=30, help="sparse steps behind a median")
    parser.add_argument("--rows", type=int, default=100_000_000, help="rows of the table of the part 'scale'")
    parser.add_argument("--seconds", type=float, default=25.0, help="training time an optimizer in 'scale'")
    parser.add_argument("--steps", type=int, default=1000, help="training steps in 'language'")
    parser.add_argument(
        "--budget", type=float, default=480.0, help="seconds after which 'language' starts no further run"
    )
    parser.add_argument("--names", nargs="+", help="optimizers of 'language'; all where not given")
    parser.add_argument("--small", action="store_true", help="toy sizes, to try the script on a CPU")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result: dict[str, Any] = {"provenance": provenance(device, arguments.parts)}
    for part in arguments.parts:
        for title, rows in sections(part, arguments, device):
            begin = time.perf_counter()
            for row in rows:
                result.setdefault(title, []).append(row)
                arguments.out.parent.mkdir(parents=True, exist_ok=True)
                arguments.out.write_text(json.dumps(result, indent=1))
                print(title, json.dumps(row), flush=True)
            print(f"-- {title}: {time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
