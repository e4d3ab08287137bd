"""Pass-through on many seeds at once: which devices and brushes of the 10 nm grid meet the spec, and how well.

    python -m benchmarks.gpu_photonics_campaign --out "$OUT/campaign" --seconds 540          # on a GPU
    python -m benchmarks.gpu_photonics_campaign --out runs/campaign --judge 1                # later, on a CPU

Needs torch, numpy, scipy and numba. A cell is a device and a brush: ``--seeds`` designs learn for ``--steps`` steps.
The seeds of a cell go through the loop in ``--groups`` groups, so that threads paint one group (the painter runs on the
CPU, a design a thread) while the simulator solves the other; on a GPU each group's step is one CUDA graph.

Bounded and resumable: the run stops in time for ``--seconds``; the same command goes on in the cell it stopped in. In
``--out``: ``campaign.jsonl``, a line for each finished cell (steps to spec and best metric of each seed, painter calls,
seconds), ``designs.npz`` with each seed's best design and its metric at every step, and the state of an unfinished
cell. ``--judge N`` has the best N designs of each cell judged by unmodified ceviche and by morphology.

The objective is the literature's loss, also after the spec is met. ``--objective margin`` goes on with the margin then
(see `Objective`); on the mode converter at 40 nm that ended lower (two seeds, 180 steps: best metrics 0.28 and 0.40 by
the literature's loss, 0.13 and 0.20 by the margin), so it is not the default.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from problems.photonics import DOMAIN, PhotonicProblem
from problems.photonics.graphs import GraphedStep
from problems.photonics.targets import Spec, signed_distance

logger = logging.getLogger("gpu_photonics_campaign")
BRUSHES = (6, 8, 10, 12, 14, 16, 18, 20)
DEVICES = ("mode-converter", "bend", "power-splitter", "wdm", "beam-splitter")
BETAS = (0.667, 0.9)


class Objective:
    """Loss and metric of a batch of S, with bounds that stay on the device (a CUDA graph must not copy them).

    ``spec`` is the literature's loss: softplus(d / smallest window)^2, summed over ports. ``margin`` takes each bound
    by its own window, as the metric does, sharper: softplus(k d / window)^2 / k^2. It goes on where the metric does;
    the literature's loss hardly sees a port with a wide window once that is met.

    Args:
        spec: windows.
        wavelengths: how many.
        device: of S.
        kind: ``spec`` or ``margin``.
        sharpness: k.
    """

    def __init__(
        self, spec: Spec, wavelengths: int, device: torch.device, kind: str = "spec", sharpness: float = 8.0
    ) -> None:
        self.lower, self.upper = (bound.to(device) for bound in spec.windows(wavelengths))
        own = self.upper - self.lower
        self.window = own
        smallest = torch.full_like(own, float(own.min()))
        self.scale, self.sharpness = (smallest, 1.0) if kind == "spec" else (own / sharpness, sharpness)

    def distance(self, s: Tensor) -> Tensor:
        """Signed distances [B, L, P] in power of S [B, L, P, 1]."""
        return signed_distance(s[..., 0].abs() ** 2, self.lower, self.upper)

    def loss(self, s: Tensor) -> Tensor:
        """[B]."""
        parts = torch.nn.functional.softplus(self.distance(s) / self.scale) / self.sharpness
        return (parts**2).sum(-1).mean(-1)

    def metric(self, s: Tensor) -> Tensor:
        """[B], > 0 = spec met."""
        return -(self.distance(s) / self.window).flatten(1).amax(1)


@dataclass(slots=True)
class Group:
    """Seeds that step together, on the simulator's device; ``weight`` [R] is 1 for rows that learn by the margin."""

    seeds: list[int]
    latent: Tensor
    first: Tensor
    second: Tensor
    best: Tensor
    best_x: Tensor
    steps: int = 0
    history: list[list[float]] = field(default_factory=list)
    painting: list[Future[Any]] = field(default_factory=list)
    costs: Tensor | None = None
    weight: Tensor | None = None

    @classmethod
    def fresh(cls, problem: PhotonicProblem, seeds: list[int], device: torch.device) -> Group:
        """Random latents, each row by its own seed."""
        rows = [problem.initial_latent(1, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        latent = torch.cat(rows).to(device)
        best = torch.full((len(seeds),), -torch.inf, dtype=torch.float64, device=device)
        return cls(seeds, latent, torch.zeros_like(latent), torch.zeros_like(latent), best, torch.zeros_like(latent))


class Cell:
    """One device with one brush.

    Args:
        name: for files.
        problem: its simulator lives where the batch is solved.
        options: of the command line.
        pool: threads that paint.
    """

    def __init__(
        self, name: str, problem: PhotonicProblem, options: argparse.Namespace, pool: ThreadPoolExecutor
    ) -> None:
        self.name, self.problem, self.options, self.pool = name, problem, options, pool
        self.device = problem.simulator.torch_device
        count = len(problem.device.wavelengths_nm)
        self.objectives = {kind: Objective(problem.target, count, self.device, kind) for kind in ("spec", "margin")}
        self.graphs: dict[int, GraphedStep] = {}
        self.is_graphed = self.device.type == "cuda" and not options.no_graphs
        self.spent = {"paint_wait": 0.0, "rest": 0.0}
        self.file = options.out / f"{name}.npz"
        seeds = list(range(options.first_seed, options.first_seed + options.seeds))
        parts = [seeds[k :: options.groups] for k in range(options.groups)]
        self.groups = [Group.fresh(problem, part, self.device) for part in parts if part]
        if self.file.is_file():
            self._load()

    # ------------------------------------------------------------------ loop

    def run(self, deadline: float) -> bool:
        """Step until done or out of time; returns whether the cell is done."""
        for group in self.groups:
            if group.steps < self.options.steps:
                self._paint(group)
        saved = time.perf_counter()
        while any(group.steps < self.options.steps for group in self.groups):
            for group in self.groups:
                if group.painting:
                    self._step(group)
            now = time.perf_counter()
            if now > deadline:
                break
            if now - saved > 60:
                self.save()
                saved = now
        for group in self.groups:  # answers that are on their way when time is up
            for future in group.painting:
                future.result()
            group.painting = []
        self.save()
        return all(group.steps >= self.options.steps for group in self.groups)

    def _paint(self, group: Group) -> None:
        """Costs of the latents, and their painting on the threads."""
        group.latent.requires_grad_()
        group.costs = self.problem.latent_costs(group.latent)
        reward = -group.costs.detach().cpu().numpy()
        paint = self.problem.oracle.painter.paint
        group.painting = [self.pool.submit(paint, reward[k : k + 1]) for k in range(len(reward))]

    def _step(self, group: Group) -> None:
        begin = time.perf_counter()
        x = torch.from_numpy(np.concatenate([future.result() for future in group.painting])).to(self.device).double()
        middle = time.perf_counter()
        group.painting = []
        s, slope = self._simulate(group, self.problem.design(x))
        metric = self.objectives["spec"].metric(s)
        is_better = metric > group.best
        group.best = torch.where(is_better, metric, group.best)
        group.best_x = torch.where(is_better[:, None], x, group.best_x)
        assert group.costs is not None
        classes = self.problem.oracle.painter.incidence.classes
        pulled = torch.zeros_like(x).index_add_(1, torch.from_numpy(classes.ravel()).to(self.device), slope.flatten(1))
        (gradient,) = torch.autograd.grad(group.costs, group.latent, -pulled)  # straight through: dx / dcosts = -1
        self._adam(group, gradient)
        group.steps += 1
        group.history.append(metric.tolist())
        if group.steps < self.options.steps:
            self._paint(group)
        self.spent["paint_wait"] += middle - begin
        self.spent["rest"] += time.perf_counter() - middle

    def _simulate(self, group: Group, design: Tensor) -> tuple[Tensor, Tensor]:
        """S and the slope of the loss; rows that have met the spec are pushed on by the margin."""
        if group.weight is None:
            group.weight = torch.zeros_like(group.best)
        if self.options.objective == "margin":
            group.weight.copy_(group.best > 0)  # in place: a graph reads it where it was captured

        def scalar(s: Tensor) -> Tensor:
            # Adam does not see the size of a row's gradient, so that a row may change its loss on the way.
            assert group.weight is not None
            spec, margin = (self.objectives[kind].loss(s) for kind in ("spec", "margin"))
            return ((1 - group.weight) * spec + group.weight * margin).sum()

        if self.is_graphed and id(group) not in self.graphs:
            try:
                self.graphs[id(group)] = GraphedStep(self.problem.simulator, design, scalar, ports_in=(0,))
            except RuntimeError as error:
                self.is_graphed = False
                logger.warning("%s: no CUDA graph, going on without: %s", self.name, str(error)[:300])
        if self.is_graphed:
            s, slope = self.graphs[id(group)](design)
            return s.clone(), slope.clone()
        design = design.requires_grad_()
        s = self.problem.simulator.s_parameters(design, ports_in=(0,))
        (slope,) = torch.autograd.grad(scalar(s), design)
        return s.detach(), slope

    def _adam(self, group: Group, gradient: Tensor) -> None:
        """Adam as `problems.photonics.methods.LatentDescent` has it."""
        t, (b1, b2) = group.steps + 1, BETAS
        group.first = b1 * group.first + (1 - b1) * gradient
        group.second = b2 * group.second + (1 - b2) * gradient.square()
        scale = gradient.abs().amax(-1, keepdim=True)
        move = (group.first / (1 - b1**t)) / ((group.second / (1 - b2**t)).sqrt() + 1e-8 * scale + 1e-300)
        group.latent = group.latent.detach() - self.options.step_size * move

    # ------------------------------------------------------------------ files

    @property
    def history(self) -> np.ndarray:
        """Metric of every step [steps, seeds], in the order of the seeds."""
        by_seed = {
            seed: [step[k] for step in group.history] for group in self.groups for k, seed in enumerate(group.seeds)
        }
        return np.array([by_seed[seed] for seed in sorted(by_seed)]).T

    def designs(self) -> np.ndarray:
        """Best design of each seed, [seeds, n] bool, in the order of the seeds."""
        rows = {
            seed: x for group in self.groups for seed, x in zip(group.seeds, group.best_x.cpu().numpy(), strict=True)
        }
        return np.stack([rows[seed] for seed in sorted(rows)]) > 0.5

    def save(self) -> None:
        """State of an unfinished cell, to go on from."""
        state: dict[str, np.ndarray] = {}
        for g, group in enumerate(self.groups):
            for key in ("latent", "first", "second", "best", "best_x"):
                state[f"{key}{g}"] = getattr(group, key).detach().cpu().numpy()
            state[f"seeds{g}"] = np.array(group.seeds)
            state[f"history{g}"] = np.array(group.history).reshape(-1, len(group.seeds))
        state["spent"] = np.array(list(self.spent.values()))
        scratch = self.file.with_suffix(".tmp.npz")
        np.savez(scratch, **state)  # type: ignore[arg-type]
        scratch.replace(self.file)

    def _load(self) -> None:
        with np.load(self.file, allow_pickle=False) as state:
            for g, group in enumerate(self.groups):
                if state.get(f"seeds{g}", np.zeros(0)).tolist() != group.seeds:
                    raise SystemExit(f"{self.file} is of other --seeds or --groups; use those, or another --out.")
                for key in ("latent", "first", "second", "best", "best_x"):
                    setattr(group, key, torch.from_numpy(state[f"{key}{g}"]).to(self.device))
                group.history = state[f"history{g}"].tolist()
                group.steps = len(group.history)
            self.spent = dict(zip(self.spent, state["spent"].tolist(), strict=True))

    def summary(self) -> dict[str, Any]:
        """One line of the campaign."""
        history = self.history
        best = history.max(0)
        met = history > 0
        return {
            "cell": self.name, "id": self.problem.id, "brush": self.problem.brush.name,
            "border": self.options.border, "objective": self.options.objective, "step_size": self.options.step_size,
            "seeds": sorted(seed for group in self.groups for seed in group.seeds), "steps": len(history),
            "met": int(met.any(0).sum()), "steps_to_spec": [int(m.argmax()) + 1 if m.any() else None for m in met.T],
            "best_metric": best.tolist(), "best": float(best.max()), "median": float(np.median(best)),
            "generator_calls": int(history.size),
            "simulations": int(history.size) * len(self.problem.device.wavelengths_nm),
            "seconds": sum(self.spent.values()), "seconds_waiting_for_painter": self.spent["paint_wait"],
            "is_graphed": self.is_graphed, "groups": len(self.groups),
            "infeasible": int((self.problem.oracle.violation(self.designs().astype(float)) > 0).sum()),
        }  # fmt: skip


# ---------------------------------------------------------------------- campaign


def make_problem(device: str, brush_px: int, options: argparse.Namespace, torch_device: str) -> PhotonicProblem:
    """The problem of a cell."""
    id = f"photonics/{device}-{options.grid}nm-v0"
    overrides: dict[str, Any] = {"brush": f"circle-{brush_px}px", "border": options.border}
    if options.wavelengths is not None:
        overrides["wavelengths_nm"] = options.wavelengths
    return DOMAIN.make(id, torch_device=torch_device, **overrides)


def campaign(options: argparse.Namespace) -> int:
    """Run cell after cell until all are done or time is up."""
    begin = time.perf_counter()
    deadline = begin + options.seconds - options.reserve
    options.out.mkdir(parents=True, exist_ok=True)
    lines, archive = options.out / "campaign.jsonl", options.out / "designs.npz"
    known = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    done = {row["cell"] for row in known}
    kept: dict[str, np.ndarray] = {}
    if archive.is_file():
        with np.load(archive, allow_pickle=False) as old:
            kept = {key: old[key] for key in old.files}
    machine = {
        "device": torch.cuda.get_device_name(0) if options.torch_device == "cuda" else platform.processor() or "CPU",
        "torch": torch.__version__, "threads": options.threads,
    }  # fmt: skip
    logger.info("%s", machine)
    with ThreadPoolExecutor(options.threads) as pool:
        for device in options.devices:
            for brush_px in options.brushes:
                name = f"{device}-{options.grid}nm-{brush_px}px-{options.border}"
                if name in done:
                    continue
                if time.perf_counter() > deadline:
                    logger.info("time is up; run the same command again to go on with %s", name)
                    return 0
                setup = time.perf_counter()
                problem = make_problem(device, brush_px, options, options.torch_device)
                problem.simulator.memory_gb = options.memory_gb
                cell = Cell(name, problem, options, pool)
                setup = time.perf_counter() - setup
                if not cell.run(deadline):
                    logger.info("%s stopped at step %d", name, len(cell.groups[0].history))
                    return 0
                row: dict[str, Any] = cell.summary() | {"setup_seconds": setup} | machine
                kept[f"{name}/designs"] = np.packbits(cell.designs(), axis=1)
                kept[f"{name}/history"] = cell.history.astype(np.float32)
                np.savez_compressed(archive, **kept)  # type: ignore[arg-type]
                with lines.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                cell.file.unlink(missing_ok=True)
                logger.info(
                    "%-32s met %d/%d  best %.3f  median %.3f  steps to spec %s  %.0f s (%.0f of them for the painter)",
                    name, row["met"], len(row["seeds"]), row["best"], row["median"],
                    sorted(s for s in row["steps_to_spec"] if s), row["seconds"], row["seconds_waiting_for_painter"],
                )  # fmt: skip
    return 0


def judge(options: argparse.Namespace) -> int:
    """Judge the best designs of each finished cell by unmodified ceviche, on a CPU."""
    from problems.photonics.verify import verify

    bad = 0
    with np.load(options.out / "designs.npz", allow_pickle=False) as archive:
        for line in (options.out / "campaign.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            device, px = row["id"].split("/")[1].rsplit("-", 2)[0], int(row["brush"].split("-")[1][:-2])
            problem = make_problem(device, px, options, "cpu")
            packed = archive[f"{row['cell']}/designs"]
            for k in np.argsort(row["best_metric"])[::-1][: options.judge]:
                x = torch.from_numpy(np.unpackbits(packed[k], count=problem.n).astype(np.float64))
                verdict = verify(problem, x, judge=options.judge_with)
                bad += not verdict.is_confirmed
                found = {"cell": row["cell"], "seed": row["seeds"][k], "is_confirmed": verdict.is_confirmed}
                found |= dict(verdict.facts) | {"judge": options.judge_with, "stored_metric": row["best_metric"][k]}
                logger.info("%s", json.dumps(found))
                with (options.out / "judged.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(found) + "\n")
    return 1 if bad else 0


def main() -> int:
    """Campaign, or judgement of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", nargs="+", default=list(DEVICES), choices=DEVICES)
    parser.add_argument("--brushes", nargs="+", type=int, default=list(BRUSHES), help="circle diameters, pixels")
    parser.add_argument("--grid", default="10", choices=("10", "40"))
    parser.add_argument("--border", default="free", choices=("free", "fixed"))
    parser.add_argument("--objective", default="spec", choices=("spec", "margin"))
    parser.add_argument("--wavelengths", nargs="+", type=float, help="nm; default those of the id")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--step-size", type=float, default=0.05)
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--torch-device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory-gb", type=float, default=30.0, help="of factors held at once by a group")
    parser.add_argument("--no-graphs", action="store_true")
    parser.add_argument("--seconds", type=float, default=540.0, help="wall clock; the run ends before")
    parser.add_argument("--reserve", type=float, default=20.0, help="seconds of it kept for the last step and files")
    parser.add_argument("--judge", type=int, default=0, help="judge so many designs of each finished cell instead")
    parser.add_argument("--judge-with", default="ceviche", choices=("ceviche", "direct"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    return judge(options) if options.judge else campaign(options)


if __name__ == "__main__":
    sys.exit(main())
