"""Training throughput of the sharding networks on a GPU against CPU cores, and where the time goes.

    python -m benchmarks.gpu_amortized --out DIR/cuda --device cuda
    python -m benchmarks.gpu_amortized --out DIR/cpu --device cpu [--cpu-threads 2]
    python -m benchmarks.gpu_amortized --out DIR --merge DIR/cuda DIR/cpu

Needs torch, numpy, scipy and safetensors. The steps are those of ``surco.train``: eager, recorded as CUDA graphs
(``is_captured``), with ``is_compiled`` and ``is_bf16``. Their parts are then timed alone on the same batch: forward and
backward of the network, objective (values of all single moves, or measured times), both together, oracle (cheapest
device with the memory check), plans to measure, optimizer. On a GPU a part is recorded too, but for the oracle, and
the time is that of many replays over their number. Writes ``gpu_amortized.json`` after every row; ``--modes`` takes a
part of the rows, so that a mode that fails takes no other along.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from problems.sharding.family import ShardingFamily, family
from surco import provenance
from surco.atomic import write_text
from surco.instance_family import Instance
from surco.training import TrainConfig
from surco.training.adam import Adam
from surco.training.captured import CapturedSteps
from surco.training.steps import LANDSCAPE, EagerSteps, Learner

FAMILY = "sharding/dlrm-50t-8d-nonlinear-v0"
KINDS = {"planning": (LANDSCAPE, 8), "assignment": ("local", 1)}  # network: gradient and samples
MODES: dict[str, tuple[dict[str, bool], ...]] = {
    "cuda": (
        {},
        {"is_captured": True},
        {"is_captured": True, "is_compiled": True},
        {"is_captured": True, "is_compiled": True, "is_bf16": True},
    ),
    "cpu": ({}, {"is_compiled": True}),
}
FILE = "gpu_amortized.json"
BLOCK = 20  # replays between two looks at the clock


class Bench:
    """One network on one device in one mode.

    Args:
        kind: of the network.
        device: of network and batch.
        mode: settings of the steps.
        instances: the batch.
    """

    def __init__(self, kind: str, device: str, mode: dict[str, bool], instances: list[Instance]) -> None:
        self.gradient, samples = KINDS[kind]
        source: ShardingFamily = family(FAMILY)
        network = source.network(kind=kind).to(device)
        settings = TrainConfig.of({"batch": len(instances), "samples": samples, "device": device, **mode})
        self.device = torch.device(device)
        self.learner = Learner(
            source, settings, self.gradient, 1, self.device, network, Adam(network.parameters(), clip=1.0)
        )
        self.instances, self.mode = instances, mode
        self.batch = self.learner.batch(instances)

    # ------------------------------------------------------------------ whole steps

    def steps(self, seconds: float) -> dict[str, Any]:
        """Seconds a step, median over blocks; on a GPU a block is many steps without a look at the clock."""
        kind = CapturedSteps if self.learner.settings.is_captured else EagerSteps
        rng = np.random.default_rng(0)
        with kind(self.learner, self.instances, None) as taken:

            def step(k: int) -> None:
                taken.one(rng.permutation(len(self.instances)), [k], 1e-6)

            found = self._timed(step, seconds, warm_ups=5 if self.device.type == "cuda" else 2)
            assert np.isfinite(taken.loss())
        return found

    def _timed(self, call: Callable[[int], Any], seconds: float, *, warm_ups: int) -> dict[str, Any]:
        for k in range(warm_ups):
            call(k)
        self.learner.synchronize()
        block = BLOCK if self.device.type == "cuda" else 1
        times: list[float] = []
        begun = time.perf_counter()
        while len(times) < 3 or (time.perf_counter() - begun < seconds and len(times) < 200):
            clock = time.perf_counter()
            for k in range(block):
                call(k)
            self.learner.synchronize()
            times.append((time.perf_counter() - clock) / block)
        return {"seconds": statistics.median(times), "fastest": min(times), "blocks": len(times), "block": block}

    # ------------------------------------------------------------------ parts

    def parts(self, seconds: float) -> dict[str, float]:
        """Seconds of each part alone."""
        names = {"network": self.network, "objective": self.objective, "network and objective": self.both}
        names |= {"optimizer": self.optimizer}
        names |= {"plans": self.plans} if self.gradient == LANDSCAPE else {"oracle": self.oracle}
        return {name: self._part(name, call, seconds) for name, call in names.items()}

    def _part(self, name: str, call: Callable[[], Any], seconds: float) -> float:
        self._prepare()
        if not self.learner.settings.is_captured or name == "oracle":  # the oracle looks at values: never recorded
            return float(self._timed(lambda k: call(), seconds, warm_ups=3)["seconds"])
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(3):
                call()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        if name == "plans":
            graph.register_generator_state(self.generator)
        with torch.cuda.graph(graph, stream=stream):
            kept = call()  # what it returns stays alive while the graph is replayed
        found = float(self._timed(lambda k: graph.replay(), seconds, warm_ups=3)["seconds"])
        del kept
        return found

    def _prepare(self) -> None:
        learner, features = self.learner, self.batch.features
        self.generator = torch.Generator(self.device).manual_seed(0)
        self.rates = learner.optimizer.rates(1e-6).to(self.device)
        for p in learner.optimizer.parameters:
            p.grad = None
        with torch.no_grad():
            if self.gradient == LANDSCAPE:
                self.x = self.plans()
                self.measured = self.objective()
            else:
                costs = learner.costs(features).detach()
                self.slope = torch.rand_like(costs)
                self.costs = costs[:, None]
                self.x, self.has_point = learner.family.solve(self.batch, self.instances, self.costs)

    def network(self) -> Any:
        """Forward and backward; the gradients stay where they are until the next call."""
        learner, features = self.learner, self.batch.features
        for p in learner.optimizer.parameters:
            p.grad = None
        if self.gradient == LANDSCAPE:
            assert learner.loss_of is not None
            is_bf16 = learner.settings.is_bf16
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=is_bf16):
                loss = learner.loss_of(features, self.x, self.measured).mean()
            loss.backward()
            return loss.detach()
        costs = learner.costs(features)
        costs.backward(self.slope)
        return costs.detach()

    def objective(self) -> Any:
        """All that a step asks of the cost model."""
        source, features = self.learner.family, self.batch.features
        with torch.no_grad():
            if self.gradient == LANDSCAPE:
                return source.measured(features, self.x)
            scale = source.scale(features)
            return source.local_values(features, self.x[:, 0]), source.objective(features, self.x), scale

    def both(self) -> Any:
        """One after the other."""
        return self.network(), self.objective()

    def oracle(self) -> Any:
        """Cheapest device of every table, with the memory check."""
        with torch.no_grad():
            return self.learner.family.solve(self.batch, self.instances, self.costs)

    def plans(self) -> Any:
        """Plans to measure."""
        with torch.no_grad():
            samples = self.learner.settings.samples
            return self.learner.network.explored(self.batch.features, samples, self.generator)  # type: ignore[operator]

    def optimizer(self) -> Any:
        """Adam on gradients of zero."""
        self.learner.optimizer.update(self.rates)


def words(kind: str, mode: dict[str, bool]) -> str:
    """Name of a row."""
    return ", ".join([f"{kind} training", *(name.removeprefix("is_") for name in mode)])


def row(kind: str, device: str, mode: dict[str, bool], instances: list[Instance], seconds: float) -> dict[str, Any]:
    """Whole steps and parts of one network, device and mode; what this build lacks is told, not hidden."""
    name = words(kind, mode)
    found: dict[str, Any] = {"name": name, "kind": kind, "device": device}
    try:
        bench = Bench(kind, device, mode, instances)
        found |= bench.steps(seconds)
        rate = found["instances_per_second"] = len(instances) / found["seconds"]
        print(f"{name} on {device}: {rate:,.0f} instances/s, {1e3 * found['seconds']:.3f} ms a step", flush=True)
        found["part_seconds"] = bench.parts(seconds / 4)
        shares = found["share"] = {part: value / found["seconds"] for part, value in found["part_seconds"].items()}
        print("  of a step: " + ", ".join(f"{part} {share:.1%}" for part, share in shares.items()), flush=True)
    except Exception as error:  # whatever a compiler or a driver raises
        print(f"{name} on {device} failed: {type(error).__name__}: {error}", flush=True)
        found["error"] = f"{type(error).__name__}: {error}"[:600]
    return found


def answers(device: str, instances: list[Instance], seconds: float) -> dict[str, Any]:
    """One forward pass of the planning network: costs of the whole batch."""
    if device == "cpu":  # a whole batch would take minutes, and has nothing to gain from its size
        instances = instances[:32]
    bench = Bench("planning", device, {}, instances)
    network = bench.learner.network.eval()
    begun = time.perf_counter()
    network(bench.batch.features)
    times: list[float] = []
    while len(times) < 2 or time.perf_counter() - begun < seconds:
        bench.learner.synchronize()
        clock = time.perf_counter()
        network(bench.batch.features)
        bench.learner.synchronize()
        times.append(time.perf_counter() - clock)
    value = statistics.median(times)
    rate = len(instances) / value
    print(f"planning answers on {device}: {rate:,.0f} instances/s", flush=True)
    return {
        "name": "planning answers",
        "kind": "answers",
        "device": device,
        "seconds": value,
        "instances_per_second": rate,
    }


def speedups(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Fastest row of the GPU over the fastest of the CPU, for whole steps and for network and objective alone."""
    found: dict[str, dict[str, float]] = {}
    for kind in (*KINDS, "answers"):
        known = [row for row in rows if row["kind"] == kind]
        rates = {d: [r["instances_per_second"] for r in known if r["device"] == d and "seconds" in r] for d in MODES}
        parts = {
            d: [r["part_seconds"]["network and objective"] for r in known if r["device"] == d and "part_seconds" in r]
            for d in MODES
        }
        if all(rates.values()):
            found[kind] = {"steps": max(rates["cuda"]) / max(rates["cpu"])}
        if all(parts.values()):
            found[kind]["network and objective"] = min(parts["cpu"]) / min(parts["cuda"])
    return found


