"""The mode "rowwise": low-rank momentum, one second moment a row, the rest of the gradient without momentum."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from surco.errors import InvalidInputError
from surco.optim import GaLore, RowwiseAdam

# torch's own sparse optimizers build sparse tensors in a way that torch itself warns about.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")

ROWS, DIM = 40, 12


def sparse_gradients(count: int, *, dim: int = DIM, seed: int = 0) -> list[torch.Tensor]:
    """Uncoalesced lookups of the lower half of the rows, values near a few directions."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(4, dim, generator=generator)
    gradients = []
    for _ in range(count):
        index = torch.randint(ROWS // 2, (1, 25), generator=generator)
        values = torch.randn(25, 4, generator=generator) @ directions + 0.3 * torch.randn(25, dim, generator=generator)
        gradients.append(torch.sparse_coo_tensor(index, values, (ROWS, dim), check_invariants=True))
    return gradients


def run(weight: nn.Parameter, optimizer: torch.optim.Optimizer, gradients: list[torch.Tensor]) -> None:
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()


def start_weight() -> torch.Tensor:
    return torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(1))


def test_a_full_basis_is_row_wise_adam():
    """With all directions in the basis nothing is outside, and turning the momentum keeps it the same vector."""
    weights = [nn.Parameter(start_weight()) for _ in range(2)]
    gradients = sparse_gradients(40)
    run(weights[0], GaLore([weights[0]], lr=0.05, rank=DIM, update_gap=7, mode="rowwise"), gradients)
    run(weights[1], RowwiseAdam([weights[1]], lr=0.05), gradients)
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(20, 6), (6, 20)])
def test_steps_equal_the_formula(shape):
    """Dense, tall and wide, three steps in one basis, in float64 and by another route: full-width momentum."""
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(shape, generator=generator)
    gradients = [torch.randn(shape, generator=generator) for _ in range(3)]
    weight = nn.Parameter(start.clone())
    run(weight, GaLore([weight], lr=0.1, rank=2, mode="rowwise", update_gap=100), gradients)
    is_left = shape[0] < shape[1]
    turn = [(g.T if is_left else g).double() for g in gradients]
    basis = torch.linalg.svd(turn[0])[2][:2].T
    inside = basis @ basis.T
    expected, m, v = (start.T if is_left else start).double(), torch.zeros(20, 6).double(), torch.zeros(20, 1).double()
    for step, gradient in enumerate(turn, start=1):
        m = 0.9 * m + 0.1 * gradient @ inside
        v = 0.999 * v + 0.001 * gradient.square().mean(dim=1, keepdim=True)
        outside = gradient - gradient @ inside
        expected = expected - 0.1 * (m / (1 - 0.9**step) + outside) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    torch.testing.assert_close(weight.detach().double(), expected.T if is_left else expected, rtol=1e-4, atol=1e-5)


def test_state_bytes():
    """4 (N (r + 1) + d r) in float32, N (r + 2) + 4 d r in one byte codes."""
    sizes = {}
    for inner in ("adamw", "adamw8bit"):
        weight = nn.Parameter(start_weight())
        optimizer = GaLore([weight], rank=4, inner=inner, mode="rowwise")
        run(weight, optimizer, sparse_gradients(3))
        sizes[inner] = optimizer.state_bytes()
    assert sizes["adamw"] == 4 * (ROWS * (4 + 1) + DIM * 4)
    assert sizes["adamw8bit"] == ROWS * (4 + 2) + 4 * DIM * 4


