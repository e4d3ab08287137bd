"""Files of a photonic campaign: a line and the designs of every finished cell, and what failed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.photonics_campaign_report import rows_of


@dataclass(frozen=True, slots=True)
class Starts:
    """Designs to go on from: [R, n] bool, their metrics, and (cell, seed) of each."""

    designs: NDArray[np.bool_]
    metrics: list[float]
    origins: list[tuple[str, int]]


class Results:
    """What is known, on disk and in memory.

    Args:
        out: folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.rows = rows_of(out / "campaign.jsonl")
        self.kept: dict[str, NDArray[Any]] = {}
        self.failures: list[dict[str, str]] = []
        if (out / "designs.npz").is_file():
            with np.load(out / "designs.npz", allow_pickle=False) as old:
                self.kept = {key: old[key] for key in old.files}

    def add(self, row: dict[str, Any], designs: NDArray[np.bool_], history: NDArray[np.float64] | None = None) -> None:
        """Keep a finished cell; the designs are written first and atomically."""
        self.kept[f"{row['cell']}/designs"] = np.packbits(designs, axis=1)
        if history is not None:
            self.kept[f"{row['cell']}/history"] = history.astype(np.float32)
        scratch = self.out / "designs.tmp"
        with scratch.open("wb") as file:
            np.savez_compressed(file, **self.kept)  # type: ignore[arg-type]
        scratch.replace(self.out / "designs.npz")
        self.rows.append(row)
        with (self.out / "campaign.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def fail(self, name: str, error: Exception) -> None:
        """Name a cell that failed."""
        self.failures.append({"cell": name, "failed": f"{type(error).__name__}: {str(error)[:500]}"})
        (self.out / "failed.json").write_text(json.dumps(self.failures, indent=1), encoding="utf-8")

    def best(self, rows: list[dict[str, Any]], count: int, n: int) -> Starts:
        """The best designs of some cells, each design once."""
        order = sorted(
            ((value, row["cell"], k) for row in rows for k, value in enumerate(row["best_metric"])), reverse=True
        )
        chosen, seen = [], set()
        for value, cell, k in order:
            packed = self.kept[f"{cell}/designs"][k]
            if packed.tobytes() not in seen and len(chosen) < count:
                seen.add(packed.tobytes())
                seed = next(row["seeds"][k] for row in rows if row["cell"] == cell)
                chosen.append((np.unpackbits(packed, count=n).astype(bool), value, (cell, seed)))
        designs, metrics, origins = zip(*chosen, strict=True)
        return Starts(np.stack(designs), list(metrics), list(origins))
