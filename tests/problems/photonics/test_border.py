"""The fixed border: surroundings, painting, and its judge."""

import numpy as np
import pytest
import torch
from scipy import ndimage

import surco
from problems.photonics import DOMAIN
from problems.photonics.border import fixed_border
from problems.photonics.brush import Symmetry, circle, cross, parse_brush, unpaintable
from problems.photonics.geometry import BUILDERS, waveguide_bend
from problems.photonics.methods import pass_through
from problems.photonics.oracle import BrushOracle
from problems.photonics.painter import Painter
from surco.errors import InvalidInputError


def _rewards(painter, count, seed=0):
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, painter.n))
    noise[0], noise[1] = 1.0, -1.0
    noise[2, ::3] *= 1e6
    return noise


def test_border_shows_the_guides():
    device = waveguide_bend()
    border = fixed_border(device, cross())
    ring = border.fixed[border.inside]
    assert (ring[1:-1, 1:-1] == -1).all()
    middle = slice(15, 25)  # 400 nm of 1600 nm, on 40 nm pixels
    for side in (ring[0], ring[:, 0]):
        assert side[middle].all()
        assert side.sum() == 10
    assert not ring[-1].any()
    assert not ring[:, -1].any()


@pytest.mark.parametrize("kind", ["bend", "mode-converter", "wdm"])
@pytest.mark.parametrize("brush", ["cross", "circle-5px", "notched-6px"])
@pytest.mark.parametrize("sweeps", [0, 2])
def test_every_painting_keeps_the_fixed_rule(kind, brush, sweeps):
    device = BUILDERS[kind]()
    brush = parse_brush(brush, 40.0)
    border = fixed_border(device, brush)
    painter = Painter(device.design_shape, brush, border=border, sweeps=sweeps)
    designs = painter.expand(painter.paint(_rewards(painter, 4)))
    assert not border.broken(designs, brush).any()
    canvas = border.canvas(designs)
    for full in (canvas, ~canvas):  # a second formulation: opening by scipy, edges replicated
        padded = np.pad(full, [(0, 0), (9, 9), (9, 9)], mode="edge")
        for one, original in zip(padded, full, strict=True):
            opened = ndimage.binary_opening(one, brush.mask)[9:-9, 9:-9]
            assert np.array_equal(opened[border.inside], original[border.inside])


def test_symmetric_painting_with_a_fixed_border():
    device, brush = waveguide_bend(), circle(5)
    border = fixed_border(device, brush, depth=2)
    painter = Painter(device.design_shape, brush, Symmetry.DIAGONAL, border=border)
    designs = painter.expand(painter.paint(_rewards(painter, 3)))
    assert np.array_equal(designs, designs.transpose(0, 2, 1))
    assert not border.broken(designs, brush).any()


def test_the_judge_sees_what_the_free_rule_misses():
    device, brush = waveguide_bend(), cross()
    border = fixed_border(device, brush)
    solid = np.ones(device.design_shape)
    assert not unpaintable(solid, brush).any()
    assert border.broken(solid, brush).any()  # the border must be void where no guide arrives
    straight = border.outward[border.inside].astype(float)
    flipped = straight.copy()
    flipped[0, 20] = 0.0
    assert border.broken(flipped, brush)[0, 20]
    assert border.broken(np.stack([flipped, straight]), brush).shape == (2, 40, 40)


def test_better_pay_needs_no_broken_border():
    device, brush = waveguide_bend(), cross()
    border = fixed_border(device, brush)
    plain = Painter(device.design_shape, brush, border=border)
    improving = Painter(device.design_shape, brush, border=border, sweeps=3)
    rewards = _rewards(plain, 4, seed=5)
    assert ((improving.paint(rewards) * rewards).sum(1) >= (plain.paint(rewards) * rewards).sum(1)).all()


def test_problem_with_a_fixed_border():
    problem = DOMAIN.make("photonics/bend-40nm-v0", border="fixed")
    assert DOMAIN.from_spec(problem.spec).border is not None
    result = surco.solve(problem, pass_through(), calls=6, seed=0)
    assert result.is_feasible
    free = DOMAIN.make("photonics/bend-40nm-v0")
    x = torch.ones(problem.n, dtype=torch.float64)
    assert free.violation(x) == 0 < problem.violation(x)
    with pytest.raises(InvalidInputError, match="border"):
        DOMAIN.make("photonics/bend-40nm-v0", border="loose")


def test_what_has_no_fixed_border():
    device = waveguide_bend()
    with pytest.raises(InvalidInputError, match="cells around"):
        fixed_border(device, circle(35))
    with pytest.raises(InvalidInputError, match="free border"):
        BrushOracle(device.design_shape, cross(), exact_seconds=1.0, border=fixed_border(device, cross()))
