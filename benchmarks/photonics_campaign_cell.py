"""A cell of a photonic campaign: seeds of one device and brush that learn side by side, stopped and resumed at will."""

from __future__ import annotations

import argparse
import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.photonics_campaign_evaluator import Evaluator
from benchmarks.photonics_campaign_objective import KINDS, Objective
from problems.photonics import PhotonicProblem


@dataclass(slots=True)
class Group:
    """Seeds that step together, on the simulator's device; ``weight`` [R] is 1 for rows on the second objective.

    ``latent``, ``first`` and ``second`` are float32: the state of 20 seeds of the largest device must fit into two
    files of 16 MiB, and a resumed run must go on exactly as one that was never stopped.
    """

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
    spent: list[float] = field(default_factory=lambda: [0.0, 0.0])  # seconds of waiting for the painter, and others

    @classmethod
    def fresh(cls, problem: PhotonicProblem, seeds: list[int], device: torch.device) -> Group:
        """Random latents, each row by its own seed."""
        rows = [problem.initial_latent(1, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        latent = torch.cat(rows).to(device, torch.float32)
        best = torch.full((len(seeds),), -torch.inf, dtype=torch.float64, device=device)
        best_x = torch.zeros(latent.shape, dtype=torch.bool, device=device)
        return cls(seeds, latent, torch.zeros_like(latent), torch.zeros_like(latent), best, best_x)

    def save(self, path: Path) -> None:
        """Write atomically."""
        state = {key: getattr(self, key).detach().cpu().numpy() for key in ("latent", "first", "second", "best")}
        state["best_x"] = np.packbits(self.best_x.cpu().numpy(), axis=1)
        state["seeds"], state["spent"] = np.array(self.seeds), np.array(self.spent)
        state["history"] = np.array(self.history, dtype=np.float64).reshape(-1, len(self.seeds))
        scratch = path.with_suffix(".tmp")
        with scratch.open("wb") as file:
            np.savez(file, **state)  # type: ignore[arg-type]
        scratch.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a file of ``save``."""
        device = self.latent.device
        with np.load(path, allow_pickle=False) as state:
            if state["seeds"].tolist() != self.seeds:
                raise SystemExit(f"{path} is of other --seeds or --groups; use those, or another --out.")
            for key in ("latent", "first", "second", "best"):
                setattr(self, key, torch.from_numpy(state[key]).to(device))
            bits = np.unpackbits(state["best_x"], axis=1, count=self.latent.shape[1]).astype(bool)
            self.best_x = torch.from_numpy(bits).to(device)
            self.history, self.spent = state["history"].tolist(), state["spent"].tolist()
            self.steps = len(self.history)


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
        self.objectives = {kind: Objective(problem.target, count, self.device, kind) for kind in KINDS}
        self.classes = torch.from_numpy(problem.oracle.painter.incidence.classes.ravel()).to(self.device)
        self.evaluate = Evaluator(problem.simulator, name, is_graphed=not options.no_graphs)
        self.kinds = ("spec", "margin") if options.objective == "margin" else (options.objective, options.then)
        seeds = list(range(options.first_seed, options.first_seed + options.seeds))
        parts = [seeds[k :: options.groups] for k in range(options.groups)]
        self.groups = [Group.fresh(problem, part, self.device) for part in parts if part]
        for path, group in zip(self.files, self.groups, strict=True):
            if path.is_file():
                group.load(path)

    @property
    def files(self) -> list[Path]:
        """Where the state of each group is kept while the cell is unfinished."""
        return [self.options.out / f"{self.name}.group{k}.npz" for k in range(len(self.groups))]

    # ------------------------------------------------------------------ loop

    def run(self, deadline: float, own_seconds: float = math.inf) -> bool:
        """Step until done or out of time; returns whether the cell is done.

        A cell that has had ``own_seconds`` is done with the steps it has; all its seeds have as many.
        """
        for group in self.groups:
            if group.steps < self.options.steps:
                self._paint(group)
        saved = time.perf_counter()
        end = saved + own_seconds - sum(sum(group.spent) for group in self.groups)
        while any(group.steps < self.options.steps for group in self.groups):
            for group in self.groups:
                if group.painting:
                    self._step(group)
            now = time.perf_counter()
            if now > min(deadline, end):
                break
            if now - saved > 60:
                self.save()
                saved = now
        for group in self.groups:  # answers that are on their way when time is up
            for future in group.painting:
                future.result()
            group.painting = []
        self.save()
        return time.perf_counter() > end or all(group.steps >= self.options.steps for group in self.groups)

    def save(self) -> None:
        """State of an unfinished cell, to go on from."""
        for path, group in zip(self.files, self.groups, strict=True):
            group.save(path)

    def _paint(self, group: Group) -> None:
        """Costs of the latents, and their painting on the threads."""
        group.latent.requires_grad_()
        group.costs = self.problem.latent_costs(group.latent.double(), sharpness=self.options.sharpness)
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
        group.best_x = torch.where(is_better[:, None], x > 0.5, group.best_x)
        assert group.costs is not None
        pulled = torch.zeros_like(x).index_add_(1, self.classes, slope.flatten(1))
        (gradient,) = torch.autograd.grad(group.costs, group.latent, -pulled)  # straight through: dx / dcosts = -1
        self._adam(group, gradient)
        group.steps += 1
        group.history.append(metric.tolist())
        if group.steps < self.options.steps:
            self._paint(group)
        group.spent[0] += middle - begin
        group.spent[1] += time.perf_counter() - middle

    def _simulate(self, group: Group, design: Tensor) -> tuple[Tensor, Tensor]:
        """S and the slope of the loss; rows whose weight is 1 have gone on to the second objective."""
        first, second = self.kinds
        if group.weight is None:
            group.weight = torch.zeros_like(group.best)
        if self.options.then:
            group.weight.fill_(float(group.steps >= self.options.then_from * self.options.steps))
        elif second:
            group.weight.copy_(group.best > 0)  # in place: a graph reads it where it was captured

        def scalar(s: Tensor) -> Tensor:
            # Adam does not see the size of a row's gradient, so that a row may change its loss on the way.
            assert group.weight is not None
            if not second:
                return self.objectives[first].loss(s).sum()
            before, after = (self.objectives[kind].loss(s) for kind in (first, second))
            return ((1 - group.weight) * before + group.weight * after).sum()

        return self.evaluate(id(group), design, scalar)

    def _adam(self, group: Group, gradient: Tensor) -> None:
        """Adam as `problems.photonics.methods.LatentDescent` has it; the step may fall over the run."""
        t, (b1, b2) = group.steps + 1, self.options.betas
        group.first = b1 * group.first + (1 - b1) * gradient
        group.second = b2 * group.second + (1 - b2) * gradient.square()
        scale = gradient.abs().amax(-1, keepdim=True)
        move = (group.first / (1 - b1**t)) / (
            (group.second / (1 - b2**t)).sqrt() + self.options.damping * scale + 1e-30
        )
        share = 0.5 + 0.5 * math.cos(math.pi * group.steps / self.options.steps)
        fall = self.options.anneal + (1 - self.options.anneal) * share
        group.latent = group.latent.detach() - self.options.step_size * fall * move

    # ------------------------------------------------------------------ answers

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
        return np.stack([rows[seed] for seed in sorted(rows)])

    def summary(self) -> dict[str, Any]:
        """One line of the campaign."""
        history = self.history
        best = history.max(0)
        met = history > 0
        options = self.options
        return {
            "cell": self.name, "id": self.problem.id, "brush": self.problem.brush.name, "border": options.border,
            "wavelengths_nm": list(self.problem.device.wavelengths_nm), "objective": options.objective,
            "step_size": options.step_size, "anneal": options.anneal, "betas": list(options.betas),
            "damping": options.damping, "sharpness": options.sharpness,
            "then": options.then, "then_from": options.then_from if options.then else None,
            "seeds": sorted(seed for group in self.groups for seed in group.seeds), "steps": len(history),
            "met": int(met.any(0).sum()), "steps_to_spec": [int(m.argmax()) + 1 if m.any() else None for m in met.T],
            "best_metric": best.tolist(), "best": float(best.max()), "median": float(np.median(best)),
            "generator_calls": int(history.size),
            "simulations": int(history.size) * len(self.problem.device.wavelengths_nm),
            "seconds": sum(sum(group.spent) for group in self.groups),
            "seconds_waiting_for_painter": sum(group.spent[0] for group in self.groups),
            "is_graphed": self.evaluate.is_graphed, "graph_error": self.evaluate.graph_error,
            "groups": len(self.groups),
            "infeasible": int((self.problem.oracle.violation(self.designs().astype(float)) > 0).sum()),
        }  # fmt: skip
