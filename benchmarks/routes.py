"""On-time routes against their proven optimum: ``python -m benchmarks.routes --out DIR``.

Both grid distributions, sizes 5, 10 and 15, 25 grids and three deadlines each: 450 cases. The exact method is the
judge; tests hold it against enumeration and SCIP. Every solve gets a problem built afresh, outside the clock; CPU time
is that of the process and covers the whole ``surco.solve``, result included, after one solve of each method to load
code.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import surco
from problems.paths import DEADLINES, OnTimeRoute, grid, reference_seeds
from surco import provenance

DISTRIBUTIONS = ("code", "paper")
SIZES = (5, 10, 15)
CALLS = 60  # what the published SurCo-zero spends at most: 30 iterations of two calls
TOLERANCE = 1e-9  # of probability: a case counts as optimal within it

METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "heuristic (mean + 0.5 sd)": ("mean_plus_half_sd", {}),
    "linear": ("linear", {"calls": CALLS}),
    "random": ("random", {"calls": CALLS}),
    "zero": ("zero", {"calls": CALLS}),
    "hull search": ("hull_search", {}),
    "exact": ("exact", {}),
    "auto": ("auto", {}),
}
"""Row -> method and options of ``surco.solve``."""

PUBLISHED = "SurCo-zero, published code"
REFERENCE: Mapping[tuple[str, int, str], tuple[float, float | None, float]] = {
    ("code", 5, "loose"): (19 / 25, 0.0751, 0.5302),
    ("code", 5, "normal"): (20 / 25, 0.0558, 0.4962),
    ("code", 5, "tight"): (18 / 25, 0.0374, 0.4582),
    ("code", 10, "loose"): (14 / 25, 0.0205, 0.5489),
    ("code", 10, "normal"): (15 / 25, 0.0491, 0.4956),
    ("code", 10, "tight"): (19 / 25, 0.0535, 0.4425),
    ("code", 15, "loose"): (11 / 25, 0.1022, 0.5539),
    ("code", 15, "normal"): (17 / 25, 0.0706, 0.4944),
    ("code", 15, "tight"): (21 / 25, 0.0048, 0.4369),
    # the printed distribution: means of three torch seeds
    ("paper", 5, "loose"): (60 / 75, None, 0.5724),
    ("paper", 5, "normal"): (55 / 75, None, 0.4540),
    ("paper", 5, "tight"): (61 / 75, None, 0.3418),
}
"""(distribution, size, deadline) -> share optimal, worst gap, mean probability of the published code, its own defaults.

