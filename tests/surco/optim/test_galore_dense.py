"""Dense weights: equality with the reference package and with a second formulation, shapes, modes, bad gradients."""

from __future__ import annotations

import copy
import io
import shutil
from typing import Any

import pytest
import torch

from surco.errors import InvalidInputError
from surco.optim import GaLore
from tests.surco.optim.reference import decaying, galore_torch_adamw, low_rank_adam, spectrum_matrix

SHAPES = [(96, 24), (24, 96), (40, 40)]


def noisy_gradients(shape: tuple[int, int], count: int, seed: int = 0) -> list[torch.Tensor]:
    """A slowly turning low-rank part plus noise, as training gradients have."""
    generator = torch.Generator().manual_seed(seed)
    signal = spectrum_matrix(*shape, decaying(min(shape), 1.0), seed=seed)
    return [signal + 0.02 * torch.randn(shape, generator=generator) for _ in range(count)]


def run(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, gradients: list[torch.Tensor]) -> None:
    for gradient in gradients:
        weight.grad = gradient.clone().to(weight.dtype)
        optimizer.step()


@pytest.mark.optional
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("refresh", "gap", "steps"), [("auto", 200, 1), ("auto", 7, 50), ("gram", 200, 50)])
def test_equals_galore_torch(monkeypatch, shape, refresh, gap, steps):
    """With its conventions and no rotation; over several refreshes too, where the signs of LAPACK's vectors matter."""
    reference = galore_torch_adamw(monkeypatch)
    start = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    group = {"params": [theirs], "rank": 6, "update_proj_gap": gap, "scale": 0.25, "proj_type": "std"}
    gradients = noisy_gradients(shape, steps)
    run(reference([group], lr=1e-2, weight_decay=0.1, no_deprecation_warning=True), theirs, gradients)
    options: dict[str, Any] = {"conventions": "galore-torch", "rotate_moments": False, "stagger": False, "eps": 1e-6}
    optimizer = GaLore([ours], lr=1e-2, weight_decay=0.1, rank=6, update_gap=gap, refresh=refresh, **options)
    run(optimizer, ours, gradients)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("implementation", ["fused", "foreach"])
