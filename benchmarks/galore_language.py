"""A small byte-level language model: AdamW, galore-torch, and our optimizer in each mode."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.galore_peers import galore_torch_adamw, state_bytes
from surco.optim import FusedBackward, GaLore

Row = dict[str, Any]


class Block(nn.Module):
    """Pre-norm attention and a GELU network."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.value, self.out = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] -> [B, T, width]."""
        batch, length, width = x.shape
        y = self.norm1(x)
        q, k, v = (
            part(y).view(batch, length, self.heads, -1).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class ByteModel(nn.Module):
    """Bytes to logits of the next byte."""

    def __init__(self, *, width: int, layers: int, length: int, heads: int = 8) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(256, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, T] -> [B, T, 256]."""
        x = self.token(ids) + self.place.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Weights of the blocks (projected, as the reference does) and the rest."""
        projected = [p for p in self.blocks.parameters() if p.dim() == 2]
        known = {id(p) for p in projected}
        return projected, [p for p in self.parameters() if id(p) not in known]


def makers(rank: int, gap: int, folder: Path) -> dict[str, tuple[list[float], Callable[[ByteModel, float], Any]]]:
    """Name -> (learning rates, maker). Rates of the low-rank ones are effective rates: lr * scale is the same list."""
    reference = galore_torch_adamw(folder)
    rates = [2e-3, 4e-3, 8e-3]

    def theirs(model: ByteModel, rate: float) -> Any:
        projected, rest = model.groups()
        group = {
            "params": projected,
            "rank": rank,
            "update_proj_gap": gap,
            "scale": 1.0,
            "proj_type": "std",
            "lr": rate,
        }
        return reference([group, {"params": rest, "lr": 1e-3}], no_deprecation_warning=True)

    def ours(**options: Any) -> Callable[[ByteModel, float], Any]:
        def make(model: ByteModel, rate: float) -> Any:
            projected, rest = model.groups()
            common = {"eps": 1e-6, "update_gap": gap} | options
            low = {"params": projected, "rank": rank, "scale": 1.0, "lr": rate} | common
            return GaLore([low, {"params": rest, "rank": None, "lr": 1e-3, "eps": 1e-6}])

        return make

    def adamw(model: ByteModel, rate: float) -> Any:
        projected, rest = model.groups()
        return torch.optim.AdamW(
            [{"params": projected, "lr": rate}, {"params": rest, "lr": 1e-3}], weight_decay=0.0, fused=True
        )

    as_theirs = {"conventions": "galore-torch", "rotate_moments": False, "stagger": False}
    sketches = [8e-3, 1.6e-2, 3.2e-2]
    return {
        "AdamW": ([5e-4, 1e-3, 2e-3], adamw),
        "galore-torch": (rates, theirs),
        "ours as galore-torch": (rates, ours(**as_theirs)),
        "ours galore": (rates, ours()),
        "ours galore, not rotated": (rates, ours(rotate_moments=False)),
        "ours galore, running covariance": (rates, ours(covariance_decay=0.9)),
        "ours galore, 8-bit": (rates, ours(inner="adamw8bit")),
        "ours fira": (rates, ours(mode="fira")),
        "ours apollo": (sketches, ours(mode="apollo")),
        "ours apollo-mini": (sketches, ours(mode="apollo-mini", scale=math.sqrt(128.0))),
        "ours galore, fused backward": (rates, ours()),
    }


def language_rows(
    folder: Path,
    device: torch.device,
    *,
    width: int = 512,
    layers: int = 4,
    length: int = 256,
    batch: int = 64,
    steps: int = 1000,
    rank: int = 128,
    gap: int = 100,
    names: list[str] | None = None,
    deadline: float = float("inf"),
) -> Iterator[Row]:
    """Perplexity a byte on held-out text, peak memory and refresh time of each optimizer and learning rate.

    Args:
        folder: holds ``text.txt`` and ``galore_torch`` (see ``benchmarks.galore_corpus``).
        device: where to train.
        width: of the model.
        layers: of the model.
        length: context in bytes.
        batch: sequences.
        steps: of training, linear warm-up over a tenth, then cosine to a tenth.
        rank: of the projection.
        gap: steps between refreshes.
        names: optimizers to run; None runs all.
        deadline: of time.perf_counter(); runs that would start later are left out, and a row says so.
    """
    text = torch.frombuffer(bytearray((folder / "text.txt").read_bytes()), dtype=torch.uint8).to(device)
    # Held-out text from both halves of the corpus: every twentieth stretch of 50 kB.
    stretches = text[: len(text) // 50_000 * 50_000].view(-1, 50_000)
    held = torch.arange(len(stretches), device=device) % 20 == 19
    train, test = stretches[~held].flatten(), stretches[held].flatten()
    plan = makers(rank, gap, folder)
    for index in range(3):  # the middle rate first, so that a cut leaves the most telling runs
        for name, (rates, make) in plan.items():
            if names is not None and name not in names:
                continue
            rate = rates[(1, 0, 2)[index]]
            row: Row = {"optimizer": name, "lr": rate}
            if time.perf_counter() > deadline:
                yield row | {"left_out": "no time"}
                continue
            torch.manual_seed(0)  # the benchmark owns its process: the same initial weights for all
            model = ByteModel(width=width, layers=layers, length=length).to(device)
            is_fused = name.endswith("fused backward")
            yield row | _train(
                model,
                make(model, rate),
                train,
                test,
                length=length,
                batch=batch,
                steps=steps,
                gap=gap,
                is_fused=is_fused,
            )
            del model
            if device.type == "cuda":
                torch.cuda.empty_cache()


def _train(
    model: ByteModel,
    optimizer: Any,
    train: Tensor,
    test: Tensor,
    *,
    length: int,
    batch: int,
    steps: int,
    gap: int,
    is_fused: bool,
) -> Row:
    device = train.device
    is_cuda = device.type == "cuda"
    if is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    generator = torch.Generator(device).manual_seed(1)
    offsets = torch.arange(length + 1, device=device)
    hooks = FusedBackward(optimizer) if is_fused else None
    peak_rates = [group["lr"] for group in optimizer.param_groups]
    events: list[tuple[Any, Any]] = []
    begin = time.perf_counter()
    for step in range(steps):
        factor = min((step + 1) / (0.1 * steps), 0.55 + 0.45 * math.cos(math.pi * step / steps))
        for group, peak in zip(optimizer.param_groups, peak_rates, strict=True):
            group["lr"] = peak * factor
        start = torch.randint(len(train) - length - 1, (batch, 1), device=device, generator=generator)
        chunk = train[start + offsets].long()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits = model(chunk[:, :-1])
        loss = functional.cross_entropy(logits.float().flatten(0, 1), chunk[:, 1:].flatten())
        if hooks is None:
            model.zero_grad(set_to_none=True)
        loss.backward()
        if is_cuda and hooks is None:
            pair = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            pair[0].record()
            optimizer.step()
            pair[1].record()
            events.append(pair)
        elif hooks is None:
            optimizer.step()
        else:
            hooks.step()
    if is_cuda:
        torch.cuda.synchronize()
    elapsed = time.perf_counter() - begin
    if hooks is not None:
        hooks.close()
    row: Row = {
        "parameters_m": sum(p.numel() for p in model.parameters()) / 1e6,
        "steps": steps,
        "perplexity": math.exp(_test_loss(model, test, length)),
        "train_s": elapsed,
        "state_mb": state_bytes(optimizer) / 1e6,
    }
    if is_cuda:
        row["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    if events:
        times = [first.elapsed_time(second) for first, second in events[10:]]
        ordinary = sorted(times)[len(times) // 4]
        row["step_ms"] = ordinary
        row["optimizer_ms_per_step"] = sum(times) / len(times)
        # What refreshes add to all steps together, whether they fall on one step or are spread over the gap.
        row["refresh_ms_per_gap"] = (sum(times) / len(times) - ordinary) * gap
    return row


@torch.no_grad()
def _test_loss(model: ByteModel, test: Tensor, length: int, batch: int = 128) -> float:
    count = len(test) // (length + 1)
    chunks = test[: count * (length + 1)].view(count, length + 1).long()
    total = 0.0
    for part in chunks.split(batch):
        with torch.autocast(test.device.type, dtype=torch.bfloat16):
            logits = model(part[:, :-1])
        total += float(functional.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten(), reduction="sum"))
    return total / (count * length)