Measured once by the project on the same grids (2026-11, torch 2.13); its licence keeps the code out of this repository.
"""
REFERENCE_CPU_MS: Mapping[tuple[str, int], float] = {("code", 5): 60.0, ("code", 10): 177.0, ("code", 15): 425.0}
"""CPU-ms of one solve of the published code, good to 20 %: two loaded cores, import time taken off."""


@dataclass(frozen=True, slots=True)
class Case:
    """One route problem: distribution, size, seed of the grid, name of the deadline."""

    distribution: str
    size: int
    grid_seed: int
    deadline: str

    def problem(self) -> OnTimeRoute:
        """Build it, with nothing shared with another problem."""
        graph = grid(self.size, self.distribution, self.grid_seed)
        corner = (self.size - 1, self.size - 1)
        base = OnTimeRoute(graph, (0, 0), corner, 0.0)
        return base.with_deadline(DEADLINES[self.deadline] * base.least_expected_time)


@dataclass(frozen=True, slots=True)
class Row:
    """One solve of one case.

    Attributes:
        method: row of the table.
        distribution, size, grid_seed, deadline: the case.
        value: f of the route found.
        probability: of being on time.
        optimum: probability of the proven optimum.
        gap: optimum - probability.
        status: of the result.
        oracle_calls: counted by the run.
        cpu_ms: of the whole solve.
    """

    method: str
    distribution: str
    size: int
    grid_seed: int
    deadline: str
    value: float
    probability: float
    optimum: float
    gap: float
    status: str
    oracle_calls: int
    cpu_ms: float


def measure(cases: Sequence[Case], *, seed: int = 0) -> Iterator[Row]:
    """Solve every case by every method.

    Raises:
        RuntimeError: the judge did not prove an optimum, so nothing can be said about that case.
    """
    for method, options in METHODS.values():  # load code and compiled kernels
        surco.solve(Case("code", 5, 0, "tight").problem(), method, seed=seed, **options)
    for case in cases:
        judge = case.problem().exact()
        if not judge.is_optimal:
            raise RuntimeError(f"The exact method did not prove an optimum of {case}.")
        optimum = _probability(judge.bound)
        for label, (method, options) in METHODS.items():
            problem = case.problem()
            start = time.process_time()
            result = surco.solve(problem, method, seed=seed, **options)
            cpu_ms = 1e3 * (time.process_time() - start)
            found = _probability(result.value)
            yield Row(
                label,
                case.distribution,
                case.size,
                case.grid_seed,
                case.deadline,
                result.value,
                found,
                optimum,
                optimum - found,
                result.status.value,
                result.stats.oracle_calls,
                cpu_ms,
            )


def table(rows: Sequence[Row], *, has_published: bool = True) -> str:
    """Markdown table, a block a distribution and size; the published code's row where it was measured."""
    lines = [
        "| distribution | grid | method | cases | optimal | worst gap | mean P | CPU-ms (max) | oracle calls |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for distribution, size in dict.fromkeys((row.distribution, row.size) for row in rows):
        start = f"| {distribution} | {size}x{size} |"
        for label in METHODS:
            part = [r for r in rows if (r.distribution, r.size, r.method) == (distribution, size, label)]
            cpu = [r.cpu_ms for r in part]
            lines.append(
                f"{start} {label} | {len(part)} | {100 * _mean(r.gap <= TOLERANCE for r in part):.1f} % "
                f"| {max(r.gap for r in part):.5f} | {_mean(r.probability for r in part):.5f} "
                f"| {_mean(cpu):.2f} ({max(cpu):.1f}) | {_mean(r.oracle_calls for r in part):.1f} |"
            )
        published = [REFERENCE[key] for name in DEADLINES if (key := (distribution, size, name)) in REFERENCE]
        if published and has_published:
            worst = [gap for _, gap, _ in published if gap is not None]
            cpu_ms = REFERENCE_CPU_MS.get((distribution, size))
            lines.append(
                f"{start} *{PUBLISHED}* | 75 | {100 * _mean(share for share, _, _ in published):.1f} % "
                f"| {f'{max(worst):.4f}' if worst else '-'} | {_mean(mean for _, _, mean in published):.4f} "
                f"| {'-' if cpu_ms is None else f'{cpu_ms:.0f}'} | <= {CALLS} |"
            )
    return "\n".join(lines)


def deadline_table(rows: Sequence[Row], *, has_published: bool = True) -> str:
    """Markdown table of the mean on-time probability, a line a distribution, size and deadline."""
    lines = [
        f"| distribution | grid | deadline | {' | '.join(METHODS)} | *{PUBLISHED}* | optimum |",
        "|" + "---|" * (len(METHODS) + 5),
    ]
    for key in dict.fromkeys((row.distribution, row.size, row.deadline) for row in rows):
        part = [row for row in rows if (row.distribution, row.size, row.deadline) == key]
        means = [_mean(row.probability for row in part if row.method == label) for label in METHODS]
        published = f"{REFERENCE[key][2]:.4f}" if has_published and key in REFERENCE else "-"
        cells = [key[0], f"{key[1]}x{key[1]}", key[2], *(f"{mean:.4f}" for mean in means), published]
        lines.append(f"| {' | '.join(cells)} | {_mean(row.optimum for row in part):.4f} |")
    return "\n".join(lines)


NOTES = f"""\
- optimal: within {TOLERANCE:g} of the proven optimum's on-time probability; gap: difference of probability.
- `random`, `zero` and `linear` start at the mean travel times and may spend {CALLS} oracle calls; every method stops
  once its route meets the problem's lower bound, so calls are calls until the proof.
- `auto`, `exact`, `hull search` and the heuristic search shortest-path trees of their own: the ledger counts only calls
  of the linear oracle.
- At these deadlines the path of least expected time (`linear`) is nearly always the best one or close to it.
- CPU-ms: process CPU time of one whole `surco.solve` on a problem just built; building it is not included.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.routes", description="On-time routes against the proven optimum."
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="rows, table and provenance go here")
    parser.add_argument("--draws", type=int, default=25, help="grids a distribution and size (default 25)")
    parser.add_argument(
        "--first-seed",
        type=int,
        metavar="S",
        help="grids S, S + 1, ... instead of the published experiment's own seeds",
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="seed of the methods")
    arguments = parser.parse_args(argv)
    first, draws = arguments.first_seed, arguments.draws
    seeds = reference_seeds(draws) if first is None else list(range(first, first + draws))
    cases = [
        Case(distribution, size, seed, deadline)
        for distribution in DISTRIBUTIONS
        for size in arguments.sizes
        for seed in seeds
        for deadline in DEADLINES
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    with (arguments.out / "routes.jsonl").open("w", encoding="utf-8") as file:
        for row in measure(cases, seed=arguments.seed):
            rows.append(row)
            file.write(json.dumps(asdict(row)) + "\n")
            if len(rows) % (50 * len(METHODS)) == 0:
                print(f"{len(rows) // len(METHODS)} of {len(cases)} cases", file=sys.stderr)
    origin: dict[str, Any] = {
        **provenance.origin(argv, "python -m benchmarks.routes"),
        "grid_seeds": seeds,
        "seed": arguments.seed,
    }
    (arguments.out / "provenance.json").write_text(json.dumps(origin, indent=2), encoding="utf-8")
    is_published = seeds == reference_seeds()  # the published code's figures hold for these grids alone
    first, second = table(rows, has_published=is_published), deadline_table(rows, has_published=is_published)
    text = f"# On-time routes against the proven optimum\n\n{first}\n\n{NOTES}\n## By deadline\n\n{second}\n"
    (arguments.out / "routes.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _probability(value: float) -> float:
    return 0.5 * math.erfc(value / math.sqrt(2.0))


def _mean(numbers: Any) -> float:
    numbers = list(numbers)
    return sum(numbers) / len(numbers)


if __name__ == "__main__":
    sys.exit(main())
