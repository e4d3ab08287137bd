"""Training steps as CUDA graphs: what does not ask the oracle runs as one launch, without the host in between."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from solvers.fanout import MapPool
from surco.instance_family import Batch, Instance
from surco.training.gradients import GRADIENTS, Step, Work, ended
from surco.training.steps import LANDSCAPE, TARGET, Learner, taken_from

WARM_UPS = 3  # of eager steps before recording, as torch asks for


class CapturedSteps:
    """The steps of `EagerSteps`, recorded once and replayed.

    The networks are small: on a GPU an eager step spends its time on launching kernels. The training set stays on the
    device, padded to one size, so that every step has the same shapes. A step through the oracle is two graphs,

        take features, forward, noise | oracle | gradient of the costs, backward, Adam

    a regression is one. Batch, noise and step size come in by tensors that are overwritten before a replay; the noise
    is that of an eager step of the same seed and padding. Nothing waits for the device but the oracle.

    Args:
        learner: what is trained, on a CUDA device, in one part.
        instances: the training set, at least a batch.
        pool: for the oracle calls.
    """

    def __init__(self, learner: Learner, instances: Sequence[Instance], pool: MapPool | None) -> None:
        self.learner, self.instances, self.pool = learner, instances, pool
        device = learner.device
        self.resident = learner.batch(instances)
        count = min(learner.settings.batch, len(instances))
        self._index = torch.zeros(count, dtype=torch.int64, device=device)
        self._rates = torch.zeros(2, device=device)
        self._generator = torch.Generator(device)
        self._total = torch.zeros((), dtype=torch.float64, device=device)
        self._count = 0
        self._graphs: list[torch.cuda.CUDAGraph] = []
        # Between the two graphs: costs with their tape, the gradient at its question, and the answer.
        self._batch: Batch | None = None
        self._costs: Tensor | None = None
        self._work: Work | None = None
        self._asked: Tensor | None = None
        self._answer: tuple[Tensor, Tensor] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._graphs.clear()

    def loss(self) -> float:
        """Mean loss of the steps since the last call; waits for the device."""
        mean = float(self._total) / self._count if self._count else math.nan
        self._total.zero_()
        self._count = 0
        return mean

    def one(self, chosen: NDArray[np.int64], seeds: Sequence[int], step_size: float) -> None:
        """One step."""
        begun = time.perf_counter()
        rows = [self.instances[k] for k in chosen]
        # From pageable memory a copy that does not block is safe: the driver has taken the values when it returns.
        self._index.copy_(torch.from_numpy(chosen), non_blocking=True)
        if not self._graphs:
            self._record(rows)
        self._generator.manual_seed(seeds[0])
        self._rates.copy_(self.learner.optimizer.rates(step_size), non_blocking=True)
        self._graphs[0].replay()
        asking = 0.0
        if len(self._graphs) > 1:
            clock = time.perf_counter()
            self._ask(rows)
            asking = time.perf_counter() - clock
            self._graphs[1].replay()
        self._count += 1
        self.learner.spent["gradient"] += asking
        self.learner.spent["forward_backward"] += time.perf_counter() - begun - asking

    # ------------------------------------------------------------------ what is recorded

    def _fit(self) -> None:
        features = taken_from(self.resident, self._index).features
        loss = self.learner.landscape_loss(features, self._generator)
        loss.backward()
        self.learner.optimizer.update(self._rates)
        self._total += loss.detach()

    def _begin(self) -> None:
        learner, s = self.learner, self.learner.settings
        self._batch = batch = taken_from(self.resident, self._index)
        self._costs = costs = learner.costs(batch.features)
        target = batch.features.get(TARGET)
        step = Step(
            learner.family, batch, (), costs.detach(), self._generator, s.samples, s.sigma, None, target, s.is_relaxed
        )
        with torch.no_grad():
            self._work = GRADIENTS[learner.gradient](step)
            self._asked = next(self._work)

    def _end(self) -> None:
        assert self._work is not None
        assert self._answer is not None
        assert self._costs is not None
        with torch.no_grad():
            loss, grad = ended(self._work, self._answer)
        self._costs.backward(torch.nan_to_num(grad, posinf=0.0, neginf=0.0) / len(self._index))
        self.learner.optimizer.update(self._rates)
        is_known = torch.isfinite(loss)
        self._total += torch.where(is_known, loss, 0.0).sum() / is_known.sum().clamp(min=1)

    def _ask(self, rows: Sequence[Instance]) -> None:
        """The oracle's answer into the tensors that the second graph reads."""
        assert self._batch is not None
        assert self._asked is not None
        with torch.no_grad():
            x, has_point = self.learner.family.solve(
                self._batch, rows, self._asked, pool=self.pool, is_relaxed=self.learner.settings.is_relaxed
            )
        if self._answer is None:
            self._answer = x.clone(), has_point.clone()
        else:
            self._answer[0].copy_(x)
            self._answer[1].copy_(has_point)

    # ------------------------------------------------------------------ recording

    def _record(self, rows: Sequence[Instance]) -> None:
        """Warm up, put the weights back, and record."""
        learner = self.learner
        weights = [p.detach().clone() for p in learner.optimizer.parameters]
        state = learner.optimizer.state()
        stream = torch.cuda.Stream(learner.device)
        stream.wait_stream(torch.cuda.current_stream(learner.device))
        is_landscape = learner.gradient == LANDSCAPE
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._rates.copy_(learner.optimizer.rates(0.0))
                if is_landscape:
                    self._fit()
                else:
                    self._begin()
                    self._ask(rows)
                    self._end()
        torch.cuda.current_stream(learner.device).wait_stream(stream)
        torch.cuda.synchronize(learner.device)
        with torch.no_grad():
            for p, value in zip(learner.optimizer.parameters, weights, strict=True):
                p.copy_(value)
        learner.optimizer.restore(state)
        self._total.zero_()
        self._batch = self._costs = self._work = self._asked = None  # the warm-up's tape ends here
        first = self._captured(self._fit if is_landscape else self._begin, stream, None)
        self._graphs = [first]
        if not is_landscape:
            self._graphs.append(self._captured(self._end, stream, first))

    def _captured(
        self, body: Callable[[], None], stream: torch.cuda.Stream, before: torch.cuda.CUDAGraph | None
    ) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        if before is None:  # the second graph draws nothing
            graph.register_generator_state(self._generator)
        with torch.cuda.graph(graph, pool=None if before is None else before.pool(), stream=stream):
            body()
        return graph
