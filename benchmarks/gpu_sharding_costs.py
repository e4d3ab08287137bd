"""Measured costs of embedding tables on a GPU: fused lookups of combinations of tables, and all-to-all exchanges.

    python -m benchmarks.gpu_sharding_costs --out DIR [--seconds 480] [--two-gpus] [--device cuda]

Needs torch, numpy, scipy and FBGEMM of the release that goes with torch. Where FBGEMM is missing the script stops; a
loop of torch.nn.EmbeddingBag is measured only on request (``--operator embedding_bag``) and is labelled so.

One GPU: every table of a drawn pool alone and random combinations of 1 to 40 of them, a quarter held out; forward, and
forward with backward and row-wise Adagrad; device time apart from end-to-end time (see
``problems.sharding.measured.clocks``). ``--part 1 --parts 2`` takes every second combination, for a process with a GPU
of its own. ``--two-gpus`` instead starts one process for each of two GPUs and measures all-to-all forward and backward.
Each finished reading is a line of ``compute.jsonl`` or ``comms.jsonl`` in DIR; a second run with the same settings goes
on where the first stopped. ``python -m benchmarks.sharding_measured pack DIR`` makes the file that is kept.

FBGEMM on a machine that fetches nothing: its wheel is 465 MB. ``benchmarks/gpu_wheel.sh prepare`` cuts it into parts
of 56 MiB under ``.carry/fbgemm`` (ignored by git), each in a folder of its own. ``--check`` compares FBGEMM with
torch's EmbeddingBag and ends. The whole chain in 25 minutes of device time, in calls of at most 10 minutes on a machine
with two GPUs that has torch alone, DIR the folder that comes back:

    benchmarks/gpu_wheel.sh prepare                                       # here, before
    benchmarks/gpu_wheel.sh keep .carry/fbgemm/00                         # there, a call for each part: 00 to 07
    . benchmarks/gpu_wheel.sh join && for k in 0 1; do                    # there, one call: 330 + 100 s
      CUDA_VISIBLE_DEVICES=$k python3 -m benchmarks.gpu_sharding_costs --out DIR --seconds 330 --part $k --parts 2 &
    done; wait; python3 -m benchmarks.gpu_sharding_costs --out DIR --seconds 100 --two-gpus
    python -m benchmarks.sharding_measured pack DIR --out campaign.npz    # here, with the machine given back
    python -m benchmarks.sharding_measured train campaign.npz --out NETS  # held-out errors, additivity gap
    python -m benchmarks.sharding_measured compare NETS --out COMPARED
    python -m benchmarks.sharding_measured plans NETS --out plans.json
    benchmarks/gpu_wheel.sh keep .carry/fbgemm/00                         # there, on a fresh machine: the parts again
    . benchmarks/gpu_wheel.sh join && python3 -m benchmarks.gpu_sharding_plans plans.json --out DIR --seconds 420

A dry run of everything without a GPU:

    python -m benchmarks.gpu_sharding_costs --out DIR --device cpu --small --seconds 30
    python -m benchmarks.gpu_sharding_costs --out DIR --device cpu --small --seconds 10 --two-gpus
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # before torch starts CUDA

import numpy as np
import torch
import torch.distributed as dist

from problems.sharding.measured import collectives
from problems.sharding.measured.clocks import Clock, profiled_ms
from problems.sharding.measured.inputs import draw_inputs, draw_pool
from problems.sharding.measured.operators import Operator, Tables, fbgemm_version, make_tables
from problems.sharding.measured.records import parse_lines
from problems.sharding.measured.reference import TOLERANCE, largest_difference
from problems.sharding.spec import table_to_json
from problems.sharding.tables import Table
from surco import provenance

MODULE = "benchmarks.gpu_sharding_costs"
INPUTS = 3  # batches that take turns, so that a call does not find the last call's rows in the cache
CHECKED = 8  # combinations that the profiler measures too, at the end: what it leaves behind may slow launches down
CHECK_SECONDS = 12.0
STATE_SHARE = 1.1  # weights, row-wise state and room for one batch


def main(argv: Sequence[str] | None = None) -> int:
    """Measure until the time is up; exit code 0, or that of a failed rank."""
    arguments = parse(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.check:
        kind = Operator(arguments.operator)
        worst = largest_difference(kind, torch.device(arguments.device))
        print(f"{kind.value} on {arguments.device}: pooled rows of three steps within {worst:.1e} of plain torch")
        return int(not worst < TOLERANCE)
    if arguments.two_gpus and not collectives.is_worker():
        words = list(sys.argv[1:] if argv is None else argv)
        return collectives.launch(MODULE, words, 2, seconds=arguments.seconds + 120.0)
    if arguments.two_gpus:
        measure_comms(arguments)
    else:
        measure_compute(arguments)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; ``--small`` sets sizes for a CPU."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument("--seconds", type=float, default=480.0, help="wall seconds of measuring")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--operator", choices=[o.value for o in Operator], default=Operator.FBGEMM.value)
    parser.add_argument("--check", action="store_true", help="compare the operator with torch's, then end")
    parser.add_argument("--two-gpus", action="store_true", help="all-to-all between two processes instead of lookups")
    parser.add_argument("--pool", type=int, help="tables to draw from (160; small: 40)")
    parser.add_argument("--batches", type=int, nargs="+", help="samples of a call (16384 65536; small: 256 1024)")
    parser.add_argument("--max-tables", type=int, default=40)
    parser.add_argument("--memory-gib", type=float, help="weights at once (56; small: 1)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", type=int, default=0, help="of --parts: which combinations this process measures")
    parser.add_argument("--parts", type=int, default=1, help="processes that share the combinations, a GPU each")
    parser.add_argument("--small", action="store_true", help="sizes for a dry run on a CPU")
    arguments = parser.parse_args(argv)
    small = arguments.small
    arguments.pool = arguments.pool or (40 if small else 160)
    arguments.batches = arguments.batches or ([256, 1024] if small else [16384, 65536])
    arguments.memory_gib = arguments.memory_gib or (1.0 if small else 56.0)
    arguments.max_lookups = 3e5 if small else 8e7
    return arguments


def pool_of(arguments: argparse.Namespace) -> tuple[Table, ...]:
    """The tables of this campaign: the seed and the sizes decide them alone."""
    rng = np.random.default_rng(arguments.seed)
    if arguments.small:
        return draw_pool(arguments.pool, rng=rng, rows=(100, 2e5), dims=(4, 16, 64, 128), pooling=(0.5, 30.0))
    return draw_pool(arguments.pool, rng=rng)


def header(arguments: argparse.Namespace, tables: Sequence[Table], device: torch.device) -> dict[str, Any]:
    """First line of a file: the pool and where the numbers come from."""
    is_cuda = device.type == "cuda"
    words = provenance.without_paths(sys.argv[1:], {"--out": "DIR"})
    return {
        "kind": "head",
        "tables": [table_to_json(table) for table in tables],
        "provenance": {
            "device": torch.cuda.get_device_name(device) if is_cuda else str(provenance.machine()["processor"]),
            "device_type": device.type,
            "device_time": "events behind a hold" if is_cuda else "CPU time of the process",
            "operator": arguments.operator,
            "fbgemm": fbgemm_version() if arguments.operator == Operator.FBGEMM else None,
            "cuda": torch.version.cuda,
            "threads": None if is_cuda else torch.get_num_threads(),
            **provenance.origin(words, f"python -m {MODULE}"),
            "seed": arguments.seed,
            "batches": arguments.batches,
        },
    }


class Lines:
    """A file of lines that an interrupted run goes on with.

    Raises:
        SystemExit: the file holds another pool or device.
    """

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        found = parse_lines(path)
        if found:
            same = ("device", "operator", "seed", "batches")
            if found[0]["tables"] != head["tables"] or any(
                found[0]["provenance"][key] != head["provenance"][key] for key in same
            ):
                raise SystemExit(f"{path} holds another campaign ({found[0]['provenance']}). Choose another --out.")
            whole = path.read_text(encoding="utf-8")
            if not whole.endswith("\n"):  # the last line was cut off
                path.write_text(whole[: whole.rindex("\n") + 1], encoding="utf-8")
        self.done = sum(line["kind"] != "head" for line in found)
        self._file = path.open("a", encoding="utf-8")
        if not found:
            self.write(head)

    def write(self, line: dict[str, Any]) -> None:
        """Append and flush."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def combinations(arguments: argparse.Namespace, tables: Sequence[Table]) -> Iterator[tuple[int, list[int], int, bool]]:
    """Endless (number, tables, batch, whether held out); each number always gives the same combination.

    Every third is a table alone until every table has had its turn at every batch; combinations have a log-uniform
    number of tables, and one in four is held out. Half of them come from the lighter half of the pool, where launches
    decide. Tables that would pass the limits on memory or lookups are left out.
    """
    singles = [(t, batch) for batch in arguments.batches for t in range(len(tables))]
    order = np.random.default_rng(arguments.seed + 1).permutation(len(singles))
    weight = np.array([t.pooling_factor * t.dim for t in tables])
    light = np.flatnonzero(weight <= np.median(weight))
    number = 0
    while True:
        rng = np.random.default_rng([arguments.seed, number])
        if number % 3 == 0 and number // 3 < len(order):
            t, batch = singles[int(order[number // 3])]
            chosen, is_held_out = [t], False
        else:
            batch = int(rng.choice(arguments.batches))
            limit = arguments.max_tables
            count = min(limit, max(2, round(math.exp(rng.uniform(math.log(1.5), math.log(limit + 0.5))))))
            source = light if rng.random() < 0.5 else np.arange(len(tables))
            chosen = rng.permutation(source)[:count].tolist()
            is_held_out = bool(rng.random() < 0.25)
        room, lookups, kept = arguments.memory_gib * 2**30, arguments.max_lookups, []
        for t in chosen:
            room -= tables[t].weight_bytes * STATE_SHARE
            lookups -= tables[t].pooling_factor * batch
            if (room < 0 or lookups < 0) and kept:
                break
            kept.append(int(t))
        yield number, kept, batch, is_held_out
        number += 1


def measure_compute(arguments: argparse.Namespace) -> None:
    """Write one line a combination until the time is up."""
    begun = time.perf_counter()
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    device = torch.device(arguments.device)
    tables = pool_of(arguments)
    clock = Clock(device, calls=4 if device.type == "cuda" else 2, repeats=arguments.repeats)
    name = "compute.jsonl" if arguments.parts == 1 else f"compute-{arguments.part}.jsonl"
    lines = Lines(arguments.out / name, header(arguments, tables, device))
    count = checked = 0
    for number, members, batch, is_held_out in combinations(arguments, tables):
        if number % arguments.parts != arguments.part or number // arguments.parts < lines.done:
            continue
        spent = time.perf_counter() - begun
        if spent > arguments.seconds:
            break
        has_check = spent > arguments.seconds - CHECK_SECONDS and checked < CHECKED
        try:
            readings = read_combination([tables[t] for t in members], batch, clock, arguments, has_check=has_check)
        except RuntimeError as error:  # memory, or a kernel that failed: then a fresh process goes on behind this one
            lines.write({"kind": "skipped", "tables": members, "batch": batch, "error": str(error)[:200]})
            if not isinstance(error, torch.OutOfMemoryError):
                raise
            gc.collect()  # an operator in a reference cycle would hold its weights until then
            torch.cuda.empty_cache()
            continue
        checked += has_check
        lines.write({"kind": "compute", "tables": members, "batch": batch, "is_held_out": is_held_out, **readings})
        count += 1
        if count % 50 == 0:
            print(f"{number + 1} readings, {spent:.0f} s, the last: {len(members)} tables {readings}", flush=True)
    print(f"{count} new readings in {time.perf_counter() - begun:.0f} s: {arguments.out / name}", flush=True)


def read_combination(
    tables: Sequence[Table], batch: int, clock: Clock, arguments: argparse.Namespace, *, has_check: bool
) -> dict[str, Any]:
    """Forward and forward + backward readings of tables that run together."""
    device = clock.device
    operator = make_tables(Operator(arguments.operator), [t.rows for t in tables], [t.dim for t in tables], device)
    inputs = [draw_inputs(tables, batch, device, seed=arguments.seed * INPUTS + k) for k in range(INPUTS)]
    gradient = torch.full((batch, sum(t.dim for t in tables)), 1e-3, device=device)

    def forward(k: int) -> None:
        operator.forward(*inputs[k % INPUTS][:2])

    def both(k: int) -> None:
        step(operator, inputs[k % INPUTS][:2], gradient)

    first, second = clock.read(forward), clock.read(both)
    readings: dict[str, Any] = {
        "device_ms": [first.device_ms, second.device_ms],
        "end_to_end_ms": [first.end_to_end_ms, second.end_to_end_ms],
        "spread_ms": [[r.device_spread_ms, r.end_to_end_spread_ms] for r in (first, second)],
        "is_ahead": first.is_ahead and second.is_ahead,
        "lookups": sum(inputs[0][2]),
    }
    if has_check:
        readings["profiled_ms"] = [profiled_ms(forward, device), profiled_ms(both, device)]
    return readings


def step(operator: Tables, inputs: tuple[torch.Tensor, torch.Tensor], gradient: torch.Tensor) -> None:
    """Forward, backward, update."""
    operator.backward(operator.forward(*inputs), gradient)


def measure_comms(arguments: argparse.Namespace) -> None:
    """One rank: all-to-all of random widths; rank 0 writes a line each."""
    rank, world, device = collectives.join(arguments.device)
    begun = time.perf_counter()
    tables = pool_of(arguments)
    clock = Clock(device, calls=8, repeats=arguments.repeats, warm_up=3)
    lines = Lines(arguments.out / "comms.jsonl", header(arguments, tables, device)) if rank == 0 else None
    batches = [128, 512] if arguments.small else [2048, 8192, 32768]
    number = 0
    while True:
        out_of_time = float(time.perf_counter() - begun > arguments.seconds)
        if collectives.slowest(out_of_time, device) > 0:  # all ranks stop together
            break
        rng = np.random.default_rng([arguments.seed, 7, number])
        number += 1
        batch = int(rng.choice(batches))
        count = max(world, round(math.exp(rng.uniform(math.log(world), math.log(80)))))
        chosen = rng.permutation(len(tables))[:count]
        share = rng.dirichlet(np.full(world, float(rng.choice([0.5, 2.0, 20.0]))))
        placed = np.concatenate([np.arange(world), rng.choice(world, size=len(chosen) - world, p=share)])
        widths = [int(sum(tables[t].dim for t in chosen[placed == r])) for r in range(world)]
        exchange = collectives.Exchange(rank, tuple(widths), batch)
        is_done = lines is not None and number <= lines.done
        if collectives.slowest(float(is_done), device) > 0:  # rank 0 has the file
            continue
        pooled = torch.ones(world * batch, widths[rank], device=device)
        received = exchange.forward(pooled)
        dist.barrier()
        forward = collectives.slowest(clock.wait_ms(functools.partial(there, exchange, pooled)), device)
        dist.barrier()
        backward = collectives.slowest(clock.wait_ms(functools.partial(back, exchange, received)), device)
        if lines is not None:
            sent = [4.0 * world * batch * width for width in widths]
            is_held_out = bool(rng.random() < 0.25)
            line = {"kind": "comms", "sent_bytes": sent, "batch": batch, "comms_ms": [forward, backward]}
            lines.write({**line, "is_held_out": is_held_out})
    if rank == 0:
        print(f"{number - 1} all-to-alls in {time.perf_counter() - begun:.0f} s", flush=True)
    dist.destroy_process_group()


def there(exchange: collectives.Exchange, pooled: torch.Tensor, k: int) -> None:
    """One forward exchange, for the clock."""
    exchange.forward(pooled)


def back(exchange: collectives.Exchange, gradient: torch.Tensor, k: int) -> None:
    """One backward exchange, for the clock."""
    exchange.backward(gradient)


if __name__ == "__main__":
    raise SystemExit(main())
