"""What ranks exchange: d x d Gram matrices and touched rows (projected where the mode allows), no N x d gradients."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from surco.optim.update import Projected


def sum_over_ranks(covariance: Tensor, group: ProcessGroup | None) -> Tensor:
    """Sum of the Gram matrices [d, d] of all ranks of ``group``; the matrix itself without a group."""
    if group is None:
        return covariance
    total = covariance.clone()
    dist.all_reduce(total, group=group)
    return total


def same_basis(basis: Tensor, group: ProcessGroup | None) -> Tensor:
    """The basis of the first rank, so that all ranks agree to the bit whatever their eigensolver did."""
    if group is None:
        return basis
    shared = basis.contiguous().clone()
    dist.broadcast(shared, src=dist.get_global_rank(group, 0), group=group)
    return shared


def gather_rows(work: Projected, basis: Tensor | None, group: ProcessGroup | None) -> Projected:
    """Mean over ranks of a row-sparse gradient: each rank sends U row numbers and the least that its mode needs.

    That is U x r floats, R = G P, in the mode "galore": the projection is linear and the basis common, so that their
    mean is the projected mean gradient. The other modes need G itself, U x n floats, and project its mean here.

    Args:
        work: of the rows that this rank touched.
        basis: P [n, r], the same on all ranks; None where nothing is projected.
        group: the ranks.

    Returns:
        ``work`` of the rows that any rank touched; unchanged without a group.
    """
    if group is None or work.rows is None:
        return work
    ranks = dist.get_world_size(group)
    rows = _gather_ragged(work.rows, group)
    unique, place = torch.unique(rows, return_inverse=True)
    if work.gradient is None or basis is None:
        work.values = _mean_rows(_gather_ragged(work.values, group), place, len(unique), ranks)
    else:
        work.gradient = _mean_rows(_gather_ragged(work.gradient, group), place, len(unique), ranks)
        work.values = work.gradient @ basis
    work.rows = unique
    return work


def _mean_rows(values: Tensor, place: Tensor, count: int, ranks: int) -> Tensor:
    return values.new_zeros(count, values.shape[1]).index_add_(0, place, values).div_(ranks)


def _gather_ragged(tensor: Tensor, group: ProcessGroup) -> Tensor:
    """Concatenation over ranks of tensors that differ in their first dimension."""
    ranks = dist.get_world_size(group)
    length = torch.tensor([tensor.shape[0]], device=tensor.device)
    lengths = [torch.zeros_like(length) for _ in range(ranks)]
    dist.all_gather(lengths, length, group=group)
    counts = [int(count) for count in lengths]
    padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
    padded[: tensor.shape[0]] = tensor
    parts = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
