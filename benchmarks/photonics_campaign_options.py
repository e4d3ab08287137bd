"""Options of a photonic campaign, and the names of its cells."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from benchmarks.photonics_campaign_objective import KINDS

BETAS = (0.667, 0.9)
DEVICES = ("mode-converter", "bend", "power-splitter", "wdm", "wdm-6400nm", "beam-splitter")
CELLS = (
    "mode-converter:6,20,18,16,8,10,12,14", "wdm:8", "beam-splitter:8", "bend:8,20", "power-splitter:8",
    "wdm:6,10,14", "beam-splitter:6,10,14,20", "bend:6,10,14,18",
)  # fmt: skip


def parse_cells(texts: list[str]) -> list[tuple[str, int]]:
    """``device:px,px`` to (device, px), in order and each once.

    Raises:
        SystemExit: another form, or no such device.
    """
    cells: list[tuple[str, int]] = []
    for text in texts:
        device, _, brushes = text.partition(":")
        if device not in DEVICES or not brushes or not all(part.isdigit() for part in brushes.split(",")):
            raise SystemExit(f"Expected DEVICE:PX,PX with a device of {DEVICES}, got {text!r}.")
        cells += [(device, int(part)) for part in brushes.split(",")]
    return list(dict.fromkeys(cells))


def cell_name(cell: tuple[str, int], options: argparse.Namespace) -> str:
    """Name of a cell under these options; whatever differs from the defaults is in it."""
    parts = [f"{cell[0]}-{options.grid}nm-{cell[1]}px-{options.border}"]
    parts += [options.objective] if options.objective != "spec" else []
    parts += [f"step{options.step_size:g}"] if options.step_size != 0.05 else []
    parts += [f"anneal{options.anneal:g}"] if options.anneal != 1.0 else []
    parts += [f"betas{options.betas[0]:g},{options.betas[1]:g}"] if tuple(options.betas) != BETAS else []
    parts += [f"damping{options.damping:g}"] if options.damping != 1e-8 else []
    parts += [f"sharpness{options.sharpness:g}"] if options.sharpness != 8.0 else []
    parts += [f"{options.then}-from{options.then_from:g}"] if options.then else []
    return "-".join(parts)


def parser(text: str | None = None) -> argparse.ArgumentParser:
    """Of the command line, described by ``text``."""
    cores = os.cpu_count() or 1
    out = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--cells", nargs="+", default=list(CELLS), metavar="DEVICE:PX,PX", help="in order")
    out.add_argument("--grid", default="10", choices=("10", "40"))
    out.add_argument("--border", default="fixed", choices=("free", "fixed"))
    out.add_argument("--objective", default="spec", choices=KINDS)
    out.add_argument("--wavelengths", nargs="+", type=float, help="nm; default those of the id")
    out.add_argument("--seeds", type=int, default=20)
    out.add_argument("--first-seed", type=int, default=0)
    out.add_argument("--steps", type=int, default=500)
    out.add_argument(
        "--cell-seconds", nargs="+", type=float, default=[1e9], metavar="S",
        help="a cell ends then, with the steps it has; one for each of --cells, or one for all",
    )  # fmt: skip
    out.add_argument("--step-size", type=float, default=0.05)
    out.add_argument("--anneal", type=float, default=1.0, help="last step over first step")
    out.add_argument("--betas", nargs=2, type=float, default=list(BETAS), metavar="B", help="Adam's decay rates")
    out.add_argument("--damping", type=float, default=1e-8, help="Adam's epsilon over a row's largest gradient")
    out.add_argument("--sharpness", type=float, default=8.0, help="slope of the tanh")
    out.add_argument("--then", choices=KINDS, help="objective of the last part of a run")
    out.add_argument("--then-from", type=float, default=0.6, help="share of the steps after which --then begins")
    out.add_argument("--groups", type=int, default=2)
    out.add_argument("--threads", type=int, default=cores)
    out.add_argument("--setup-processes", type=int, default=min(12, cores - 4) if cores > 4 else 0)
    out.add_argument("--torch-device", default="cuda" if torch.cuda.is_available() else "cpu")
    out.add_argument("--memory-gb", type=float, default=30.0, help="of factors held at once by a group")
    out.add_argument("--no-graphs", action="store_true")
    out.add_argument("--seconds", type=float, default=540.0, help="wall clock; the run ends before")
    out.add_argument("--reserve", type=float, default=25.0, help="seconds of it kept for the last step and files")
    out.add_argument("--polish", type=int, default=0, metavar="ROUNDS", help="polish finished cells instead")
    out.add_argument("--polish-seeds", type=int, default=6, help="designs of a cell that are polished")
    out.add_argument("--polish-seconds", type=float, default=120.0, help="at most, for a cell")
    out.add_argument("--candidates", type=int, default=16, help="of each polished design in a round")
    out.add_argument("--judge", type=int, default=0, help="judge so many designs of each finished cell instead")
    out.add_argument("--judge-with", default="ceviche", choices=("ceviche", "direct"))
    out.add_argument("--report", action="store_true", help="print the table of finished cells instead")
    out.add_argument("--from", dest="start", type=Path, help="folder with earlier results, copied to --out first")
    out.add_argument("--out", type=Path, required=True)
    return out
