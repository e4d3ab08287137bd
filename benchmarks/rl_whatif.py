"""What-if planning: demand scenarios on one network, the agent against rules and the exact engine.

    python -m benchmarks.rl_whatif run --network nobel-germany --first 0 --count 250 --out PART.json
    python -m benchmarks.rl_whatif join PART.json ... --out FILE

Every scenario multiplies each pair's demand by a lognormal factor of its own. The base network is solved to proof once,
and what that taught, its metric cuts with their right-hand sides renewed (``rl.cut_library``), is given to every method
whose name says *taught*; *start* is the exact engine begun with the base plan times 1.5, as an operator would. CPU
seconds are ``time.process_time`` of one scenario from its compiled network on. Every plan was accepted by the
independent judge. A run that was killed goes on by the same command.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.planning import judged
from problems.planning import Decomposition, Network, PlanningInstance, compile_instance, from_topohub
from problems.planning.neighborhoods import round_relaxation
from problems.planning.network import Array
from problems.planning.survival import Deadline
from rl.cut_library import CutLibrary
from rl.policy import describe
from rl.polish import exchanged, without_spare
from rl.topology import Topology
from rl.two_stage import SHIPPED, first_stage, planning_policy
from surco import provenance
from surco.atomic import write_text

SIGMA = 0.25  # of the logarithm of a pair's factor
TOLERANCE = 1e-3  # of the exact engine on scenarios
EXACT_SECONDS = 60.0

Row = dict[str, Any]


def scenario_of(base: PlanningInstance, number: int, *, sigma: float = SIGMA) -> PlanningInstance:
    """The base with every unordered pair's demand times a lognormal factor drawn from ``number``."""
    rng = np.random.default_rng([number, 71])
    factor: dict[tuple[str, ...], float] = {}
    for demand in base.demands:
        pair = tuple(sorted((demand.source, demand.target)))
        if pair not in factor:
            factor[pair] = float(rng.lognormal(0.0, sigma))
    demands = tuple(replace(d, gbps=d.gbps * factor[tuple(sorted((d.source, d.target)))]) for d in base.demands)
    return replace(base, name=f"{base.name}-{number}", demands=demands)


