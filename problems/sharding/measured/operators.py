"""The embedding operators that are measured: FBGEMM's fused one, and a loop of `torch.nn.EmbeddingBag`.

Both take the inputs of the fused operator: ``indices`` [lookups] int64, all tables one after another, and ``offsets``
[T * B + 1] int64, where the bag of table t and sample b starts; and give the pooled rows [B, sum of dims].
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surco.errors import InvalidInputError, MissingExtraError

LEARNING_RATE = 0.01


class Operator(enum.StrEnum):
    """Which operator runs the tables of a device."""

    FBGEMM = "fbgemm"
    EMBEDDING_BAG = "embedding_bag"


@dataclass(frozen=True, slots=True)
class Tables:
    """Tables in memory, ready to run.

    Attributes:
        forward: (indices, offsets) -> pooled rows [B, sum of dims], connected to the backward pass.
        backward: (pooled rows, their gradient) -> None; updates the weights, optimizer included.
        operator: what runs.
        optimizer: the update that ``backward`` makes.
    """

    forward: Callable[[Tensor, Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], None]
    operator: Operator
    optimizer: str


def make_tables(operator: Operator, rows: Sequence[int], dims: Sequence[int], device: torch.device) -> Tables:
    """Allocate tables in float32 and connect them.

    Raises:
        MissingExtraError: FBGEMM cannot be imported; nothing takes its place unless it is asked for.
        InvalidInputError: no tables, or lists of different lengths.
    """
    if not rows or len(rows) != len(dims):
        raise InvalidInputError(f"Expected rows and dims of the same tables, got {len(rows)} and {len(dims)}.")
    if operator is Operator.FBGEMM:
        return _fbgemm(rows, dims, device)
    return _embedding_bags(rows, dims, device)


def fbgemm_version() -> str | None:
    """Version of the installed FBGEMM build; None where there is none."""
    from importlib.metadata import PackageNotFoundError, version

    for name in ("fbgemm-gpu", "fbgemm-gpu-cpu"):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return None


def _fbgemm(rows: Sequence[int], dims: Sequence[int], device: torch.device) -> Tables:
    """`SplitTableBatchedEmbeddingBagsCodegen`: one kernel for all tables, exact row-wise Adagrad inside backward."""
    try:
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
            BoundsCheckMode,
            EmbeddingLocation,
            PoolingMode,
        )
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            ComputeDevice,
            SplitTableBatchedEmbeddingBagsCodegen,
        )
    except (ImportError, OSError) as error:
        raise MissingExtraError(
            f"FBGEMM cannot be imported ({error}). Install fbgemm-gpu (or fbgemm-gpu-cpu) of the release that goes "
            f"with torch {torch.__version__}, or ask for the operator 'embedding_bag', which measures something else."
        ) from error
    is_cuda = device.type == "cuda"
    place = EmbeddingLocation.DEVICE if is_cuda else EmbeddingLocation.HOST
    compute = ComputeDevice.CUDA if is_cuda else ComputeDevice.CPU
    operator: Any = SplitTableBatchedEmbeddingBagsCodegen(
        [(int(r), int(d), place, compute) for r, d in zip(rows, dims, strict=True)],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=LEARNING_RATE,
        pooling_mode=PoolingMode.SUM,
        bounds_check_mode=BoundsCheckMode.NONE,  # indices are drawn in range; the check is not part of the operator
        device=device,
    )
    for weights in operator.split_embedding_weights():
        weights.fill_(0.01)

    def backward(pooled: Tensor, gradient: Tensor) -> None:
        torch.autograd.backward(pooled, gradient)

    def forward(indices: Tensor, offsets: Tensor) -> Tensor:
        return operator(indices, offsets)

    return Tables(forward, backward, Operator.FBGEMM, "rowwise_adagrad")


def _embedding_bags(rows: Sequence[int], dims: Sequence[int], device: torch.device) -> Tables:
    """One `EmbeddingBag` a table with sparse gradients and torch's Adagrad: many launches, no fusion."""
    bags = [
        torch.nn.EmbeddingBag(int(r), int(d), mode="sum", sparse=True, include_last_offset=True, device=device)
        for r, d in zip(rows, dims, strict=True)
    ]
    with torch.no_grad():
        for bag in bags:
            bag.weight.fill_(0.01)
    adagrad = torch.optim.Adagrad([bag.weight for bag in bags], lr=LEARNING_RATE)
    count = len(bags)

    def forward(indices: Tensor, offsets: Tensor) -> Tensor:
        batch = (len(offsets) - 1) // count
        edges = offsets[::batch][: count + 1].tolist()
        parts = []
        for t, bag in enumerate(bags):
            inside = offsets[t * batch : (t + 1) * batch + 1] - edges[t]
            parts.append(bag(indices[edges[t] : edges[t + 1]], inside))
        return torch.cat(parts, dim=1)

    def backward(pooled: Tensor, gradient: Tensor) -> None:
        torch.autograd.backward(pooled, gradient)
        with torch.sparse.check_sparse_tensor_invariants(enable=False):  # said aloud, or torch warns
            adagrad.step()
        adagrad.zero_grad(set_to_none=True)

    return Tables(forward, backward, Operator.EMBEDDING_BAG, "adagrad")
