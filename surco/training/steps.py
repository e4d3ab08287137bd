"""One training step: features, costs, gradient through the oracle (or a regression on measurements), Adam."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from solvers.fanout import MapPool
from surco.instance_family import VARIABLES, Batch, Family, Instance, collate
from surco.training.adam import Adam
from surco.training.config import TrainConfig
from surco.training.gradients import GRADIENTS, Step
from surco.training.overlap import Overlap

TARGET = "target"  # feature of a logged run: its design
LANDSCAPE = "landscape"  # not a gradient through the oracle: regression on measurements

PARTS = MappingProxyType({"forward_backward": 0.0, "gradient": 0.0, "hidden": 0.0})


@dataclass
class Learner:
    """A network in training.

    Attributes:
        family: of the instances.
        settings: of the run.
        gradient: name of the gradient.
        parts: of a batch.
        device: of network and objective.
        network: with its weights on ``device``.
        optimizer: of the weights.
        forward: the network, compiled where the settings say so.
        loss_of: loss of the landscape, likewise; None where the network learns none.
        spent: seconds of the parts of the steps.
    """

    family: Family
    settings: TrainConfig
    gradient: str
    parts: int
    device: torch.device
    network: nn.Module
    optimizer: Adam
    forward: Callable[[dict[str, Tensor]], Tensor] = field(init=False)
    loss_of: Callable[..., Tensor] | None = field(init=False)
    spent: dict[str, float] = field(default_factory=lambda: dict(PARTS))

    def __post_init__(self) -> None:
        loss_of: Any = getattr(self.network, "landscape_loss", None)
        is_compiled = self.settings.is_compiled
        self.forward = torch.compile(self.network) if is_compiled else self.network
        self.loss_of = torch.compile(loss_of) if is_compiled and loss_of is not None else loss_of

    def costs(self, features: Mapping[str, Tensor]) -> Tensor:
        """Costs of a batch, in single precision."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.settings.is_bf16):
            return self.forward(dict(features)).float()

    def landscape_loss(self, features: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Error of the learned landscape at plans around the known one, which the family measures."""
        assert self.loss_of is not None
        x = self.network.explored(features, self.settings.samples, generator)  # type: ignore[operator]
        with torch.no_grad():
            measured = self.family.measured(features, x)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.settings.is_bf16):
            return self.loss_of(features, x, measured).mean()

    def batch(self, instances: Sequence[Instance]) -> Batch:
        """Features of some instances on the device."""
        return collate([instance.features for instance in instances]).to(self.device, torch.float32)

    def synchronize(self) -> None:
        """Wait for the device, so that a clock is right."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Steps(Protocol):
    """How steps are taken."""

    def one(self, chosen: NDArray[np.int64], seeds: Sequence[int], step_size: float) -> None:
        """Train on some instances of the training set, the noise of each part from its own seed."""
        ...

    def loss(self) -> float:
        """Mean loss of the steps since the last call; NaN without any."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: Any) -> None: ...


class EagerSteps:
    """Steps one operation after the other. The oracle answers for a part while the network works on the next.

    Args:
        learner: what is trained.
        instances: the training set. It stays on the device, padded to one size; but not on a CPU if sizes differ.
        pool: for the oracle calls.
    """

    def __init__(self, learner: Learner, instances: Sequence[Instance], pool: MapPool | None) -> None:
        self.learner, self.instances, self.pool = learner, instances, pool
        self.overlap = Overlap(learner.parts > 1, learner.settings.threads)
        is_even = len({instance.features[VARIABLES].shape for instance in instances}) == 1
        self.resident = learner.batch(instances) if is_even or learner.device.type != "cpu" else None
        self._total, self._count = 0.0, 0

    def __enter__(self) -> Self:
        self.overlap.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.overlap.__exit__(*exception)

    def loss(self) -> float:
        """Mean loss of the steps since the last call."""
        mean = self._total / self._count if self._count else math.nan
        self._total, self._count = 0.0, 0
        return mean

    def one(self, chosen: NDArray[np.int64], seeds: Sequence[int], step_size: float) -> None:
        """One step."""
        learner = self.learner
        generators = [torch.Generator(learner.device).manual_seed(seed) for seed in seeds]
        take = self._fit if learner.gradient == LANDSCAPE else self._descend
        self._total += take(chosen, generators, step_size)
        self._count += 1

    def _batch(self, chosen: NDArray[np.int64]) -> Batch:
        if self.resident is None:
            return self.learner.batch([self.instances[k] for k in chosen])
        return taken_from(self.resident, torch.from_numpy(chosen).to(self.learner.device))

    def _descend(self, chosen: NDArray[np.int64], generators: Sequence[torch.Generator], step_size: float) -> float:
        learner, s = self.learner, self.learner.settings
        begun = time.perf_counter()
        work = []
        for first, generator in enumerate(generators):
            part = chosen[first :: len(generators)]
            batch = self._batch(part)
            costs = learner.costs(batch.features)
            step = Step(
                learner.family,
                batch,
                [self.instances[k] for k in part],
                costs.detach(),
                generator,
                s.samples,
                s.sigma,
                self.pool,
                batch.features.get(TARGET),
                s.is_relaxed,
            )
            work.append((costs, self.overlap.ask(GRADIENTS[learner.gradient], step)))
        losses, waited = [], 0.0
        for costs, answer in work:
            clock = time.perf_counter()
            loss, grad = answer()
            learner.synchronize()
            waited += time.perf_counter() - clock
            losses.append(loss)
            costs.backward(torch.nan_to_num(grad, posinf=0.0, neginf=0.0) / len(chosen))
        learner.optimizer.step(step_size)
        learner.synchronize()
        waited += self.overlap.waited
        learner.spent["forward_backward"] += time.perf_counter() - begun - waited
        learner.spent["gradient"] += waited
        learner.spent["hidden"] += max(self.overlap.worked - waited, 0.0)
        self.overlap.clear()
        loss = torch.cat(losses)
        return float(loss[torch.isfinite(loss)].mean())

    def _fit(self, chosen: NDArray[np.int64], generators: Sequence[torch.Generator], step_size: float) -> float:
        """Regression on measurements of plans around the known one."""
        learner = self.learner
        begun = time.perf_counter()
        loss = learner.landscape_loss(self._batch(chosen).features, generators[0])
        loss.backward()
        learner.optimizer.step(step_size)
        learner.synchronize()
        learner.spent["forward_backward"] += time.perf_counter() - begun
        return float(loss.detach())


def taken_from(everything: Batch, index: Tensor) -> Batch:
    """Rows of a batch."""
    return Batch({name: value.index_select(0, index) for name, value in everything.features.items()})
