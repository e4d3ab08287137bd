"""What to train and how, as plain data that a checkpoint can hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from surco.errors import InvalidInputError


class Architecture(StrEnum):
    """The two models of the MLPerf recommendation benchmarks."""

    DLRM = "dlrm"  # dot products of all pairs of pooled embeddings (arXiv 1906.00091)
    DCN_V2 = "dcn-v2"  # low-rank cross layers on their concatenation (arXiv 2008.13535)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A click model.

    Attributes:
        architecture: a value of ``Architecture``.
        dim: width of every embedding table.
        bottom: hidden widths of the network on dense features; its output is ``dim`` wide.
        top: hidden widths of the network that ends in the logit.
        cross_layers: of DCN-v2.
        cross_rank: of its cross matrices.
        pooling: "sum" or "mean" over the lookups of a bag.
    """

    architecture: str = "dlrm"
    dim: int = 32
    bottom: tuple[int, ...] = (64,)
    top: tuple[int, ...] = (64, 32)
    cross_layers: int = 3
    cross_rank: int = 32
    pooling: str = "sum"

    def __post_init__(self) -> None:
        if self.architecture not in list(Architecture):
            accepted = ", ".join(Architecture)
            raise InvalidInputError(f"Expected `architecture` to be one of {accepted}; got {self.architecture!r}.")
        if self.pooling not in ("sum", "mean"):
            raise InvalidInputError(f"Expected `pooling` to be 'sum' or 'mean'; got {self.pooling!r}.")
        if self.dim < 1:
            raise InvalidInputError(f"Expected `dim` >= 1; got {self.dim}.")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """A training run.

    Attributes:
        optimizer: of the tables, a key of ``problems.sharding.embeddings.optimizers.TABLE_OPTIMIZERS``. The default is
            the low-rank one that is level with SparseAdam on clicks; "rowwise-adagrad" is smaller and may be better.
        lr: learning rate of the tables.
        rank: of low-rank optimizers; an int or "auto".
        update_gap: steps between their refreshes.
        options: further keyword arguments of the table optimizer.
        dense_lr: learning rate of the networks (AdamW).
        batch_size: samples a step.
        epochs: passes over the training part; the best one on the validation part counts.
        patience: stop after so many epochs without a better validation AUC; None never stops early.
        seed: of initial weights and shuffling.
        device: "cpu", "cuda", "cuda:1", ...
        weights: "float32" or "bfloat16" tables (the latter with autocast networks).
        checkpoint_every: steps between checkpoints, where a folder is given.
    """

    optimizer: str = "galore-rowwise"
    lr: float = 0.02
    rank: int | str = 4
    update_gap: int = 50
    options: dict[str, Any] = field(default_factory=dict)
    dense_lr: float = 1e-3
    batch_size: int = 512
    epochs: int = 3
    patience: int | None = None
    seed: int = 0
    device: str = "cpu"
    weights: str = "float32"
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        if self.weights not in ("float32", "bfloat16"):
            raise InvalidInputError(f"Expected `weights` to be 'float32' or 'bfloat16'; got {self.weights!r}.")
        for name in ("batch_size", "epochs", "checkpoint_every", "update_gap"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"Expected `{name}` >= 1; got {getattr(self, name)}.")

    def to_json(self) -> dict[str, Any]:
        """Plain dict."""
        return asdict(self)
