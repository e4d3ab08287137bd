"""Families of photonic devices: guide widths, lengths and positions drawn, for priors across devices.

All distinct geometries of a family are listed once and dealt to the splits, so that none of the test split is ever
trained on. Geometries that differ only in the length of the guides count as alike for the mode converter and the beam
splitter, whose splits hold different pairs of widths, or of width and separation; the bend has five widths only, and
its splits differ in width and length together.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from problems.photonics.domain import DOMAIN
from problems.photonics.network import DesignNetwork
from problems.photonics.problem import PhotonicProblem
from problems.photonics.simulator import Simulator, StackedSimulator
from problems.photonics.targets import spec_loss
from surco.errors import InvalidInputError, UnknownIdError
from surco.instance_family import VARIABLES, Family, Features, Schema, Split
from surco.protocols import Problem
from surco.registry import closest

Geometry = Mapping[str, float]
_SHARES = {Split.TRAIN: 0.6, Split.VALIDATION: 0.1, Split.TEST: 0.3}
_AT_SPEC = 0.3  # loss of a design that just meets its spec, by order of magnitude
_SIDES = 4


def _grid(**values: Any) -> list[dict[str, float]]:
    names = list(values)
    return [dict(zip(names, map(float, row), strict=True)) for row in itertools.product(*values.values())]


# For each device: its geometries, and the lengths that two geometries must share to be dealt to one split.
_CATALOG: Mapping[str, tuple[str, list[dict[str, float]], tuple[str, ...]]] = MappingProxyType(
    {
        "photonics/bend-40nm-random-v0": (
            "bends with drawn guide width and length, 40 nm grid",
            _grid(guide_nm=range(240, 561, 80), guide_length_nm=range(560, 1201, 40)),
            ("guide_nm", "guide_length_nm"),
        ),
        "photonics/mode-converter-40nm-random-v0": (
            "mode converters with drawn guide widths and length, 40 nm grid",
            _grid(
                left_guide_nm=range(240, 641, 80),
                right_guide_nm=range(320, 641, 80),
                guide_length_nm=range(640, 881, 80),
            ),
            ("left_guide_nm", "right_guide_nm"),
        ),
        "photonics/beam-splitter-40nm-random-v0": (
            "beam splitters with drawn separation, width and length of the guides, 40 nm grid",
            _grid(
                separation_nm=range(800, 1201, 80), guide_nm=range(240, 401, 80), guide_length_nm=range(600, 801, 40)
            ),
            ("separation_nm", "guide_nm"),
        ),
        "photonics/wdm-40nm-random-v0": (
            "demultiplexers of 3.2 um with drawn positions of the guides, 40 nm grid",
            _grid(input_shift_nm=range(-320, 321, 80), output_shift_nm=range(-320, 321, 80), edge_nm=(400, 480, 560)),
            ("input_shift_nm", "output_shift_nm", "edge_nm"),
        ),
    }
)


class PhotonicFamily(Family):
    """Devices of one kind on the 40 nm grid, 3x3 cross brush, two wavelengths.

    Features: ``pixel`` [C, H, W], what each side of the box sees outside, and coordinates; ``context`` [G], widths and
    lengths; the condensed exterior of `Simulator.exterior`, from which the whole batch is simulated at once;
    ``variables`` [H, W], ones.

    The objective is log(1 + loss): monotone in the problem's objective, and so that an instance far from its spec does
    not drown the others of its batch.

    Args:
        id: name of the family.
    """

    gradient = "identity"

    def __init__(self, id: str) -> None:
        self.id = id
        self.device = id.removeprefix("photonics/").removesuffix("-40nm-random-v0")
        _, geometries, keys = _CATALOG[id]
        self.parts = _dealt(geometries, keys)
        self.names = sorted(geometries[0])
        self.typical = {name: float(np.mean([g[name] for g in geometries])) for name in self.names}
        self.spread = {name: float(np.std([g[name] for g in geometries])) for name in self.names}
        self._like = self.problem(geometries[0])
        channels = _SIDES + 2 + 8
        self.schema = Schema(f"photonics-{self.device}-1", {"pixel": channels, "context": len(self.names)})

    def problem(self, geometry: Geometry) -> PhotonicProblem:
        """The problem of a geometry; equal ones share their simulator."""
        return _problem(self.id, self.device, tuple(sorted(geometry.items())))

    def draw(self, split: Split, rng: np.random.Generator) -> PhotonicProblem:
        """One of the split's geometries."""
        part = self.parts[split]
        return self.problem(part[int(rng.integers(len(part)))])

    def features(self, problem: Problem) -> Features:
        """Describe a device.

        Raises:
            InvalidInputError: another device, grid, brush, symmetry, border or wavelengths.
        """
        if not isinstance(problem, PhotonicProblem):
            raise InvalidInputError(f"Expected a photonic problem for `{self.id}`, got {type(problem).__name__}.")
        like = self._like
        for name in ("device", "grid_nm", "wavelengths_nm"):
            if problem.spec.get(name) != like.spec.get(name):
                raise InvalidInputError(
                    f"Expected {name} {like.spec.get(name)} of `{self.id}`, got {problem.spec.get(name)}."
                )
        alike = (
            problem.simulator.plan.shape == like.simulator.plan.shape
            and problem.device.design_shape == like.device.design_shape
            and problem.n == like.n
            and problem.brush.name == like.brush.name
            and problem.etch_px == 0
            and problem.border is None
        )
        if not alike:
            raise InvalidInputError(
                f"Expected a {like.device.design_shape} design with the brush {like.brush.name}, the free border, no "
                f"etch corners for `{self.id}`."
            )
        exterior = problem.simulator.exterior()
        defaults = {"guide_nm": 400.0, "left_guide_nm": 400.0, "right_guide_nm": 400.0, "guide_length_nm": 720.0,
                    "edge_nm": 400.0, "separation_nm": 1120.0}  # fmt: skip
        context = [
            (float(problem.spec.get(name, defaults.get(name, 0.0))) - self.typical[name]) / self.spread[name]
            for name in self.names
        ]
        return {
            "pixel": _pixel(problem),
            "context": torch.tensor(context, dtype=torch.float64),
            **{name: value.cpu() for name, value in exterior.items()},
            "offset": _offset(problem.simulator),
            VARIABLES: torch.ones(problem.device.design_shape, dtype=torch.float64),
        }

    def objective(self, features: Features, x: Tensor) -> Tensor:
        """log(1 + loss) of designs [B, ..., H, W] -> [B, ...], all simulated in one batch."""
        like = self._like.simulator
        if not bool((features["offset"].cpu() == _offset(like).to(features["offset"].dtype)).all()):
            raise InvalidInputError("Expected devices whose design lies alike in its box.")
        flat = x.reshape(len(x), -1, *x.shape[-2:])
        rows = flat.shape[1]
        exterior = {name: features[name].repeat_interleave(rows, 0) for name in like.exterior()}
        simulator = StackedSimulator(like, exterior)
        s = simulator.s_parameters(flat.flatten(0, 1), ports_in=(0,))
        return torch.log1p(spec_loss(s, self._like.target)).to(x).reshape(x.shape[:-2])

    def network(self, **config: Any) -> nn.Module:
        """A `DesignNetwork`."""
        return DesignNetwork(
            self.schema.channels["pixel"],
            self.schema.channels["context"],
            self._like.device.design_shape,
            self._like.brush,
            **config,
        )

    def reference(self, problem: Problem) -> float:
        """log(1 + loss) of a design that just meets its spec."""
        return float(np.log1p(_AT_SPEC))