class WhatIf:
    """One network, its proven plan, and the methods.

    Args:
        name: SNDlib network of topohub.
        policy: of planning.
    """

    def __init__(self, name: str, policy: torch.nn.Module) -> None:
        self.base, self.policy = from_topohub(name), policy
        network = compile_instance(self.base)
        engine = Decomposition(network, tolerance=1e-4)
        begin = time.process_time()
        engine.run(EXACT_SECONDS, clock=time.process_time)
        self.base_cpu_s = time.process_time() - begin
        assert engine.best is not None
        self.start = np.ceil(1.5 * engine.best)
        self.library = CutLibrary(network)
        self.library.learn(engine.metric_cuts)
        self.methods: dict[str, Callable[[Network], dict[str, tuple[Array, float]]]] = {
            "exact, taught": lambda n: self.exact(n, is_taught=True),
            "policy, taught": lambda n: self.agent(n, is_taught=True),
            "LP rounding, taught": self.rounding,
            "greedy, taught": self.greedy,
            "exact, start": lambda n: self.exact(n, is_taught=False),
            "policy": lambda n: self.agent(n, is_taught=False),
        }
        self.bounds: dict[str, float] = {}

    def row(self, number: int, *, seldom: bool) -> Row:
        """All methods on a scenario; those without *taught* only if ``seldom``."""
        instance = scenario_of(self.base, number)
        network = compile_instance(instance)
        row: Row = {"network": self.base.name, "scenario": number}
        self.bounds = {}
        for name, method in self.methods.items():
            if seldom or name.endswith("taught"):
                for label, (plan, seconds) in method(network).items():
                    row[label] = {"cost": judged(instance, network, plan), "cpu_s": round(seconds, 4)}
        return {**row, "bound": max(self.bounds.values())}

    # ------------------------------------------------------------------ methods

    def _engine(self, network: Network, *, is_taught: bool, start: Array | None = None) -> Decomposition:
        engine = Decomposition(network, tolerance=TOLERANCE, start=start, cutset_size=4, most_cutsets=1000)
        if is_taught:
            self.library.teach(engine)
        return engine

    def exact(self, network: Network, *, is_taught: bool) -> dict[str, tuple[Array, float]]:
        """The decomposition to a gap of a thousandth."""
        begin = time.process_time()
        engine = self._engine(network, is_taught=is_taught, start=None if is_taught else self.start)
        bounds = engine.run(EXACT_SECONDS, clock=time.process_time)
        used = time.process_time() - begin
        assert engine.best is not None
        label = "exact, taught" if is_taught else "exact, start"
        self.bounds[label] = bounds.lower
        return {label: (engine.best, used)}

    def agent(self, network: Network, *, is_taught: bool) -> dict[str, tuple[Array, float]]:
        """One greedy rollout; trim and exchanges include what came before."""
        begin = time.process_time()
        engine = self._engine(network, is_taught=is_taught)
        topology = Topology(network, engine=engine)
        before = time.process_time() - begin
        found = first_stage(engine, self.policy, topology=topology)
        end = ", taught" if is_taught else ""
        played = before + found.rollout_cpu_s
        return {
            f"policy{end}": (found.rollout, played),
            f"policy + trim{end}": (found.trimmed, played + found.trim_cpu_s),
            f"policy + trim + exchanges{end}": (found.polished, played + found.trim_cpu_s + found.polish_cpu_s),
        }

    def greedy(self, network: Network) -> dict[str, tuple[Array, float]]:
        """Shortest-path capacities, trim and exchanges: the policy's pipeline without the policy."""
        begin = time.process_time()
        topology = Topology(network, engine=(engine := self._engine(network, is_taught=True)))
        topology.share(engine)
        units = without_spare(topology, topology.greedy, Deadline(None))
        trimmed = time.process_time() - begin
        better = exchanged(topology, units, deadline=Deadline(None))
        return {
            "greedy + trim, taught": (topology.point(units), trimmed),
            "greedy + trim + exchanges, taught": (topology.point(better), time.process_time() - begin),
        }

    def rounding(self, network: Network) -> dict[str, tuple[Array, float]]:
        """The relaxation solved by the exact engine, rounded, repaired and trimmed."""
        begin = time.process_time()
        engine = self._engine(network, is_taught=True)
        plan = round_relaxation(engine, Deadline(EXACT_SECONDS, time.process_time))
        return {} if plan is None else {"LP rounding, taught": (plan, time.process_time() - begin)}


def summary(rows: list[Row]) -> list[Row]:
    """For every network and method: scenarios, mean and largest excess over the bound in percent, CPU seconds."""
    table: list[Row] = []
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == network]
        for method in dict.fromkeys(key for row in mine for key, cell in row.items() if isinstance(cell, dict)):
            cells = [(row[method], row["bound"]) for row in mine if method in row]
            excess = np.array([100.0 * (cell["cost"] / bound - 1.0) for cell, bound in cells])
            seconds = np.array([cell["cpu_s"] for cell, _ in cells])
            machines = np.array([row.get("machine", 0) for row in mine if method in row])
            by_machine = [round(float(seconds[machines == k].mean()), 4) for k in np.unique(machines)]
            table.append(
                {
                    "network": network,
                    "method": method,
                    "scenarios": len(cells),
                    "mean_percent_over_bound": round(float(excess.mean()), 3),
                    "p95_percent_over_bound": round(float(np.percentile(excess, 95)), 3),
                    "largest_percent_over_bound": round(float(excess.max()), 3),
                    "mean_cpu_s": round(float(seconds.mean()), 4),
                    "median_cpu_s": round(float(np.median(seconds)), 4),
                    "mean_cpu_s_of_machines": by_machine,
                }
            )
    return table


