"""What the policy adds to trimming and exchanges: the same search from other starts, at equal CPU seconds.

    python -m benchmarks.rl_share --networks polska cost266 --out FILE

Every row repeats start -> trim -> exchanges on one network that the policy never saw and keeps the best plan. Starts:

- *policy*: the greedy rollout, then sampled ones;
- *policy, then kicks*: the greedy rollout, then the best plan so far with random modules added;
- *random + mask*: rollouts that play at random among what the mask allows;
- *greedy, then kicks*: the shortest-path plan, then the best so far with random modules added.

*exact* is the decomposition, stopped at the same CPU seconds, and *LP rounding* its rounded relaxation, run to its end.
The unit of time T is what the policy's first plan took (features, cuts and linear programs included); costs are given
after T and ``--multiple`` times T. Every plan was accepted by the independent judge.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.planning import judged
from problems.planning import Decomposition, compile_instance, from_topohub
from problems.planning.neighborhoods import round_relaxation
from problems.planning.network import Array
from problems.planning.survival import Deadline
from rl.generator import HELD_OUT
from rl.planner import rollout_plans
from rl.policy import describe
from rl.polish import exchanged, without_spare
from rl.topology import Topology
from rl.two_stage import SHIPPED, planning_policy
from surco import provenance
from surco.atomic import write_text

KICKS = 3  # random links, each by one or two modules

Row = dict[str, Any]
Starts = Callable[[Topology, "Search"], Iterator[Array]]


class Search:
    """The best plan of repeated trimming and exchanging, and when it was found.

    Attributes:
        best: [M] units, None before the first; ``history`` of (CPU seconds, plan [n], price).
    """

    def __init__(self, network: Any) -> None:
        self.network, self.best = network, None
        self.history: list[tuple[float, Array, float]] = []
        self.starts = 0

    def run(self, starts: Starts, seconds: float) -> None:
        """Until ``seconds`` of CPU time have passed or starts run out; at least one start is finished."""
        begin = time.process_time()
        engine = Decomposition(self.network, tolerance=1e-4)
        topology = Topology(self.network, engine=engine)
        topology.share(engine)
        deadline = Deadline(seconds, time.process_time)  # from here on: later than ``begin`` by the set-up
        deadline.seconds -= time.process_time() - begin
        for units in starts(topology, self):
            limit = Deadline(None) if self.best is None else deadline
            self._offer(topology, units, begin)
            units = without_spare(topology, units, limit)
            self._offer(topology, units, begin)
            self._offer(topology, exchanged(topology, units, deadline=limit), begin)
            self.starts += 1
            if deadline.is_over():
                return

    def _offer(self, topology: Topology, units: Array, begin: float) -> None:
        price = topology.price(units)
        if self.best is None or price < self.history[-1][2]:
            self.best = units
            self.history.append((time.process_time() - begin, topology.point(units), price))

    def at(self, seconds: float) -> Array | None:
        """The best plan [n] after ``seconds``."""
        found = [plan for when, plan, _ in self.history if when <= seconds]
        return found[-1] if found else None


def of_policy(policy: torch.nn.Module | None) -> Starts:
    """The greedy rollout of a policy, then sampled ones in fours; None plays at random."""

    def starts(topology: Topology, search: Search) -> Iterator[Array]:
        if policy is not None:
            yield from (plan.units for plan in rollout_plans(topology, policy))
        for seed in range(1, 10**6):
            found = rollout_plans(topology, policy, samples=4 if policy is not None else 1, greedy=False, seed=seed)
            yield from (plan.units for plan in found[:2])

    return starts


def kicked(first: Callable[[Topology], Array | None], seed: int = 0) -> Starts:
    """The plan of ``first``, then the best one with modules added on random links."""

    def starts(topology: Topology, search: Search) -> Iterator[Array]:
        plan = first(topology)
        if plan is None:
            return
        yield plan
        rng = np.random.default_rng(seed)
        while True:
            assert search.best is not None
            units = search.best.copy()
            for j in rng.choice(len(units), size=min(KICKS, len(units)), replace=False).tolist():
                units[j] = min(units[j] + rng.integers(1, 3), topology.upper[j])
            yield units

    return starts


def rows_of(name: str, policy: torch.nn.Module, exact_seconds: float, multiple: float) -> Iterator[Row]:
    """All rows of a network."""
    instance = from_topohub(name)
    network = compile_instance(instance)

    def row(method: str, plan: Array | None, seconds: float, **more: Any) -> Row:
        cost = None if plan is None else judged(instance, network, plan)
        return {"network": name, "method": method, "cost": cost, "cpu_s": round(seconds, 3), **more}

    def greedy_rollout(topology: Topology) -> Array | None:
        plans = rollout_plans(topology, policy)
        return plans[0].units if plans else None

    def shortest(topology: Topology) -> Array | None:
        return topology.greedy if topology.greedy.any() else None

    once = Search(network)
    once.run(of_policy(policy), 0.0)
    unit = once.history[-1][0]
    kinds: list[tuple[str, Starts]] = [
        ("policy", of_policy(policy)),
        ("policy, then kicks", kicked(greedy_rollout)),
        ("random + mask", of_policy(None)),
        ("greedy, then kicks", kicked(shortest)),
    ]
    for label, starts in kinds:
        search = Search(network)
        search.run(starts, multiple * unit)
        for times in sorted({1.0, multiple}):
            plan = search.at(times * unit)
            if label == "policy" and times == 1.0:
                plan = once.history[-1][1]  # by the definition of T
            yield row(label, plan, times * unit, times=times, starts=search.starts, first_s=search.history[0][0])
    for times in sorted({1.0, multiple}):
        engine = Decomposition(network, tolerance=1e-4)
        bounds = engine.run(times * unit, clock=time.process_time)
        yield row("exact", engine.best, times * unit, times=times, stopped_s=round(bounds.seconds, 3))
    begin = time.process_time()
    plan = round_relaxation(Decomposition(network, tolerance=1e-4), Deadline(exact_seconds, time.process_time))
    yield row("LP rounding", plan, time.process_time() - begin)
    engine = Decomposition(network, tolerance=1e-4)
    bounds = engine.run(exact_seconds, clock=time.process_time)
    yield row("exact to the end", engine.best, bounds.seconds, bound=bounds.lower, gap_percent=100.0 * bounds.gap)


def main(argv: list[str] | None = None) -> None:
    """The command."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rl_share", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--networks", nargs="+", default=list(HELD_OUT))
    parser.add_argument("--policy", help="folder of the policy; default the one of the package")
    parser.add_argument("--exact-seconds", type=float, default=60.0, help="CPU seconds of the exact engine")
    parser.add_argument("--multiple", type=float, default=3.0, help="of T, the longer run")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    policy = planning_policy(options.policy)
    shown = provenance.without_paths(words, {"--out": "FILE", "--policy": "DIR"})
    about = provenance.origin(shown, "python -m benchmarks.rl_share")
    about["policy_sha256"] = describe(options.policy or SHIPPED)["sha256"]
    data = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {"rows": []}
    for name in options.networks:
        data["rows"] = [row for row in data["rows"] if row["network"] != name]
        for row in rows_of(name, policy, options.exact_seconds, options.multiple):
            data["rows"].append({**row, "load_average": round(os.getloadavg()[0], 1)})
            write_text(options.out, json.dumps({"provenance": about, **data}, indent=1) + "\n")
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
