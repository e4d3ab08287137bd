"""Training throughput of the sharding networks on a GPU against CPU cores, and where the time goes.

    python -m benchmarks.gpu_amortized --out DIR [--batch 256] [--cpu-threads 2] [--seconds 200]

Needs torch, numpy, scipy and safetensors. The steps are those of ``surco.train``: eager, recorded as CUDA graphs
(``is_captured``), with ``is_compiled`` and ``is_bf16``. Their parts are then timed alone on the same batch: forward and
backward of the network, objective (values of all single moves, or measured times), both together, oracle (cheapest
device with the memory check), plans to measure, optimizer. On a GPU a part is recorded too, but for the oracle, and
the time is that of many replays over their number. Writes ``gpu_amortized.json`` after every row.
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
        with torch.cuda.graph(graph):
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
    """Whole steps and parts of one network, device and mode; a mode that this build lacks is told, not hidden."""
    name = words(kind, mode)
    try:
        bench = Bench(kind, device, mode, instances)
        found = bench.steps(seconds)
        parts = bench.parts(seconds / 4)
    except Exception as error:  # whatever a compiler or a driver raises
        print(f"{name} on {device} failed: {type(error).__name__}: {error}", flush=True)
        return {"name": name, "device": device, "error": f"{type(error).__name__}: {error}"[:600]}
    rate = len(instances) / found["seconds"]
    shares = {part: value / found["seconds"] for part, value in parts.items()}
    shown = ", ".join(f"{part} {share:.0%}" for part, share in shares.items())
    print(f"{name} on {device}: {rate:,.0f} instances/s, {1e3 * found['seconds']:.3f} ms a step ({shown})", flush=True)
    return {
        "name": name,
        "kind": kind,
        "device": device,
        **found,
        "instances_per_second": rate,
        "part_seconds": parts,
        "share": shares,
    }


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
        best: dict[str, list[float]] = {}
        for device in ("cuda", "cpu"):
            known = [r for r in rows if r.get("kind") == kind and r["device"] == device]
            if known:
                parts = [r["part_seconds"]["network and objective"] for r in known if "part_seconds" in r]
                best[device] = [max(r["instances_per_second"] for r in known), min(parts, default=0.0)]
        if len(best) == 2:
            found[kind] = {"steps": best["cuda"][0] / best["cpu"][0]}
            if best["cuda"][1]:
                found[kind]["network and objective"] = best["cpu"][1] / best["cuda"][1]
    return found


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_amortized", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--cpu-threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=200.0, help="begin no row after this")
    parser.add_argument("--row-seconds", type=float, default=4.0, help="about, of the steps of each row")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.cpu_threads)
    known = family(FAMILY)
    begun = time.perf_counter()
    instances = [known.sample("train", seed=k) for k in range(arguments.batch)]
    drawing = time.perf_counter() - begun
    print(f"drew {len(instances)} instances in {drawing:.1f} s", flush=True)
    has_gpu = torch.cuda.is_available()
    if not has_gpu:
        print("no CUDA device here: CPU rows only", file=sys.stderr)
    plan: list[tuple[str, str, dict[str, bool] | None]] = []
    for rank in range(4):  # the plain modes of all first: time may run out in a compiler
        for device in ("cuda", "cpu") if has_gpu else ("cpu",):
            modes = MODES[device][rank : rank + 1]
            plan += [(kind, device, mode) for mode in modes for kind in KINDS]
        if rank == 1:
            plan += [("answers", device, None) for device in (("cuda", "cpu") if has_gpu else ("cpu",))]
    rows: list[dict[str, Any]] = []
    for kind, device, mode in plan:
        if time.perf_counter() - begun > arguments.seconds:
            print(f"no time for {kind} {mode} on {device}", flush=True)
            continue
        if mode is None:
            rows.append(answers(device, instances, arguments.row_seconds / 2))
        elif not (arguments.no_compile and mode.get("is_compiled")):
            rows.append(row(kind, device, mode, instances, arguments.row_seconds))
        result = {
            "family": FAMILY,
            "batch": arguments.batch,
            "cpu_threads": arguments.cpu_threads,
            "drawing_seconds": drawing,
            "rows": rows,
            "speedup": speedups(rows),
            "gpu": torch.cuda.get_device_name() if has_gpu else None,
            "torch": torch.__version__,
            **provenance.origin(None, "python -m benchmarks.gpu_amortized"),
        }
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_text(arguments.out / "gpu_amortized.json", json.dumps(result, indent=1))
    print("fastest GPU row over fastest CPU row:", json.dumps(speedups(rows)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