def run(options: argparse.Namespace, about: dict[str, Any]) -> None:
    """Compute rows that the part does not hold yet."""
    out: Path = options.out
    rows: list[Row] = json.loads(out.read_text(encoding="utf-8"))["rows"] if out.is_file() else []
    known = {row["scenario"] for row in rows}
    bench = WhatIf(options.network, planning_policy(options.policy))
    about["policy_sha256"] = describe(options.policy or SHIPPED)["sha256"]
    begin = time.monotonic()
    for number in range(options.first, options.first + options.count):
        if number in known:
            continue
        if time.monotonic() - begin > options.seconds:
            break
        rows.append(bench.row(number, seldom=number % options.every == 0))
        about |= {"load_average": os.getloadavg()[0], "base_exact_cpu_s": bench.base_cpu_s}
        write_text(out, json.dumps({"provenance": about, "rows": rows}) + "\n")


def _machines(parts: list[Row]) -> list[dict[str, Any]]:
    """The machines of the parts, most scenarios first; where there are several, every row gets its machine's number."""
    scenarios: dict[str, int] = {}
    keys = [json.dumps({k: part["provenance"].get(k) for k in ("machine", "versions")}) for part in parts]
    for key, part in zip(keys, parts, strict=True):
        scenarios[key] = scenarios.get(key, 0) + len(part["rows"])
    order = sorted(scenarios, key=lambda key: -scenarios[key])
    if len(order) > 1:
        for key, part in zip(keys, parts, strict=True):
            part["rows"] = [{**row, "machine": order.index(key)} for row in part["rows"]]
    return [{**json.loads(key), "scenarios": scenarios[key]} for key in order]


def join(options: argparse.Namespace) -> None:
    """One file of parts: summary, rows, and what the parts' provenances share; parts of several machines say which."""
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in options.parts]
    machines = _machines(parts)
    rows = sorted((row for part in parts for row in part["rows"]), key=lambda r: (r["network"], r["scenario"]))
    abouts = [part["provenance"] for part in parts]
    loads = sorted(about.pop("load_average") for about in abouts)
    same = {key: value for key, value in abouts[0].items() if all(a.get(key) == value for a in abouts)}
    same |= {"commands": sorted({a["command"] for a in abouts}), "date": max(a["date"] for a in abouts)}
    same |= {"load_average": [loads[0], loads[-1]], "sigma": SIGMA, "exact_tolerance": TOLERANCE}
    if len(machines) > 1:
        same["machines"] = machines
    data = {"what": "demand scenarios on one network", "table": summary(rows), "provenance": same, "rows": rows}
    body = json.dumps({**data, "rows": []}, indent=1).rstrip("\n}").rstrip().removesuffix("[]")
    lines = ",\n".join(json.dumps(row) for row in rows)
    write_text(options.out, f"{body}[\n{lines}\n]\n}}\n")
    for line in data["table"]:
        sys.stdout.write(json.dumps(line) + "\n")


def main(argv: list[str] | None = None) -> None:
    """The commands."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rl_whatif", description=(__doc__ or "").split("\n")[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    part = kinds.add_parser("run", help="compute a part")
    part.add_argument("--network", default="nobel-germany")
    part.add_argument("--policy", help="folder of the policy; default the one of the package")
    part.add_argument("--first", type=int, default=0)
    part.add_argument("--count", type=int, default=1000)
    part.add_argument("--every", type=int, default=5, help="of so many scenarios one gets the methods not taught too")
    part.add_argument("--seconds", type=float, default=float("inf"), help="wall seconds after which no more begin")
    part.add_argument("--out", type=Path, required=True)
    whole = kinds.add_parser("join", help="join parts")
    whole.add_argument("parts", type=Path, nargs="+")
    whole.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    if options.kind == "join":
        join(options)
        return
    shown = provenance.without_paths(words, {"--out": "FILE", "--policy": "DIR"})
    run(options, provenance.origin(shown, "python -m benchmarks.rl_whatif"))


if __name__ == "__main__":
    main()