def _dealt(geometries: list[dict[str, float]], keys: tuple[str, ...]) -> dict[Split, list[dict[str, float]]]:
    """Deal the geometries to the splits, alike ones together, always in the same way."""
    groups: dict[tuple[float, ...], list[dict[str, float]]] = {}
    for geometry in geometries:
        groups.setdefault(tuple(geometry[key] for key in keys), []).append(geometry)
    order = np.random.default_rng(20260711).permutation(len(groups))
    members = [list(groups.values())[k] for k in order]
    dealt: dict[Split, list[dict[str, float]]] = {}
    first, share = 0, 0.0
    for split, part in _SHARES.items():
        share += part
        last = round(share * len(members))
        dealt[split] = [geometry for group in members[first:last] for geometry in group]
        first = last
    return dealt


@functools.lru_cache(maxsize=512)
def _problem(id: str, device: str, geometry: tuple[tuple[str, float], ...]) -> PhotonicProblem:
    base = json.loads(json.dumps(DOMAIN.spec_of(f"photonics/{device}-40nm-v0")))
    return DOMAIN.from_spec(base | dict(geometry) | {"id": id})


def _offset(simulator: Simulator) -> Tensor:
    """[2] where the design lies in its box, cells."""
    box, corner = simulator.device.box, simulator.corner
    return torch.tensor([box[0] - corner[0], box[1] - corner[1]], dtype=torch.float64)


def _pixel(problem: PhotonicProblem) -> Tensor:
    """[C, H, W]: what lies outside each side of the box, drawn across it; coordinates, and their waves."""
    device = problem.device
    (i0, j0, i1, j1), (height, width) = device.box, device.design_shape
    density = torch.from_numpy(device.density)
    sides = [
        density[i0 - 1, j0:j1].expand(height, width),
        density[i1, j0:j1].expand(height, width),
        density[i0:i1, j0 - 1, None].expand(height, width),
        density[i0:i1, j1, None].expand(height, width),
    ]
    x = torch.linspace(-1, 1, height, dtype=torch.float64)[:, None].expand(height, width)
    y = torch.linspace(-1, 1, width, dtype=torch.float64).expand(height, width)
    waves = [wave(np.pi * k * axis) for k in (1, 3) for axis in (x, y) for wave in (torch.sin, torch.cos)]
    return torch.stack([*sides, x, y, *waves])


def catalog() -> Mapping[str, str]:
    """Family id -> description."""
    return {id: line for id, (line, _, _) in _CATALOG.items()}


@functools.cache
def family(id: str) -> PhotonicFamily:
    """The family of an id.

    Raises:
        UnknownIdError: no such family.
    """
    if id not in _CATALOG:
        raise UnknownIdError(f"No family `{id}`.{closest(id, _CATALOG)}")
    return PhotonicFamily(id)
