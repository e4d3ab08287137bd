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
    return source, perturbed(source.network(kind="assignment", hidden=16, rounds=2))


@pytest.mark.parametrize(
    ("id", "kind"),
    [
        ("sharding/dlrm-mixed-nonlinear-v0", "assignment"),
        ("sharding/dlrm-mixed-v0", "assignment"),
        ("paths/grid-mixed-code-v0", None),
    ],
)
def test_padding_changes_nothing(id, kind):
    source = family(id)
    network = perturbed(source.network(hidden=16, rounds=2, **({"kind": kind} if kind else {})))
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
    kind = {"kind": "assignment"} if id.startswith("sharding") else {}
    network = source.network(**kind).double().requires_grad_(False)
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


def planning(seed=5):
    """A planner whose bin model is random but smooth, and one instance."""
    source = family("sharding/dlrm-mixed-nonlinear-v0")
    network = source.network(hidden=16, rounds=12).double().requires_grad_(False)
    return source, network, collate([source.sample("train", seed=seed).features]).features


def test_the_planned_value_does_not_depend_on_padding():
    """Names of identical bins may differ, because their ties are decided by the last digit."""
    source, network, _ = planning()
    items = [source.sample("train", seed=seed).features for seed in range(4)]
    batch = collate(items)
    plans = batch.rows(network.plan(batch.features))
    for item, plan in zip(items, plans, strict=True):
        alone = collate([item]).features
        values = [learned_value(network, alone, p) for p in (plan.reshape_as(alone["start"]), network.plan(alone))]
        torch.testing.assert_close(values[0], values[1], rtol=1e-9, atol=1e-12)
    assert float(network(batch.features)[~batch.variables].abs().max()) == 0.0


def learned_value(network, features, plan):
    """The value of a plan in the learned landscape, by the definition."""
    loads = torch.einsum("bftd,btd->bdf", features["weights"], plan)
    times = network.model(loads) / network.temperature
    return network.temperature * times.logsumexp(1).sum(-1)


def test_planned_costs_are_the_single_changes_of_the_learned_value():
    _, network, features = planning()
    costs, plan = network(features), network.plan(features)
    assert torch.equal((costs == 0).to(plan), plan)
    now = learned_value(network, features, plan)
    for t in range(0, plan.shape[1], 4):
        for d in range(plan.shape[2]):
            moved = plan.clone()
            moved[0, t] = 0.0
            moved[0, t, d] = 1.0
            change = (learned_value(network, features, moved) - now) / now
            expected = 0.0 if plan[0, t, d] else max(float(change), 1e-6)
            assert float(costs[0, t, d]) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_rounds_improve_the_plan_in_the_learned_landscape_and_keep_the_memory():
    from surco.networks.planner import _View

    _, network, features = planning()
    view = _View(features)
    grown = network._grown(view)
    plan, before = grown, learned_value(network, features, grown)
    for k in range(12):
        plan, is_better = network._round(view, plan, k % 4)
        after = learned_value(network, features, plan)
        assert bool((after < before).all()) == bool(is_better.all())
        assert torch.equal(plan.sum(-1), torch.ones_like(plan[..., 0]))
        before = after
    assert float(after) < float(learned_value(network, features, grown))
    used = torch.einsum("btd,bt->bd", plan, features["memory"])
    assert bool((used <= features["capacity"] * (1 + 1e-9)).all())


def test_the_plan_is_never_worse_in_the_model_than_the_known_one_nor_takes_one_that_overfills():
    _, network, features = planning()
    known = network.plan(features)  # better in the model than what is grown alone, most likely
    again = network.plan({**features, "start": known})
    assert float(learned_value(network, features, again)) <= float(learned_value(network, features, known)) + 1e-12
    heap = torch.zeros_like(known)
    heap[:, :, 0] = 1.0
    small = {**features, "capacity": features["capacity"] * 0 + features["memory"].sum() * 0.6}
    plan = network.plan({**small, "start": heap})
    used = torch.einsum("btd,bt->bd", plan, features["memory"])
    assert bool((used <= small["capacity"]).all())


def test_the_planned_value_does_not_depend_on_the_order_of_items_and_bins():
    _, network, features = planning()
    generator = torch.Generator().manual_seed(0)
    tables, devices = features["variables"].shape[1:]
    rows, columns = torch.randperm(tables, generator=generator), torch.randperm(devices, generator=generator)
    moved = dict(features)
    for name in ("allowed", "variables", "start"):
        moved[name] = features[name][:, rows][:, :, columns]
    moved["weights"] = features["weights"][:, :, rows][..., columns]
    moved["memory"], moved["capacity"] = features["memory"][:, rows], features["capacity"][:, columns]
    values = [learned_value(network, f, network.plan(f)) for f in (features, moved)]
    torch.testing.assert_close(values[0], values[1], rtol=1e-9, atol=1e-12)


def test_the_bin_model_learns_the_measured_times():
    from surco.training import train

    log = []
    train(
        "sharding/dlrm-50t-8d-nonlinear-v0",
        steps=300,
        instances=16,
        validation=1,
        validate_every=100,
        samples=4,
        step_size=3e-3,
        network={"hidden": 32, "rounds": 4},
        progress=log.append,
    )
    assert log[-1]["loss"] < 0.1 * log[1]["loss"]
