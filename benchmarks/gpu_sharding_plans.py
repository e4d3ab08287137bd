"""Whole embedding steps of sharding plans on two GPUs: lookups, all-to-all, and both again backward.

    python -m benchmarks.gpu_sharding_plans PLANS.json --out DIR [--seconds 480] [--device cuda]

PLANS.json comes from ``python -m benchmarks.sharding_measured plans``: instances, a rank per table by every planner.
Starts one process a rank. Each rank runs its tables with FBGEMM's fused operator (row-wise Adagrad) for the samples of
all ranks, exchanges pooled rows, and returns gradients the same way. The plans of an instance are in memory one after
another and measured in several visits, each in an order of its own, so that drift of the machine hits all alike. A step
is timed from a barrier to the end of the slowest rank; batches of lookups take turns.

Writes ``plans.jsonl``: a line for every instance with medians and all readings, and ``plans.md``: per instance medians,
ratios to `auto` with bootstrap intervals over instances, and predicted against measured. Dry run without a GPU:

    python -m benchmarks.gpu_sharding_plans PLANS.json --out DIR --device cpu --seconds 60 --visits 2 --steps 3
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # before torch starts CUDA

import numpy as np
import torch
import torch.distributed as dist

from problems.sharding.measured import collectives
from problems.sharding.measured.inputs import draw_inputs
from problems.sharding.measured.operators import Operator, Tables, fbgemm_version, make_tables
from problems.sharding.measured.records import parse_lines
from problems.sharding.spec import table_from_json
from surco import provenance
from surco.atomic import write_text

MODULE = "benchmarks.gpu_sharding_plans"
INPUTS = 3
OURS = "auto"
RESAMPLES = 10_000


class Rank:
    """One rank's side of a plan in memory.

    Args:
        spec: of the instance.
        plan: rank of every table.
        rank: this rank.
        device: where it runs.
        operator: which operator.
    """

    def __init__(
        self, spec: Mapping[str, Any], plan: Sequence[int], rank: int, device: torch.device, operator: Operator
    ) -> None:
        tables = [table_from_json(entry, f"tables[{t}]") for t, entry in enumerate(spec["tables"])]
        world = len(spec["devices"])
        batch = int(spec["workload"]["batch_size"])
        here = [table for table, at in zip(tables, plan, strict=True) if at == rank]
        widths = [sum(t.dim for t, at in zip(tables, plan, strict=True) if at == r) for r in range(world)]
        self.exchange = collectives.Exchange(rank, tuple(widths), batch)
        self.device = device
        self.tables: Tables | None = None
        self.inputs: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.empty = torch.zeros(world * batch, 0, device=device)
        if here:
            self.tables = make_tables(operator, [t.rows for t in here], [t.dim for t in here], device)
            self.inputs = [draw_inputs(here, world * batch, device, seed=k)[:2] for k in range(INPUTS)]

    def step(self, k: int) -> torch.Tensor:
        """One step; gives the exchanged rows, as the rest of a model would get them."""
        pooled = self.empty if self.tables is None else self.tables.forward(*self.inputs[k % INPUTS])
        received = self.exchange.forward(pooled.detach())
        gradient = self.exchange.backward(received)  # any gradient of that shape takes the same time
        if self.tables is not None:
            self.tables.backward(pooled, gradient)
        return received


def read(rank: Rank, steps: int) -> list[float]:
    """Milliseconds of ``steps`` steps in a row, each to the end of the slowest rank; two more go before."""
    times = []
    for k in range(steps + 2):
        synchronize(rank.device)
        dist.barrier()
        begun = time.perf_counter()
        rank.step(k)
        synchronize(rank.device)
        times.append(collectives.slowest((time.perf_counter() - begun) * 1e3, rank.device))
    return times[2:]


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(arguments: argparse.Namespace) -> None:
    """One rank: every instance, every plan; rank 0 writes."""
    rank, world, device = collectives.join(arguments.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    begun = time.perf_counter()
    data = json.loads(arguments.plans.read_text(encoding="utf-8"))
    path = arguments.out / "plans.jsonl"
    done = len(parse_lines(path)) if rank == 0 else 0
    done = int(collectives.slowest(float(done), device))
    for number, item in enumerate(data["instances"][: arguments.count]):
        if number < done:
            continue
        if collectives.slowest(time.perf_counter() - begun, device) > arguments.seconds:
            break
        if len(item["spec"]["devices"]) != world:
            raise SystemExit(f"Instance {number} is for {len(item['spec']['devices'])} ranks; {world} run.")
        times: dict[str, list[list[float]]] = {name: [] for name in item["plans"]}
        names = sorted(item["plans"])
        visits = [np.random.default_rng([number, k]).permutation(names).tolist() for k in range(arguments.visits)]
        if number == done:  # the first steps of a process are its slowest, whatever the plan
            read(Rank(item["spec"], item["plans"][OURS], rank, device, Operator(arguments.operator)), arguments.steps)
        for order in visits:
            for name in order:
                side = Rank(item["spec"], item["plans"][name], rank, device, Operator(arguments.operator))
                times[name].append(read(side, arguments.steps))
                del side
                if device.type == "cuda":
                    torch.cuda.empty_cache()
        if rank == 0:
            line = {
                "instance": number,
                "id": item["spec"]["id"],
                "samples": world * int(item["spec"]["workload"]["batch_size"]),
                "measured_ms": {
                    name: statistics.median(itertools.chain.from_iterable(found)) for name, found in times.items()
                },
                "predicted_ms": item["predicted_ms"],
                "readings_ms": {
                    name: [[round(ms, 4) for ms in visit] for visit in found] for name, found in times.items()
                },
                **origin(arguments, device, world),
            }
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(f"instance {number}: {line['measured_ms']}", flush=True)
    dist.destroy_process_group()


def origin(arguments: argparse.Namespace, device: torch.device, world: int) -> dict[str, Any]:
    """Where the numbers come from."""
    is_cuda = device.type == "cuda"
    words = provenance.without_paths(sys.argv[1:], {"--out": "DIR"})
    words[0] = Path(words[0]).name
    return {
        "device": torch.cuda.get_device_name(device) if is_cuda else str(provenance.machine()["processor"]),
        "world": world,
        "operator": arguments.operator,
        "fbgemm": fbgemm_version(),
        "cuda": torch.version.cuda,
        **provenance.origin(words, f"python -m {MODULE}"),
    }


def report(lines: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of all measured instances; the ratios once more for each size of a step where there are several."""
    names = [name for name in dict.fromkeys(n for line in lines for n in line["measured_ms"]) if name != OURS]
    text = [
        f"# Whole embedding steps on {lines[0]['world']} x {lines[0]['device']}, {lines[0]['operator']}",
        "",
        f"{len(lines)} instances; ratio: median step of the plan over that of `{OURS}` (above 1: slower than ours).",
        "",
        *ratios(lines, names),
    ]
    sizes = sorted({line["samples"] for line in lines})
    for size in sizes if len(sizes) > 1 else []:
        part = [line for line in lines if line["samples"] == size]
        typical = statistics.median(line["measured_ms"][OURS] for line in part)
        text += ["", f"{size} samples a step ({len(part)} instances, median step {typical:.3f} ms):", ""]
        text += ratios(part, names)
    pairs = np.array(
        [(line["predicted_ms"][n], ms) for line in lines for n, ms in line["measured_ms"].items()], dtype=float
    )
    error = 100.0 * np.abs(pairs[:, 0] / pairs[:, 1] - 1.0)
    rank = float(np.asarray(np.corrcoef(pairs.argsort(0).argsort(0).T))[0, 1])
    text += [
        "",
        f"Predicted against measured step time of {len(pairs)} plans: MAPE {error.mean():.1f} % (median "
        f"{np.median(error):.1f} %), rank correlation {rank:.3f}.",
        "",
        "| instance | " + " | ".join([OURS, *names]) + " |",
        "|---|" + "---|" * (1 + len(names)),
    ]
    for line in lines:
        cells = [f"{line['measured_ms'][n]:.3f}" if n in line["measured_ms"] else "-" for n in (OURS, *names)]
        text.append(f"| {line['id']} | " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def ratios(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Table of ratios to ours, with bootstrap intervals over instances, and whether the two can be told apart."""
    rng = np.random.default_rng(0)
    text = [
        "| plan | geometric mean of ratios | 95 % interval | median ratio | instances where it is faster | reading |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        both = [line["measured_ms"] for line in lines if name in line["measured_ms"]]
        if not both:
            continue
        logs = np.log([times[name] / times[OURS] for times in both])
        means = logs[rng.integers(len(logs), size=(RESAMPLES, len(logs)))].mean(1)
        low, high = np.exp(np.quantile(means, [0.025, 0.975]))
        reading = "slower" if low > 1.0 else "faster" if high < 1.0 else "a tie"
        text.append(
            f"| {name} | {math.exp(logs.mean()):.4f} | {low:.4f} to {high:.4f} | {math.exp(np.median(logs)):.4f} "
            f"| {int((logs < 0).sum())}/{len(logs)} | {reading} |"
        )
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Start the ranks, then report; exit code 0, or that of a failed rank."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("plans", type=Path)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument("--seconds", type=float, default=480.0, help="no instance is begun after that")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--operator", choices=[o.value for o in Operator], default=Operator.FBGEMM.value)
    parser.add_argument("--world", type=int, default=2)
    parser.add_argument("--count", type=int, default=20, help="instances at most")
    parser.add_argument("--visits", type=int, default=3, help="times that each plan is set up and measured")
    parser.add_argument("--steps", type=int, default=15, help="timed steps of a visit")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if collectives.is_worker():
        measure(arguments)
        return 0
    words = list(sys.argv[1:] if argv is None else argv)
    code = collectives.launch(MODULE, words, arguments.world, seconds=arguments.seconds + 90.0)
    lines = parse_lines(arguments.out / "plans.jsonl")
    if lines:
        text = report(lines)
        write_text(arguments.out / "plans.md", text)
        print(text)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
