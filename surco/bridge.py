"""The one place where torch meets NumPy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from solvers.oracle import Array


def to_numpy(tensor: Tensor) -> Array:
    """float64 array of a tensor of any device, detached; shares memory where it can."""
    return tensor.detach().to(device="cpu", dtype=torch.float64).numpy()


def to_torch(array: object, *, like: Tensor | None = None) -> Tensor:
    """float64 CPU tensor of an array; on the device and in the dtype of ``like`` where given."""
    tensor = torch.from_numpy(np.asarray(array, dtype=np.float64, order="C"))
    return tensor if like is None else tensor.to(device=like.device, dtype=like.dtype)
