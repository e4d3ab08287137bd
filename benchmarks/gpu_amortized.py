"""Training throughput of the sharding networks on a GPU against CPU cores, and where the time goes.

    python -m benchmarks.gpu_amortized --out DIR [--batch 256] [--cpu-threads 2]

Needs torch, numpy, scipy and safetensors. For each device and network one training step is timed in its parts, each
closed by a synchronization: network forward and backward, objective (values of all single moves, or measured times),
oracle (cheapest device with the memory check), optimizer. The batch is held on the device, as a loader would.
Writes ``gpu_amortized.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from problems.sharding.family import ShardingFamily, family
from surco import provenance
from surco.atomic import write_text
from surco.instance_family import Batch, Instance, collate
from surco.networks import PlanningNetwork
from surco.training.adam import Adam
from surco.training.gradients import Step, local

FAMILY = "sharding/dlrm-50t-8d-nonlinear-v0"


class Clock:
    """Seconds by part, each closed by a synchronization."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.parts: dict[str, list[float]] = {}

    def time(self, name: str, call: Callable[[], Any]) -> Any:
        """Run and account."""
        self.synchronize()
        begun = time.perf_counter()
        value = call()
        self.synchronize()
        self.parts.setdefault(name, []).append(time.perf_counter() - begun)
        return value

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def medians(self) -> dict[str, float]:
        """Median seconds of each part."""
        return {name: statistics.median(values) for name, values in self.parts.items()}


