"""One GPU, one table of a hundred million rows: who trains it, with what memory, how fast."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.galore_peers import state_bytes
from surco.optim import GaLore, RowwiseAdagrad, RowwiseAdam

FIELDS = 26  # categorical features, as in the Criteo sets
Row = dict[str, Any]


class ClickModel(nn.Module):
    """26 fields share one table of ``rows`` rows (each its own range); sum over fields, then a small network."""

    def __init__(self, rows: int, dim: int, device: torch.device, *, dtype: torch.dtype, sparse: bool = True) -> None:
        super().__init__()
        weight = torch.empty(rows, dim, device=device, dtype=dtype).uniform_(-0.01, 0.01)
        self.table = nn.EmbeddingBag.from_pretrained(weight, freeze=False, mode="sum", sparse=sparse)
        self.top = nn.Sequential(nn.Linear(dim, 128), nn.ReLU(), nn.Linear(128, 1)).to(device)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [B] of ids [B, fields]."""
        return self.top(self.table(ids).float()).squeeze(1)


class PlantedClicks:
    """Clicks from a planted factor model, drawn on the device.

    Field f owns rows [f R, (f + 1) R). Ids follow a Zipf law by inversion of its continuous form. Each id has 8 hidden
    factors, a hash of its number, so that nothing of the size of the table is stored; the logit is bilinear in
    the sums over two halves of the fields.
    """

    def __init__(self, rows: int, device: torch.device, *, seed: int) -> None:
        self.span = rows // FIELDS
        self.device = device
        self.generator = torch.Generator(device).manual_seed(seed)
        self.offsets = torch.arange(FIELDS, device=device) * self.span

    def factors(self, ids: Tensor) -> Tensor:
        """[..., 8] numbers in [-1, 1], a pure function of the id."""
        mixed = (ids[..., None] * 8 + torch.arange(8, device=self.device)) * -7046029254386353131
        mixed = (mixed ^ ((mixed >> 29) & ((1 << 35) - 1))) * -4658895280553007687
        return ((mixed >> 40) & 0xFFFFFF).float() / 2**23 - 1.0

    def batch(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """(ids [B, fields], clicks [B], true logits [B])."""
        u = torch.rand(size, FIELDS, device=self.device, generator=self.generator, dtype=torch.float64)
        # Density proportional to (k + 10)^-1.2 on ranks, a Zipf-Mandelbrot law.
        low, high = 10.0**-0.2, (self.span + 10.0) ** -0.2
        ranks = ((low - u * (low - high)) ** -5.0 - 10.0).long().clamp_(0, self.span - 1)
        ids = ranks + self.offsets
        hidden = self.factors(ids)
        first, second = hidden[:, : FIELDS // 2].sum(dim=1), hidden[:, FIELDS // 2 :].sum(dim=1)
        logits = 0.35 * (first * second).sum(dim=1) / 8**0.5 + 0.5 * (first[:, 0] + second[:, 1])
        clicks = torch.rand(size, device=self.device, generator=self.generator) < logits.sigmoid()
        return ids, clicks.float(), logits


def auc(scores: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve by ranks (no ties expected)."""
    order = scores.argsort()
    ranks = torch.empty_like(order, dtype=torch.float64)
    ranks[order] = torch.arange(1, len(order) + 1, device=order.device, dtype=torch.float64)
    positive = labels > 0.5
    count = int(positive.sum())
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(labels) - count)))


def optimizers(rank: int) -> dict[str, Callable[[Tensor], torch.optim.Optimizer]]:
    """Name -> maker for the table; the dense network has fused AdamW everywhere."""
    return {
        "GaLore fp32": lambda p: GaLore([p], lr=0.02, scale=1.0, rank=rank, update_gap=200),
        "GaLore 8-bit": lambda p: GaLore([p], lr=0.02, scale=1.0, rank=rank, update_gap=200, inner="adamw8bit"),
        "GaLore rowwise": lambda p: GaLore([p], lr=0.02, rank=rank, update_gap=200, mode="rowwise"),
        "row-wise Adagrad": lambda p: RowwiseAdagrad([p], lr=0.05),
        "row-wise Adam": lambda p: RowwiseAdam([p], lr=0.005),
        "SparseAdam": lambda p: torch.optim.SparseAdam([p], lr=0.005),
        "Adam, dense gradient": lambda p: torch.optim.Adam([p], lr=0.005),
    }


def scale_rows(
    rows: int,
    dim: int,
    rank: int,
    device: torch.device,
    *,
    batch: int = 16384,
    seconds: float = 20.0,
    dtypes: tuple[str, ...] = ("float32",),
) -> Iterator[Row]:
    """Train for ``seconds`` each; peak memory, rows a second, AUC beside the best possible, or out of memory."""
    for dtype in dtypes:
        for name, make in optimizers(rank).items():
            row: Row = {"rows": rows, "dim": dim, "rank": rank, "weights": dtype, "optimizer": name}
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            try:
                row |= _train(
                    rows, dim, make, device, batch, seconds, getattr(torch, dtype), is_sparse="dense" not in name
                )
                row["out_of_memory"] = False
            except torch.OutOfMemoryError as error:
                row |= {"out_of_memory": True, "message": str(error).split(". ")[0]}
            if device.type == "cuda":
                row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
            yield row


def _train(
    rows: int,
    dim: int,
    make: Callable[[Tensor], torch.optim.Optimizer],
    device: torch.device,
    batch: int,
    seconds: float,
    dtype: torch.dtype,
    *,
    is_sparse: bool,
) -> Row:
    torch.manual_seed(0)  # the benchmark owns its process: initial weights only
    model = ClickModel(rows, dim, device, dtype=dtype, sparse=is_sparse)
    table, top = make(model.table.weight), torch.optim.AdamW(model.top.parameters(), lr=1e-3)
    data = PlantedClicks(rows, device, seed=1)
    loss_of = nn.BCEWithLogitsLoss()
    steps, begin, losses = 0, time.perf_counter(), []
    warm, warm_steps = begin, 0
    while time.perf_counter() - begin < seconds:
        ids, clicks, _ = data.batch(batch)
        loss = loss_of(model(ids), clicks)
        model.zero_grad(set_to_none=True)
        loss.backward()
        table.step()
        top.step()
        steps += 1
        if steps % 50 == 0:
            losses.append(loss.item())
        if steps == 20:
            warm, warm_steps = _now(device), steps
    elapsed = _now(device) - warm
    test = PlantedClicks(rows, device, seed=2)
    scores, labels, truth = [], [], []
    with torch.no_grad():
        for _ in range(20):
            ids, clicks, logits = test.batch(batch)
            scores.append(model(ids))
            labels.append(clicks)
            truth.append(logits)
    bayes = auc(torch.cat(truth), torch.cat(labels))
    reached = auc(torch.cat(scores), torch.cat(labels))
    return {
        "steps": steps,
        "samples_per_s": (steps - warm_steps) * batch / elapsed,
        "lookups_per_s": (steps - warm_steps) * batch * FIELDS / elapsed,
        "auc": reached,
        "bayes_auc": bayes,
        "share_of_bayes": (reached - 0.5) / (bayes - 0.5),
        "loss": sum(losses[-5:]) / max(1, len(losses[-5:])),
        "state_bytes_per_row": state_bytes(table) / rows,
    }


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
