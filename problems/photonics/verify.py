"""Judges of a design: the brush rule by morphology, the physics by our direct solver or by unmodified ceviche."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from problems.photonics import direct
from problems.photonics.oracle import broken
from problems.photonics.problem import PhotonicProblem
from problems.photonics.robust import etch_corners
from problems.photonics.targets import spec_metric
from surco.errors import InvalidInputError
from surco.protocols import Verification

S_TOLERANCE = 1e-8


def verify(problem: PhotonicProblem, x: Tensor, *, judge: str = "ceviche") -> Verification:
    """Judge design x [n] of a problem independently of the fast simulator and of the painter.

    Confirmed is a design that is paintable, and of which judge and simulator say the same: |S| to 1e-8, and whether
    the spec is met. Facts: ``unpaintable_pixels``; ``metric`` (> 0 when the judge finds the spec met, worst of all
    corners) and ``claimed_metric`` of the fast simulator; ``s_error``, the largest difference of |S|.

    Args:
        problem: the problem that x solves.
        x: [n].
        judge: ``ceviche`` (the unmodified package) or ``direct`` (our sparse direct solver).

    Raises:
        InvalidInputError: no such judge, or x has the wrong length.
        MissingExtraError: ceviche is asked for and not installed.
    """
    if judge not in ("ceviche", "direct"):
        raise InvalidInputError(f"Expected the judge `ceviche` or `direct`, got `{judge}`.")
    if tuple(x.shape) != (problem.n,):
        raise InvalidInputError(f"Expected x of shape [{problem.n}], got {list(x.shape)}.")
    design = problem.design(x)
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
        ours = problem.s_parameters(x[None])[:, 0].cpu()
    error = float((s.abs() - ours.abs()).abs().max())
    metric, claimed = float(spec_metric(s, problem.target).min()), float(spec_metric(ours, problem.target).min())
    bad = int(broken(design.numpy(), problem.brush, problem.border).sum())
    return Verification(
        bad == 0 and error <= S_TOLERANCE and (metric > 0) == (claimed > 0),
        {"unpaintable_pixels": bad, "metric": metric, "claimed_metric": claimed, "s_error": error},
    )
