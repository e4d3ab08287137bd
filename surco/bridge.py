"""The one place where torch meets NumPy; torch is imported when they do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solvers.oracle import Array

if TYPE_CHECKING:
    from torch import Tensor


def to_numpy(tensor: Tensor) -> Array:
    """float64 array of a tensor of any device, detached; shares memory where it can."""
    import torch

    return tensor.detach().to(device="cpu", dtype=torch.float64).numpy()


def to_torch(array: object, *, like: Tensor | None = None) -> Tensor:
    """float64 CPU tensor of an array; on the device and in the dtype of ``like`` where given."""
    import torch

    tensor = torch.from_numpy(np.asarray(array, dtype=np.float64, order="C"))
    return tensor if like is None else tensor.to(device=like.device, dtype=like.dtype)
