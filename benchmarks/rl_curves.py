"""Training curves of the planning policy over several seeds: means, deviations, and a picture.

    python -m benchmarks.rl_curves DIR --out FILE --picture curves.png

DIR holds one folder a run: ``imitation-SEED`` (of ``python -m rl.planning_training``, with ``curve.jsonl``),
``ppo-SEED`` and ``tune-SEED`` (of ``python -m rl.train planning``, from fresh weights and from the shipped policy, with
``progress.jsonl``). Figures are percent over the proven bound for imitation, whose validation networks are solved to
proof, and over the relaxation's bound for PPO, whose networks are not: the two are not comparable with each other.
With ``--evaluate`` the policies in ``imitation-SEED`` plan held-out networks as well (greedy rollout, then trimmed,
then exchanged; judged independently).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from surco import provenance
from surco.atomic import write_text

Row = dict[str, Any]
KINDS = {
    "imitation": ("curve.jsonl", "round", {"greedy_percent": 1.0, "trim_percent": 1.0}),
    "ppo": ("progress.jsonl", "steps", {"evaluation_cost_over_bound": 100.0, "cost_over_bound": 100.0, "return": 1.0}),
    "tune": ("progress.jsonl", "steps", {"evaluation_cost_over_bound": 100.0, "cost_over_bound": 100.0, "return": 1.0}),
}


def series(folder: Path, kind: str) -> dict[str, list[tuple[float, float]]]:
    """Figure -> (place, value) of one run; ratios to a bound become percent over it."""
    file, place, figures = KINDS[kind]
    lines = [json.loads(line) for line in (folder / file).read_text(encoding="utf-8").splitlines()]
    found: dict[str, list[tuple[float, float]]] = {}
    for name, scale in figures.items():
        shift = 1.0 if scale == 100.0 else 0.0
        told = [line for line in lines if line.get(name) is not None and np.isfinite(line[name])]  # an untrained policy
        known = [(float(line[place]), scale * (line[name] - shift)) for line in told]  # may find no plan at all
        if known:
            found[name] = known
    return found


def gathered(runs: dict[int, list[tuple[float, float]]], *, points: int = 12, is_rising: bool = False) -> Row:
    """Mean and standard deviation (of the sample) over seeds, at places that all runs reached.

    Runs that note the same places keep them; others are interpolated on ``points`` common ones. The best of a run is
    its least value there, or its largest if the figure ``is_rising``.
    """
    places = [np.array([x for x, _ in run]) for run in runs.values()]
    last = min(float(x[-1]) for x in places)
    first = max(float(x[0]) for x in places)
    shared = [x[x <= last] for x in places]
    is_same = all(len(x) == len(shared[0]) and (x == shared[0]).all() for x in shared)
    grid = shared[0] if is_same else np.linspace(first, last, points)
    values = np.array([np.interp(grid, x, [y for _, y in run]) for x, run in zip(places, runs.values(), strict=True)])
    best = values.max(axis=1) if is_rising else values.min(axis=1)
    spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(len(grid))
    return {
        "at": grid.tolist(),
        "mean": values.mean(axis=0).round(4).tolist(),
        "deviation": spread.round(4).tolist(),
        "best_of_run": {
            "mean": round(float(best.mean()), 4),
            "deviation": round(float(best.std(ddof=1)), 4) if len(values) > 1 else 0.0,
        },
    }


def picture(table: dict[str, dict[str, Row]], runs: dict[str, dict[int, dict[str, Any]]], path: Path) -> None:
    """One panel a kind: every seed thin, the mean thick, its deviation shaded."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    titles = {
        "imitation": "imitation (validation networks, proven bound)",
        "ppo": "PPO from fresh weights (held-out random networks)",
        "tune": "PPO from the shipped policy (held-out random networks)",
    }
    kinds = [kind for kind in KINDS if kind in table]
    figure, axes = pyplot.subplots(1, len(kinds), figsize=(5.2 * len(kinds), 3.8), squeeze=False)
    colors = {"greedy_percent": "C0", "trim_percent": "C1", "evaluation_cost_over_bound": "C2"}
    labels = {"greedy_percent": "greedy rollout", "trim_percent": "after trim", "evaluation_cost_over_bound": "rollout"}
    for axis, kind in zip(axes[0], kinds, strict=True):
        for name in [n for n in colors if n in table[kind]]:
            for run in runs[kind].values():
                if name in run:
                    axis.plot(*zip(*run[name], strict=True), color=colors[name], alpha=0.3, linewidth=0.8)
            row = table[kind][name]
            mean, spread = np.array(row["mean"]), np.array(row["deviation"])
            axis.plot(row["at"], mean, color=colors[name], linewidth=2.0, label=labels[name])
            axis.fill_between(row["at"], mean - spread, mean + spread, color=colors[name], alpha=0.2, linewidth=0.0)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axis.yaxis.set_minor_formatter(ticker.FormatStrFormatter("%g"))
        axis.tick_params(axis="y", which="both", labelsize=7)
        axis.set_xlabel("round" if kind == "imitation" else "environment steps")
        axis.set_ylabel("cost over the bound, percent")
        axis.set_title(f"{titles[kind]}, {len(runs[kind])} seeds", fontsize=9)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def planned(folders: dict[int, Path], networks: list[str]) -> list[Row]:
    """Plans of each seed's policy on networks that none was trained on, over the proven bound of the exact engine."""
    import torch

    from benchmarks.planning import judged
    from problems.planning import Decomposition, compile_instance, from_topohub
    from rl.two_stage import first_stage, planning_policy

    torch.set_num_threads(1)
    rows: list[Row] = []
    for name in networks:
        instance = from_topohub(name)
        network = compile_instance(instance)
        exact = Decomposition(network, tolerance=1e-4)
        bound = exact.run(60.0, clock=time.process_time).lower
        for seed, folder in folders.items():
            found = first_stage(Decomposition(network, tolerance=1e-4), planning_policy(str(folder)))
            plans = {"rollout": found.rollout, "trim": found.trimmed, "exchanges": found.polished}
            cells = {k: 100.0 * (judged(instance, network, plan) / bound - 1.0) for k, plan in plans.items()}
            rows.append({"network": name, "seed": seed, **{f"{k}_percent": round(v, 3) for k, v in cells.items()}})
            sys.stderr.write(json.dumps(rows[-1]) + "\n")
    return rows


