"""Brushes, the painter and its exact judge."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from problems.photonics.brush import Symmetry, circle, cross, notched_square, open_design, parse_brush, unpaintable
from problems.photonics.exact import paint_exact
from problems.photonics.oracle import BrushOracle
from problems.photonics.painter import Painter
from solvers.oracle import Status
from surco.errors import InvalidInputError

BRUSHES = (cross(), circle(4), circle(5), circle(6), notched_square(4), notched_square(5))


def test_brush_shapes():
    assert cross().mask.sum() == 5
    assert [int(circle(d).mask.sum()) for d in (1, 2, 3, 4, 5, 9)] == [1, 4, 5, 12, 21, 69]
    assert notched_square(4).mask.sum() == 12
    assert parse_brush("circle-100nm", 10.0).diameter == 10
    with pytest.raises(InvalidInputError, match="whole number"):
        parse_brush("circle-100nm", 40.0)
    with pytest.raises(InvalidInputError, match="such as"):
        parse_brush("square", 40.0)


@pytest.mark.parametrize("brush", [cross(), circle(5), circle(9), notched_square(5)], ids=lambda b: b.name)
def test_opening_agrees_with_scipy(brush):
    rng = np.random.default_rng(0)
    for share in (0.3, 0.7, 0.95):
        x = rng.random((31, 24)) < share
        kept = ndimage.binary_erosion(x, brush.mask, border_value=1)
        assert np.array_equal(ndimage.binary_dilation(kept, brush.mask), open_design(x, brush))


@pytest.mark.parametrize("brush", BRUSHES, ids=lambda b: b.name)
def test_adversarial_rewards_are_painted_feasibly(brush):
    shape = (17, 23)
    painter = Painter(shape, brush)
    rng = np.random.default_rng(len(brush.name))
    i, j = np.mgrid[: shape[0], : shape[1]]
    spikes = np.zeros((60, *shape))
    for row in spikes:
        row[rng.integers(shape[0], size=4), rng.integers(shape[1], size=4)] = rng.choice([-1e9, 1e9, 1.0, -1.0], 4)
    patterns = [
        rng.standard_normal((120, *shape)),
        rng.choice([-1.0, 1.0], (120, *shape)),
        rng.standard_normal((60, *shape)) ** 9 * 1e30,
        np.stack([np.where((i // a + j // b) % 2, 1.0, -1.0) for a, b in itertools.product((1, 2, 3, 5), repeat=2)]),
        np.stack([np.full(shape, v) for v in (0.0, 1.0, -1.0, 1e-300, -1e308)]),
        spikes,
    ]
    reward = np.concatenate(patterns).reshape(-1, painter.n)
    x = painter.paint(reward)
    assert not unpaintable(painter.expand(x), brush).any()
    better = painter.improve(x, reward)
    assert not unpaintable(painter.expand(better), brush).any()
    reward = reward / np.maximum(np.abs(reward).max(1, keepdims=True), 1e-300)
    scale = np.abs(reward).sum(1)
    assert ((reward * better).sum(1) >= (reward * x).sum(1) - 1e-9 * scale).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9), height=st.integers(6, 20), width=st.integers(6, 20), kind=st.sampled_from(BRUSHES))
def test_painting_is_feasible_and_improvement_keeps_an_optimum(seed, height, width, kind):
    painter = Painter((height, width), kind)
    rng = np.random.default_rng(seed)
    x = painter.paint(rng.standard_normal((1, painter.n)))
    assert not unpaintable(painter.expand(x), kind).any()
    assert np.array_equal(painter.improve(x, 2.0 * x - 1.0), x)  # x itself is the best answer to this reward


def test_a_feasible_design_is_nearly_reproduced_from_its_own_reward():
    painter = Painter((40, 40), cross(), sweeps=4)
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((8, 40, 40)), (0, 2, 2))
    x = painter.paint(smooth.reshape(8, -1))
    assert (painter.paint(2.0 * x - 1.0) != x).mean() < 0.01


@pytest.mark.parametrize("symmetry", [Symmetry.DIAGONAL, Symmetry.X, Symmetry.Y, Symmetry.XY])
@pytest.mark.parametrize("brush", [cross(), circle(4)], ids=lambda b: b.name)
def test_symmetric_painting(symmetry, brush):
    painter = Painter((14, 14), brush, symmetry, sweeps=2)
    x = painter.expand(painter.paint(np.random.default_rng(3).standard_normal((40, painter.n))))
    assert not unpaintable(x, brush).any()
    if symmetry is Symmetry.DIAGONAL:
        assert np.array_equal(x, x.swapaxes(1, 2))
    if symmetry in (Symmetry.X, Symmetry.XY):
        assert np.array_equal(x, x[:, ::-1])
    if symmetry in (Symmetry.Y, Symmetry.XY):
        assert np.array_equal(x, x[:, :, ::-1])


def _feasible_set(shape, brush):
    """Every feasible design, by brute force over unions of touches."""
    pixels = shape[0] * shape[1]
    codes = np.arange(2**pixels)
    designs = ((codes[:, None] >> np.arange(pixels)) & 1).astype(bool).reshape(-1, *shape)
    return designs[~unpaintable(designs, brush).any(axis=(1, 2))].reshape(-1, pixels).astype(float)


@pytest.mark.parametrize("shape", [(3, 4), (4, 4)])
def test_exact_mode_against_enumeration(shape):
    painter = Painter(shape, cross())
    every = _feasible_set(shape, cross())
    rng = np.random.default_rng(1)
    for reward in rng.standard_normal((4, painter.n)):
        best = (every @ reward).max()
        certificate = paint_exact(painter.incidence, reward, seconds=20)
        assert certificate.status is Status.OPTIMAL
        assert certificate.value == pytest.approx(best, abs=1e-7)
        assert best - 1e-9 <= certificate.bound <= best + 1e-6
        greedy = painter.paint(reward[None])[0]
        assert (every == greedy).all(1).any()


def test_exact_oracle_is_never_worse_and_certifies():
    shape = (10, 10)
    costs = ndimage.gaussian_filter(np.random.default_rng(2).standard_normal((2, *shape)), (0, 2, 2)).reshape(2, -1)
    plain = BrushOracle(shape, cross()).solve(costs)
    exact = BrushOracle(shape, cross(), exact_seconds=20).solve(costs)
    assert (exact.objective <= plain.objective + 1e-9).all()
    assert all(status is Status.OPTIMAL for status in exact.status)
    assert (exact.bound <= exact.objective + 1e-9).all()
    assert all(status is Status.FEASIBLE for status in plain.status)
    assert (plain.bound <= exact.objective).all()


def test_not_finite_rewards():
    oracle = BrushOracle((12, 12), cross())
    costs = np.zeros((3, 144))
    costs[1, 5] = np.nan
    batch = oracle.solve(costs)
    assert [status.value for status in batch.status] == ["feasible", "error", "feasible"]
    assert np.isnan(batch.x[1]).all()
    assert "finite" in batch.message[1]
    with pytest.raises(InvalidInputError, match="finite"):
        oracle.painter.paint(costs)
    with pytest.raises(InvalidInputError, match="shape"):
        oracle.painter.paint(costs[:, :5])


def test_threads_change_nothing():
    rng = np.random.default_rng(0)
    reward = rng.standard_normal((6, 400))
    one, two = Painter((20, 20), cross()), Painter((20, 20), cross(), threads=2)
    assert np.array_equal(one.paint(reward), two.paint(reward))


def test_violation_judges_designs():
    oracle = BrushOracle((12, 12), cross())
    x = np.zeros((3, 144))
    x[1, 70] = 1.0  # a lone pixel
    x[2] = 0.5
    assert oracle.violation(x).tolist()[0] == 0.0
    assert oracle.violation(x)[1] >= 1.0
    assert oracle.violation(x)[2] >= 0.5


def test_ten_thousand_adversarial_rewards():
    painter = Painter((24, 24), cross())
    rng = np.random.default_rng(7)
    i, j = np.mgrid[:24, :24]
    for block in range(10):
        noise = rng.standard_normal((1000, 24, 24))
        reward = (noise, np.sign(noise), noise**7, np.where((i + j) % 2, 1.0, -1.0) + 0.3 * noise)[block % 4]
        if block == 8:
            reward = np.where(rng.random(noise.shape) < 0.004, 1e6 * np.sign(noise), -1e-3)
        if block == 9:
            reward = np.round(noise)  # many ties
        x = painter.expand(painter.paint(reward.reshape(1000, -1)))
        assert not unpaintable(x, cross()).any()


def test_exact_mode_without_time_still_has_a_valid_bound():
    painter = Painter((24, 24), circle(5))
    reward = np.random.default_rng(2).standard_normal((1, painter.n))
    greedy = painter.paint(reward)[0]
    for work in (1e-9, 0.2):
        answer = paint_exact(painter.incidence, reward[0], seconds=60.0, work=work, hint=greedy)
        assert answer.bound >= reward[0] @ greedy
        if answer.x is not None:  # the complete hint is where the search starts
            assert answer.value >= reward[0] @ greedy - 1e-9
    batch = BrushOracle((24, 24), circle(5), exact_seconds=1e-3).solve(-reward)
    assert batch.status[0] is Status.FEASIBLE
    assert batch.bound[0] <= batch.objective[0]
