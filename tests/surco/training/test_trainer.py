import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import surco
from surco.errors import InvalidInputError, ResumeError
from surco.instance_family import Question, Split, _answer, family
from surco.training import Prior, train

FAST = {"instances": 8, "validation": 4, "batch": 4, "samples": 4, "validate_every": 5, "network": {"hidden": 8}}
GRID = "paths/grid-5-paper-v0"

SCRIPT = """
import json, sys
from surco.training import train
config = json.loads(sys.argv[1])
train(sys.argv[2], steps=int(sys.argv[3]), seed=3, out=sys.argv[4], resume=True, save_seconds=1e-9,
      progress=lambda line: print(line["step"], flush=True), **config)
"""


def weights(prior):
    return {name: value.clone() for name, value in prior.network.state_dict().items()}


@pytest.mark.parametrize("id", [GRID, "sharding/dlrm-mixed-nonlinear-v0"])
def test_resume_after_sigkill_gives_bit_equal_weights(id, tmp_path):
    steps = 40
    whole = train(id, steps=steps, seed=3, out=tmp_path / "whole", **FAST)
    command = [sys.executable, "-c", SCRIPT, json.dumps(FAST), id, str(steps), str(tmp_path / "killed")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 10:
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "prior.json").exists()  # it was killed before its end
    resumed = train(id, steps=steps, seed=3, out=tmp_path / "killed", resume=True, **FAST)
    for name, value in weights(whole).items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
    logs = [(tmp_path / folder / "log.jsonl").read_text().splitlines() for folder in ("whole", "killed")]
    lines = [[json.loads(text) for text in log] for log in logs]
    timeless = [[{k: v for k, v in line.items() if k not in ("seconds", "loss")} for line in log] for log in lines]
    assert timeless[0] == timeless[1]


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    first, again, other = (train(GRID, steps=6, seed=seed, patience=99, **FAST) for seed in (0, 0, 1))
    assert all(torch.equal(value, again.network.state_dict()[name]) for name, value in weights(first).items())
    assert any(not torch.equal(value, other.network.state_dict()[name]) for name, value in weights(first).items())


def test_a_pool_changes_nothing():
    alone = train(GRID, steps=4, **FAST)
    for workers in (1, 4):
        with ThreadPoolExecutor(workers) as pool:
            pooled = train(GRID, steps=4, pool=pool, **FAST)
        assert all(torch.equal(value, pooled.network.state_dict()[name]) for name, value in weights(alone).items())


def test_a_worker_draws_the_instance_again():
    source = family(GRID)
    instance = source.sample("train", seed=4)
    costs = torch.rand(3, instance.problem.oracle.n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, ok = _answer(Question(GRID, Split.TRAIN, 4, costs.numpy()))
    assert ok.all()
    assert (x == instance.problem.oracle.solve(costs.numpy()).x).all()


def test_training_improves_a_network_that_starts_wrong():
    """The start of the edge network is good already; spoil it, and training must find back."""
    source = family("paths/grid-10-paper-v0")
    config = {"batch": 16, "samples": 8, "sigma": 0.3, "instances": 64, "validation": 32, "validate_every": 20}
    logs = []
    spoiled = train(source, steps=1, patience=1, network={"hidden": 16}, instances=4, validation=2, step_size=1e-9)
    with torch.no_grad():
        spoiled.network.graph[-1].bias.add_(torch.tensor([0.0, -1.5]))  # loves variance
    train(source, steps=80, start=spoiled, network={"hidden": 16}, step_size=1e-2, progress=logs.append, **config)
    regrets = [line["regret"] for line in logs]
    assert regrets[0] > 0.05
    assert min(regrets) < 0.5 * regrets[0]


def test_a_saved_prior_gives_the_same_costs(tmp_path):
    prior = train(GRID, steps=3, out=tmp_path / "prior", **FAST)
    problem = family(GRID).sample("test", seed=0).problem
    loaded = Prior.load(tmp_path / "prior")
    assert torch.equal(prior.costs(problem), loaded.costs(problem))
    assert loaded.training["steps"] == 3
    assert loaded.fits(problem)
    assert not loaded.fits(surco.make("sharding/dlrm-50t-8d-v0"))


def test_bad_input_is_named(tmp_path):
    with pytest.raises(InvalidInputError, match="Did you mean `samples`"):
        train(GRID, steps=1, sample=3)
    with pytest.raises(InvalidInputError, match="gradient"):
        train(GRID, steps=1, gradient="magic")
    with pytest.raises(InvalidInputError, match="found none"):
        Prior.load(tmp_path)
    train(GRID, steps=2, out=tmp_path / "run", **FAST)
    with pytest.raises(ResumeError, match="another run: its `seed` is 0, here 1"):
        train(GRID, steps=2, seed=1, out=tmp_path / "run", resume=True, **FAST)
    card = json.loads((tmp_path / "run" / "prior.json").read_text())
    card["schema"]["name"] = "routes-0"
    (tmp_path / "run" / "prior.json").write_text(json.dumps(card))
    with pytest.raises(InvalidInputError, match="schema"):
        Prior.load(tmp_path / "run")


def test_early_stopping_ends_a_run_that_does_not_improve():
    begun = time.monotonic()
    prior = train(GRID, steps=10**6, step_size=1e-12, patience=2, **{**FAST, "validate_every": 1})
    assert prior.training["steps"] < 50
    assert time.monotonic() - begun < 60


def test_imitation_of_logged_exact_runs_teaches_a_network_that_starts_wrong(tmp_path):
    source = family("paths/grid-10-paper-v0")
    network = {"hidden": 16}
    spoiled = train(source, steps=1, patience=1, network=network, instances=4, validation=2, step_size=1e-9)
    with torch.no_grad():
        spoiled.network.graph[-1].bias.add_(torch.tensor([0.0, -1.5]))
    folders = []
    for seed in range(24):
        result = surco.solve(source.sample("train", seed=seed).problem, "exact", seconds=5)
        result.save(tmp_path / str(seed))
        folders.append(tmp_path / str(seed))
    log = []
    config = {"batch": 8, "samples": 8, "sigma": 0.2, "validation": 24, "validate_every": 20, "step_size": 1e-2}
    train(source, steps=80, start=spoiled, runs=folders, network=network, progress=log.append, **config)
    assert log[0]["regret"] > 0.05
    assert min(line["regret"] for line in log) < 0.5 * log[0]["regret"]
    with pytest.raises(InvalidInputError, match="together"):
        train(source, steps=1, gradient="imitation")
    with pytest.raises(InvalidInputError, match="saved result"):
        train(source, steps=1, runs=[tmp_path / "nothing"])
