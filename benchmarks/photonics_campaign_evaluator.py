"""S and the slope of a scalar of it for batches of fixed shape: by CUDA graphs where they work, in chunks where not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from problems.photonics.graphs import GraphedStep
from problems.photonics.simulator import Simulator

logger = logging.getLogger(__name__)
_LEAST_MEMORY_GB = 0.25


class Evaluator:
    """Evaluates designs with port 1 excited; what did not work is said once and left alone from then on.

    Args:
        simulator: on the device of the designs.
        name: for messages.
        is_graphed: whether to try CUDA graphs (on a CUDA device).
    """

    def __init__(self, simulator: Simulator, name: str, *, is_graphed: bool) -> None:
        self.simulator, self.name = simulator, name
        self.is_graphed = is_graphed and simulator.torch_device.type == "cuda"
        self.graph_error = ""
        self._graphs: dict[Hashable, GraphedStep] = {}

    def __call__(self, key: Hashable, design: Tensor, scalar: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """S [B, L, P, 1] and d scalar(S) / d design [B, H, W].

        Args:
            key: batches of one key have one shape and one scalar, so that one graph serves them.
            design: [B, H, W].
            scalar: of S; captured by the first call of its key.

        Raises:
            torch.OutOfMemoryError: not even small chunks fit.
        """
        if self.is_graphed and key not in self._graphs:
            try:
                self._graphs[key] = GraphedStep(self.simulator, design, scalar, ports_in=(0,))
            except RuntimeError as error:
                self.is_graphed = False
                self._graphs.clear()
                self.graph_error = str(error)[:300]
                logger.warning("%s: no CUDA graph, going on without: %s", self.name, self.graph_error)
                torch.cuda.synchronize()
        if self.is_graphed:
            s, slope = self._graphs[key](design)
            return s.clone(), slope.clone()
        while True:
            try:
                rows = design.detach().requires_grad_()
                s = self.simulator.s_parameters(rows, ports_in=(0,))
                (slope,) = torch.autograd.grad(scalar(s), rows)
                return s.detach(), slope
            except torch.OutOfMemoryError:
                if self.simulator.memory_gb < _LEAST_MEMORY_GB:
                    raise
            self.simulator.memory_gb /= 2
            torch.cuda.empty_cache()
            logger.warning("%s: out of memory, chunks of %g GB now", self.name, self.simulator.memory_gb)
