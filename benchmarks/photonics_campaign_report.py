"""What a photonic campaign found: judged by a second simulator, and as a table beside the public leaderboard."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from problems.photonics import PhotonicProblem
from problems.photonics.verify import verify

logger = logging.getLogger(__name__)

# Mode converter, 10 nm, circle of d pixels: best and median metric of 10 runs of the straight-through generator.
# Source: invrs leaderboard, commit ed27c5c (October 2025).
LEADERBOARD = {
    6: (0.910, 0.848), 8: (0.854, 0.749), 10: (0.762, 0.593), 12: (0.672, 0.294),
    14: (0.611, 0.392), 16: (0.174, -0.528), 18: (-0.189, -0.587), 20: (-0.295, -0.756),
}  # fmt: skip


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Lines of a JSONL file; none where there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def judge(out: Path, count: int, judge_with: str, problem_of: Callable[[dict[str, Any]], PhotonicProblem]) -> int:
    """Judge the best designs of each finished cell; designs that were judged before are not judged again.

    Args:
        out: folder of the campaign.
        count: designs of each cell.
        judge_with: ``ceviche`` or ``direct``.
        problem_of: line of a cell -> its problem on the CPU.

    Returns:
        Designs that were not confirmed, of all that have been judged.
    """
    path = out / "judged.jsonl"
    known = rows_of(path)
    done = {(row["cell"], row["seed"], row["judge"]) for row in known}
    with np.load(out / "designs.npz", allow_pickle=False) as archive:
        for row in rows_of(out / "campaign.jsonl"):
            best = [int(k) for k in np.argsort(row["best_metric"])[::-1][:count]]
            best = [k for k in best if (row["cell"], row["seeds"][k], judge_with) not in done]
            if not best:
                continue
            problem = problem_of(row)
            packed = archive[f"{row['cell']}/designs"]
            for k in best:
                x = torch.from_numpy(np.unpackbits(packed[k], count=problem.n).astype(np.float64))
                verdict = verify(problem, x, judge=judge_with)
                found = {"cell": row["cell"], "seed": row["seeds"][k], "is_confirmed": verdict.is_confirmed}
                found |= dict(verdict.facts) | {"judge": judge_with, "stored_metric": row["best_metric"][k]}
                logger.info("%s", json.dumps(found))
                known.append(found)
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(found) + "\n")
    return sum(not row["is_confirmed"] for row in known)


def table(out: Path) -> str:
    """Markdown: a line for each finished cell, beside the leaderboard where it has the same problem."""
    judged: dict[str, list[dict[str, Any]]] = {}
    for row in rows_of(out / "judged.jsonl"):
        judged.setdefault(row["cell"], []).append(row)
    lines = [
        "| cell | met | steps to spec (median, last) | best | median | judged | leaderboard best, median |",
        "|---|---:|---:|---:|---:|---|---|",
    ]
    for row in rows_of(out / "campaign.jsonl"):
        steps = sorted(step for step in row["steps_to_spec"] if step)
        reached = f"{np.median(steps):.0f}, {steps[-1]}" if steps else "-"
        verdicts = judged.get(row["cell"], [])
        by = f"{sum(v['is_confirmed'] for v in verdicts)}/{len(verdicts)} confirmed" if verdicts else "no"
        public = "-"
        if row["id"] == "photonics/mode-converter-10nm-v0" and row["border"] == "fixed":
            known = LEADERBOARD.get(int(row["brush"].removeprefix("circle-").removesuffix("px")))
            public = f"{known[0]:.3f}, {known[1]:.3f}" if known else "-"
        lines.append(
            f"| {row['cell']} | {row['met']}/{len(row['seeds'])} | {reached} | {row['best']:.3f} | "
            f"{row['median']:.3f} | {by} | {public} |"
        )
    return "\n".join(lines)
