"""The grouped dense step: on a GPU as it is, elsewhere its kernels in Triton's interpreter, if Triton is installed."""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from surco.optim import GaLore, grouped

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: its own library is interpreted too
pytest.importorskip("triton")
if not torch.cuda.is_available() and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
    pytest.skip(
        "Triton's interpreter takes a loop bound from an array, which NumPy 2.4 refuses", allow_module_level=True
    )

# Triton's interpreter makes numbers of arrays of one element, which NumPy deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning"),  # of the infinities of this test
]

HAS_GPU = torch.cuda.is_available() and grouped.is_available(torch.device("cuda", 0))
DEVICE = torch.device("cuda", 0) if HAS_GPU else torch.device("cpu")
SHAPES = [(48, 32), (32, 64), (32, 32), (32, 4, 8), (7,), (30, 32)]  # the last two are not for the kernels


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    if not HAS_GPU:
        monkeypatch.setattr(grouped, "is_available", lambda _: True)
        for name in ("PROJECT_TILE", "WRITE_TILE"):
            monkeypatch.setattr(grouped, name, (32, 32, 16))
        for name in ("PROJECT_PRECISION", "WRITE_PRECISION"):  # the interpreter computes in float32 anyway
            monkeypatch.setattr(grouped, name, "ieee")


def trained(steps: int, bad: dict[int, int], options: dict[str, Any]) -> tuple[list[nn.Parameter], GaLore]:
    """Weights after some steps; ``bad`` gives the number of the weight whose gradient has a NaN, by step."""
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape, generator=generator).to(DEVICE)) for shape in SHAPES]
    settings: dict[str, Any] = {"rank": 16} | options
    optimizer = GaLore(weights, lr=0.01, update_gap=4, **settings)
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
    monkeypatch.setattr(grouped, "is_available", lambda _: False)
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
    for options in (
        {"mode": "fira"},
        {"mode": "rowwise"},
        {"mode": "apollo"},
        {"mode": "apollo-mini"},
        {"inner": "adamw8bit"},
        {"inner": "adafactor"},
        {"inner": "adam", "weight_decay": 0.1},
        {"implementation": "foreach"},
        {"implementation": "fused"},
        {"rank": 8},
        {"rank": None},
    ):
        trained(2, {}, options)


@pytest.mark.parametrize("change", [{"inner": "adamw8bit"}, {"mode": "rowwise"}, {"inner": "adafactor"}])
def test_moments_of_another_rule_are_left_alone(kernels: None, change: dict[str, Any]):
    """An option that is changed between two steps leaves moments of another shape behind."""
    weight = nn.Parameter(torch.randn(48, 32, generator=torch.Generator().manual_seed(0)).to(DEVICE))
    optimizer = GaLore([weight], rank=16, **change)
    weight.grad = torch.randn(48, 32, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    optimizer.step()
    group, state = optimizer.param_groups[0], optimizer.state[weight]
    group.update(inner="adamw", mode="galore")
    assert not grouped.can_take(weight, weight.grad, group, state)
    fresh = GaLore([weight], rank=16)
    fresh.step()
    assert grouped.can_take(weight, weight.grad, fresh.param_groups[0], fresh.state[weight])
    fresh.state[weight]["basis"] = fresh.state[weight]["basis"].T.contiguous().T  # as a checkpoint may hold it
    assert not grouped.can_take(weight, weight.grad, fresh.param_groups[0], fresh.state[weight])


def test_a_basis_of_a_rank_deficient_gradient_lies_in_rows(kernels: None, monkeypatch: pytest.MonkeyPatch):
    """Such a basis comes from LAPACK's QR, which stores columns."""
    generator = torch.Generator().manual_seed(0)
    gradient = torch.zeros(48, 64)
    gradient[:3] = torch.randn(3, 64, generator=generator)
    found = []
    for is_available in (True, False):
        monkeypatch.setattr(grouped, "is_available", lambda _, answer=is_available: answer)
        weight = nn.Parameter(torch.zeros(48, 64, device=DEVICE))
        weight.grad = gradient.to(DEVICE)
        optimizer = GaLore([weight], rank=16, refresh="gram", projection="right", eps=0.5)
        optimizer.step()
        assert optimizer.state[weight]["basis"].is_contiguous()
        found.append(weight.detach())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_a_device_is_tried_with_a_small_step(monkeypatch: pytest.MonkeyPatch, kernels: None):
    assert grouped._failure(DEVICE) is None

    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(grouped.GroupedStep, "_launched", broken)
    assert "C compiler" in str(grouped._failure(DEVICE))
    monkeypatch.setattr(grouped.GroupedStep, "_launched", lambda _, works: torch.zeros(len(works)))  # writes nothing
    assert "off by" in str(grouped._failure(DEVICE))


def test_a_gpu_without_the_kernels_is_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(grouped, "_obstacle", lambda _: "Triton is not installed")
    grouped.is_available.cache_clear()
    with caplog.at_level(logging.WARNING):
        answers = [grouped.is_available(torch.device("cuda", 7)) for _ in range(3)]
    grouped.is_available.cache_clear()
    assert answers == [False] * 3
    assert [record.getMessage().count("cuda:7") for record in caplog.records] == [1]
    assert "Triton is not installed" in caplog.text
