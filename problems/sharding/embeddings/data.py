"""Click data: bags of ids for each table, dense features, labels, and how they are split and batched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from surco.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class ClickData:
    """Samples of a click task.

    Attributes:
        names: of the tables.
        rows: ids of table t are 0 .. rows[t] - 1.
        ids: for each table [S, k_t] int64, a bag of at most k_t lookups; unused places hold rows[t].
        dense: [S, D] float32, D may be 0.
        labels: [S] float32, 0 or 1.
        bayes_auc: AUC of the true probabilities where they are known (synthetic data), else NaN.
        source: where the samples come from.
    """

    names: tuple[str, ...]
    rows: tuple[int, ...]
    ids: tuple[Tensor, ...]
    dense: Tensor
    labels: Tensor
    bayes_auc: float = float("nan")
    source: str = ""

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.rows) == len(self.ids) > 0:
            counts = (len(self.names), len(self.rows), len(self.ids))
            raise InvalidInputError(f"Expected as many names, rows and id tensors, at least one; got {counts}.")
        for name, rows, ids in zip(self.names, self.rows, self.ids, strict=True):
            if ids.dim() != 2 or ids.shape[0] != len(self):
                raise InvalidInputError(f"Expected ids of table {name!r} as [{len(self)}, k]; got {tuple(ids.shape)}.")
            if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) > rows):
                raise InvalidInputError(
                    f"Expected ids of table {name!r} in 0..{rows} ({rows} is the empty place); got {int(ids.min())}.."
                    f"{int(ids.max())}."
                )

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, samples: Tensor) -> ClickData:
        """The samples of the given numbers [K]."""
        ids = tuple(ids[samples] for ids in self.ids)
        return replace(self, ids=ids, dense=self.dense[samples], labels=self.labels[samples])

    def split(self, *, seed: int, shares: tuple[float, float] = (0.8, 0.1)) -> tuple[ClickData, ClickData, ClickData]:
        """Random training, validation and test parts; the test part is what ``shares`` leave."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        first, second = int(shares[0] * len(self)), int(sum(shares) * len(self))
        return self.select(order[:first]), self.select(order[first:second]), self.select(order[second:])

    def batches(self, size: int, *, seed: int | None = None, start: int = 0) -> Iterator[ClickData]:
        """Batches of ``size``, shuffled by ``seed`` or in order, from batch number ``start`` on."""
        if seed is None:
            order = torch.arange(len(self))
        else:
            order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        for begin in range(start * size, len(self), size):
            yield self.select(order[begin : begin + size])
