"""The grouped dense step: on a GPU as it is, elsewhere its kernels in Triton's interpreter, if Triton is installed."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import nn

from surco.optim import GaLore, grouped

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: its own library is interpreted too
pytest.importorskip("triton")

# Triton's interpreter makes numbers of arrays of one element, which NumPy deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning"),  # of the infinities of this test
]

HAS_GPU = grouped.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
SHAPES = [(48, 32), (32, 64), (32, 32), (32, 4, 8), (7,), (30, 32)]  # the last two are not for the kernels


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    if not HAS_GPU:
        monkeypatch.setattr(grouped, "_DEVICES", ("cpu",))
        monkeypatch.setattr(grouped, "is_available", lambda: True)
        for name in ("PROJECT_TILE", "WRITE_TILE"):
            monkeypatch.setattr(grouped, name, (32, 32, 16))
        for name in ("PROJECT_PRECISION", "WRITE_PRECISION"):  # the interpreter computes in float32 anyway
            monkeypatch.setattr(grouped, name, "ieee")


def trained(steps: int, bad: dict[int, int], options: dict[str, Any]) -> tuple[list[nn.Parameter], GaLore]:
    """Weights after some steps; ``bad`` gives the number of the weight whose gradient has a NaN, by step."""
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape, generator=generator).to(DEVICE)) for shape in SHAPES]
    optimizer = GaLore(weights, lr=0.01, rank=16, update_gap=4, **({"implementation": "grouped"} | options))
    for step in range(steps):
        for number, weight in enumerate(weights):
            gradient = torch.randn(weight.shape, generator=generator)
            if bad.get(step) == number:
                gradient[0] = float("nan") if step % 2 else float("inf")
            weight.grad = gradient.to(DEVICE)
        optimizer.step()
    return weights, optimizer


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"conventions": "galore-torch", "weight_decay": 0.1}])
def test_equals_the_plain_step(kernels: None, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]):
    calls = []
    real = grouped.GroupedStep.__call__
    monkeypatch.setattr(grouped.GroupedStep, "__call__", lambda *args: calls.append(len(args[1])) or real(*args))
    bad = {2: 1, 5: 2}  # within a gap and at a refresh of some weight
    ours, first = trained(7, bad, options)
    assert calls == [4] * 7
    monkeypatch.setattr(grouped, "_DEVICES", ())
    plain, second = trained(7, bad, options)
    assert calls == [4] * 7
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        for key, value in second.state[b].items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(first.state[a][key], value, rtol=1e-4, atol=1e-5)
            elif isinstance(value, int):
                assert first.state[a][key] == value, key
    assert [second.state[weight]["skipped_steps"] for weight in plain] == [0, 1, 1, 0, 0, 0]


def test_other_modes_are_left_alone(kernels: None, monkeypatch: pytest.MonkeyPatch):
    def never(*_: object) -> None:
        raise AssertionError("the grouped step was called")

    monkeypatch.setattr(grouped.GroupedStep, "__call__", never)
    for options in ({"mode": "fira"}, {"mode": "rowwise"}, {"inner": "adamw8bit"}, {"implementation": "foreach"}):
        trained(2, {}, options)