class TimedFamily(ShardingFamily):
    """The family with its oracle and objective on the clock."""

    clock: Clock

    def solve(self, *args: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Timed."""
        return self.clock.time("oracle", lambda: super(TimedFamily, self).solve(*args, **options))

    def local_values(self, *args: Any) -> torch.Tensor:
        """Timed."""
        return self.clock.time("objective", lambda: super(TimedFamily, self).local_values(*args))

    def measured(self, *args: Any) -> torch.Tensor:
        """Timed."""
        return self.clock.time("objective", lambda: super(TimedFamily, self).measured(*args))


def assignment_step(
    source: TimedFamily, batch: Batch, instances: list[Instance], clock: Clock, *, is_bf16: bool, is_compiled: bool
) -> Callable[[int], None]:
    """SurCo step: forward, local expectation gradient through the oracle, backward, Adam."""
    network = source.network(kind="assignment").to(clock.device)
    forward = torch.compile(network) if is_compiled else network
    adam = Adam(network.parameters(), clip=1.0)

    def costs_of() -> torch.Tensor:
        with torch.autocast(clock.device.type, dtype=torch.bfloat16, enabled=is_bf16):
            return forward(batch.features).float()

    def step(k: int) -> None:
        costs = clock.time("forward", costs_of)
        generator = torch.Generator(clock.device).manual_seed(k)
        question = Step(source, batch, instances, costs.detach(), generator, 1, 1.0, None)
        with torch.no_grad():
            _, grad = clock.time("gradient", lambda: local(question))
        clock.time("backward", lambda: costs.backward(grad / len(instances)))
        clock.time("optimizer", lambda: adam.step(1e-6))

    return step


def planning_step(
    source: TimedFamily, batch: Batch, instances: list[Instance], clock: Clock, *, is_bf16: bool, is_compiled: bool
) -> Callable[[int], None]:
    """Landscape step: draw plans, measure them, forward and backward of the bin model, Adam."""
    network = source.network(kind="planning").to(clock.device)
    assert isinstance(network, PlanningNetwork)
    loss_of = torch.compile(network.landscape_loss) if is_compiled else network.landscape_loss
    adam = Adam(network.parameters(), clip=1.0)

    def backward(x: torch.Tensor, measured: torch.Tensor) -> None:
        with torch.autocast(clock.device.type, dtype=torch.bfloat16, enabled=is_bf16):
            loss = loss_of(batch.features, x, measured).mean()
        loss.backward()

    def step(k: int) -> None:
        generator = torch.Generator(clock.device).manual_seed(k)
        x = clock.time("plans", lambda: network.explored(batch.features, 8, generator))
        measured = source.measured(batch.features, x)
        clock.time("forward and backward", lambda: backward(x, measured))
        clock.time("optimizer", lambda: adam.step(1e-6))

    return step


def answers(source: TimedFamily, batch: Batch, clock: Clock) -> Callable[[int], None]:
    """One forward pass of the planning network: costs of the whole batch."""
    network = source.network(kind="planning").to(clock.device).eval()
    return lambda k: clock.time("forward", lambda: network(batch.features))


def measure(name: str, step: Callable[[int], None], clock: Clock, batch: int, seconds: float) -> dict[str, Any]:
    """Warm up, then repeat for about ``seconds``."""
    for k in range(1 if clock.device.type == "cpu" else 3):
        step(k)
    clock.parts.clear()
    totals: list[float] = []
    begun = time.perf_counter()
    while len(totals) < 3 or (time.perf_counter() - begun < seconds and len(totals) < 200):
        started = time.perf_counter()
        step(len(totals))
        clock.synchronize()
        totals.append(time.perf_counter() - started)
    median = statistics.median(totals)
    parts = clock.medians()
    if "gradient" in parts:  # what is left of it is noise, softmax and transfers
        parts["noise and transfers"] = parts.pop("gradient") - parts["oracle"] - parts["objective"]
    row = {
        "name": name,
        "device": str(clock.device),
        "repeats": len(totals),
        "seconds": median,
        "instances_per_second": batch / median,
        "share": {part: value / median for part, value in parts.items()},
    }
    shares = ", ".join(f"{part} {share:.0%}" for part, share in row["share"].items())
    print(f"{name} on {clock.device}: {row['instances_per_second']:.0f} instances/s ({shares})", flush=True)
    return row


def run(device: torch.device, arguments: argparse.Namespace, instances: list[Instance]) -> list[dict[str, Any]]:
    """All rows of one device."""
    known = family(FAMILY)
    clock = Clock(device)
    source = TimedFamily(known.id, known.distribution)
    source.clock = clock
    batch = collate([instance.features for instance in instances]).to(device, torch.float32)
    rows = []
    modes = [("", False, False)]
    if device.type == "cuda":
        modes += [(", bf16", True, False)] + ([(", compiled", False, True)] if arguments.compile else [])
    for words, is_bf16, is_compiled in modes:
        for name, build in (("assignment training", assignment_step), ("planning training", planning_step)):
            try:
                step = build(source, batch, instances, clock, is_bf16=is_bf16, is_compiled=is_compiled)
                rows.append(measure(name + words, step, clock, len(instances), arguments.seconds))
            except RuntimeError as error:  # a mode that this build of torch lacks is told, not hidden
                print(f"{name}{words} on {device} failed: {error}", flush=True)
                rows.append({"name": name + words, "device": str(device), "error": str(error)[:300]})
    if device.type == "cpu":  # a whole batch would take minutes, and has nothing to gain from its size
        batch = collate([instance.features for instance in instances[:32]]).to(device, torch.float32)
    rows.append(measure("planning answers", answers(source, batch, clock), clock, len(batch), arguments.seconds))
    return rows


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_amortized", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--cpu-threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0, help="about, of each row")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.cpu_threads)
    known = family(FAMILY)
    begun = time.perf_counter()
    instances = [known.sample("train", seed=k) for k in range(arguments.batch)]
    drawing = time.perf_counter() - begun
    print(f"drew {len(instances)} instances in {drawing:.1f} s", flush=True)
    rows = []
    if torch.cuda.is_available():
        rows += run(torch.device("cuda"), arguments, instances)
    else:
        print("no CUDA device here: CPU rows only", file=sys.stderr)
    rows += run(torch.device("cpu"), arguments, instances)
    rate = {(row["name"], row["device"]): row.get("instances_per_second") for row in rows}
    speedup = {
        name: rate[name, "cuda"] / rate[name, "cpu"]
        for name, device in rate
        if device == "cpu" and rate.get((name, "cuda")) and rate[name, "cpu"]
    }
    parts = ("forward", "backward", "objective", "forward and backward")
    part = {
        (row["name"], row["device"]): row["seconds"] * sum(row["share"].get(name, 0.0) for name in parts)
        for row in rows
        if "share" in row
    }
    network = {n: part[n, "cpu"] / part[n, "cuda"] for n, d in part if d == "cpu" and part.get((n, "cuda"))}
    print("of network and objective alone:", {name: round(value, 1) for name, value in network.items()})
    print("speed-up of the GPU:", {name: round(value, 1) for name, value in speedup.items()})
    result = {
        "family": FAMILY,
        "batch": arguments.batch,
        "cpu_threads": arguments.cpu_threads,
        "drawing_seconds": drawing,
        "rows": rows,
        "speedup": speedup,
        "speedup_network_and_objective": network,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        **provenance.origin(None, "python -m benchmarks.gpu_amortized"),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_text(arguments.out / "gpu_amortized.json", json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
