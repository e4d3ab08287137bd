"""When and from what a new basis is taken: last gradient, running covariance, or the Gram matrices of all ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from surco.optim.distributed import same_basis, sum_over_ranks
from surco.optim.moments import rotate_moments
from surco.optim.options import SKETCHES, Conventions, Mode, Refresh
from surco.optim.subspace import Subspace, align_signs, eigen_subspace, find_subspace, gram


def refresh_basis(
    state: dict[str, Any],
    group: dict[str, Any],
    matrix: Tensor,
    *,
    is_sparse: bool,
    process_group: ProcessGroup | None = None,
) -> None:
    """Find a new basis where one is due, and turn the moments into it.

    Args:
        state: of the parameter; ``basis`` [n, rank], ``rank`` and what is known of the spectrum are written to it.
        group: options of the parameter's group.
        matrix: [N, n] gradient (of a sparse one the touched rows), float32, projected side last.
        is_sparse: whether its rows are the touched rows of a table.
        process_group: ranks that share one basis.
    """
    is_due = "rank" not in state or state["step"] % group["update_gap"] == state["phase"]
    if group["mode"] in SKETCHES:
        if is_due:
            mini = group["mode"] == Mode.APOLLO_MINI
            state["rank"] = 1 if mini else min(int(group["rank"]), *matrix.shape)
            state["sketch_seed"] = group["seed"] + 7919 * state["refreshes"] + 104729 * state["phase"]
            state["refreshes"] += 1
            state.setdefault("update_norm", torch.zeros((), device=matrix.device))
        return
    if not is_due and not group["covariance_decay"]:
        return
    covariance = _covariance(state, group, matrix, is_due=is_due, is_sparse=is_sparse, process_group=process_group)
    if not is_due:
        return
    limit = matrix.shape[1] if is_sparse else min(matrix.shape)
    old = state.get("basis")
    rank = state.get("rank", group["rank"])
    if rank == "auto":
        covariance = gram(matrix) if covariance is None else covariance
        rank = _rank_for(covariance, group["energy"])
    rank = limit if rank is None else min(int(rank), limit)
    found: Subspace | None
    how = group["refresh"]
    if covariance is not None:
        found = eigen_subspace(covariance, rank)
    else:
        seed = group["seed"] + 7919 * state["refreshes"]
        if how == Refresh.AUTO and group["conventions"] == Conventions.GALORE_TORCH:
            how = Refresh.SVD.value
        found = find_subspace(matrix, rank, old=old, how=how, seed=seed, is_transposed=state["is_left"])
    if found is None:
        state["kept_bases"] += 1
        return
    if group["mode"] == Mode.FIRA:
        state.setdefault("update_norm", torch.zeros((), device=matrix.device))
    basis = found.basis if old is None or how == Refresh.SVD else align_signs(found.basis, old)
    basis = same_basis(basis, process_group)
    if old is not None and group["rotate_moments"] and ("exp_avg" in state or "exponent" in state):
        rotate_moments(state, old, basis, state["step"], is_rowwise=group["mode"] == Mode.ROWWISE)
    state.update(rank=rank, basis=basis, captured_energy=found.captured, stable_rank=found.stable_rank)
    state["refreshes"] += 1


def _covariance(
    state: dict[str, Any],
    group: dict[str, Any],
    matrix: Tensor,
    *,
    is_due: bool,
    is_sparse: bool,
    process_group: ProcessGroup | None,
) -> Tensor | None:
    """The Gram matrix of the next basis where it comes from one (running, summed over ranks, of sparse rows)."""
    decay = group["covariance_decay"]
    by_choice = group["refresh"] in (Refresh.AUTO, Refresh.GRAM)
    if decay:
        update = gram(matrix)
        running = state.get("covariance")
        # NaN or infinity leaves the mean alone. That is decided on the device: the host would wait here at every step,
        # and ranks that return early would leave the others in a collective operation.
        kept = torch.zeros_like(update) if running is None else running
        update = torch.where(torch.isfinite(update.sum()), update, kept)
        state["covariance"] = update if running is None else running.lerp_(update, 1.0 - decay)
        if not is_due:
            return None
        return sum_over_ranks(state["covariance"], process_group) if by_choice else None
    is_thin = is_sparse and matrix.shape[0] < matrix.shape[1]  # an SVD would have too few directions
    if is_due and (is_thin or (by_choice and (is_sparse or process_group is not None))):
        return sum_over_ranks(gram(matrix), process_group)
    return None


def _rank_for(covariance: Tensor, energy: float) -> int | None:
    """Fewest directions that hold the share ``energy``; None where the covariance is zero or not finite."""
    scale = float(torch.linalg.vector_norm(covariance, ord=torch.inf))
    if not 0.0 < scale < float("inf"):
        return None
    values = torch.linalg.eigvalsh(covariance.to(torch.float64) / scale).flip(0).clamp_min(0.0)
    shares = values.cumsum(0) / values.sum()
    return int((shares < energy).sum()) + 1
