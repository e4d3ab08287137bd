"""Triton kernels of `small_inverse`; imported only where Triton is installed."""

from __future__ import annotations

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]


@triton.jit
def invert_real(source, target, n, SIZE: tl.constexpr):
    """Invert one real n x n matrix, padded to SIZE x SIZE with the identity."""
    base = tl.program_id(0).to(tl.int64) * n * n
    i = tl.arange(0, SIZE)[:, None]
    j = tl.arange(0, SIZE)[None, :]
    inside = (i < n) & (j < n)
    a = tl.load(source + base + i * n + j, mask=inside, other=0.0)
    a = tl.where(inside, a, tl.where(i == j, 1.0, 0.0).to(a.dtype))
    for k in range(n):
        row_mask = i == k
        col_mask = j == k
        c = tl.sum(tl.where(col_mask, a, 0.0), axis=1)[:, None]
        r = tl.sum(tl.where(row_mask, a, 0.0), axis=0)[None, :]
        p = tl.sum(tl.where(tl.arange(0, SIZE)[:, None] == k, c, 0.0))
        unit_c = tl.where(row_mask, 1.0, 0.0).to(a.dtype)
        unit_r = tl.where(col_mask, 1.0, 0.0).to(a.dtype)
        a = a - (c - unit_c) * ((r + unit_r) / p)
    tl.store(target + base + i * n + j, a, mask=inside)


@triton.jit
def invert_complex(source, target, n, SIZE: tl.constexpr):
    """Invert one complex n x n matrix (interleaved real and imaginary parts), padded with the identity."""
    base = tl.program_id(0).to(tl.int64) * n * n * 2
    i = tl.arange(0, SIZE)[:, None]
    j = tl.arange(0, SIZE)[None, :]
    inside = (i < n) & (j < n)
    place = base + (i * n + j) * 2
    x = tl.load(source + place, mask=inside, other=0.0)
    y = tl.load(source + place + 1, mask=inside, other=0.0)
    x = tl.where(inside, x, tl.where(i == j, 1.0, 0.0).to(x.dtype))
    for k in range(n):
        row_mask = i == k
        col_mask = j == k
        cx = tl.sum(tl.where(col_mask, x, 0.0), axis=1)[:, None]
        cy = tl.sum(tl.where(col_mask, y, 0.0), axis=1)[:, None]
        rx = tl.sum(tl.where(row_mask, x, 0.0), axis=0)[None, :]
        ry = tl.sum(tl.where(row_mask, y, 0.0), axis=0)[None, :]
        px = tl.sum(tl.where(tl.arange(0, SIZE)[:, None] == k, cx, 0.0))
        py = tl.sum(tl.where(tl.arange(0, SIZE)[:, None] == k, cy, 0.0))
        norm = px * px + py * py
        cx = cx - tl.where(row_mask, 1.0, 0.0).to(x.dtype)
        rx = rx + tl.where(col_mask, 1.0, 0.0).to(x.dtype)
        qx = (rx * px + ry * py) / norm
        qy = (ry * px - rx * py) / norm
        x_new = x - (cx * qx - cy * qy)
        y = y - (cx * qy + cy * qx)
        x = x_new
    tl.store(target + place, x, mask=inside)
    tl.store(target + place + 1, y, mask=inside)
