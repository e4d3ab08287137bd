"""Pass-through on many seeds at once: which devices and brushes of the 10 nm grid meet the spec, and how well.

On a GPU machine, in calls of at most ten minutes (each ends by itself after ``--seconds``, unfinished cells included):

    # call 1: a check of everything in about a minute, then the campaign
    python3 -m benchmarks.gpu_photonics_campaign --out runs/check --grid 40 --cells bend:3 --seeds 4 --steps 10 &&
    python3 -m benchmarks.gpu_photonics_campaign --out runs/check --judge 1 --judge-with direct &&
    python3 -m benchmarks.gpu_photonics_campaign --out "$OUT/campaign" --seconds 450
    # here: mkdir -p runs/campaign; cp FILES/campaign/* runs/campaign/
    # call 2 (runs/campaign carried along), and the same again for call 3 with --seconds 300
    python3 -m benchmarks.gpu_photonics_campaign --from runs/campaign --out "$OUT/campaign" --seconds 540
    # here after each: cp FILES/campaign/* runs/campaign/

and at the end on a CPU with ceviche:

    python -m benchmarks.gpu_photonics_campaign --out runs/campaign --judge 1
    python -m benchmarks.gpu_photonics_campaign --out runs/campaign --report

Needs torch, numpy, scipy, numba and threadpoolctl; no solver. ``--cells`` are devices and brush diameters in pixels,
done in that order; by default the mode converter with every brush of the public leaderboard first, then the
demultiplexer and the splitter, which have no published design at 10 nm, then the rest. In a cell ``--seeds`` designs
learn for ``--steps`` steps, or for ``--cell-seconds``. They go through the loop in ``--groups`` groups, so that threads
paint one group (the painter runs on the CPU, a design a thread) while the simulator solves the other; on a GPU each
group's step is one CUDA graph. Exteriors of later devices are condensed meanwhile by ``--setup-processes`` processes.

A cell that fails does not end the campaign: it is named in ``failed.json`` and tried again by the next call.

In ``--out``: ``campaign.jsonl``, a line for each finished cell (steps to spec and best metric of each seed, painter
calls, seconds), ``designs.npz`` with each seed's best design and its metric at every step, and two files with the state
of the unfinished cell: at most six files, none over 16 MiB. A resumed run goes on exactly as if it had never stopped.
``--judge N`` has the best N designs of each cell judged by unmodified ceviche and by morphology.

``--polish ROUNDS`` takes the best designs of each finished cell on by hill climbing (`photonics_campaign_polish`) and
writes a cell of its own, ``...-polished``.

The objective is the literature's loss, also after the spec is met. ``--objective margin`` goes on with the margin then
(see `photonics_campaign_objective`); on the mode converter at 40 nm that ended lower (two seeds, 180 steps: best
metrics 0.28 and 0.40 by the literature's loss, 0.13 and 0.20 by the margin), so it is not the default. ``--objective
deep`` and ``square`` go on, too, from the first step; two seeds of the converter on a 20 nm grid (1265 and 1295 nm,
circle of 100 nm, 240 steps) ended at 0.56 and 0.87 by ``deep``, at 0.61 and 0.65 by ``square``, at 0.22 and 0.39 by the
literature's loss. ``--anneal F`` lets the step fall to F times its size over the run, along a cosine; there that ended
lower for each of them. ``norm`` and ``tight`` are for devices whose windows differ much in width (demultiplexer,
splitter), where ``deep`` asks the wide ones for too much and ``square`` may end with no transmission at all. The
demultiplexer gains by ``--anneal``: on a 40 nm grid with six wavelengths (one seed, 300 steps of 0.1, literature's
loss) it ended at -0.60 with a last step of 0.05 of the first, at -1.63 with equal steps; neither met the spec.
"""

from __future__ import annotations

import argparse
import logging
import platform
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from benchmarks import photonics_campaign_report as reporting
from benchmarks.photonics_campaign_cell import Cell
from benchmarks.photonics_campaign_options import cell_name, parse_cells, parser
from benchmarks.photonics_campaign_polish import Polish
from benchmarks.photonics_campaign_results import Results
from benchmarks.photonics_campaign_setup import Exteriors, problem_id
from problems.photonics import DOMAIN, PhotonicProblem

logger = logging.getLogger("gpu_photonics_campaign")


def make_problem(device: str, brush_px: int, options: argparse.Namespace, torch_device: str) -> PhotonicProblem:
    """The problem of a cell."""
    overrides: dict[str, Any] = {"brush": f"circle-{brush_px}px", "border": options.border}
    if options.wavelengths is not None:
        overrides["wavelengths_nm"] = options.wavelengths
    return DOMAIN.make(problem_id(device, options.grid), torch_device=torch_device, **overrides)


def problem_of(row: dict[str, Any]) -> PhotonicProblem:
    """The problem of a finished cell, on the CPU."""
    return DOMAIN.make(row["id"], brush=row["brush"], border=row["border"], wavelengths_nm=row["wavelengths_nm"])


