"""The runner: every unfinished cell of a suite, once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import pool, suite
from benchmarks.store import Store

Show = Callable[[int, int, dict[str, Any]], None]


def run(
    path: str | Path,
    folder: str | Path,
    *,
    resume: bool = False,
    workers: int = 1,
    ray_address: str | None = None,
    command: str = "",
    show: Show | None = None,
) -> int:
    """Run a suite file, or the rest of it.

    Args:
        path: the suite.
        folder: results, provenance and suite are written here.
        resume: go on with the results in ``folder``: finished cells are kept, those that the suite gained are run.
        workers: processes at once; more than the idle cores would distort the seconds.
        ray_address: run the cells on this Ray cluster instead (``local`` starts one with ``workers`` CPUs); a cell that
            hangs is not ended there.
        command: what to record as the command.
        show: called after each cell with the number finished, the number of all, and the row.

    Returns:
        Number of cells that were run now.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by the workers
    plan = suite.load(path)
    every = list(plan.cells())
    with Store(folder, resume=resume) as store:
        store.begin(Path(path).read_text(encoding="utf-8"), command)
        todo = [cell for cell in every if cell.key not in store.finished]
        done = len(every) - len(todo)
        with contextlib.ExitStack() as stack:
            if ray_address is None:
                rows = pool.run(todo, workers=workers, cell_seconds=plan.cell_seconds)
            else:
                from rl.pool import RayPool

                cpus = workers if ray_address == "local" else None
                rows = pool.run_on(stack.enter_context(RayPool(ray_address, cpus=cpus)), todo)
            for k, row in enumerate(rows, start=1):
                store.append(row)
                if show is not None:
                    show(done + k, len(every), row)
    return len(todo)
