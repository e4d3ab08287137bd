"""Models, data and metrics against plain formulas."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from problems.sharding.embeddings import ClickData, ModelConfig, PlantedClicks, build_model
from problems.sharding.embeddings.metrics import auc, expected_auc, logloss
from problems.sharding.embeddings.planted import mlperf_like
from surco.errors import InvalidInputError


def small_data(count: int = 40, dense: int = 0, seed: int = 0) -> ClickData:
    """Three tables, one with bags of up to three ids, and dense features."""
    data = PlantedClicks(rows=(30, 12, 5), pooling=(1, 3, 1), seed=3).draw(count, seed=seed)
    features = torch.randn(count, dense, generator=torch.Generator().manual_seed(seed))
    return ClickData(data.names, data.rows, data.ids, features, data.labels, data.bayes_auc)


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("dense", [0, 4])
def test_dlrm_equals_its_formula(pooling, dense):
    data = small_data(dense=dense)
    model = build_model(data, ModelConfig(dim=6, pooling=pooling), seed=1)
    vectors = [] if model.bottom is None else [model.bottom(data.dense)]
    for ids, rows, weight in zip(data.ids, data.rows, model.table_parameters(), strict=True):
        used = (ids < rows).float()[..., None]
        total = (weight[ids] * used).sum(dim=1)
        vectors.append(total / used.sum(dim=1) if pooling == "mean" else total)
    dots = [(a * b).sum(dim=1, keepdim=True) for a, b in itertools.combinations(vectors, 2)]
    expected = model.top(torch.cat([*vectors, *dots], dim=1)).squeeze(1)
    torch.testing.assert_close(model(data.ids, data.dense), expected, rtol=1e-4, atol=1e-6)


def test_dcn_equals_its_formula():
    data = small_data(dense=2)
    model = build_model(data, ModelConfig(architecture="dcn-v2", dim=6, cross_layers=2, cross_rank=3), seed=1)
    assert model.bottom is not None
    first = torch.cat([model.bottom(data.dense), model.tables(data.ids).flatten(1)], dim=1)
    x = first
    for layer in model.cross:
        matrix = layer.up.weight @ layer.down.weight
        x = first * (x @ matrix.T + layer.up.bias) + x
    torch.testing.assert_close(model(data.ids, data.dense), model.top(x).squeeze(1), rtol=1e-4, atol=1e-6)


def test_same_seed_gives_the_same_model_and_empty_places_have_no_gradient():
    data = small_data()
    first, second = (build_model(data, ModelConfig(dim=6), seed=5) for _ in range(2))
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    first(data.ids, data.dense).sum().backward()
    for weight, rows in zip(first.table_parameters(), data.rows, strict=True):
        assert weight.grad is not None
        assert weight.grad.is_sparse
        touched = weight.grad.coalesce()
        assert not bool(touched.to_dense()[rows].any())


@settings(max_examples=40, deadline=None)
@given(
    scores=st.lists(st.sampled_from([-1.0, 0.0, 0.5, 0.5, 2.0]), min_size=2, max_size=30),
    bits=st.lists(st.booleans(), min_size=30, max_size=30),
)
def test_auc_is_the_share_of_ordered_pairs(scores, bits):
    labels = torch.tensor([float(bit) for bit in bits[: len(scores)]])
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for (a, one), (b, two) in itertools.product(zip(scores, labels, strict=True), repeat=2)
        if one > two
    ]
    value = auc(torch.tensor(scores), labels)
    if pairs:
        assert value == pytest.approx(sum(pairs) / len(pairs))
    else:
        assert value != value


def test_logloss():
    assert logloss(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0])) == pytest.approx(0.6931472, rel=1e-6)


def test_expected_auc_is_the_mean_over_labels():
    p = torch.rand(300, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    draws = [auc(p, (torch.rand(300, generator=generator) < p).float()) for _ in range(300)]
    assert expected_auc(p) == pytest.approx(sum(draws) / len(draws), abs=0.004)


def test_planted_labels_follow_the_planted_probabilities():
    """The true factors reach the stated Bayes AUC; samples of another seed share the model and not the samples."""
    task = PlantedClicks(rows=(500, 50, 9), pooling=(1, 4, 2), strength=2.0)
    data = task.draw(20_000, seed=1)
    sums = [torch.zeros(len(data), 8), torch.zeros(len(data), 8)]
    for table, (ids, rows) in enumerate(zip(data.ids, data.rows, strict=True)):
        used = (ids < rows).float()
        assert bool((used.sum(dim=1) >= 1).all())
        factors = task.factors(ids.clamp_max(rows - 1), table) * used[..., None]
        sums[table % 2] += factors.sum(dim=1) / used.sum(dim=1, keepdim=True)
    logits = task._logits(sums[0], sums[1])
    assert auc(logits, data.labels) == pytest.approx(data.bayes_auc, abs=0.01)
    assert float(data.labels.mean()) == pytest.approx(float(logits.sigmoid().mean()), abs=0.01)
    assert data.bayes_auc > 0.75
    assert not torch.equal(task.draw(20_000, seed=2).ids[0], data.ids[0])


def test_ids_follow_the_zipf_mandelbrot_law():
    task = PlantedClicks(rows=(1000, 3), pooling=(1, 1), exponent=1.3, shift=5.0)
    ids = task.draw(200_000, seed=1).ids[0].flatten()
    ranks = torch.arange(1, 1001, dtype=torch.float64)
    power = -0.3
    mass = (ranks + 5.0) ** power - (ranks + 6.0) ** power
    share = torch.bincount(ids, minlength=1000) / len(ids)
    assert float((share - mass / mass.sum()).abs().max()) < 0.003


def test_mlperf_like_tables():
    task = mlperf_like(1_000_000)
    assert len(task.rows) == 26
    assert sum(task.rows) == pytest.approx(1_000_000, rel=1e-3)
    assert min(task.rows) == 3
    with pytest.raises(InvalidInputError):
        mlperf_like(10)


def test_bad_ids_are_named():
    with pytest.raises(InvalidInputError, match="item"):
        ClickData(("item",), (3,), (torch.tensor([[4]]),), torch.zeros(1, 0), torch.zeros(1))


def test_split_and_batches_cover_everything_once():
    data = small_data(101)
    parts = data.split(seed=0)
    assert [len(part) for part in parts] == [80, 10, 11]
    seen = torch.cat([part.labels for part in data.batches(16, seed=1)])
    assert len(seen) == 101
    later = list(data.batches(16, seed=1, start=3))
    assert torch.equal(later[0].ids[0], list(data.batches(16, seed=1))[3].ids[0])
