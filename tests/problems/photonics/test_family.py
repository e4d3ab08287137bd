"""Families of devices: splits, features, batched simulation, priors."""

import numpy as np
import pytest
import torch

import surco
from problems.photonics import DOMAIN
from problems.photonics.family import catalog, family
from problems.photonics.methods import latent_hybrid, prior_latent
from surco.errors import InvalidInputError
from surco.instance_family import Split, collate

BEND = "photonics/bend-40nm-random-v0"
CONVERTER = "photonics/mode-converter-40nm-random-v0"


def test_families_are_listed():
    assert set(catalog()) <= set(surco.families())
    assert surco.family(BEND) is family(BEND)
    with pytest.raises(surco.errors.UnknownIdError, match="bend-40nm-random"):
        surco.family("photonics/bend-40nm-rndom-v0")


@pytest.mark.parametrize("id", [BEND, CONVERTER])
def test_no_test_geometry_is_trained_on(id):
    parts = family(id).parts
    seen = [{tuple(sorted(geometry.items())) for geometry in parts[split]} for split in Split]
    assert sum(map(len, seen)) == len(set.union(*seen))
    assert len(parts[Split.TEST]) >= 25
    if id == CONVERTER:
        pairs = [{(g["left_guide_nm"], g["right_guide_nm"]) for g in parts[split]} for split in Split]
        assert not pairs[0] & pairs[2]


@pytest.mark.parametrize("id", [BEND, CONVERTER])
def test_a_batch_of_devices_equals_the_single_ones(id):
    source = family(id)
    items = [source.sample("train", seed=seed) for seed in range(3)]
    assert len({str(item.features["context"]) for item in items}) > 1
    batch = collate([item.features for item in items])
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.random((3, 2, 40, 40))).requires_grad_()
    values = source.objective(batch.features, x)
    (slopes,) = torch.autograd.grad(values.sum(), x)
    for b, item in enumerate(items):
        rows = x[b].detach().flatten(1).requires_grad_()
        own = torch.log1p(item.problem.objective(rows))
        (slope,) = torch.autograd.grad(own.sum(), rows)
        assert torch.allclose(values[b].detach(), own.detach(), rtol=1e-10)
        assert torch.allclose(slopes[b].flatten(1), slope, rtol=1e-8, atol=1e-12)


def test_training_lowers_the_loss_and_the_prior_starts_a_method(tmp_path):
    source = family(BEND)
    prior = surco.train(
        source, steps=12, batch=2, instances=2, validation=2, validate_every=6, step_size=1e-2, out=tmp_path
    )
    assert prior.training["best_step"] > 0
    problem = source.problem(source.parts[Split.TEST][0])
    costs, latent = prior.costs(problem), prior_latent(tmp_path, problem)
    assert torch.allclose(problem.latent_costs(latent[None], sharpness=8.0)[0], costs, atol=1e-4)
    result = surco.solve(problem, latent_hybrid(prior), calls=3, seed=0)
    assert result.is_feasible
    first = surco.solve(problem, "prior", calls=1, seed=0, prior=prior)
    assert result.value <= first.value * (1 + 1e-9)


def test_splitters_of_unseen_guides_are_described_and_simulated_together():
    source = family("photonics/beam-splitter-40nm-random-v0")
    pairs = {split: {(g["separation_nm"], g["guide_nm"]) for g in part} for split, part in source.parts.items()}
    assert not pairs[Split.TEST] & (pairs[Split.TRAIN] | pairs[Split.VALIDATION])
    assert len(source.parts[Split.TEST]) >= 25
    problem = source.problem(source.parts[Split.TEST][0])
    batch = collate([source.features(problem)])
    x = torch.from_numpy(np.random.default_rng(1).integers(0, 2, (1, problem.n)).astype(float))
    value = source.objective(batch.features, problem.design(x))
    assert torch.allclose(value, torch.log1p(problem.objective(x)), rtol=1e-9)
    assert source.network().latent(batch.to(dtype=torch.float32).features).shape == (1, 80, 50)


def test_other_devices_do_not_fit():
    source = family(BEND)
    assert source.features(DOMAIN.make("photonics/bend-40nm-v0"))["pixel"].shape == (14, 40, 40)
    for id, overrides in (
        ("photonics/mode-converter-40nm-v0", {}),
        ("photonics/bend-40nm-v0", {"brush": "circle-5px"}),
    ):
        with pytest.raises(InvalidInputError, match="Expected"):
            source.features(DOMAIN.make(id, **overrides))
