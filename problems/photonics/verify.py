"""Re-verify a saved result: the brush rule by morphology, the physics by the direct solver and by unmodified ceviche.

python -m problems.photonics.verify runs/bend/result.json --with ceviche --out hand-over/
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from problems.photonics import direct
from problems.photonics.brush import unpaintable
from problems.photonics.domain import DOMAIN
from problems.photonics.problem import PhotonicProblem
from problems.photonics.robust import etch_corners
from problems.photonics.targets import spec_metric
from surco.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Verification:
    """What an independent judge finds.

    Attributes:
        judge: ``ceviche`` (the unmodified package) or ``direct`` (our sparse direct solver).
        unpaintable_pixels: pixels that break the brush rule.
        metric: > 0 when the judge finds the spec met, worst of all corners.
        claimed_metric: the fast simulator's.
        s_error: largest difference of |S| between judge and fast simulator.
        is_confirmed: the design is paintable, and judge and simulator agree on |S| to 1e-8 and on the spec.
    """

    judge: str
    unpaintable_pixels: int
    metric: float
    claimed_metric: float
    s_error: float
    is_confirmed: bool


def verify(problem: PhotonicProblem, x: np.ndarray, *, judge: str = "ceviche") -> Verification:
    """Judge design x [n] of a problem independently of the fast simulator and of the painter.

    Raises:
        InvalidInputError: no such judge, or x has the wrong length.
        MissingExtraError: ceviche is asked for and not installed.
    """
    if judge not in ("ceviche", "direct"):
        raise InvalidInputError(f"Expected the judge `ceviche` or `direct`, got `{judge}`.")
    if np.shape(x) != (problem.n,):
        raise InvalidInputError(f"Expected x of shape [{problem.n}], got {list(np.shape(x))}.")
    point = torch.as_tensor(np.asarray(x, float))
    design = problem.design(point)
    corners = etch_corners(design[None], problem.etch_px)[:, 0].numpy()
    device = problem.device
    if judge == "ceviche":
        from problems.photonics import ceviche_bridge

        model = ceviche_bridge.challenge_model(device)
        rows = [ceviche_bridge.simulate(model, corner) for corner in corners]
    else:
        rows = [
            np.stack([direct.simulate(device, corner, wavelength, (0,)).s for wavelength in device.wavelengths_nm])
            for corner in corners
        ]
    s = torch.from_numpy(np.stack(rows))
    with torch.no_grad():
        ours = problem.s_parameters(point[None])[:, 0].cpu()
    error = float((s.abs() - ours.abs()).abs().max())
    metric, claimed = float(spec_metric(s, problem.target).min()), float(spec_metric(ours, problem.target).min())
    bad = int(unpaintable(design.numpy(), problem.brush).sum())
    is_confirmed = bad == 0 and error <= 1e-8 and (metric > 0) == (claimed > 0)
    return Verification(judge, bad, metric, claimed, error, is_confirmed)


def load_result(path: str | Path) -> tuple[PhotonicProblem, np.ndarray]:
    """Problem and design of a saved ``result.json``.

    Raises:
        InvalidInputError: no such file, not JSON, or not a photonic result.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "result.json"
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(f"Expected a result.json, cannot read `{path}`: {error}.") from error
    except ValueError as error:
        raise InvalidInputError(f"`{path}` is not JSON: {error}.") from error
    spec: Any = saved.get("spec") if isinstance(saved, Mapping) else None
    if not isinstance(spec, Mapping) or spec.get("domain") != DOMAIN.name:
        raise InvalidInputError(f"Expected a result of the photonics domain in `{path}`.")
    return DOMAIN.from_spec(spec), np.asarray(saved["x"], dtype=float)


def hand_over(problem: PhotonicProblem, x: np.ndarray, folder: str | Path) -> list[Path]:
    """Write design.gds (checked by reading it back), design.npy and all figures; returns the paths."""
    from problems.photonics import gds, plots

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    point = torch.as_tensor(np.asarray(x, float))
    design = problem.design(point).numpy()
    layout = folder / "design.gds"
    gds.write_gds(layout, problem.device, design)
    if not np.array_equal(gds.read_gds(layout, problem.device), design):
        raise RuntimeError(f"The design read back from {layout} differs from the one written; please report it.")
    np.save(folder / "design.npy", design.astype(np.int8), allow_pickle=False)
    return [layout, folder / "design.npy", *plots.save_figures(problem, point, folder)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit code 0 when the result is confirmed, 1 when it is not, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m problems.photonics.verify", description=__doc__)
    parser.add_argument("result", help="result.json, or the folder that holds it")
    parser.add_argument("--with", dest="judge", default="ceviche", choices=("ceviche", "direct"))
    parser.add_argument("--out", help="also write GDSII, PNG and plots to this folder")
    options = parser.parse_args(arguments)
    try:
        problem, x = load_result(options.result)
        found = verify(problem, x, judge=options.judge)
        written = hand_over(problem, x, options.out) if options.out else []
    except (InvalidInputError, ImportError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    report = asdict(found) | {"files": [str(path) for path in written]}
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0 if found.is_confirmed else 1


if __name__ == "__main__":
    sys.exit(main())
