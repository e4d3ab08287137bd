"""CUDA graphs: loss and gradient of a fixed batch shape as one launch, for small batches on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from problems.photonics.simulator import Simulator
from surco.errors import InvalidInputError


class GraphedStep:
    """S-parameters and d scalar(S) / d design for designs of one shape, captured once and replayed.

    Args:
        simulator: on a CUDA device, with the block backend (it makes no host decisions).
        example: [B, H, W] on that device; fixes the shape.
        scalar: S [B, L, P, Q] -> a scalar tensor.
        ports_in: as in `Simulator.s_parameters`.

    Raises:
        InvalidInputError: the simulator or the example is not on a CUDA device.
    """

    def __init__(
        self,
        simulator: Simulator,
        example: Tensor,
        scalar: Callable[[Tensor], Tensor],
        *,
        ports_in: Sequence[int] | None = None,
    ) -> None:
        if simulator.torch_device.type != "cuda" or not example.is_cuda:
            raise InvalidInputError("Expected a simulator and a design on a CUDA device; CUDA graphs exist only there.")
        self._simulator, self._scalar, self._ports = simulator, scalar, ports_in
        self._input = example.detach().clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._run()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._s, self._gradient = self._run()

    def _run(self) -> tuple[Tensor, Tensor]:
        x = self._input.detach().requires_grad_()
        s = self._simulator.s_parameters(x, ports_in=self._ports)
        (gradient,) = torch.autograd.grad(self._scalar(s), x)
        return s.detach(), gradient

    def __call__(self, design: Tensor) -> tuple[Tensor, Tensor]:
        """S and gradient of ``design``; both are overwritten by the next call."""
        self._input.copy_(design)
        self._graph.replay()
        return self._s, self._gradient
