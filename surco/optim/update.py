"""From a gradient to a weight update: the steps that dense and row-sparse parameters share.

``prepare`` projects a gradient and may free it; ``apply`` advances the moments and writes the weight. Between the two
lie accumulation and clipping, which are linear in the projected gradient: that is what lets the backward hooks of
``surco.optim.fused`` drop each full gradient at once and still be exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surco.optim.dither import random_signs, round_to_bfloat16
from surco.optim.moments import read_moments, write_moments
from surco.optim.options import Conventions, Inner, Mode

CHUNK_ENTRIES = 1 << 16  # of touched rows that a CPU works on at a time: 256 kB stay in its second-level cache


@dataclass(slots=True)
class Projected:
    """The gradient of one parameter on its way to an update.

    Attributes:
        parameter: the weight.
        state: its optimizer state.
        group: its options.
        values: R = G P, [rows, r] float32; G itself where nothing is projected.
        gradient: G, [rows, n], kept only where the mode needs it.
        rows: numbers of the touched rows of a sparse gradient, [rows] int64; None for a dense one.
        squared_norm: ||G||_F^2, a float32 scalar tensor; None where it was not asked for.
        is_open: ``values`` are not computed: a grouped step does it from ``gradient``.
    """

    parameter: Tensor
    state: dict[str, Any]
    group: dict[str, Any]
    values: Tensor
    gradient: Tensor | None
    rows: Tensor | None
    squared_norm: Tensor | None = None
    is_open: bool = False

    def scale(self, factor: float) -> None:
        """Multiply the gradient, as clipping does."""
        self.values.mul_(factor)
        if self.gradient is not None:
            self.gradient = self.gradient * factor

    def accumulate(self, other: Projected) -> None:
        """Add the gradient of a further micro-batch, projected onto the same basis."""
        if self.rows is not None and other.rows is not None:
            rows = torch.cat([self.rows, other.rows])
            unique, place = torch.unique(rows, return_inverse=True)
            self.rows = unique
            self.values = _sum_rows(self.values, other.values, place, len(unique))
            if self.gradient is not None and other.gradient is not None:
                self.gradient = _sum_rows(self.gradient, other.gradient, place, len(unique))
        else:
            self.values.add_(other.values)
            if self.gradient is not None and other.gradient is not None:
                self.gradient = self.gradient + other.gradient
        self.squared_norm = None  # the norm of a sum is not known from the norms


def _sum_rows(first: Tensor, second: Tensor, place: Tensor, count: int) -> Tensor:
    total = first.new_zeros(count, first.shape[1])
    return total.index_add_(0, place, torch.cat([first, second]))


def as_matrix(tensor: Tensor) -> Tensor:
    """[m, n] of a parameter or gradient of any shape: vectors become one column, further dimensions are flattened."""
    if tensor.dim() == 2:
        return tensor
    return tensor.reshape(-1, 1) if tensor.dim() < 2 else tensor.reshape(tensor.shape[0], -1)


def sketch(state: dict[str, Any], columns: int, device: torch.device) -> Tensor:
    """The random projection [n, r] of APOLLO, drawn again from its seed; entries +-1/sqrt(r)."""
    rank = state["rank"]
    return random_signs(columns, rank, seed=state["sketch_seed"], device=device).mul_(rank**-0.5)


def finish(work: Projected, negative: Tensor) -> None:
    """Write the weight, given -D of the inner rule in the subspace."""
    group, state = work.group, work.state
    rate, decay, is_late = rates(group)
    if "rank" not in state:
        _write(work, negative, None, None, rate, decay, is_late=is_late)
        return
    rate *= float(group["scale"])
    mode = group["mode"]
    if mode == Mode.GALORE:
        _write(work, negative, state["basis"], None, rate, decay, is_late=is_late)
        return
    gradient = work.gradient
    assert gradient is not None  # prepare() kept it for these modes
    # Norms of the rows of G, R and D; a row of R that is zero has no direction either.
    raw, low, long = (torch.linalg.vector_norm(part, dim=1, keepdim=True) for part in (gradient, work.values, negative))
    if mode == Mode.APOLLO_MINI:
        factor = (torch.linalg.vector_norm(long) / torch.linalg.vector_norm(low).clamp_min(1e-30)).expand_as(low)
    else:
        factor = long / low.clamp_min(1e-30)
    if mode == Mode.FIRA:
        # P is orthonormal: |G_i - R_i P'|^2 = |G_i|^2 - |R_i|^2, so the residual S need not be formed to be limited.
        outside = (raw.square() - low.square()).clamp_min_(0.0).sqrt_()
        factor = factor * _limit(factor * outside, state)
        inside = torch.addcmul(negative, work.values, factor)  # -D P' - f (G - R P') = (f R - D) P' - f G
        _write(work, inside, state["basis"], -factor, rate, decay, is_late=is_late)
    else:
        factor = factor * _limit(factor * raw, state)
        _write(work, None, None, -factor, rate, decay, is_late=is_late)


def finish_rows(work: Projected, inside: Tensor, factor: Tensor) -> None:
    """Write the weight, given -D = ``inside`` P' + ``factor`` G of the mode "rowwise"."""
    rate, decay, is_late = rates(work.group)
    rate *= float(work.group["scale"])
    _write(work, inside, work.state["basis"], factor, rate, decay, is_late=is_late)


