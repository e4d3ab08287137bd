"""From measured tables to plans: pack readings, train cost networks, compare planners on them, write plans to run.

    python -m benchmarks.sharding_measured pack DIR --out campaign.npz
    python -m benchmarks.sharding_measured train campaign.npz --out DIR [--clock device]
    python -m benchmarks.sharding_measured compare DIR --out DIR2 [--tables 24 48] [--devices 4] [--draws 3]
    python -m benchmarks.sharding_measured plans DIR --out plans.json [--count 20] [--devices 2]

`train` prints the additivity gap: held-out error of every model, launch-bound and bandwidth-bound readings apart.
`compare` gives the searching methods the same wall seconds on one thread; local search then gets as many objective
calls as `auto` took. Instances are drawn inside of what was measured. The rows to beat are the additive ones: the
MILP on the best fitted additive model, and the MILP on the tangent of the networks at balance.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import surco
from problems.sharding import ShardingProblem
from problems.sharding.measured import Campaign, CostNetworks, Head, gap, planners, read_lines
from problems.sharding.measured.instances import MeasuredFamily, numbered
from problems.sharding.measured.records import parse_lines
from problems.sharding.measured.training import fit, readings_of
from surco import provenance
from surco.atomic import write_text
from surco.training import Prior

CONVEX, ADDITIVE = "convex.safetensors", "additive.safetensors"
RULES = ("by_size", "by_dim", "by_lookups", "by_size_lookups", "lpt", "marginal")
LEARNED = ("prior", "hybrid")  # with a prior trained on instances of the same kind
SEARCHES = ("zero", *LEARNED, "exact", "auto")
OURS = "auto"
PLANNED = (
    "auto", "torchrec", "by_size", "by_size_lookups", "dim grid (NeuroShard)", "additive milp", "tangent milp",
    "random",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One plan of one instance."""

    tables: int
    devices: int
    draw: int
    method: str
    value_ms: float | None
    bound_ms: float | None
    is_feasible: bool
    calls: int
    cpu_seconds: float


def pack(arguments: argparse.Namespace) -> None:
    """Lines of a run to one file."""
    files = [*sorted(arguments.run.glob("compute*.jsonl")), *sorted(arguments.run.glob("comms*.jsonl"))]
    campaign = read_lines(*files)
    checks = [line for file in files for line in parse_lines(file) if "profiled_ms" in line]
    ratios = np.array([np.divide(line["device_ms"], line["profiled_ms"]) for line in checks]).reshape(-1, 2)
    added: dict[str, Any] = {"device_over_profiler": [[round(float(r), 4) for r in pair] for pair in ratios]}
    if arguments.commit:  # the measuring machine had no repository
        added["commit"] = arguments.commit
        added["more"] = [{**head, "commit": arguments.commit} for head in campaign.provenance.get("more", ())]
    campaign = dataclasses.replace(campaign, provenance={**campaign.provenance, **added})
    campaign.save(arguments.out)
    ahead = float(campaign.is_ahead.mean()) if len(campaign.is_ahead) else math.nan
    print(
        f"{len(campaign.batch)} readings ({int(campaign.is_held_out.sum())} held out, host ahead in {ahead:.0%}), "
        f"{len(campaign.comms_ms)} exchanges: {arguments.out}, {arguments.out.stat().st_size} bytes"
    )


def train(arguments: argparse.Namespace) -> None:
    """Networks with a convex and an additive head, and the table of the additivity gap."""
    campaign = Campaign.load(arguments.campaign)
    arguments.out.mkdir(parents=True, exist_ok=True)
    readings = readings_of(campaign, arguments.clock)
    trained = gap.networks(readings, seed=arguments.seed)
    for head, name in ((Head.CONVEX, CONVEX), (Head.ADDITIVE, ADDITIVE)):
        found = fit(campaign, clock=arguments.clock, head=head, seed=arguments.seed, compute=trained[head])
        found.save(arguments.out / name)
    rows = gap.compute_gap(campaign, arguments.clock, trained=trained, seed=arguments.seed)
    if campaign.world:
        rows += gap.comms_gap(campaign, seed=arguments.seed)
    where = campaign.provenance
    title = f"# Held-out error, {where['device']}, {where['operator']}, {arguments.clock} time"
    text = f"{title}\n\n{gap.markdown(rows)}\n"
    write_text(arguments.out / "gap.md", text)
    values = {"rows": [asdict(row) for row in rows], "campaign": dict(where), **origin()}
    write_text(arguments.out / "gap.json", json.dumps(values, indent=1))
    print(text)


def networks_file(folder: Path) -> str:
    """The cost that plans are made for: the networks with a convex head."""
    return str(folder / CONVEX)


