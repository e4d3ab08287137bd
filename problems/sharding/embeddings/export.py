"""From a trained model to the tables of a sharding problem: rows, width, true optimizer bytes, measured access."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from problems.sharding.access import REUSE_BINS
from problems.sharding.embeddings.data import ClickData
from problems.sharding.embeddings.models import ClickModel
from surco.errors import InvalidInputError
from surco.optim.diagnostics import Spectrum, covariance_spectrum
from surco.optim.moments import table_state_bytes
from surco.optim.options import Mode
from surco.optim.subspace import gram

RANKS = (1, 2, 4, 8, 16, 32, 64)


def tables_from_model(
    model: ClickModel, optimizer: torch.optim.Optimizer, batches: Iterable[ClickData], *, energy: bool = False
) -> list[dict[str, Any]]:
    """Plain data of each table, in the order of the model's features.

    Args:
        model: the click model.
        optimizer: of its tables, after at least one step: its state is what is counted.
        batches: samples of the workload to be sharded; the reuse of rows depends on the size of a batch.
        energy: also measure the gradient spectrum of each table on the batches (one backward pass each; gradients
            are cleared, weights do not change).

    Returns:
        For each table the entry of a sharding spec (``name, rows, dim, pooling_factor, dtype, access, state_bytes``,
        the last one the bytes of the optimizer's tensors of this table), and the further keys

        - ``lookups_per_batch`` and ``distinct_rows_per_batch``: means;
        - with ``energy``: ``stable_rank`` and ``ranks``, a list of {rank, captured_energy, state_bytes,
          state_bytes_8bit}: the choices of a GaLore rank, priced for the mode of ``optimizer`` and with its running
          covariance where it has one (for the mode "galore" where it is no GaLore).

        ``table_entries`` drops the further keys.

    Raises:
        InvalidInputError: no batches, or batches of other tables than the model's.
    """
    parts = list(batches)
    if not parts:
        raise InvalidInputError("Expected at least one batch to measure pooling and reuse; got none.")
    weights = model.table_parameters()
    rows = tuple(weight.shape[0] - 1 for weight in weights)
    if any(part.rows != rows for part in parts):
        raise InvalidInputError(
            f"Expected batches of tables with {rows} rows, those of the model; got {parts[0].rows}."
        )
    spectra = _spectra(model, parts) if energy else [None] * len(weights)
    entries = []
    for table, (name, weight, spectrum) in enumerate(zip(parts[0].names, weights, spectra, strict=True)):
        counts = [_row_counts(part.ids[table], rows[table]) for part in parts]
        lookups = sum(float(count.sum()) for count in counts)
        entry: dict[str, Any] = {
            "name": name,
            "rows": rows[table],
            "dim": weight.shape[1],
            "pooling_factor": lookups / sum(len(part) for part in parts),
            "dtype": str(weight.dtype).removeprefix("torch."),
            "access": {"kind": "reuse_histogram", "shares": reuse_shares(counts)},
            "state_bytes": _state_bytes(optimizer, weight),
            "lookups_per_batch": lookups / len(parts),
            "distinct_rows_per_batch": sum(len(count) for count in counts) / len(parts),
        }
        if spectrum is not None:
            entry["stable_rank"] = spectrum.stable_rank
            entry["ranks"] = rank_choices(spectrum, *weight.shape, **_pricing(optimizer, weight))
        entries.append(entry)
    return entries


SPEC_KEYS = ("name", "rows", "dim", "pooling_factor", "dtype", "access", "state_bytes")


def table_entries(exported: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ``tables`` of a sharding spec: the exported entries without what is no key of it."""
    return [{key: entry[key] for key in SPEC_KEYS} for entry in exported]


def rank_choices(
    spectrum: Spectrum, rows: int, dim: int, *, is_rowwise: bool = False, has_covariance: bool = False
) -> list[dict[str, float]]:
    """Memory against captured energy for the ranks 1, 2, 4, ... up to the width of a table.

    Args:
        spectrum: of its gradients.
        rows: whose moments are kept, the padding row too.
        dim: width.
        is_rowwise: whether the mode is "rowwise", which has one second moment a row.
        has_covariance: whether a running covariance is kept.
    """
    kind = {"is_rowwise": is_rowwise, "has_covariance": has_covariance}
    return [
        {
            "rank": rank,
            "captured_energy": spectrum.captured(rank),
            "state_bytes": table_state_bytes(rows, dim, rank, **kind),
            "state_bytes_8bit": table_state_bytes(rows, dim, rank, is_8bit=True, **kind),
        }
        for rank in RANKS
        if rank <= dim
    ]


def _pricing(optimizer: torch.optim.Optimizer, weight: Tensor) -> dict[str, bool]:
    """What the bytes of a rank depend on, from the options of the group of ``weight``."""
    group = next((g for g in optimizer.param_groups if any(weight is p for p in g["params"])), {})
    is_rowwise = group.get("mode") == Mode.ROWWISE
    return {"is_rowwise": is_rowwise, "has_covariance": bool(group.get("covariance_decay"))}


def reuse_shares(counts: Iterable[Tensor]) -> list[float]:
    """Shares of the distinct rows of a batch that are used (0,1], (1,2], (2,4], ..., >32768 times, mean of batches.

    Args:
        counts: for each batch the uses of its distinct rows, all positive.
    """
    total = torch.zeros(REUSE_BINS, dtype=torch.float64)
    for uses in counts:
        bins = torch.ceil(torch.log2(uses.to(torch.float64))).to(torch.int64).clamp_(0, REUSE_BINS - 1)
        total += torch.bincount(bins, minlength=REUSE_BINS)
    if float(total.sum()) == 0.0:
        total[0] = 1.0  # a table that is never looked up: any histogram will do
    shares = (total / total.sum()).tolist()
    assert math.isclose(sum(shares), 1.0, rel_tol=1e-9)
    return shares


def _row_counts(ids: Tensor, rows: int) -> Tensor:
    """Uses of the distinct rows of a bag tensor [S, k]; empty places do not count."""
    used = ids[ids < rows]
    return torch.unique(used, return_counts=True)[1]


def _state_bytes(optimizer: torch.optim.Optimizer, weight: Tensor) -> int:
    state = optimizer.state.get(weight, {})
    return sum(value.numel() * value.element_size() for value in state.values() if isinstance(value, Tensor))


def _spectra(model: ClickModel, parts: list[ClickData]) -> list[Spectrum | None]:
    """Spectrum of the summed Gram matrix of each table's gradients; None where a table gets none."""
    weights = model.table_parameters()
    device = weights[0].device
    sums = [torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64, device=device) for weight in weights]
    for part in parts:
        model.zero_grad(set_to_none=True)
        logits = model([ids.to(device) for ids in part.ids], part.dense.to(device))
        torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), part.labels.to(device)).backward()
        for total, weight in zip(sums, weights, strict=True):
            if weight.grad is not None:
                values = weight.grad.coalesce().values() if weight.grad.is_sparse else weight.grad
                total += gram(values)
    model.zero_grad(set_to_none=True)
    return [covariance_spectrum(total) if float(total.trace()) > 0 else None for total in sums]
