"""Designs as few bytes: 0/1 designs are stored as bits, all others as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from surco.bridge import to_numpy, to_torch


def pack(designs: Tensor) -> dict[str, Any]:
    """Plain data of designs [R, n] float64 for a checkpoint: one bit an entry where all of them are 0 or 1."""
    x = to_numpy(designs)
    bits = x.astype(bool)
    if not np.array_equal(bits, x) or np.signbit(x).any():  # -0.0 is another key than 0.0
        return {"rows": designs}
    return {"bits": torch.from_numpy(np.packbits(bits, axis=-1)), "n": x.shape[-1]}


def unpack(packed: dict[str, Any]) -> Tensor:
    """Designs [R, n] float64 of what :func:`pack` made, bit by bit the same."""
    if "rows" in packed:
        return packed["rows"]
    bits = np.unpackbits(packed["bits"].numpy(), axis=-1, count=packed["n"])
    return to_torch(bits.astype(np.float64))