def makers(folder: Path, seconds: float) -> dict[str, Callable[[ShardingProblem], planners.Found]]:
    """Plans of the field that are no methods of the engine."""
    return {
        "torchrec": planners.torchrec_plan,
        "lpt on predicted single cost": planners.longest_first,
        "dim grid (NeuroShard)": planners.dim_grid,
        "additive milp": lambda problem: planners.additive_milp(problem, str(folder / ADDITIVE), seconds=seconds),
        "tangent milp": lambda problem: planners.additive_milp(problem, None, seconds=seconds),
    }


def rows_of(folder: Path, tables: int, devices: int, draw: int, seconds: float, prior: Prior) -> list[Row]:
    """All methods on one instance."""
    network = networks_file(folder)
    rows: list[Row] = []

    def add(method: str, problem: ShardingProblem, x: torch.Tensor | None, bound: float | None, calls: int, cpu: float):
        value = None if x is None else float(problem.objective(x))
        ok = x is not None and float(problem.violation(x)) <= 0.0
        rows.append(Row(tables, devices, draw, method, value, bound, ok, calls, cpu))

    problem = numbered(network, tables, devices, draw)
    for name in RULES:
        add(name, problem, problem.heuristics().get(name), None, 0, 0.0)
    for name, make in makers(folder, seconds).items():
        begun = time.process_time()
        found = make(problem)
        x = None if found.choice is None else problem.design(found.choice)
        add(name, problem, x, None, found.calls, time.process_time() - begun)
    calls = 0
    for method in (*SEARCHES, "local_search"):
        problem = numbered(network, tables, devices, draw)  # afresh, so that no method goes on where another stopped
        is_local = method == "local_search"
        budget: dict[str, Any] = {"objective_calls": max(calls, 100)} if is_local else {"seconds": seconds}
        budget |= {"prior": prior} if method in LEARNED else {}
        begun = time.process_time()
        result = surco.solve(problem, method, seed=0, **budget)
        spent = time.process_time() - begun
        calls = result.stats.objective_calls if method == OURS else calls
        add(method, problem, torch.from_numpy(result.x), result.bound, result.stats.objective_calls, spent)
    return rows