@pytest.mark.parametrize("inner", ["adamw", "adamw8bit"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_untouched_rows_stay_bit_for_bit(inner, dtype):
    weight = nn.Parameter(start_weight().to(dtype))
    before = weight.detach().clone()
    optimizer = GaLore([weight], lr=0.05, rank=4, update_gap=6, inner=inner, mode="rowwise", weight_decay=0.1)
    gradients = [gradient.to(dtype) for gradient in sparse_gradients(12)]
    run(weight, optimizer, gradients)
    touched = torch.zeros(ROWS, dtype=torch.bool)
    for gradient in gradients:
        touched[gradient.coalesce().indices()[0]] = True
    assert torch.equal(weight[~touched], before[~touched])
    assert bool((weight[touched] != before[touched]).any(dim=1).all())
    for key, value in optimizer.state[weight].items():
        if isinstance(value, torch.Tensor) and value.shape[:1] == (ROWS,):
            assert not bool(value[~touched].any()), key


@pytest.mark.parametrize("inner", ["adamw", "adamw8bit"])
def test_checkpoint_resumes_bit_for_bit_and_only_into_its_mode(inner):
    options: dict[str, Any] = {"lr": 0.05, "rank": 4, "update_gap": 5, "inner": inner, "mode": "rowwise"}
    gradients = sparse_gradients(20)
    whole, half = nn.Parameter(start_weight()), nn.Parameter(start_weight())
    run(whole, GaLore([whole], **options), gradients)
    first = GaLore([half], **options)
    run(half, first, gradients[:8])
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    second = GaLore([half], **options)
    second.load_state_dict(saved)
    run(half, second, gradients[8:])
    assert torch.equal(whole, half)
    saved["param_groups"][0]["mode"] = "galore"  # its kernel would read the second moment past its end
    with pytest.raises(InvalidInputError, match="exp_avg_sq"):
        GaLore([half], **options).load_state_dict(saved)


def test_eight_bits_follow_float32():
    """Noisy least squares whose optimum is in no fixed subspace: the same loss within a few percent."""
    ends = {}
    for inner in ("adamw", "adamw8bit"):
        generator = torch.Generator().manual_seed(1)
        goal = torch.randn(64, 32, generator=generator)
        weight = nn.Parameter(torch.zeros(64, 32))
        optimizer = GaLore([weight], lr=0.02, rank=4, update_gap=20, inner=inner, mode="rowwise")
        for _ in range(300):
            weight.grad = weight.detach() - goal + 0.5 * torch.randn(64, 32, generator=generator)
            optimizer.step()
        ends[inner] = float((weight.detach() - goal).square().mean() / goal.square().mean())
    assert ends["adamw"] < 0.05
    assert ends["adamw8bit"] < 1.1 * ends["adamw"]


def test_vectors_get_the_inner_rule():
    weights = [nn.Parameter(torch.zeros(5)) for _ in range(2)]
    gradients = [torch.randn(5, generator=torch.Generator().manual_seed(2)) for _ in range(4)]
    run(weights[0], GaLore([weights[0]], lr=0.1, rank=2, mode="rowwise"), gradients)
    run(weights[1], torch.optim.AdamW([weights[1]], lr=0.1, weight_decay=0.0), gradients)
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-6)


def test_adafactor_is_refused():
    with pytest.raises(InvalidInputError, match="rowwise"):
        GaLore([nn.Parameter(torch.zeros(4, 4))], mode="rowwise", inner="adafactor")


class Waits(TorchDispatchMode):
    """Counts the reads of a tensor by the host, at each of which a GPU would have to finish first."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("covariance_decay", [0.0, 0.9])
def test_a_step_between_refreshes_waits_once(covariance_decay: float):
    """Whether the gradient is finite; the running covariance asks that on the device."""
    weight = nn.Parameter(start_weight())
    optimizer = GaLore([weight], rank=4, mode="rowwise", update_gap=100, covariance_decay=covariance_decay)
    gradients = [gradient.coalesce() for gradient in sparse_gradients(5)]
    run(weight, optimizer, gradients[:2])
    with Waits() as waits:
        run(weight, optimizer, gradients[2:])
    assert waits.count == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_running_covariance_leaves_out_bad_gradients(bad: float):
    """Between refreshes it is as if the gradient had not been there; at the first step there is no basis yet."""
    good = sparse_gradients(8)
    broken = good[0].clone()
    broken._values()[0, 0] = bad
    weights = [nn.Parameter(start_weight()) for _ in range(3)]
    options: dict[str, Any] = {"lr": 0.05, "rank": 4, "mode": "rowwise", "covariance_decay": 0.9, "update_gap": 4}
    first, second, third = (GaLore([weight], **options) for weight in weights)
    run(weights[0], first, [good[0], broken, *good[1:6], broken, *good[6:]])
    run(weights[1], second, good)
    assert torch.equal(*weights[:2])
    assert torch.equal(*(o.state[w]["covariance"] for o, w in zip((first, second), weights[:2], strict=True)))
    assert first.state[weights[0]]["skipped_steps"] == 2
    run(weights[2], third, [broken])
    assert torch.equal(weights[2], start_weight())
    assert third.state[weights[2]]["kept_bases"] == 1
    run(weights[2], third, good)
    assert third.state[weights[2]]["step"] == 8
    assert bool(torch.isfinite(weights[2]).all())
