"""Second formulations that judge the optimizer: formulas in float64, and the reference package where installed."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor


def galore_torch_adamw(monkeypatch: pytest.MonkeyPatch) -> Any:
    """AdamW of galore-torch 1.0, without the heavy packages that its ``__init__`` imports and AdamW does not use."""
    spec = importlib.util.find_spec("galore_torch")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("galore-torch is not installed: pip install --no-deps galore-torch==1.0")
    package = types.ModuleType("galore_torch")
    package.__path__ = list(spec.submodule_search_locations)
    monkeypatch.setitem(sys.modules, "galore_torch", package)
    for name in ("transformers", "transformers.utils", "transformers.utils.versions"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["transformers.utils.versions"].require_version = lambda *_: None  # type: ignore[attr-defined]
    return importlib.import_module("galore_torch.adamw").AdamW


def low_rank_adam(
    weight: Tensor,
    gradients: list[Tensor],
    *,
    rank: int,
    gap: int,
    lr: float,
    scale: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    touched_rows_only: bool = False,
) -> Tensor:
    """GaLore-AdamW with torch's conventions and no rotation in float64, with the basis from a full SVD.

    Right projection. With ``touched_rows_only`` a row whose gradient is zero keeps its weight and moments.
    """
    w = weight.double().clone()
    m = torch.zeros(w.shape[0], rank, dtype=torch.float64)
    v = torch.zeros_like(m)
    basis = torch.zeros(0)
    for t, gradient in enumerate(gradients):
        g = gradient.double()
        if t % gap == 0:
            basis = torch.linalg.svd(g, full_matrices=False)[2][:rank].T
        rows = g.abs().sum(dim=1) > 0 if touched_rows_only else torch.ones(len(g), dtype=torch.bool)
        r = g[rows] @ basis
        m[rows] = betas[0] * m[rows] + (1 - betas[0]) * r
        v[rows] = betas[1] * v[rows] + (1 - betas[1]) * r**2
        d = (m[rows] / (1 - betas[0] ** (t + 1))) / ((v[rows] / (1 - betas[1] ** (t + 1))).sqrt() + eps)
        w[rows] = w[rows] * (1 - lr * weight_decay) - lr * scale * d @ basis.T
    return w


def spectrum_matrix(rows: int, columns: int, values: Tensor, *, seed: int) -> Tensor:
    """Matrix [rows, columns] float32 with the given singular values."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(rows, len(values), generator=generator))[0]
    right = torch.linalg.qr(torch.randn(columns, len(values), generator=generator))[0]
    return (left * values) @ right.T


def decaying(count: int, power: float) -> Tensor:
    """k^-power, k = 1..count."""
    return torch.arange(1, count + 1, dtype=torch.float32) ** -power


def energy_ratio(matrix: Tensor, basis: Tensor) -> float:
    """Energy inside ``basis`` over the best possible at its rank, in float64."""
    matrix, basis = matrix.double(), basis.double()
    best = torch.linalg.svdvals(matrix)[: basis.shape[1]].square().sum()
    return float((matrix @ basis).square().sum() / best)


def root_mean_square(tensor: Tensor) -> float:
    """Root mean square of the entries."""
    return float(tensor.double().square().mean()) ** 0.5


def adam_ceiling(betas: tuple[float, float] = (0.9, 0.999)) -> float:
    """Largest |m| / sqrt(v) that any gradient sequence can reach."""
    return (1 - betas[0]) / math.sqrt((1 - betas[1]) * (1 - betas[0] ** 2 / betas[1]))
