"""The planning policy knows no sizes: padding and the order of nodes and links do not matter; its files are checked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rl.planning_game import N_CONTEXT, N_LINK, N_NODE
from rl.planning_policy import PlanningPolicy, export_onnx
from rl.policy import ILLEGAL, build, describe, load, save
from surco.errors import InvalidInputError, UnknownIdError

HEADS = 3
CONFIG = {
    "link_features": N_LINK,
    "node_features": N_NODE,
    "context_features": N_CONTEXT,
    "heads": HEADS,
    "width": 16,
    "rounds": 2,
}


def a_policy() -> PlanningPolicy:
    policy = build("planning-gnn", CONFIG, seed=0)
    assert isinstance(policy, PlanningPolicy)
    with torch.no_grad():
        policy.head[2].weight.mul_(10.0)  # first weights are small on purpose; make differences visible
    return policy.double().eval()


def observation(seed: int, *, batch: int, nodes: int, links: int) -> dict[str, Tensor]:
    """Random multigraphs (parallel links included) with random features and masks."""
    rng = np.random.default_rng(seed)
    ends = np.stack([rng.choice(nodes, 2, replace=False) for _ in range(batch * links)]).reshape(batch, links, 2)
    mask = rng.random((batch, links * HEADS)) < 0.7
    mask[:, 0] = True
    return {
        "nodes": torch.from_numpy(rng.normal(size=(batch, nodes, N_NODE))),
        "links": torch.from_numpy(rng.normal(size=(batch, links, N_LINK))),
        "context": torch.from_numpy(rng.normal(size=(batch, N_CONTEXT))),
        "ends": torch.from_numpy(ends),
        "node_mask": torch.ones(batch, nodes, dtype=torch.float64),
        "link_mask": torch.ones(batch, links, dtype=torch.float64),
        "action_mask": torch.from_numpy(mask.astype(np.float64)),
    }


def padded(small: dict[str, Tensor], *, nodes: int, links: int) -> dict[str, Tensor]:
    """The same networks in larger arrays, with garbage in the features of the padding's actions' mask left at 0."""
    big = {}
    for key, value in small.items():
        shape = list(value.shape)
        if key in ("nodes", "node_mask"):
            shape[1] = nodes
        elif key in ("links", "ends", "link_mask"):
            shape[1] = links
        elif key == "action_mask":
            shape[1] = links * HEADS
        big[key] = torch.zeros(shape, dtype=value.dtype)
        big[key][tuple(slice(0, s) for s in value.shape)] = value
    return big


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 7), st.integers(2, 9))
def test_padding_changes_nothing(seed: int, nodes: int, links: int) -> None:
    policy = a_policy()
    small = observation(seed, batch=2, nodes=nodes, links=links)
    logits, value = policy(small)
    more, other = policy(padded(small, nodes=nodes + 5, links=links + 4))
    assert torch.allclose(more[:, : links * HEADS], logits, atol=1e-9)
    assert (more[:, links * HEADS :] == ILLEGAL).all()
    assert torch.allclose(other, value, atol=1e-9)


def test_networks_of_different_sizes_share_a_batch() -> None:
    policy = a_policy()
    one, two = observation(0, batch=1, nodes=4, links=5), observation(1, batch=1, nodes=6, links=9)
    both = {key: torch.cat([padded(one, nodes=6, links=9)[key], two[key]]) for key in one}
    logits, value = policy(both)
    for row, alone in ((0, one), (1, two)):
        expected, worth = policy(alone)
        assert torch.allclose(logits[row, : expected.shape[1]], expected[0], atol=1e-9)
        assert torch.allclose(value[row], worth[0], atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_the_order_of_links_nodes_and_ends_does_not_matter(seed: int) -> None:
    policy, nodes, links = a_policy(), 6, 9
    plain = observation(seed, batch=1, nodes=nodes, links=links)
    rng = np.random.default_rng(seed)
    of_links, of_nodes = torch.from_numpy(rng.permutation(links)), torch.from_numpy(rng.permutation(nodes))
    place = torch.empty(nodes, dtype=torch.int64)
    place[of_nodes] = torch.arange(nodes)
    flip = torch.from_numpy(rng.random(links) < 0.5)
    ends = place[plain["ends"][:, of_links]]
    ends[:, flip] = ends[:, flip].flip(-1)
    moved = {
        "nodes": plain["nodes"][:, of_nodes],
        "links": plain["links"][:, of_links],
        "context": plain["context"],
        "ends": ends,
        "node_mask": plain["node_mask"],
        "link_mask": plain["link_mask"],
        "action_mask": plain["action_mask"].reshape(1, links, HEADS)[:, of_links].reshape(1, -1),
    }
    logits, value = policy(plain)
    other, worth = policy(moved)
    expected = logits.reshape(1, links, HEADS)[:, of_links].reshape(1, -1)
    assert torch.allclose(other, expected, atol=1e-9)
    assert torch.allclose(worth, value, atol=1e-9)


def test_messages_pass_between_links_that_share_any_end() -> None:
    """Each of the four ways of sharing an end counts, which the line graph by one end alone would miss."""
    policy = build("planning-gnn", {**CONFIG, "rounds": 1}, seed=1).double().eval()
    for ends in ([[0, 1], [0, 2]], [[0, 1], [2, 1]], [[0, 1], [1, 2]], [[0, 1], [2, 0]], [[0, 1], [0, 1]]):
        plain = observation(3, batch=1, nodes=4, links=3)
        plain["ends"] = torch.tensor([[*ends, [3, 2] if 2 not in ends[1] else [3, 3 - sum(ends[0])]]])
        plain["ends"][0, 2] = torch.tensor([3, 2])
        with torch.no_grad():
            for exchange in policy.rounds:  # the mean of the network would carry the change everywhere
                exchange.whole.weight.zero_()
        changed = {**plain, "links": plain["links"].clone()}
        changed["links"][0, 1] += 1.0
        plain["action_mask"][:] = changed["action_mask"][:] = 1.0
        difference = (policy(changed)[0] - policy(plain)[0]).reshape(3, HEADS).abs().amax(dim=1)
        assert difference[0] > 1e-9, ends
        touches = 2 in ends[1]
        assert (difference[2] > 1e-9) == touches, ends


def test_masked_actions_have_no_probability_and_no_gradient() -> None:
    policy = a_policy()
    plain = observation(5, batch=2, nodes=5, links=6)
    logits, _ = policy(plain)
    mask = plain["action_mask"] > 0.5
    assert (logits[~mask] == ILLEGAL).all()
    assert (torch.softmax(logits, dim=-1)[~mask] == 0.0).all()
    assert (logits[mask] > ILLEGAL / 2).all()


def test_onnx_gives_the_same_answers_at_other_sizes(tmp_path: Path) -> None:
    import warnings

    runtime = pytest.importorskip("onnxruntime")
    policy = build("planning-gnn", CONFIG, seed=0).eval()
    example = observation(0, batch=2, nodes=5, links=6)
    example = {key: value.float() if value.is_floating_point() else value for key, value in example.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        export_onnx(policy, example, str(tmp_path / "policy.onnx"))
    session = runtime.InferenceSession(str(tmp_path / "policy.onnx"), providers=["CPUExecutionProvider"])
    for batch, nodes, links in ((2, 5, 6), (1, 9, 14), (3, 4, 4)):
        fresh = observation(batch, batch=batch, nodes=nodes, links=links)
        fresh = {k: v.float() if v.is_floating_point() else v for k, v in fresh.items()}
        logits, value = session.run(None, {key: tensor.numpy() for key, tensor in fresh.items()})
        expected, worth = policy(fresh)
        assert np.allclose(logits, expected.detach().numpy(), atol=1e-4)
        assert np.allclose(value, worth.detach().numpy(), atol=1e-4)


def test_files_round_trip_and_damage_is_named(tmp_path: Path) -> None:
    policy = build("planning-gnn", CONFIG, seed=4)
    save(policy, tmp_path, about={"date": "today"})
    again = load(tmp_path)
    assert again.policy_name == "planning-gnn"
    assert again.config == policy.config
    assert describe(tmp_path)["about"] == {"date": "today"}
    for key, value in policy.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])

    description = json.loads((tmp_path / "policy.json").read_text())
    for change, words in (
        ({"format": "surco-policy/9"}, "surco-policy/9"),
        ({"config": {**CONFIG, "width": 8}}, "does not fit"),
        ({"config": {**CONFIG, "depth": 8}}, "depth"),
        ({"sha256": "0"}, "SHA-256"),
    ):
        (tmp_path / "policy.json").write_text(json.dumps({**description, **change}))
        with pytest.raises(InvalidInputError, match=words):
            load(tmp_path)
    (tmp_path / "policy.json").write_text(json.dumps({**description, "policy": "planning-gn"}))
    with pytest.raises(UnknownIdError, match="planning-gnn"):
        load(tmp_path)
    with pytest.raises(InvalidInputError, match=r"no policy\.json"):
        load(tmp_path / "nowhere")


def test_seeds_draw_weights_without_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    one, two = build("planning-gnn", CONFIG, seed=7), build("planning-gnn", CONFIG, seed=7)
    other = build("planning-gnn", CONFIG, seed=8)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.link_in[0].weight, other.link_in[0].weight)


def test_a_policy_of_other_features_is_refused_by_name() -> None:
    policy, seen = a_policy(), observation(0, batch=2, nodes=4, links=5)
    with pytest.raises(InvalidInputError, match=f"`links` of the {N_LINK} features .* got {N_LINK - 2}"):
        policy({**seen, "links": seen["links"][..., :-2]})