def merged(folders: list[Path]) -> dict[str, Any]:
    """One result of the results in several folders, of runs with the same batch on the same machine."""
    results = [json.loads((folder / FILE).read_text(encoding="utf-8")) for folder in folders]
    rows = [row for result in results for row in result["rows"]]
    gpu = next((result["gpu"] for result in results if result["gpu"]), None)
    return {**results[0], "gpu": gpu, "rows": rows, "speedup": speedups(rows)}


def _write(folder: Path, result: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / FILE, json.dumps(result, indent=1))


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_amortized", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument("--device", choices=list(MODES), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--modes", type=int, nargs="+", help="numbers of the device's modes; all of them by default")
    parser.add_argument("--merge", type=Path, nargs="+", metavar="DIR", help="join the results of other runs, and end")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--cpu-threads", type=int, default=2)
    parser.add_argument("--row-seconds", type=float, default=4.0, help="about, of the steps of each row")
    arguments = parser.parse_args()
    if arguments.merge:
        result = merged(arguments.merge)
        _write(arguments.out, result)
        print("fastest GPU row over fastest CPU row:", json.dumps(result["speedup"]), flush=True)
        return 0
    torch.set_num_threads(arguments.cpu_threads)
    known = family(FAMILY)
    begun = time.perf_counter()
    instances = [known.sample("train", seed=k) for k in range(arguments.batch)]
    drawing = time.perf_counter() - begun
    print(f"drew {len(instances)} instances in {drawing:.1f} s", flush=True)
    result = {
        "family": FAMILY,
        "batch": arguments.batch,
        "cpu_threads": arguments.cpu_threads,
        "drawing_seconds": drawing,
        "rows": [],
        "gpu": torch.cuda.get_device_name() if arguments.device == "cuda" else None,
        "torch": torch.__version__,
        **provenance.origin(None, "python -m benchmarks.gpu_amortized"),
    }
    device, seconds = arguments.device, arguments.row_seconds
    chosen = range(len(MODES[device])) if arguments.modes is None else arguments.modes
    for k in chosen:
        for kind in KINDS:
            result["rows"].append(row(kind, device, MODES[device][k], instances, seconds))
            _write(arguments.out, result)
        if k == 0:
            result["rows"].append(answers(device, instances, seconds / 2))
            _write(arguments.out, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