def rates(group: dict[str, Any]) -> tuple[float, float, bool]:
    """Learning rate, decoupled decay of a step, and whether it acts after the update."""
    rate = float(group["lr"])
    decay = rate * float(group["weight_decay"]) if group["inner"] != Inner.ADAM else 0.0
    return rate, decay, group["conventions"] == Conventions.GALORE_TORCH


def _limit(row_norms: Tensor, state: dict[str, Any], growth: float = 1.01) -> Tensor:
    """Factor that holds the norm of an update to ``growth`` times the last one (the limiter of Fira and APOLLO)."""
    norm = torch.linalg.vector_norm(row_norms)
    last = state["update_norm"]
    allowed = torch.where(last > 0, torch.minimum(norm, growth * last), norm)
    state["update_norm"] = allowed
    return allowed / norm.clamp_min(1e-30)


def _write(
    work: Projected,
    update: Tensor | None,
    basis: Tensor | None,
    factor: Tensor | None,
    rate: float,
    decay: float,
    *,
    is_late: bool,
) -> None:
    """W <- W + rate * (update P' + factor * G) in the dtype of the weight; ``decay`` shrinks W first, or last."""
    weight = work.parameter.data
    if work.rows is not None:
        _write_rows(work, update, basis, factor, rate, decay, is_late=is_late)
        return
    if decay and not is_late:
        weight.mul_(1.0 - decay)
    matrix = as_matrix(weight)
    is_view = matrix is weight or matrix.data_ptr() == weight.data_ptr()
    oriented = matrix.t() if work.state.get("is_left") else matrix
    if weight.dtype == torch.float32:
        _add(oriented, work, update, basis, factor, rate, slice(None))
    else:
        total = oriented.to(torch.float32).add_(_full(work, update, basis, factor), alpha=rate)
        if weight.dtype == torch.bfloat16 and work.group["stochastic_rounding"]:
            oriented.copy_(round_to_bfloat16(total, total.shape[0], work.state["step"]))
        else:
            oriented.copy_(total)
    if not is_view:
        weight.copy_(matrix.reshape(weight.shape))
    if decay and is_late:
        weight.mul_(1.0 - decay)


def _add(
    target: Tensor,
    work: Projected,
    update: Tensor | None,
    basis: Tensor | None,
    factor: Tensor | None,
    rate: float,
    part: slice,
) -> None:
    """Add rate * (U P' + f G) of the rows in ``part`` to a float32 matrix, in place and without forming it."""
    if update is not None and basis is not None:
        target.addmm_(update[part], basis.t(), alpha=rate)
    elif update is not None:
        target.add_(update[part], alpha=rate)
    if factor is not None and work.gradient is not None:
        target.addcmul_(work.gradient[part], factor[part], value=rate)


def _full(work: Projected, update: Tensor | None, basis: Tensor | None, factor: Tensor | None) -> Tensor:
    """The update U P' + f G in full, [rows, n]."""
    if factor is None or work.gradient is None:
        assert update is not None
        return update if basis is None else update @ basis.T
    scaled = work.gradient * factor
    if update is None:
        return scaled
    return scaled.add_(update) if basis is None else scaled.addmm_(update, basis.T)  # no second matrix of that size


def _write_rows(
    work: Projected,
    update: Tensor | None,
    basis: Tensor | None,
    factor: Tensor | None,
    rate: float,
    decay: float,
    *,
    is_late: bool,
) -> None:
    """The touched rows of a table, each in one gather and scatter."""
    weight, rows = work.parameter.data, work.rows
    assert rows is not None
    if weight.dtype == torch.float32 and not decay and weight.device.type != "cpu":
        weight.index_add_(0, rows, _full(work, update, basis, factor), alpha=rate)
        return
    # On a CPU index_add_ takes the rows one by one through the dispatcher, at four times the cost of copying them out
    # and back, and temporaries that outgrow the cache cost page faults each time.
    count = max(1, CHUNK_ENTRIES // weight.shape[1]) if weight.device.type == "cpu" else len(rows)
    for begin in range(0, len(rows), max(count, 1)):
        part = slice(begin, begin + count)
        numbers = rows[part]
        touched = weight.index_select(0, numbers).to(torch.float32)
        if decay and not is_late:
            touched.mul_(1.0 - decay)
        _add(touched, work, update, basis, factor, rate, part)
        if decay and is_late:
            touched.mul_(1.0 - decay)
        if weight.dtype == torch.bfloat16 and work.group["stochastic_rounding"]:
            touched = round_to_bfloat16(touched, numbers, work.state["step"])
        weight.index_copy_(0, numbers, touched.to(weight.dtype))


def load_moments(work: Projected) -> tuple[Tensor, Tensor]:
    """Moments of the rows of ``work``, ready to be advanced in place."""
    return read_moments(work.state, work.rows)


def store_moments(work: Projected, first: Tensor, second: Tensor) -> None:
    """Put the advanced moments back."""
    write_moments(work.state, first, second, work.rows, work.state["step"])