def prepare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Lines of the cells that are done already; brings earlier results to ``--out`` and clears stale states."""
    options.out.mkdir(parents=True, exist_ok=True)
    if options.start is not None:
        if not options.start.is_dir():
            raise SystemExit(f"No folder {options.start}; was it carried along?")
        for path in sorted(options.start.iterdir()):
            target = options.out / path.name
            if path.is_file() and not target.exists():
                shutil.copyfile(path, target)
    known = reporting.rows_of(options.out / "campaign.jsonl")
    for row in known:
        for path in options.out.glob(f"{row['cell']}.group*.npz"):
            path.unlink()
    return known


def machine_of(options: argparse.Namespace) -> dict[str, Any]:
    """Where a line was measured."""
    machine = {
        "device": torch.cuda.get_device_name(0) if options.torch_device == "cuda" else platform.processor() or "CPU",
        "torch": torch.__version__, "threads": options.threads,
    }  # fmt: skip
    logger.info("%s", machine)
    return machine


def polish(options: argparse.Namespace) -> int:
    """Polish the best designs of each finished cell of ``--cells``, whatever its learning was."""
    deadline = time.perf_counter() + options.seconds - options.reserve
    prepare(options)
    results, machine, failed = Results(options.out), machine_of(options), 0
    with (
        ThreadPoolExecutor(options.threads) as pool,
        Exteriors(
            [c[0] for c in parse_cells(options.cells)], options.grid, options.wavelengths, options.setup_processes
        ) as exteriors,
    ):
        for device, brush_px in parse_cells(options.cells):
            stem = f"{device}-{options.grid}nm-{brush_px}px-{options.border}"
            name = f"{stem}-polished"
            known = [row for row in results.rows if row["cell"].startswith(stem) and "rounds" not in row]
            if not known or any(row["cell"] == name for row in results.rows):
                continue
            begin = time.perf_counter()
            if begin > deadline or not exteriors.wait(device, deadline - begin):
                logger.info("time is up; run the same command again to go on with %s", name)
                break
            try:
                problem = make_problem(device, brush_px, options, options.torch_device)
                problem.simulator.memory_gb = options.memory_gb
                starts = results.best(known, options.polish_seeds, problem.n)
                work = Polish(name, problem, starts.designs, starts.metrics, options, pool)
                work.run(min(deadline, time.perf_counter() + options.polish_seconds))
            except Exception as error:  # the other cells still count
                results.fail(name, error)
                logger.exception("%s failed", name)
                failed += 1
                continue
            row: dict[str, Any] = work.summary() | {"origins": starts.origins} | machine
            results.add(row, work.designs())
            logger.info(
                "%-36s best %.3f -> %.3f  all %s -> %s  %d rounds, %d accepted, %.0f s", name, max(work.start),
                row["best"], np.round(work.start, 3).tolist(), np.round(row["best_metric"], 3).tolist(), work.rounds,
                work.accepted, work.seconds,
            )  # fmt: skip
    return 1 if failed else 0


def campaign(options: argparse.Namespace) -> int:
    """Run cell after cell until all are done or time is up."""
    deadline = time.perf_counter() + options.seconds - options.reserve
    done = {row["cell"] for row in prepare(options)}
    results = Results(options.out)
    machine = machine_of(options)
    names = {cell: cell_name(cell, options) for cell in parse_cells(options.cells)}
    given = options.cell_seconds * (len(names) if len(options.cell_seconds) == 1 else 1)
    if len(given) != len(names):
        raise SystemExit(f"Expected one --cell-seconds or {len(names)}, got {len(given)}.")
    own_seconds = dict(zip(names, given, strict=True))
    todo = {cell: name for cell, name in names.items() if name not in done}
    logger.info("%d cells done, %d to do", len(done), len(todo))
    failed = 0
    with (
        ThreadPoolExecutor(options.threads) as pool,
        Exteriors([c[0] for c in todo], options.grid, options.wavelengths, options.setup_processes) as exteriors,
    ):
        for (device, brush_px), name in todo.items():
            begin = time.perf_counter()
            if begin > deadline or not exteriors.wait(device, deadline - begin):
                logger.info("time is up; run the same command again to go on with %s", name)
                return 0
            waited = time.perf_counter() - begin
            try:
                problem = make_problem(device, brush_px, options, options.torch_device)
                problem.simulator.memory_gb = options.memory_gb
                cell = Cell(name, problem, options, pool)
                is_done = cell.run(deadline, own_seconds[device, brush_px])
            except Exception as error:  # the other cells still count; this one is tried again by the next call
                results.fail(name, error)
                logger.exception("%s failed", name)
                failed += 1
                continue
            if not is_done:
                logger.info("%s stopped at step %d", name, cell.groups[0].steps)
                return 0
            row: dict[str, Any] = cell.summary() | {"seconds_waiting_for_exterior": waited} | machine
            results.add(row, cell.designs(), cell.history)
            for path in cell.files:
                path.unlink(missing_ok=True)
            logger.info(
                "%-32s met %d/%d  best %.3f  median %.3f  steps to spec %s  %.0f s (%.0f of them for the painter)",
                name, row["met"], len(row["seeds"]), row["best"], row["median"],
                sorted(s for s in row["steps_to_spec"] if s), row["seconds"], row["seconds_waiting_for_painter"],
            )  # fmt: skip
    logger.info("all cells are done, %d failed", failed)
    return 1 if failed else 0


def main(arguments: list[str] | None = None) -> int:
    """Campaign, judgement of one, or its table."""
    options = parser(__doc__).parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if options.report:
        sys.stdout.write(reporting.table(options.out) + "\n")
        return 0
    if options.judge:
        return 1 if reporting.judge(options.out, options.judge, options.judge_with, problem_of) else 0
    return polish(options) if options.polish else campaign(options)


if __name__ == "__main__":
    sys.exit(main())
