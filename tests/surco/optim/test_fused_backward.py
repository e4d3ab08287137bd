"""Updates from hooks: the same weights as the plain loop, with accumulation, clipping, schedules, and less memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from surco.errors import InvalidInputError
from surco.optim import FusedBackward, GaLore
from surco.optim.fused import peak_gradient_bytes

STEPS = 12


class Toy(nn.Module):
    """An embedding bag with sparse gradients, two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(40, 16, mode="sum", sparse=True)
        self.hidden = nn.Linear(16, 24)
        self.out = nn.Linear(24, 1)

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.hidden(self.bag(index))))


def toy(seed: int = 0) -> Toy:
    """Toy with seeded weights."""
    model, generator = Toy(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randint(40, (32, 3), generator=generator), torch.randn(32, 1, generator=generator)) for _ in range(count)
    ]


def loss_of(model: Toy, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def assert_same(first: nn.Module, second: nn.Module, **tolerance: float) -> None:
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize("mode", ["galore", "rowwise", "fira", "apollo"])
@pytest.mark.parametrize("max_norm", [None, 0.3])
def test_equals_the_plain_loop(mode, max_norm):
    """Also under a schedule and with clipping by the full norm (which is active: the norms are larger)."""
    plain, fused = toy(), toy()
    options = {"lr": 0.05, "rank": 4, "update_gap": 5, "mode": mode}
    first, second = GaLore(plain.parameters(), **options), GaLore(fused.parameters(), **options)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in (first, second)]
    hooks = FusedBackward(second, max_norm=max_norm)
    for batch in batches(STEPS):
        first.zero_grad()
        loss_of(plain, batch).backward()
        norm = global_norm(plain)
        if max_norm is not None:
            assert norm > max_norm
            for parameter in plain.parameters():
                assert parameter.grad is not None
                parameter.grad.mul_(max_norm / (norm + 1e-6))
        first.step()
        loss_of(fused, batch).backward()
        assert all(parameter.grad is None for parameter in fused.parameters())
        assert hooks.step()
        if max_norm is not None:
            assert hooks.total_norm == pytest.approx(norm, rel=1e-4)
        second._opt_called = True  # the scheduler's own check that a step came first
        for schedule in schedules:
            schedule.step()
    assert_same(plain, fused, rtol=1e-4, atol=1e-5)


def global_norm(model: nn.Module) -> float:
    squares = 0.0
    for parameter in model.parameters():
        assert parameter.grad is not None
        gradient = parameter.grad.coalesce().values() if parameter.grad.is_sparse else parameter.grad
        squares += float(gradient.double().square().sum())
    return squares**0.5


@pytest.mark.parametrize("mode", ["galore", "rowwise", "fira"])
def test_accumulation_equals_the_plain_loop_between_refreshes(mode):
    plain, fused = toy(), toy()
    # The basis of the fused run comes from the first micro-batch alone, so one common step gives both the same basis.
    options = {"lr": 0.05, "rank": 4, "update_gap": 1000, "mode": mode}
    first, second = GaLore(plain.parameters(), **options), GaLore(fused.parameters(), **options)
    data = batches(3 * STEPS)
    for model, optimizer in ((plain, first), (fused, second)):
        loss_of(model, data[0]).backward()
        optimizer.step()
        optimizer.zero_grad()
    hooks = FusedBackward(second, accumulation_steps=3)
    finished = 0
    for number, batch in enumerate(data):
        (loss_of(plain, batch) / 3).backward()
        if number % 3 == 2:
            first.step()
            first.zero_grad()
        (loss_of(fused, batch) / 3).backward()
        finished += hooks.step()
    assert finished == STEPS
    assert_same(plain, fused, rtol=1e-4, atol=1e-5)


def test_accumulation_with_projected_clipping():
    """The waiting gradients are scaled to the threshold inside the subspaces."""
    model = toy()
    optimizer = GaLore(model.parameters(), rank=4)
    hooks = FusedBackward(optimizer, accumulation_steps=2, max_norm=0.1, clip_norm="projected")
    for batch in batches(2):
        loss_of(model, batch).backward()
        hooks.step()
    assert hooks.total_norm is not None
    assert hooks.total_norm > 0.1
    moments = [state["exp_avg"] for state in optimizer.state.values()]
    total = sum(float((moment / 0.1).square().sum()) for moment in moments) ** 0.5  # m = (1 - beta1) R after one step
    assert total == pytest.approx(0.1, rel=1e-3)


def test_accumulation_with_full_norm_clipping_is_refused():
    with pytest.raises(InvalidInputError, match="projected"):
        FusedBackward(GaLore(toy().parameters()), accumulation_steps=2, max_norm=1.0)


def test_holds_one_gradient_at_a_time():
    model = nn.Sequential(*[nn.Linear(64, 64, bias=False) for _ in range(6)])
    parameters, x = list(model.parameters()), torch.randn(8, 64)
    whole = peak_gradient_bytes(parameters, lambda: model(x).square().mean().backward())
    assert whole == 6 * 64 * 64 * 4
    model.zero_grad(set_to_none=True)
    with FusedBackward(GaLore(parameters, rank=4), max_norm=1.0) as hooks:
        held: list[int] = []
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(
                lambda _: held.append(sum(p.grad is not None for p in parameters))
            )
        model(x).square().mean().backward()
        assert held == [0] * 6  # each hook before ours has already freed its gradient
        assert hooks.step()
    model(x).square().mean().backward()
    assert all(parameter.grad is not None for parameter in parameters)  # close() removed the hooks
