import pytest
import torch

from surco.instance_family import collate, family
from surco.networks import PixelNetwork


def perturbed(network):
    """Random parameters everywhere: the quiet last layers would hide what a test looks for."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return network.double().eval().requires_grad_(False)


def assignment():
    source = family("sharding/dlrm-mixed-nonlinear-v0")
    return source, perturbed(source.network(hidden=16, rounds=2))


@pytest.mark.parametrize(
    "id", ["sharding/dlrm-mixed-nonlinear-v0", "sharding/dlrm-mixed-v0", "paths/grid-mixed-code-v0"]
)
def test_padding_changes_nothing(id):
    source = family(id)
    network = perturbed(source.network(hidden=16, rounds=2))
    items = [source.sample("train", seed=seed).features for seed in range(4)]
    batch = collate(items)
    together = batch.rows(network(batch.features))
    for item, found in zip(items, together, strict=True):
        alone = collate([item])
        expected = alone.rows(network(alone.features))[0]
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert float(network(batch.features)[~batch.variables].abs().max()) == 0.0


@pytest.mark.parametrize("id", ["sharding/dlrm-50t-8d-nonlinear-v0", "paths/grid-5-code-v0"])
def test_before_training_the_costs_are_the_known_linearization(id):
    source = family(id)
    network = source.network().double().requires_grad_(False)
    instance = source.sample("train", seed=1)
    batch = collate([instance.features])
    x, ok = source.solve(batch, [instance], network(batch.features)[:, None])
    assert bool(ok.all())
    if id.startswith("sharding"):
        assert torch.equal(x[0, 0], instance.features["start"])
    else:
        features = instance.features
        slope = features["weights"][0] + features["slope"] * features["weights"][1]
        expected = instance.problem.oracle.solve(slope.clamp(min=0)[None].numpy()).x
        assert torch.equal(x[0, 0], torch.from_numpy(expected[0]))


def test_assignment_follows_the_order_of_items_and_bins():
    source, network = assignment()
    features = collate([source.sample("train", seed=5).features]).features
    generator = torch.Generator().manual_seed(0)
    tables, devices = features["variables"].shape[1:]
    rows, columns = torch.randperm(tables, generator=generator), torch.randperm(devices, generator=generator)
    moved = dict(features)
    for name in ("start", "allowed", "variables"):
        moved[name] = features[name][:, rows][:, :, columns]
    moved["weights"] = features["weights"][:, :, rows][..., columns]
    moved["item"], moved["memory"] = features["item"][:, rows], features["memory"][:, rows]
    moved["bin"], moved["capacity"] = features["bin"][:, columns], features["capacity"][:, columns]
    expected = network(features)[:, rows][:, :, columns]
    torch.testing.assert_close(network(moved), expected, rtol=1e-9, atol=1e-9)
    assert float((network(features) - expected).abs().max()) > 1e-3  # the order was not one that changes nothing


def test_the_start_breaks_the_symmetry_of_identical_bins():
    source, network = assignment()
    features = collate([source.sample("train", seed=5).features]).features
    costs = network(features)
    assert float((costs - costs[:, :, :1]).abs().amax()) > 1e-3
    empty = {**features, "start": torch.zeros_like(features["start"])}
    alike = network(empty)
    torch.testing.assert_close(alike, alike[:, :, :1].expand_as(alike), rtol=1e-9, atol=1e-9)


def test_edges_follow_the_order_of_nodes_and_edges():
    source = family("paths/grid-5-code-v0")
    network = perturbed(source.network(hidden=16))
    features = collate([source.sample("train", seed=2).features]).features
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(features["variables"].shape[1], generator=generator)
    nodes = torch.randperm(features["exists"].shape[1], generator=generator)
    moved = dict(features)
    moved["weights"], moved["edge"] = features["weights"][..., order], features["edge"][:, order]
    moved["node"] = features["node"][:, nodes]
    ends = nodes.argsort()[features["ends"]][..., order]
    flip = torch.rand(len(order), generator=generator) < 0.5
    moved["ends"] = torch.where(flip, ends.flip(1), ends)  # an undirected edge may be written either way
    torch.testing.assert_close(network(moved), network(features)[:, order], rtol=1e-9, atol=1e-9)


def test_pixels_ignore_padding_and_look_at_their_neighbors():
    network = perturbed(PixelNetwork(2, context=3, hidden=8, layers=3))
    generator = torch.Generator().manual_seed(0)
    items = [
        {
            "pixel": torch.randn(2, *size, generator=generator, dtype=torch.float64),
            "context": torch.randn(3, generator=generator, dtype=torch.float64),
            "variables": torch.ones(size, dtype=torch.float64),
        }
        for size in ((6, 9), (8, 5))
    ]
    batch = collate(items)
    for item, found in zip(items, batch.rows(network(batch.features)), strict=True):
        alone = collate([item])
        torch.testing.assert_close(found, alone.rows(network(alone.features))[0], rtol=1e-9, atol=1e-9)
    changed = {**items[0], "pixel": items[0]["pixel"].clone()}
    changed["pixel"][0, 2, 2] += 1.0
    costs, other = (network(collate([item]).features) for item in (items[0], changed))
    assert float((costs - other).abs().amin()) > 0.0  # the pooled part tells every pixel