def compare(arguments: argparse.Namespace) -> None:
    """Every method on every instance; table and losses."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    training: list[Mapping[str, Any]] = []
    for devices in arguments.devices:
        family = MeasuredFamily(
            networks_file(arguments.networks), (min(arguments.tables), max(arguments.tables)), devices
        )
        prior = surco.train(family, steps=arguments.prior_steps, seed=0)
        training.append(dict(prior.training))
        for tables in arguments.tables:
            for draw in range(arguments.draws):
                rows += rows_of(arguments.networks, tables, devices, draw, arguments.seconds, prior)
                print(f"{tables} tables, {devices} devices, draw {draw} done", file=sys.stderr, flush=True)
    measured = CostNetworks.load(arguments.networks / CONVEX).provenance
    lines = "\n".join(f"- {line}" for line in losses(rows)) or "- none by more than 0.01 %"
    text = (
        f"# Plans on a cost network of {measured['device']} ({measured['operator']}, {measured['clock']} time)\n\n"
        f"{table(rows)}\n\n## Where a baseline beats {OURS}\n\n{lines}\n"
    )
    write_text(arguments.out / "compare.md", text)
    values = {"rows": [asdict(row) for row in rows], "measured": dict(measured), "seconds": arguments.seconds}
    values |= {"priors": training, **origin()}
    write_text(arguments.out / "compare.json", json.dumps(values, indent=1))
    print(text)


def table(rows: Sequence[Row]) -> str:
    """Markdown: per size and method, geometric mean of value over that of `auto`, gap to the bound of `auto`, work."""
    lines = [
        "| tables x devices | method | value / auto (worst) | gap to bound, % | CPU s | calls |",
        "|---|---|---|---|---|---|",
    ]
    for size in dict.fromkeys((row.tables, row.devices) for row in rows):
        part = [row for row in rows if (row.tables, row.devices) == size]
        ours = {row.draw: row for row in part if row.method == OURS}
        for method in dict.fromkeys(row.method for row in part):
            found = [row for row in part if row.method == method and row.value_ms is not None and row.is_feasible]
            if not found:
                lines.append(f"| {size[0]} x {size[1]} | {method} | no plan | - | - | - |")
                continue
            ratio = [(row.value_ms or 0.0) / (ours[row.draw].value_ms or math.nan) for row in found]
            bound = [
                100.0 * ((row.value_ms or 0.0) / b - 1.0)
                for row in found
                if (b := ours[row.draw].bound_ms) is not None and b > 0
            ]
            mean = math.exp(sum(math.log(r) for r in ratio) / len(ratio))
            lines.append(
                f"| {size[0]} x {size[1]} | {method} | {mean:.4f} ({max(ratio):.4f}) "
                f"| {sum(bound) / len(bound) if bound else math.nan:.2f} "
                f"| {sum(row.cpu_seconds for row in found) / len(found):.2f} "
                f"| {sum(row.calls for row in found) / len(found):.0f} |"
            )
    return "\n".join(lines)


def losses(rows: Sequence[Row], tolerance: float = 1e-4) -> list[str]:
    """Where a feasible plan of another method is better than ours by more than ``tolerance``."""
    lines = []
    for key in dict.fromkeys((row.tables, row.devices, row.draw) for row in rows):
        part = [row for row in rows if (row.tables, row.devices, row.draw) == key and row.is_feasible]
        ours = next((row.value_ms for row in part if row.method == OURS), None)
        lines += [
            f"{key[0]} x {key[1]}, draw {key[2]}: {row.method} {row.value_ms:.6f}, {OURS} {ours} ms"
            for row in part
            if row.value_ms is not None and (ours is None or row.value_ms < ours * (1.0 - tolerance))
        ]
    return lines


def plans(arguments: argparse.Namespace) -> None:
    """Instances and plans for a run of whole steps."""
    found: list[dict[str, Any]] = []
    for draw in range(arguments.count):
        samples = arguments.samples[draw % len(arguments.samples)]
        network = networks_file(arguments.networks)
        problem = numbered(network, arguments.tables, arguments.devices, 1000 + draw, samples=samples)
        ours = surco.solve(problem, OURS, seconds=arguments.seconds).x
        designs: dict[str, torch.Tensor] = {OURS: torch.from_numpy(ours)}
        for name, make in makers(arguments.networks, arguments.seconds).items():
            choice = make(problem).choice
            if name in PLANNED and choice is not None:
                designs[name] = problem.design(choice)
        designs |= {name: x for name, x in problem.heuristics().items() if name in PLANNED}
        rng = np.random.default_rng(draw)
        rooms = (rng.integers(arguments.devices, size=arguments.tables) for _ in range(1000))
        fitting = next((choice for choice in rooms if problem.oracle.fits(choice[None])[0]), None)
        if fitting is not None:
            designs["random"] = problem.design(fitting)
        found.append(
            {
                "spec": dict(problem.spec),
                "plans": {name: problem.plan(x).argmax(-1).tolist() for name, x in designs.items()},
                "predicted_ms": {name: prediction(problem, x) for name, x in designs.items()},
            }
        )
        print(f"instance {draw}: {found[-1]['predicted_ms']}", file=sys.stderr, flush=True)
    write_text(arguments.out, json.dumps({"instances": found, **origin()}))


def prediction(problem: ShardingProblem, x: torch.Tensor) -> float:
    """Step time by the networks without jitter: the sum over phases of the slowest device."""
    return float(problem.times_ms(x).amax(-1).sum())


def origin() -> Mapping[str, Any]:
    """Where the numbers come from."""
    words = provenance.without_paths(sys.argv[1:], {"--out": "FILE"})
    shown = [Path(word).name if "/" in word else word for word in words]
    return provenance.origin(shown, "python -m benchmarks.sharding_measured")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sharding_measured", description=(__doc__ or "").partition("\n")[0]
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("pack", help="lines of a run to one file")
    command.add_argument("run", type=Path)
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--commit", help="of the code that measured, where it could not know")
    command.set_defaults(run_command=pack)
    command = commands.add_parser("train", help="cost networks and the additivity gap")
    command.add_argument("campaign", type=Path)
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--clock", choices=["device", "end_to_end"], default="device")
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run_command=train)
    command = commands.add_parser("compare", help="planners on the networks")
    command.add_argument("networks", type=Path, help="folder that train wrote")
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--tables", type=int, nargs="+", default=[24, 48])
    command.add_argument("--devices", type=int, nargs="+", default=[4])
    command.add_argument("--draws", type=int, default=3)
    command.add_argument("--seconds", type=float, default=10.0)
    command.add_argument("--prior-steps", type=int, default=2000, help="training steps of SurCo-prior")
    command.set_defaults(run_command=compare)
    command = commands.add_parser("plans", help="instances and plans for benchmarks.gpu_sharding_plans")
    command.add_argument("networks", type=Path, help="folder that train wrote")
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--tables", type=int, default=40)
    command.add_argument("--devices", type=int, default=2)
    command.add_argument("--count", type=int, default=20)
    command.add_argument(
        "--samples", type=int, nargs="+", default=[0], help="of a step, in turn (0: the most measured)"
    )
    command.add_argument("--seconds", type=float, default=10.0)
    command.set_defaults(run_command=plans)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    arguments.run_command(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