def main(argv: list[str] | None = None) -> None:
    """The command."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rl_curves", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--evaluate", nargs="*", default=[], metavar="NETWORK", help="held-out networks to plan")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(words)
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for kind, (file, _, _) in KINDS.items():
        found = {int(path.name.split("-")[1]): path for path in sorted(options.folder.glob(f"{kind}-*"))}
        known = {seed: series(path, kind) for seed, path in found.items() if (path / file).is_file()}
        if known:
            runs[kind] = known
    table: dict[str, dict[str, Row]] = {}
    for kind, by_seed in runs.items():
        names = [name for name in KINDS[kind][2] if all(name in run for run in by_seed.values())]
        table[kind] = {
            name: gathered({s: run[name] for s, run in by_seed.items()}, is_rising=name == "return") for name in names
        }
    folders = {s: options.folder / f"imitation-{s}" for s in runs.get("imitation", {})}
    shown = provenance.without_paths(words, {"--out": "FILE", "--picture": "PICTURE", "": "DIR"})
    report = {
        "what": "training curves over seeds",
        "seeds": {kind: sorted(by_seed) for kind, by_seed in runs.items()},
        "curves": table,
        "held_out": planned(folders, options.evaluate) if options.evaluate else [],
        "runs": runs,
        "provenance": provenance.origin(shown, "python -m benchmarks.rl_curves"),
    }
    write_text(options.out, json.dumps(report) + "\n")
    if options.picture:
        picture(table, runs, options.picture)


if __name__ == "__main__":
    main()
