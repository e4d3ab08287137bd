"""Inverses of many small matrices on a GPU: one Triton program a matrix, the whole matrix in registers.

Gauss-Jordan without pivoting, as one rank-one update a step. With c = column k, r = row k, p = a[k, k]:

    A <- A - (c - e_k) (r + e_k) / p

which leaves -1/p times the column, 1/p times the row and 1/p in the corner, as the sweep operator does. Callers refine.
Triton comes with torch on CUDA; without it `is_available` is False and the caller uses batched torch operations.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

LARGEST = 64
LARGEST_COMPLEX = 32  # blocks of 40 padded to 64 took a third of the time; as two of 20 they are a quarter of the work


@functools.cache
def is_available() -> bool:
    """Whether Triton can be imported and a CUDA device is there."""
    if not torch.cuda.is_available():
        return False
    try:
        import triton  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        return False
    return True


@functools.cache
def _kernels() -> tuple[Any, Any]:
    from problems.photonics.triton_kernels import invert_complex, invert_real

    return invert_real, invert_complex


def invert(matrix: Tensor) -> Tensor:
    """Inverse [..., n, n], n <= 64 (complex: 32), no pivoting; on a CUDA device with Triton."""
    n = matrix.shape[-1]
    flat = matrix.reshape(-1, n, n).contiguous()
    out = torch.empty_like(flat)
    real, complex_ = _kernels()
    size = max(16, 1 << (n - 1).bit_length())
    if flat.is_complex():
        warps = 1 if size <= 16 else (4 if size <= 32 else 16)
        complex_[(len(flat),)](torch.view_as_real(flat), torch.view_as_real(out), n, SIZE=size, num_warps=warps)
    else:
        warps = 1 if size <= 16 else (2 if size <= 32 else 8)
        real[(len(flat),)](flat, out, n, SIZE=size, num_warps=warps)
    return out.reshape(matrix.shape)
