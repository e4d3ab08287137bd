"""Triton kernels of ``surco.optim.grouped``: one launch for all weights of a batch; imported only where Triton is.

A launch has one program a tile. ``tiles`` [tiles, 3] int32 names the weight and the place of each tile, ``table``
[weights, 14] int64 the addresses and sizes of each weight (sizes multiples of 16, addresses of 16 bytes). ``flags``
[weights] int32 says which projected gradients are not finite: moments and weights of those stay as they are.
"""

from __future__ import annotations

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]


@triton.jit
def project(
    table,
    tiles,
    flags,
    r,
    IS_LEFT: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of R [N, r] = G [N, n] P [n, r], G stored [n, N] where IS_LEFT; a flag is set where R is not finite."""
    pid = tl.program_id(0)
    w = tl.load(tiles + pid * 3)
    row = tl.load(tiles + pid * 3 + 1)
    col = tl.load(tiles + pid * 3 + 2)
    t = table + w * 14  # FIELDS of surco.optim.grouped
    g = tl.load(t).to(tl.pointer_type(tl.float32))
    p = tl.load(t + 1).to(tl.pointer_type(tl.float32))
    out = tl.load(t + 4).to(tl.pointer_type(tl.float32))
    N = tl.multiple_of(tl.load(t + 6).to(tl.int32), 16)
    n = tl.multiple_of(tl.load(t + 7).to(tl.int32), 16)
    ld = tl.multiple_of(tl.load(t + 8), 16)
    r = tl.multiple_of(r, 16)
    g = tl.multiple_of(g, 16)
    p = tl.multiple_of(p, 16)
    out = tl.multiple_of(out, 16)
    i = row * BM + tl.arange(0, BM)
    j = col * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    if IS_LEFT:  # noqa: SIM108 - Triton compiles one branch
        a_ptrs = g + k[:, None].to(tl.int64) * ld + i[None, :]
    else:
        a_ptrs = g + i[:, None].to(tl.int64) * ld + k[None, :]
    b_ptrs = p + k[:, None] * r + j[None, :]
    for start in range(0, n, BK):
        left = n - start
        if IS_LEFT:
            a = tl.load(a_ptrs, mask=(k[:, None] < left) & (i[None, :] < N), other=0.0)
            a = tl.trans(a)
            a_ptrs += BK * ld
        else:
            a = tl.load(a_ptrs, mask=(i[:, None] < N) & (k[None, :] < left), other=0.0)
            a_ptrs += BK
        b = tl.load(b_ptrs, mask=(k[:, None] < left) & (j[None, :] < r), other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
        b_ptrs += BK * r
    bad = tl.sum(tl.sum(acc * 0.0, axis=1), axis=0)
    tl.atomic_max(flags + w, (bad != 0.0).to(tl.int32))
    tl.store(out + i[:, None].to(tl.int64) * r + j[None, :], acc, mask=(i[:, None] < N) & (j[None, :] < r))


@triton.jit
def adam(table, tiles, flags, corrections, beta1, beta2, r, BLOCK: tl.constexpr):
    """One piece of Adam: m, v in place and R <- -D; where the flag is set, m and v stay as they are."""
    pid = tl.program_id(0)
    w = tl.load(tiles + pid * 3)
    piece = tl.load(tiles + pid * 3 + 1)
    t = table + w * 14  # FIELDS of surco.optim.grouped
    m = tl.load(t + 2).to(tl.pointer_type(tl.float32))
    v = tl.load(t + 3).to(tl.pointer_type(tl.float32))
    x = tl.load(t + 4).to(tl.pointer_type(tl.float32))
    m, v, x = tl.multiple_of(m, 16), tl.multiple_of(v, 16), tl.multiple_of(x, 16)
    size = tl.multiple_of(tl.load(t + 6) * r, 16)
    c1 = tl.load(corrections + w * 3)
    c2 = tl.load(corrections + w * 3 + 1)
    eps = tl.load(corrections + w * 3 + 2)
    good = tl.load(flags + w) == 0
    k = piece.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mp, vp, xp = m + k, v + k, x + k
    inside = k < size
    go = inside & good
    grad = tl.load(xp, mask=go, other=0.0)
    first = tl.load(mp, mask=go, other=0.0)
    second = tl.load(vp, mask=go, other=0.0)
    first = first + (grad - first) * (1.0 - beta1)
    second = beta2 * second + (1.0 - beta2) * grad * grad
    tl.store(mp, first, mask=go)
    tl.store(vp, second, mask=go)
    tl.store(xp, -(first / c1) / (tl.sqrt(second) / c2 + eps), mask=go)


@triton.jit
def write(
    table,
    tiles,
    flags,
    rate,
    shrink,
    r,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of W <- shrink W + rate A B', W stored [rows, cols], A [rows, r], B [cols, r]; not where flagged."""
    pid = tl.program_id(0)
    w = tl.load(tiles + pid * 3)
    row = tl.load(tiles + pid * 3 + 1)
    col = tl.load(tiles + pid * 3 + 2)
    if tl.load(flags + w) == 0:
        t = table + w * 14  # FIELDS of surco.optim.grouped
        weight = tl.load(t + 5).to(tl.pointer_type(tl.float32))
        ld = tl.multiple_of(tl.load(t + 9), 16)
        a = tl.load(t + 10).to(tl.pointer_type(tl.float32))
        b = tl.load(t + 11).to(tl.pointer_type(tl.float32))
        rows = tl.multiple_of(tl.load(t + 12).to(tl.int32), 16)
        cols = tl.multiple_of(tl.load(t + 13).to(tl.int32), 16)
        r = tl.multiple_of(r, 16)
        weight = tl.multiple_of(weight, 16)
        a = tl.multiple_of(a, 16)
        b = tl.multiple_of(b, 16)
        i = row * BM + tl.arange(0, BM)
        j = col * BN + tl.arange(0, BN)
        k = tl.arange(0, BK)
        a_ptrs = a + i[:, None] * r + k[None, :]
        b_ptrs = b + j[None, :] * r + k[:, None]
        acc = tl.zeros((BM, BN), dtype=tl.float32)
        for start in range(0, r, BK):
            x = tl.load(a_ptrs, mask=(i[:, None] < rows) & (k[None, :] < r - start), other=0.0)
            y = tl.load(b_ptrs, mask=(j[None, :] < cols) & (k[:, None] < r - start), other=0.0)
            acc = tl.dot(x, y, acc, input_precision=PRECISION)
            a_ptrs += BK
            b_ptrs += BK
        w_ptrs = weight + i[:, None].to(tl.int64) * ld + j[None, :]
        mask = (i[:, None] < rows) & (j[None, :] < cols)
        old = tl.load(w_ptrs, mask=mask, other=0.0)
        tl.store(w_ptrs, old * shrink + acc * rate, mask=mask)
