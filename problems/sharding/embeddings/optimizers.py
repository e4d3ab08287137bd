"""Optimizers of embedding tables by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from problems.sharding.embeddings.config import TrainConfig
from surco.errors import UnknownIdError
from surco.optim import GaLore, RowwiseAdagrad, RowwiseAdam

Maker = Callable[[list[nn.Parameter], TrainConfig], torch.optim.Optimizer]


@dataclass(frozen=True, slots=True)
class TableOptimizer:
    """One entry.

    Attributes:
        make: from the tables' weights and the configuration.
        is_sparse: whether it takes sparse gradients.
    """

    make: Maker
    is_sparse: bool = True


def _low_rank(**fixed: object) -> Maker:
    def make(weights: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
        options = {"scale": 1.0, "rank": config.rank, "update_gap": config.update_gap, "lr": config.lr}
        return GaLore(weights, **(options | fixed | config.options))  # type: ignore[arg-type]

    return make


TABLE_OPTIMIZERS: dict[str, TableOptimizer] = {
    "sgd": TableOptimizer(lambda weights, config: torch.optim.SGD(weights, lr=config.lr)),
    "rowwise-adagrad": TableOptimizer(lambda weights, config: RowwiseAdagrad(weights, lr=config.lr)),
    "rowwise-adam": TableOptimizer(lambda weights, config: RowwiseAdam(weights, lr=config.lr)),
    "sparse-adam": TableOptimizer(lambda weights, config: torch.optim.SparseAdam(weights, lr=config.lr)),
    "adamw": TableOptimizer(
        lambda weights, config: torch.optim.AdamW(weights, lr=config.lr, weight_decay=0.0, fused=True), is_sparse=False
    ),
    "galore": TableOptimizer(_low_rank()),
    "galore-8bit": TableOptimizer(_low_rank(inner="adamw8bit")),
    # A batch touches few rows, so that its gradient alone is a noisy sample of the row space: a running covariance.
    "galore-rowwise": TableOptimizer(_low_rank(mode="rowwise", covariance_decay=0.9)),
    "galore-rowwise-8bit": TableOptimizer(_low_rank(mode="rowwise", covariance_decay=0.9, inner="adamw8bit")),
    "fira": TableOptimizer(_low_rank(mode="fira")),
    "apollo": TableOptimizer(_low_rank(mode="apollo")),
    "apollo-mini": TableOptimizer(_low_rank(mode="apollo-mini")),
}


def table_optimizer(name: str) -> TableOptimizer:
    """The entry of that name.

    Raises:
        UnknownIdError: no such optimizer.
    """
    if name not in TABLE_OPTIMIZERS:
        raise UnknownIdError(f"No table optimizer {name!r}. Known: {', '.join(TABLE_OPTIMIZERS)}.")
    return TABLE_OPTIMIZERS[name]


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all tensors of an optimizer's state."""
    tensors = (v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
