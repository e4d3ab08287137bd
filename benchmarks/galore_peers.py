"""Peers of the low-rank optimizer, and timing that is fair to all: the same tensors, medians, refresh steps apart."""

from __future__ import annotations

import importlib
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def galore_torch_adamw(folder: Path) -> Any:
    """AdamW of galore-torch 1.0 from ``folder`` (see ``benchmarks.galore_corpus``).

    The package's ``__init__`` imports bitsandbytes and its AdamW one version check of transformers; neither is needed.
    """
    if not (folder / "galore_torch" / "adamw.py").exists():
        raise FileNotFoundError(
            f"Expected {folder}/galore_torch; run: python -m benchmarks.galore_corpus --out {folder}"
        )
    package = types.ModuleType("galore_torch")
    package.__path__ = [str(folder / "galore_torch")]
    sys.modules["galore_torch"] = package
    for name in ("transformers", "transformers.utils", "transformers.utils.versions"):
        if name not in sys.modules:
            sys.modules[name] = types.ModuleType(name)
    sys.modules["transformers.utils.versions"].require_version = lambda *_: None  # type: ignore[attr-defined]
    return importlib.import_module("galore_torch.adamw").AdamW


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all tensors that an optimizer's state reaches, also inside helper objects."""
    total, seen = 0, set()
    stack: list[Any] = list(optimizer.state.values())
    while stack:
        item = stack.pop()
        if isinstance(item, Tensor):
            if id(item) not in seen:
                seen.add(id(item))
                total += item.numel() * item.element_size()
        elif isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, (list, tuple)):
            stack.extend(item)
        elif hasattr(item, "__dict__"):
            stack.extend(vars(item).values())
    return total


def times_ms(call: Callable[[], Any], *, repeats: int, device: torch.device, warm_up: int = 2) -> list[float]:
    """Milliseconds of single calls: CUDA events on a GPU, CPU time of this process elsewhere."""
    for _ in range(warm_up):
        call()
    if device.type == "cuda":
        pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
        torch.cuda.synchronize()
        for begin, end in pairs:
            begin.record()
            call()
            end.record()
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) for begin, end in pairs]
    seconds = []
    for _ in range(repeats):
        begin = time.process_time()
        call()
        seconds.append(1e3 * (time.process_time() - begin))
    return seconds


def median(values: list[float]) -> float:
    """Middle value."""
    return sorted(values)[len(values) // 2]


def spectrum_matrix(rows: int, columns: int, kind: str, *, device: torch.device, seed: int = 0) -> Tensor:
    """Gradient-like matrix: a spectrum of the given kind plus one percent noise; 'noise' is noise alone."""
    generator = torch.Generator(device).manual_seed(seed)
    noise = torch.randn(rows, columns, generator=generator, device=device)
    if kind == "noise":
        return noise
    count = min(rows, columns)
    number = torch.arange(1, count + 1, device=device, dtype=torch.float32)
    values = {"k^-1": 1 / number, "k^-0.5": number**-0.5, "rank 8": (number <= 8).float()}[kind]
    right = torch.linalg.qr(torch.randn(columns, columns, generator=generator, device=device))[0][:, :count]
    # Gaussian columns of a tall matrix are orthogonal enough for a prescribed decay, at a fraction of the cost of a QR.
    left = torch.randn(rows, count, generator=generator, device=device) / rows**0.5
    matrix = (left * values) @ right.T
    return matrix + 0.01 * matrix.norm() / noise.norm() * noise


def drifted(matrix: Tensor, share: float = 0.3, *, seed: int = 1) -> Tensor:
    """The matrix with noise of ``share`` of its norm: the gradient some hundred steps later."""
    noise = torch.randn(matrix.shape, device=matrix.device, generator=torch.Generator(matrix.device).manual_seed(seed))
    return matrix + share * matrix.norm() / noise.norm() * noise
