import json

import pytest
import torch

import surco
from surco.errors import InvalidInputError
from surco.instance_family import ask, collate, family
from surco.training import train

ID = "sharding/dlrm-50t-8d-nonlinear-v0"
FAST = {"instances": 4, "validation": 2, "batch": 2, "samples": 2, "network": {"hidden": 8, "rounds": 4}}


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prior")
    train(ID, steps=2, out=folder, **FAST)
    return folder


def test_prior_is_one_oracle_call(prior):
    problem = family(ID).sample("test", seed=1).problem
    result = surco.solve(problem, "prior", prior=prior, calls=10)
    assert result.stats.oracle_calls == 1
    assert result.stats.objective_calls == 1
    assert result.is_feasible
    assert result.method == "prior"
    costs = surco.Prior.load(prior).costs(problem)
    assert problem.oracle.solve(costs[None].numpy()).x[0].tolist() == result.x.tolist()


def test_prior_costs_mean_to_the_oracle_what_they_mean_to_the_network(prior):
    source = family(ID)
    instance = source.sample("test", seed=2)
    loaded = surco.Prior.load(prior)
    batch = collate([instance.features])
    own = batch.rows(loaded.network(batch.to(dtype=torch.float32).features).detach().double())[0]
    x, _ = ask(source, instance.problem, own[None].numpy())
    result = surco.solve(instance.problem, "prior", prior=loaded, calls=1)
    assert result.value == pytest.approx(float(instance.problem.objective(torch.from_numpy(x[0]))), abs=1e-12)


def test_hybrid_starts_at_the_prior_and_goes_on(prior):
    problem = family(ID).sample("test", seed=3).problem
    first = surco.solve(problem, "prior", prior=prior, calls=1)
    hybrid = surco.solve(problem, "hybrid", prior=prior, calls=60, seed=0)
    assert hybrid.value <= first.value
    assert hybrid.stats.oracle_calls == 60
    again = surco.solve(problem, "hybrid", prior=prior, calls=60, seed=0)
    assert again.value == hybrid.value


def test_a_prior_that_does_not_fit_is_refused(prior):
    with pytest.raises(InvalidInputError, match="cost model"):
        surco.solve(surco.make("sharding/dlrm-50t-8d-v0"), "prior", prior=prior, calls=5)
    with pytest.raises(InvalidInputError, match="surco train"):
        surco.solve(surco.make(ID), "hybrid", calls=5)


def test_auto_takes_a_prior_that_fits_and_refuses_another(prior):
    problem = family(ID).sample("test", seed=4).problem
    first = surco.solve(problem, "prior", prior=prior, calls=1)
    result = surco.solve(problem, "auto", prior=prior, calls=60, objective_calls=200, seed=0)
    assert result.value <= first.value
    with pytest.raises(InvalidInputError, match="cost model"):
        surco.solve(surco.make("sharding/dlrm-50t-8d-v0"), "auto", prior=prior, calls=20)


@pytest.mark.parametrize("method", ["prior", "auto"])
def test_several_designs_start_from_a_prior(prior, method):
    problem = family(ID).sample("test", seed=5).problem
    results = surco.solve(problem, method, prior=prior, designs=2, min_distance=4, calls=40, seed=0)
    assert len(results) == 2
    assert all(result.is_feasible for result in results)
    assert float(abs(results[0].x - results[1].x).sum()) >= 4


def test_a_damaged_prior_is_named(prior, tmp_path):
    from safetensors.torch import load_file, save_file

    card = json.loads((prior / "prior.json").read_text())
    weights = (prior / "prior.safetensors").read_bytes()
    name, tensor = next(iter(load_file(prior / "prior.safetensors").items()))
    for k, (text, data) in enumerate(
        [
            ("[]", weights),
            (json.dumps({**card, "family": 5}), weights),
            (json.dumps({**card, "network": {"bogus": 1}}), weights),
            (json.dumps(card), weights[: len(weights) // 2]),
            (json.dumps(card), None),
        ]
    ):
        folder = tmp_path / str(k)
        folder.mkdir()
        (folder / "prior.json").write_text(text)
        if data is None:
            save_file(
                {**load_file(prior / "prior.safetensors"), name: tensor * float("nan")}, folder / "prior.safetensors"
            )
        else:
            (folder / "prior.safetensors").write_bytes(data)
        with pytest.raises(InvalidInputError, match=r"prior|weights"):
            surco.Prior.load(folder)


def test_training_refuses_settings_that_mean_nothing():
    with pytest.raises(InvalidInputError, match="sigma"):
        train(ID, steps=1, sigma="x")
    with pytest.raises(InvalidInputError, match="device"):
        train(ID, steps=1, device="abacus")
    with pytest.raises(InvalidInputError, match="is_relaxed"):
        train(ID, steps=1, is_relaxed="yes")


def test_solve_command_takes_a_prior(prior, capsys):
    from surco.cli import main

    command = ["solve", ID, "--prior", str(prior), "--calls", "5", "--json"]
    for method in ("prior", "hybrid", "auto"):
        assert main([*command, "--method", method]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["is_feasible"]
    assert main(["solve", "sharding/dlrm-50t-8d-v0", "--prior", str(prior), "--calls", "5", "--method", "prior"]) == 2
    assert "cost model" in capsys.readouterr().err


def test_train_command(tmp_path, capsys):
    from surco.cli import main

    settings = ["instances=4", "validation=2", "batch=2", "validate_every=1", 'network={"hidden": 8}']
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["train", "paths/grid-5-code-v0", "--out", str(tmp_path / "p"), "--steps", "2", *words]) == 0
    assert "2 steps" in capsys.readouterr().out
    assert surco.Prior.load(tmp_path / "p").training["steps"] == 2
    again = ["train", "paths/grid-5-code-v0", "--out", str(tmp_path / "p"), "--steps", "3", *words]
    assert main(again) == 2  # what was trained is not thrown away by the way
    assert "--overwrite" in capsys.readouterr().err
    assert surco.Prior.load(tmp_path / "p").training["steps"] == 2
    assert main([*again, "--resume"]) == 0
    assert main([*again, "--overwrite", "--seed", "1"]) == 0
    assert surco.Prior.load(tmp_path / "p").training["seed"] == 1
    assert main(["train", "paths/grid-5-cod-v0", "--out", str(tmp_path / "q")]) == 2
    assert "Did you mean" in capsys.readouterr().err
    assert main(["train", "--list"]) == 0
    assert "paths/topohub-v0" in capsys.readouterr().out
