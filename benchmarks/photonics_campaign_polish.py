"""Hill climbing from the best designs of a campaign: many small feasible changes a round, the best one kept if it pays.

Around each design the slope of a norm of all shortfalls says which pixels should turn. A candidate asks for a random
number of them, in a random place or everywhere, with or without noise; the painter's single-touch moves turn that wish
into a feasible design near the old one; the simulator judges all candidates at once. The metric never falls.
"""

from __future__ import annotations

import argparse
import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.photonics_campaign_evaluator import Evaluator
from benchmarks.photonics_campaign_objective import Objective
from problems.photonics import PhotonicProblem

_SWEEPS = 2
_LARGEST_SHARE = 0.02  # of the classes that a candidate may ask to turn


@dataclass(slots=True)
class Climbers:
    """Designs that are polished together: x [R, n] bool, metric [R], slope [R, n] of the norm."""

    x: Tensor
    metric: Tensor
    slope: Tensor
    moving: list[Future[Any]] = field(default_factory=list)


class Polish:
    """Polishes the best designs of a device and brush.

    Args:
        name: of the cell to be written.
        problem: its simulator lives where candidates are evaluated.
        designs: [R, n] bool.
        metrics: [R], of the designs.
        options: of the command line.
        pool: threads that move touches.
    """

    def __init__(
        self, name: str, problem: PhotonicProblem, designs: NDArray[np.bool_], metrics: list[float],
        options: argparse.Namespace, pool: ThreadPoolExecutor,
    ) -> None:  # fmt: skip
        self.name, self.problem, self.options, self.pool = name, problem, options, pool
        device = self.device = problem.simulator.torch_device
        self.objective = Objective(problem.target, len(problem.device.wavelengths_nm), device, "norm")
        self.evaluate = Evaluator(problem.simulator, name, is_graphed=not options.no_graphs)
        table = problem.oracle.painter.incidence
        _, first = np.unique(table.classes.ravel(), return_index=True)
        self.classes = torch.from_numpy(table.classes.ravel()).to(device)
        self.first = torch.from_numpy(first).to(device)  # a pixel of each class
        self.weight = torch.from_numpy(table.weight).to(device)
        self.generator = torch.Generator().manual_seed(options.first_seed)
        self.start, self.rounds, self.accepted, self.seconds, self.evaluations = list(metrics), 0, 0, 0.0, 0
        x = torch.from_numpy(np.asarray(designs, dtype=bool)).to(device)
        metric = torch.tensor(metrics, dtype=torch.float64, device=device)
        parts = [slice(k, None, options.groups) for k in range(min(options.groups, len(x)))]
        self.order = np.argsort(np.concatenate([np.arange(len(x))[part] for part in parts]))
        self.groups = [
            Climbers(x[part], metric[part], torch.zeros_like(x[part], dtype=torch.float64)) for part in parts
        ]

    def run(self, deadline: float) -> None:
        """Rounds until all are done or time is up."""
        begin = time.perf_counter()
        for number, group in enumerate(self.groups):
            self._judge(number, group, group.x.repeat_interleave(self.options.candidates, 0))
            self._move(group)
        while self.rounds < self.options.polish and time.perf_counter() < deadline:
            for number, group in enumerate(self.groups):
                x = np.concatenate([future.result() for future in group.moving]) > 0
                self._judge(number, group, torch.from_numpy(x).to(self.device))
                self._move(group)
            self.rounds += 1
        for group in self.groups:
            for future in group.moving:
                future.result()
        self.seconds = time.perf_counter() - begin

    def _judge(self, number: int, group: Climbers, x: Tensor) -> None:
        """Evaluate candidates [R K, n] of a group, and keep the best of each design's if it pays."""
        s, slope = self.evaluate(number, self.problem.design(x.double()), lambda s: self.objective.loss(s).sum())
        self.evaluations += len(x)
        pulled = torch.zeros(x.shape, dtype=torch.float64, device=self.device)
        pulled.index_add_(1, self.classes, slope.flatten(1))
        metric = self.objective.metric(s).reshape(len(group.x), -1)
        best = metric.argmax(1)
        is_better = (metric.amax(1) > group.metric) | (group.slope == 0).all(1)
        row = torch.arange(len(best), device=self.device) * metric.shape[1] + best
        group.x = torch.where(is_better[:, None], x[row], group.x)
        group.slope = torch.where(is_better[:, None], pulled[row], group.slope)
        self.accepted += int((metric.amax(1) > group.metric + 1e-12).sum())
        group.metric = torch.maximum(metric.amax(1), group.metric)

    def _wishes(self, group: Climbers) -> Tensor:
        """Rewards [R K, n]: the design as it is, but for the pixels that a candidate asks to turn."""
        count, (height, width) = self.options.candidates, self.problem.device.design_shape
        sign = (2.0 * group.x.double() - 1.0).repeat_interleave(count, 0)
        score = (-group.slope / self.weight).repeat_interleave(count, 0)
        rows, size = len(sign), self.problem.brush.diameter

        def draw(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=self.generator, dtype=torch.float64).to(self.device)

        coarse = (max(height // size, 2), max(width // size, 2))
        noise = torch.randn(rows, 1, *coarse, generator=self.generator, dtype=torch.float64).to(self.device)
        noise = torch.nn.functional.interpolate(noise, (height, width), mode="bilinear", align_corners=True)
        noise = noise.flatten(1)[:, self.first]
        score = torch.where(draw(rows, 1) < 0.5, score, score * (1.0 + noise))
        desire = -score * sign
        pool = min(max(self.problem.n // 16, 1), self.problem.n)
        center = desire.topk(pool, 1).indices.gather(1, (draw(rows, 1) * pool).long())
        i, j = self.first // width, self.first % width
        reach = size * torch.exp(draw(rows, 1) * math.log(6.0))
        distance = (i - i[center]) ** 2 + (j - j[center]) ** 2
        window = torch.where(draw(rows, 1) < 0.25, torch.ones_like(score), torch.exp(-distance / (2.0 * reach**2)))
        score, desire = score * window, desire * window
        most = max(int(_LARGEST_SHARE * self.problem.n), 3)
        turned = torch.exp(math.log(2.0) + draw(rows, 1) * math.log(most / 2.0)).long().clamp(1, self.problem.n - 1)
        least = desire.topk(min(most + 1, self.problem.n), 1).values.gather(1, turned).clamp_min(1e-300)
        return self.weight * (sign + (score / least).clamp(-1e6, 1e6))

    def _move(self, group: Climbers) -> None:
        """Candidates by the painter's single-touch moves, on the threads."""
        reward = self._wishes(group).cpu().numpy()
        x = group.x.cpu().numpy().astype(np.int8).repeat(self.options.candidates, 0)
        improve = self.problem.oracle.painter.improve
        group.moving = [
            self.pool.submit(improve, x[k : k + 1], reward[k : k + 1], sweeps=_SWEEPS) for k in range(len(x))
        ]

    def designs(self) -> NDArray[np.bool_]:
        """[R, n], in the order given."""
        return np.concatenate([group.x.cpu().numpy() for group in self.groups])[self.order]

    def summary(self) -> dict[str, Any]:
        """What a finished cell says, and how it got there."""
        best = torch.cat([group.metric for group in self.groups]).cpu().numpy()[self.order]
        options, wavelengths = self.options, self.problem.device.wavelengths_nm
        return {
            "cell": self.name, "id": self.problem.id, "brush": self.problem.brush.name, "border": options.border,
            "wavelengths_nm": list(wavelengths), "rounds": self.rounds, "candidates": options.candidates,
            "accepted": self.accepted, "seeds": list(range(len(best))), "met": int((best > 0).sum()),
            "steps_to_spec": [None] * len(best), "start_metric": self.start, "best_metric": best.tolist(),
            "best": float(best.max()), "median": float(np.median(best)), "generator_calls": self.evaluations,
            "simulations": self.evaluations * len(wavelengths), "seconds": self.seconds,
            "is_graphed": self.evaluate.is_graphed, "graph_error": self.evaluate.graph_error,
            "infeasible": int((self.problem.oracle.violation(self.designs().astype(float)) > 0).sum()),
        }  # fmt: skip