def test_equals_second_formulation(implementation):
    shape = (60, 16)
    start = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    gradients = noisy_gradients(shape, 30)
    expected = low_rank_adam(start, gradients, rank=5, gap=100, lr=0.02, scale=0.5, weight_decay=0.05)
    weight = torch.nn.Parameter(start.clone())
    optimizer = GaLore(
        [weight], lr=0.02, rank=5, update_gap=100, scale=0.5, weight_decay=0.05, implementation=implementation
    )
    run(optimizer, weight, gradients)
    torch.testing.assert_close(weight.double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("inner", ["adam", "adamw"])
def test_without_projection_is_torch_adam(inner):
    """rank=None is the inner rule itself; a rank of the full width with an exact basis spans everything."""
    start = torch.randn(12, 5, generator=torch.Generator().manual_seed(3))
    gradients = noisy_gradients((12, 5), 20)
    theirs, ours = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    kind = torch.optim.Adam if inner == "adam" else torch.optim.AdamW
    run(kind([theirs], lr=1e-2, weight_decay=0.1), theirs, gradients)
    run(GaLore([ours], lr=1e-2, weight_decay=0.1, rank=None, inner=inner), ours, gradients)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "projection", "side"),
    [
        ((30, 8), "std", 8),
        ((8, 30), "std", 8),
        ((30, 8), "reverse_std", 30),
        ((8, 30), "reverse_std", 30),
        ((30, 8), "left", 30),
        ((8, 30), "right", 30),
    ],
)
def test_projection_side_and_state_size(shape, projection, side):
    weight = torch.nn.Parameter(torch.randn(shape))
    optimizer = GaLore([weight], rank=3, projection=projection)
    weight.grad = torch.randn(shape)
    optimizer.step()
    other = shape[0] * shape[1] // side
    assert optimizer.state[weight]["basis"].shape == (side, 3)
    assert optimizer.state_bytes() == 4 * (2 * other * 3 + side * 3)
    basis = optimizer.state[weight]["basis"]
    torch.testing.assert_close(basis.T @ basis, torch.eye(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("projection", ["std", "reverse_std"])
def test_rank_beyond_the_short_side_is_clipped(projection):
    weight = torch.nn.Parameter(torch.randn(64, 6))
    optimizer = GaLore([weight], rank=128, projection=projection)
    run(optimizer, weight, noisy_gradients((64, 6), 3))
    assert optimizer.state[weight]["rank"] == 6


def test_any_number_of_dimensions():
    weights = [torch.nn.Parameter(torch.randn(shape)) for shape in [(), (7,), (8, 4, 3, 3), (5, 1)]]
    weights.append(torch.nn.Parameter(torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last)))
    optimizer = GaLore(weights, rank=2, lr=0.1)
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    before = [weight.detach().clone() for weight in weights]
    optimizer.step()
    for weight, old in zip(weights, before, strict=True):
        assert float((weight.grad * (weight.detach() - old)).sum()) < 0.0


@pytest.mark.parametrize("mode", ["galore", "fira", "apollo", "apollo-mini"])
@pytest.mark.parametrize("inner", ["adamw", "adafactor", "adamw8bit"])
@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
def test_every_mode_descends(mode, inner, shape):
    """Least squares with a full-rank optimum, which no fixed subspace holds."""
    generator = torch.Generator().manual_seed(4)
    goal = torch.randn(shape, generator=generator)
    weight = torch.nn.Parameter(torch.zeros(shape))
    optimizer = GaLore([weight], lr=0.02, scale=1.0, rank=4, update_gap=10, mode=mode, inner=inner)
    first = last = 0.0
    for index in range(400):
        weight.grad = weight.detach() - goal + 0.05 * torch.randn(shape, generator=generator)
        last = float((weight.detach() - goal).square().mean())
        first = first or last
        optimizer.step()
        assert index < 2 or bool(torch.isfinite(weight).all())
    # The sketch modes move along the raw gradient with a bounded norm growth: they start slower.
    assert last < 0.3 * first


def test_fira_equals_its_formula():
    """One step: S = (|D_i| / |R_i|) (G - G P P'), no limit yet."""
    start = torch.randn(20, 6, generator=torch.Generator().manual_seed(5))
    gradient = noisy_gradients((20, 6), 1)[0]
    weight = torch.nn.Parameter(start.clone())
    run(GaLore([weight], lr=0.1, scale=0.5, rank=2, mode="fira", eps=1e-12), weight, [gradient])
    basis = torch.linalg.svd(gradient)[2][:2].T
    projected = gradient @ basis
    direction = projected.sign()  # the first step of Adam
    factor = direction.norm(dim=1, keepdim=True) / projected.norm(dim=1, keepdim=True)
    update = direction @ basis.T + factor * (gradient - projected @ basis.T)
    torch.testing.assert_close(weight, start - 0.05 * update, rtol=1e-4, atol=1e-5)


def test_apollo_state_has_no_basis():
    weight = torch.nn.Parameter(torch.randn(50, 16))
    optimizer = GaLore([weight], rank=4, mode="apollo")
    run(optimizer, weight, noisy_gradients((50, 16), 2))
    assert optimizer.state_bytes() == 4 * (2 * 50 * 4 + 1)
    mini = GaLore([weight], rank=4, mode="apollo-mini")
    run(mini, weight, noisy_gradients((50, 16), 2))
    assert mini.state_bytes() == 4 * (2 * 50 + 1)


def test_adafactor_state_is_factored():
    weight = torch.nn.Parameter(torch.randn(50, 16))
    optimizer = GaLore([weight], rank=4, inner="adafactor")
    run(optimizer, weight, noisy_gradients((50, 16), 2))
    assert optimizer.state_bytes() == 4 * (50 + 4 + 16 * 4)


def test_bad_gradients_are_counted_and_leave_everything_alone():
    weight = torch.nn.Parameter(torch.randn(20, 6))
    optimizer = GaLore([weight], rank=2, update_gap=1, stagger=False)
    run(optimizer, weight, [torch.zeros(20, 6)])  # no basis can be had: nothing happens
    state = optimizer.state[weight]
    assert state["kept_bases"] == 1
    assert "basis" not in state
    run(optimizer, weight, noisy_gradients((20, 6), 3))
    before, basis = weight.detach().clone(), state["basis"].clone()
    moments = state["exp_avg"].clone()
    for bad in (float("nan"), float("inf")):
        gradient = torch.randn(20, 6)
        gradient[3, 1] = bad
        run(optimizer, weight, [gradient])
    assert torch.equal(weight, before)
    assert torch.equal(state["basis"], basis)
    assert torch.equal(state["exp_avg"], moments)
    assert (state["kept_bases"], state["skipped_steps"], state["step"]) == (3, 2, 3)
    run(optimizer, weight, [torch.zeros(20, 6)])  # a zero gradient: Adam's momentum goes on, the basis stays
    assert torch.equal(state["basis"], basis)
    assert state["kept_bases"] == 4


def test_refreshes_are_staggered():
    weights = [torch.nn.Parameter(torch.randn(16, 4)) for _ in range(4)]
    optimizer = GaLore(weights, rank=2, update_gap=8)
    counts = []
    for _ in range(17):
        for weight in weights:
            weight.grad = torch.randn(16, 4)
        before = sum(state["refreshes"] for state in optimizer.state.values())
        optimizer.step()
        counts.append(sum(state["refreshes"] for state in optimizer.state.values()) - before)
    assert counts[0] == 4  # everybody needs a first basis
    assert max(counts[1:]) == 1
    assert sum(counts[1:]) == 8


def test_rotation_keeps_the_momentum():
    """The mean gradient is constant and the basis turns: only turned momentum still points along it."""
    cosines = {}
    for rotates in (True, False):
        generator = torch.Generator().manual_seed(6)
        signal = spectrum_matrix(80, 16, decaying(16, 0.3), seed=7)
        weight = torch.nn.Parameter(torch.zeros(80, 16))
        optimizer = GaLore([weight], rank=8, update_gap=20, rotate_moments=rotates, stagger=False)
        for _ in range(41):
            weight.grad = signal + 0.03 * torch.randn(80, 16, generator=generator)
            optimizer.step()
        state = optimizer.state[weight]
        momentum = state["exp_avg"] @ state["basis"].T
        goal = signal @ state["basis"] @ state["basis"].T
        cosines[rotates] = float(torch.nn.functional.cosine_similarity(momentum.flatten(), goal.flatten(), dim=0))
    assert cosines[True] > 0.9
    assert cosines[True] > cosines[False] + 0.1


@pytest.mark.parametrize("inner", ["adamw", "adamw8bit", "adafactor"])
@pytest.mark.parametrize("mode", ["galore", "fira", "apollo"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(24, 10), (10, 24)])
def test_checkpoint_is_plain_and_resumes_bit_for_bit(inner, mode, dtype, shape):
    """Saved in mid-gap, loaded with weights_only=True into a fresh optimizer."""
    start = torch.randn(shape, generator=torch.Generator().manual_seed(8)).to(dtype)
    gradients = noisy_gradients(shape, 25)
    options: dict[str, Any] = {"rank": 4, "update_gap": 6, "inner": inner, "mode": mode, "covariance_decay": 0.5}
    whole = torch.nn.Parameter(start.clone())
    run(GaLore([whole], **options), whole, gradients)
    half = torch.nn.Parameter(start.clone())
    first = GaLore([half], **options)
    run(first, half, gradients[:9])
    buffer = io.BytesIO()
    torch.save({"weight": half.detach(), "optimizer": first.state_dict()}, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    resumed = torch.nn.Parameter(loaded["weight"])
    second = GaLore([resumed], rank=1)
    second.load_state_dict(loaded["optimizer"])
    run(second, resumed, gradients[9:])
    assert torch.equal(whole, resumed)
    if inner == "adamw":
        assert second.state[resumed]["exp_avg"].dtype == torch.float32


def test_bfloat16_weights_do_not_lose_small_updates():
    """A hundred updates of a tenth of the spacing: rounding to nearest would stand still."""
    start = torch.ones(64, 32, dtype=torch.bfloat16)
    ends = {}
    for is_stochastic in (True, False):
        weight = torch.nn.Parameter(start.clone())
        optimizer = GaLore([weight], lr=4e-4, rank=None, stochastic_rounding=is_stochastic)
        run(optimizer, weight, [torch.ones(64, 32)] * 100)
        ends[is_stochastic] = float(weight.detach().float().mean())
    assert ends[False] == 1.0
    assert ends[True] == pytest.approx(0.96, abs=0.002)


def test_closure_and_scheduler():
    weight = torch.nn.Parameter(torch.ones(6, 3))
    optimizer = GaLore([weight], lr=0.1, rank=2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 18.0
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("rank", 0),
        ("rank", "many"),
        ("update_gap", 0),
        ("mode", "lora"),
        ("inner", "sgd"),
        ("lr", -1.0),
        ("betas", (0.9, 1.0)),
        ("energy", 0.0),
        ("covariance_decay", 1.0),
        ("projection", "full"),
        ("rank", True),
        ("update_gap", 2.0),
        ("lr", "fast"),
        ("lr", float("inf")),
        ("betas", 0.9),
        ("eps", None),
        ("seed", 1.5),
        ("stagger", "no"),
    ],
)
def test_bad_options_are_named(option, value):
    with pytest.raises(InvalidInputError, match=option):
        GaLore([torch.nn.Parameter(torch.zeros(2, 2))], **{option: value})


@pytest.mark.parametrize("inner", ["adamw", "adamw8bit", "adafactor"])
@pytest.mark.parametrize("rank", [3, None])
def test_a_state_of_another_weight_is_refused(inner: str, rank: int | None):
    """The fused kernel would read and write past the end of moments of another size."""

    def stepped(shape: tuple[int, int]) -> GaLore:
        weight = torch.nn.Parameter(torch.zeros(shape))
        weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        optimizer = GaLore([weight], rank=rank, inner=inner)
        optimizer.step()
        return optimizer

    saved = stepped((12, 6)).state_dict()
    for shape in [(14, 6), (10, 6), (6, 12)]:
        with pytest.raises(InvalidInputError, match="belongs to another model"):
            stepped(shape).load_state_dict(saved)
    again = stepped((12, 6))
    again.load_state_dict(saved)
    again.step()
    with pytest.raises(ValueError, match="group"):
        GaLore([torch.nn.Parameter(torch.zeros(12, 6)) for _ in range(2)]).load_state_dict(saved)


def test_a_state_of_another_optimizer_is_refused():
    weight = torch.nn.Parameter(torch.ones(4, 3))
    other = torch.optim.Adam([weight])
    weight.grad = torch.ones(4, 3)
    other.step()
    with pytest.raises(InvalidInputError, match="state of GaLore"):
        GaLore([weight]).load_state_dict(other.state_dict())


def test_weights_that_are_complex_or_whole_are_refused_and_empty_ones_left_alone():
    for dtype in (torch.complex64, torch.int64):
        with pytest.raises(InvalidInputError, match="floating-point"):
            GaLore([torch.zeros(3, 3, dtype=dtype)])
    empty = torch.nn.Parameter(torch.zeros(0, 4))
    empty.grad = torch.zeros(0, 4)
    GaLore([empty]).step()


def test_copies_keep_working():
    """Deep copies of model and optimizer together go on like the originals."""
    model = torch.nn.Linear(12, 8)
    optimizer = GaLore(model.parameters(), rank=3)
    inputs = torch.randn(5, 12)
    model(inputs).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    for net, steps in ((model, optimizer), (twin, twin_optimizer)):
        net(inputs).square().sum().backward()
        steps.step()
    assert torch.equal(model.weight, twin.weight)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("default")
def test_compiled_rule_equals_the_fused_one():
    weights = [torch.nn.Parameter(torch.ones(40, 12)) for _ in range(2)]
    gradients = noisy_gradients((40, 12), 6)
    for weight, implementation in zip(weights, ("fused", "compile"), strict=True):
        run(GaLore([weight], rank=4, implementation=implementation), weight, gradients)
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)


def test_a_process_group_is_a_process_group():
    with pytest.raises(InvalidInputError, match="process_group"):
        GaLore([torch.nn.Parameter(torch.zeros(4, 3))], rank=2, process_group=3)  # type: ignore[arg-type]
