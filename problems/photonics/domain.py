"""Photonic problems by versioned id and by spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from problems.photonics.brush import Symmetry, parse_brush
from problems.photonics.geometry import BUILDERS, LIGHT_WAVELENGTHS_NM, PAPER_WAVELENGTHS_NM, Device
from surco.errors import InvalidInputError, UnknownIdError
from surco.registry import closest

if TYPE_CHECKING:
    from problems.photonics.problem import PhotonicProblem
    from surco.instance_family import Family

_TITLES = {
    "bend": "90 degree waveguide bend",
    "mode-converter": "mode converter, first to second mode",
    "beam-splitter": "2x2 beam splitter",
    "wdm": "wavelength demultiplexer",
    "power-splitter": "1x2 power splitter",
}
_OVERRIDES = ("brush", "symmetry", "robust", "seed", "sweeps", "wavelengths_nm", "torch_device", "border")


def _symmetry(device: str) -> Symmetry:
    """The symmetry that the published problem of a device holds."""
    return {"bend": Symmetry.DIAGONAL, "beam-splitter": Symmetry.XY, "power-splitter": Symmetry.Y}.get(
        device, Symmetry.NONE
    )


def _drawn(device: str, seed: int) -> dict[str, float]:
    """Randomized geometry of the ``-family`` ids, on the 40 nm grid."""
    rng = np.random.default_rng(seed)

    def pick(*values: float) -> float:
        return float(rng.choice(values))

    if device == "bend":
        return {"guide_nm": pick(320, 400, 480, 560), "guide_length_nm": pick(720, 760, 800, 880)}
    if device == "mode-converter":
        return {"left_guide_nm": pick(320, 400, 480, 560), "right_guide_nm": pick(400, 480, 560, 640)}
    if device == "beam-splitter":
        return {
            "separation_nm": pick(1040, 1120, 1200), "guide_nm": pick(320, 400), "length_nm": pick(2880, 3040, 3200)
        }  # fmt: skip
    if device == "wdm":
        shifts = np.arange(-320, 321, 80)
        return {
            "input_shift_nm": float(rng.choice(shifts)), "output_shift_nm": float(rng.choice(shifts)),
            "edge_nm": pick(400, 480, 560),
        }  # fmt: skip
    raise InvalidInputError(f"No family of randomized {device} problems.")


class PhotonicsDomain:
    """Planar devices of 2D inverse design.

    Ids: ``photonics/<device>-40nm-v0`` (two wavelengths, 3x3 cross brush), ``photonics/<device>-10nm-v0`` (six
    wavelengths, circle of 8 pixels), ``photonics/<device>-family-v0`` (40 nm, geometry drawn from ``seed``).

    Overrides: ``brush`` (cross, circle-9px, circle-100nm, notched-10px), ``symmetry`` (none, diagonal, x, y, xy;
    default none at 40 nm and the published one at 10 nm), ``robust`` (etch pixels), ``seed`` (families only),
    ``sweeps``, ``wavelengths_nm``, ``torch_device``, ``border`` (free, or fixed: see `problems.photonics.border`).
    """

    name = "photonics"

    def ids(self) -> Mapping[str, str]:
        """Versioned id -> one line of description."""
        table = {}
        for device, title in _TITLES.items():
            table[f"photonics/{device}-40nm-v0"] = f"{title}, 40 nm grid, 1270 and 1290 nm, 3x3 cross brush"
            size = ", 3.2 um" if device == "wdm" else ""
            table[f"photonics/{device}-10nm-v0"] = f"{title}{size}, 10 nm grid, six wavelengths, 8-pixel circle brush"
            if device != "power-splitter":
                table[f"photonics/{device}-family-v0"] = f"{title}, 40 nm grid, geometry drawn from the seed"
        table["photonics/wdm-6400nm-10nm-v0"] = (
            "wavelength demultiplexer of 6.4 um, 10 nm grid, six wavelengths, 8-pixel circle brush"
        )
        return table

    def make(self, id: str, **overrides: Any) -> PhotonicProblem:
        """Build the problem of an id.

        Raises:
            UnknownIdError: no such id.
            InvalidInputError: an override that does not exist or does not fit.
        """
        return self._build(self.spec_of(id, **overrides), overrides.get("torch_device", "cpu"))

    def families(self) -> Mapping[str, str]:
        """Family id -> one line of description."""
        from problems.photonics import family

        return family.catalog()

    def family(self, id: str) -> Family:
        """The family of an id of ``families``."""
        from problems.photonics import family

        return family.family(id)

    def spec_of(self, id: str, **overrides: Any) -> dict[str, Any]:
        """The whole spec of an id with overrides.

        Raises:
            UnknownIdError: no such id.
            InvalidInputError: an override that does not exist or does not fit.
        """
        unknown = sorted(set(overrides) - set(_OVERRIDES))
        if unknown:
            raise InvalidInputError(f"`{id}` has no override `{unknown[0]}`.{closest(unknown[0], _OVERRIDES)}")
        if id not in self.ids():
            raise UnknownIdError(f"No problem `{id}`.{closest(id, self.ids())}")
        stem = id.removeprefix("photonics/").removesuffix("-v0")
        geometry: dict[str, Any] = {}
        if stem == "wdm-6400nm-10nm":
            device, grid, geometry = "wdm", 10.0, {"size_nm": 6400.0, "edge_nm": 320.0}
        else:
            device, _, kind = stem.rpartition("-")
            grid = 10.0 if kind == "10nm" else 40.0
            if kind == "family":
                geometry = _drawn(device, int(overrides.get("seed", 0)))
            elif "seed" in overrides and overrides["seed"] != 0:
                raise InvalidInputError(f"`{id}` draws nothing; `seed` fits photonics/{device}-family-v0.")
        is_fine = grid == 10.0
        spec = {
            "domain": self.name, "device": device, "grid_nm": grid,
            "wavelengths_nm": list(PAPER_WAVELENGTHS_NM if is_fine else LIGHT_WAVELENGTHS_NM), **geometry,
            "brush": "circle-8px" if is_fine else "cross",
            "symmetry": str(_symmetry(device)) if is_fine else "none", "robust": 0, "sweeps": 0,
            "border": "free", "id": id,
        }  # fmt: skip
        return spec | {key: value for key, value in overrides.items() if key not in ("seed", "torch_device")}

    def from_spec(self, spec: Mapping[str, Any]) -> PhotonicProblem:
        """Build a problem from a JSON object: an ``id`` with overrides, or a whole device.

        Raises:
            InvalidInputError: a key is missing, unknown or does not fit.
        """
        if "id" in spec and "device" not in spec:
            return self.make(str(spec["id"]), **{k: v for k, v in spec.items() if k not in ("domain", "id")})
        if "device" not in spec:
            raise InvalidInputError(f"Expected a photonic spec with a `device`, one of {sorted(BUILDERS)}.")
        return self._build(dict(spec), "cpu")

    def device_of(self, spec: Mapping[str, Any]) -> Device:
        """Geometry of a spec, without brush and simulator.

        Raises:
            InvalidInputError: no such device, or options that do not fit it.
        """
        kind = str(spec["device"])
        if kind not in BUILDERS:
            raise InvalidInputError(f"No device `{kind}`.{closest(kind, BUILDERS)}")
        own = {"domain", "device", "id", "brush", "symmetry", "robust", "sweeps", "border"}
        geometry = {key: value for key, value in spec.items() if key not in own}
        try:
            return BUILDERS[kind](**geometry)
        except TypeError as error:
            raise InvalidInputError(f"Expected geometry options of a {kind}: {error}.") from error

    def _build(self, spec: dict[str, Any], torch_device: str) -> PhotonicProblem:
        from problems.photonics.border import fixed_border
        from problems.photonics.problem import PhotonicProblem
        from problems.photonics.simulator import Simulator
        from problems.photonics.targets import SPECS

        device, kind = self.device_of(spec), str(spec["device"])
        try:
            symmetry = Symmetry(str(spec.get("symmetry", "none")))
        except ValueError as error:
            raise InvalidInputError(
                f"No symmetry `{spec['symmetry']}`.{closest(str(spec['symmetry']), Symmetry)}"
            ) from error
        rule = str(spec.get("border", "free"))
        if rule not in ("free", "fixed"):
            raise InvalidInputError(f"Expected the border `free` or `fixed`, got `{rule}`.")
        brush = parse_brush(str(spec.get("brush", "cross")), device.grid_nm)
        return PhotonicProblem(
            device,
            SPECS[kind],
            brush,
            symmetry=symmetry,
            border=fixed_border(device, brush) if rule == "fixed" else None,
            etch_px=int(spec.get("robust", 0)),
            simulator=Simulator(device, torch_device=torch_device),
            sweeps=int(spec.get("sweeps", 0)),
            id=str(spec.get("id", "")),
            spec=spec,
        )


DOMAIN = PhotonicsDomain()
