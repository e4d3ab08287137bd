"""The optimizer's benchmarks: scripts for a bare GPU machine, fair choice of rates, the resume check itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.galore_quality import ENTRIES, TUNING_SEEDS, best_rate, read, table, table_cells, tuning_cells
from benchmarks.galore_resume import digest, train

HIDDEN = ("ortools", "pyscipopt", "ray", "gymnasium", "highspy", "networkx", "matplotlib")


def test_gpu_script_runs_without_solvers_and_ray(tmp_path: Path):
    """A GPU machine has torch and little else: the script must run there, not only import."""
    code = f"""
import sys
sys.modules.update(dict.fromkeys({HIDDEN!r}))  # an import of one of them now fails
import benchmarks.gpu_galore, benchmarks.galore, benchmarks.galore_quality, benchmarks.galore_language
import torch
from benchmarks.galore_kernels import refresh_rows, sparse_rows
from benchmarks.galore_scale import scale_rows
cpu = torch.device("cpu")
rows = list(refresh_rows([(200, 16, 4)], ["k^-0.5"], cpu, repeats=1))
rows += list(sparse_rows([500], 16, 4, cpu, touched=50, repeats=1))
rows += list(scale_rows(2600, 8, 2, cpu, seconds=0.01, batch=64))
print(len(rows))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 1 + 5 + 7


def finished(cell: Any, valid: float, test: float) -> dict[str, Any]:
    seed, task, entry, rate = cell
    scores = {"valid_auc": valid, "test_auc": test, "test_logloss": 1.0 - test}
    return {
        "seed": seed,
        "task": task,
        "label": entry.label,
        "lr": rate,
        "bytes_per_row": 1.0,
        "bayes_auc": 0.9,
    } | scores


def test_rates_are_chosen_on_tuning_seeds_alone():
    tuning = tuning_cells(["planted"], ENTRIES)
    assert len(tuning) == sum(len(entry.rates) for entry in ENTRIES) * len(TUNING_SEEDS)
    # Validation prefers the second rate, the test part the fourth: the table must show the second.
    rows = [finished(cell, 0.8 if cell[3] == cell[2].rates[1] else 0.7, 0.9 * cell[3]) for cell in tuning]
    assert all(best_rate(entry, "planted", rows) == entry.rates[1] for entry in ENTRIES)
    with pytest.raises(ValueError, match="all tuning runs"):
        best_rate(ENTRIES[0], "planted", rows[1:])
    cells = table_cells(["planted"], ENTRIES, 3, rows)
    assert {cell[0] for cell in cells}.isdisjoint(TUNING_SEEDS)
    rows += [
        finished(cell, 0.7, 0.6 + 0.01 * cell[0] + (0.002 if "galore" in cell[2].label else 0.0)) for cell in cells
    ]
    lines = {line["optimizer"]: line for line in table(rows)}
    assert set(lines) == {entry.label for entry in ENTRIES}
    assert lines["sparse-adam"]["auc"] == pytest.approx(0.61)
    assert lines["galore r=4"]["auc_minus_sparse_adam"] == pytest.approx(0.002)
    assert lines["galore r=4"]["auc_minus_sparse_adam_error"] == pytest.approx(0.0, abs=1e-12)
    assert {line["seeds"] for line in lines.values()} == {3}


def test_a_line_cut_short_is_dropped(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"seed": 1}) + '\n{"seed": 2, "ta')
    assert read([path, tmp_path / "missing.jsonl"]) == [{"seed": 1}]


@pytest.mark.parametrize("kind", ["dense", "sparse, 8-bit"])
def test_resume_check_sees_equal_and_other_bits(tmp_path: Path, kind: str):
    for name in ("whole", "halves"):
        (tmp_path / name).mkdir()
    train(kind, tmp_path / "whole", 10)
    train(kind, tmp_path / "halves", 4)
    path = tmp_path / "halves" / "checkpoint.pt"
    assert digest(path) != digest(tmp_path / "whole" / "checkpoint.pt")
    train(kind, tmp_path / "halves", 10)
    assert digest(path) == digest(tmp_path / "whole" / "checkpoint.pt")
