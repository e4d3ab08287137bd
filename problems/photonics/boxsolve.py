"""Factor the design box by batched dense merges, close the ring, and sweep fields back down. Pure torch.

Inside the box the operator is real: A = 4 - kappa eps on the diagonal and -1 to each neighbor. So the whole tree is
real arithmetic (a quarter of the complex work), and only the ring system, which radiates through the condensed
exterior, is complex.

Shapes: T = B * L rows (designs times wavelengths), R ring cells, P ports.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from problems.photonics import small_inverse
from problems.photonics.dissection import Merge, Plan


class Backend(enum.StrEnum):
    """How small dense systems are solved."""

    LAPACK = "lapack"  # pivoted LU of torch.linalg: best on a CPU
    BLOCK = "block"  # block elimination without pivoting in batched products, refined: best on a GPU


@dataclass(frozen=True, slots=True)
class Factors:
    """What a downward sweep needs: leaf [T, c, m, b] and merge [T, pairs, s, b] solution operators."""

    leaf: Tensor
    merges: tuple[Tensor, ...]


_BASE = 20
_INVERT = 64


def gauss_jordan(matrix: Tensor) -> Tensor:
    """Inverse [..., n, n] without pivoting, by rank-one updates (see `small_inverse`); capturable in a CUDA graph."""
    work = matrix
    unit = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    for k in range(matrix.shape[-1]):
        column = work[..., :, k] - unit[k]
        row = (work[..., k, :] + unit[k]) / work[..., k, k, None]
        work = torch.addcmul(work, column[..., :, None], row[..., None, :], value=-1)
    return work


def block_inverse(matrix: Tensor) -> Tensor:
    """Inverse [..., n, n] of a symmetric (not Hermitian) matrix by recursive halves, no pivoting."""
    n = matrix.shape[-1]
    if matrix.is_cuda and small_inverse.is_available():
        if n <= (small_inverse.LARGEST_COMPLEX if matrix.is_complex() else small_inverse.LARGEST):
            return small_inverse.invert(matrix)
    elif n <= _BASE:
        return gauss_jordan(matrix)
    half = n // 2
    upper, cross, lower = matrix[..., :half, :half], matrix[..., :half, half:], matrix[..., half:, half:]
    first = block_inverse(upper)
    carried = first @ cross
    second = block_inverse(lower - cross.mT @ carried)
    corner = -(carried @ second)
    out = torch.empty_like(matrix)
    out[..., :half, :half] = first - corner @ carried.mT
    out[..., :half, half:] = corner
    out[..., half:, :half] = corner.mT
    out[..., half:, half:] = second
    return out


class BlockFactor:
    """Symmetric block elimination of [..., n, n] by recursive halves; only blocks of up to 64 rows are inverted."""

    def __init__(self, matrix: Tensor) -> None:
        self.size = matrix.shape[-1]
        self.inverse: Tensor | None = None
        if self.size <= _INVERT:
            self.inverse = block_inverse(matrix)
            return
        half = self.size // 2
        self.first = BlockFactor(matrix[..., :half, :half])
        self.carried = self.first.solve(matrix[..., :half, half:])
        self.second = BlockFactor(matrix[..., half:, half:] - matrix[..., half:, :half] @ self.carried)

    def solve(self, rhs: Tensor) -> Tensor:
        """Solution for [..., n, k]."""
        if self.inverse is not None:
            return self.inverse @ rhs
        half = self.size // 2
        upper, lower = rhs[..., :half, :], rhs[..., half:, :]
        second = self.second.solve(lower - self.carried.mT @ upper)
        return torch.cat([self.first.solve(upper) - self.carried @ second, second], -2)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Run with one intra-op thread: LU of a batch of large matrices is wrong under more, in torch 2.13's CPU build.

    There ``torch.linalg.solve_ex``, ``inv_ex`` and ``lu_factor_ex`` return garbage or bad pivots for as few as two
    160 x 160 matrices on two threads (single matrices are right, and so are the other factorizations).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def solve_symmetric(matrix: Tensor, rhs: Tensor, backend: Backend) -> Tensor:
    """Solve [..., n, n] x = [..., n, k].

    Without pivoting a block that happens to be near a resonance costs digits; one step of refinement gives them back.
    """
    if backend is Backend.LAPACK:
        with one_torch_thread():
            return torch.linalg.solve_ex(matrix, rhs)[0]
    factor = BlockFactor(matrix)
    solution = factor.solve(rhs)
    return solution + factor.solve(rhs - matrix @ solution)


def _split(blocks: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """P and Q partners of blocks [T, c_x, c_y, ...]."""
    return (blocks[:, 0::2], blocks[:, 1::2]) if axis == 0 else (blocks[:, :, 0::2], blocks[:, :, 1::2])


def _ranges(merge: Merge) -> tuple[slice, slice]:
    """P's shared side and P's surviving side."""
    s, b = merge.separator, merge.child
    return (slice(0, s), slice(s, b)) if merge.axis == 0 else (slice(b - s, b), slice(0, b - s))


def leaf_factor(diagonal: Tensor, stencil: Tensor, edge: Tensor, backend: Backend) -> tuple[Tensor, Tensor]:
    """Eliminate the leaves.

    Args:
        diagonal: [T, c_x, c_y, m], 4 - kappa eps.
        stencil: [m, m], the off-diagonal part of a leaf.
        edge: [b], leaf cell next to each boundary cell.
        backend: how to invert.

    Returns:
        Solution operator [T, c_x, c_y, m, b] (fields = operator @ boundary) and Schur complement [T, c_x, c_y, b, b].
    """
    matrix = torch.diag_embed(diagonal) + stencil
    if backend is Backend.LAPACK:
        with one_torch_thread():
            inverse = torch.linalg.inv_ex(matrix)[0]
    else:
        inverse = block_inverse(matrix)
    operator = inverse.index_select(-1, edge)
    return operator, -operator.index_select(-2, edge)


def merge_factor(
    schur: Tensor, merge: Merge, diagonal: Tensor, chain: Tensor, ends: Tensor, backend: Backend
) -> tuple[Tensor, Tensor]:
    """Merge pairs of regions and eliminate their separators.

    Args:
        schur: [T, c_x, c_y, b, b] of the children.
        merge: the level.
        diagonal: [T, p_x, p_y, s] of the separator cells.
        chain: [s, s], -1 next to the diagonal.
        ends: [s, 2], -1 where the last and the first separator cell meet the merged boundary.
        backend: how to solve.

    Returns:
        Solution operator [T, p_x, p_y, s, b'] and Schur complement [T, p_x, p_y, b', b'].
    """
    first, second = _split(schur, merge.axis)
    shared, rest = _ranges(merge)
    cut, s = merge.cut, merge.separator
    q_rows = second[..., cut : cut + s, :].flip(-2)
    own = first[..., shared, shared] + q_rows[..., cut : cut + s].flip(-1)
    own += chain
    own.diagonal(dim1=-2, dim2=-1).add_(diagonal)
    ends = ends.expand(*own.shape[:-1], 2)
    side = torch.cat(
        [q_rows[..., :cut], ends[..., :1], first[..., shared, rest], ends[..., 1:], q_rows[..., cut + s :]], -1
    )
    operator = solve_symmetric(own, side, backend)
    operator.neg_()
    merged = side.mT @ operator
    a, p = cut, merge.child - s
    tail = slice(a + p + 2, None)
    merged[..., :a, :a] += second[..., :a, :a]
    merged[..., :a, tail] += second[..., :a, cut + s :]
    merged[..., tail, :a] += second[..., cut + s :, :a]
    merged[..., tail, tail] += second[..., cut + s :, cut + s :]
    merged[..., a + 1 : a + 1 + p, a + 1 : a + 1 + p] += first[..., rest, rest]
    return operator, merged


def sweep_merge(boundary: Tensor, merge: Merge, operator: Tensor) -> tuple[Tensor, Tensor]:
    """Fields on the separators, and on the boundaries of the children.

    Args:
        boundary: [T, p_x, p_y, b', k].
        merge: the level.
        operator: [T, p_x, p_y, s, b'].

    Returns:
        Separator fields [T, p_x, p_y, s, k] and child boundaries [T, c_x, c_y, b, k].
    """
    inner = operator @ boundary
    a, p = merge.cut, merge.child - merge.separator
    kept = boundary[..., a + 1 : a + 1 + p, :]
    first = torch.cat([inner, kept] if merge.axis == 0 else [kept, inner], -2)
    second = torch.cat([boundary[..., :a, :], inner.flip(-2), boundary[..., a + p + 2 :, :]], -2)
    dim = 2 if merge.axis == 0 else 3
    children = torch.stack([first, second], dim)
    shape = list(first.shape)
    shape[1 if merge.axis == 0 else 2] *= 2
    return inner, children.reshape(shape)


@dataclass(frozen=True, slots=True)
class BoxPlan:
    """A `Plan` as tensors on one device.

    Attributes:
        plan: the symbolic plan.
        order: [cells] flat positions: leaves, separators, ring.
        place: [cells] inverse of ``order``.
        sizes: cells of each part of ``order``.
        leaf_stencil: [m, m]; chains: [s, s] and ends: [s, 2] for each level; leaf_edge: [b].
    """

    plan: Plan
    order: Tensor
    place: Tensor
    sizes: tuple[int, ...]
    leaf_stencil: Tensor
    chains: tuple[Tensor, ...]
    ends: tuple[Tensor, ...]
    leaf_edge: Tensor

    @classmethod
    def of(cls, plan: Plan, *, device: torch.device, dtype: torch.dtype) -> BoxPlan:
        """Move a plan to a device."""
        order = torch.from_numpy(plan.flat_order)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        mx, my = plan.leaf
        stencil = torch.zeros(mx, my, mx, my, dtype=dtype)
        for x in range(mx):
            for y in range(my):
                for u, v in ((x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)):
                    if 0 <= u < mx and 0 <= v < my:
                        stencil[x, y, u, v] = -1.0
        chains, ends = [], []
        for merge in plan.merges:
            tips = torch.zeros(merge.separator, 2, dtype=dtype)
            tips[-1, 0], tips[0, 1] = -1.0, -1.0
            ends.append(tips.to(device))
            line = torch.full((merge.separator - 1,), -1.0, dtype=dtype)
            chains.append((torch.diag(line, 1) + torch.diag(line, -1)).to(device))
        sizes = (plan.leaf_cells.size, *(merge.cells.size for merge in plan.merges), plan.ring.size)
        return cls(
            plan, order.to(device), place.to(device), sizes, stencil.reshape(mx * my, mx * my).to(device),
            tuple(chains), tuple(ends), torch.from_numpy(plan.leaf_edge).to(device),
        )  # fmt: skip


def factor_box(diagonal: Tensor, box: BoxPlan, backend: Backend) -> tuple[Factors, Tensor]:
    """Eliminate the interior of the box.

    Args:
        diagonal: [T, cells], 4 - kappa eps, in the order of ``box.order``.
        box: plan.
        backend: how to solve.

    Returns:
        Factors, and the Schur complement [T, b, b] on the ring without its corners.
    """
    plan, rows = box.plan, diagonal.shape[0]
    parts = diagonal.split(box.sizes, dim=1)
    grid = plan.leaf_cells.shape
    leaf, schur = leaf_factor(parts[0].reshape(rows, *grid), box.leaf_stencil, box.leaf_edge, backend)
    operators = []
    for merge, part, chain, ends in zip(plan.merges, parts[1:-1], box.chains, box.ends, strict=True):
        operator, schur = merge_factor(schur, merge, part.reshape(rows, *merge.cells.shape), chain, ends, backend)
        operators.append(operator)
    return Factors(leaf, tuple(operators)), schur[:, 0, 0]


def sweep_box(ring: Tensor, factors: Factors, box: BoxPlan) -> Tensor:
    """Fields [T, cells, k] in the order of ``box.order`` from fields on the ring [T, R, k]; all real."""
    rows, _, width = ring.shape
    boundary = ring[:, None, None, :-4, :]
    pieces = [ring]
    for merge, operator in zip(reversed(box.plan.merges), reversed(factors.merges), strict=True):
        inner, boundary = sweep_merge(boundary, merge, operator)
        pieces.append(inner.reshape(rows, -1, width))
    pieces.append((factors.leaf @ boundary).reshape(rows, -1, width))
    return torch.cat(pieces[::-1], 1)
