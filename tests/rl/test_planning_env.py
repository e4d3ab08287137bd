"""The planning environments: Gymnasium's checker; masks, ends, rewards against the judge; batches against singles."""

from __future__ import annotations

import dataclasses
import warnings

import gymnasium
import networkx as nx
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

from problems.planning import Judge, Link, Module
from problems.planning.instance import Fiber, single_link_failures
from problems.planning.network import compile_instance
from problems.planning.plan import plan_of
from rl.features import CLIP, against_best
from rl.generator import HELD_OUT, TRAINED_ON, random_instance, random_topology
from rl.planning_env import NetworkPlanningEnv
from rl.topology import Topology
from rl.vector_env import VectorPlanningEnv
from surco.errors import InvalidInputError
from tests.problems.planning.small import drawn, enumerate_optimum, ring


def an_action(mask: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.int64]:
    """A random allowed action of each row."""
    return (rng.random(mask.shape) * (mask > 0.5)).argmax(axis=-1)


def test_the_registered_environment_passes_gymnasiums_checker() -> None:
    env = gymnasium.make("rl:surco/NetworkPlanning-v0", problems=[drawn(0), drawn(1, nodes=6)])
    check_env(env.unwrapped, skip_render_check=True)
    batch = gymnasium.make_vec("rl:surco/NetworkPlanning-v0", num_envs=3, vectorization_mode="vector_entry_point")
    assert isinstance(batch, VectorPlanningEnv)
    observation, _ = batch.reset(seed=0)
    assert batch.observation_space.contains(observation)


@pytest.mark.parametrize("seed", range(4))
def test_episodes_of_random_allowed_actions_end_with_plans_that_the_judge_accepts(seed: int) -> None:
    instance = drawn(seed, nodes=4, extra=1) if seed < 2 else drawn(seed, nodes=5)
    env, judge, rng = NetworkPlanningEnv([instance], units=(1, 2)), Judge(instance), np.random.default_rng(seed)
    network = compile_instance(instance)
    best = enumerate_optimum(instance, 3) if seed < 2 else None
    for episode in range(3):
        observation, _ = env.reset(seed=episode)
        total, is_over, info = 0.0, False, {}
        while not is_over:
            before = env.game.plan(0)
            assert not judge(plan_of(network, env.game.topologies[0].point(before)), stop_early=True).is_feasible
            assert observation["action_mask"].any()
            observation, reward, terminated, truncated, info = env.step(
                an_action(observation["action_mask"][None], rng)[0]
            )
            total += reward
            is_over = terminated or truncated
        assert terminated
        assert info["is_feasible"]
        assert info["is_proven"]
        verdict = judge(plan_of(network, info["plan"]))
        assert verdict.is_feasible
        assert verdict.cost == pytest.approx(info["cost"])
        topology = env.game.topologies[0]
        # shaping telescopes: from a worst ratio of 0 to 1
        assert total == pytest.approx(-info["cost"] / topology.bound + env.game.rules.shaping, abs=1e-9)
        assert info["cost"] >= topology.bound - 1e-6
        if best is not None:
            assert topology.bound - 1e-6 <= best <= info["cost"]


def test_masks_leave_out_exactly_what_helps_no_violated_cut() -> None:
    env, rng = NetworkPlanningEnv([drawn(3, nodes=6)], units=(1, 2, 4)), np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    topology, seen = env.game.topologies[0], 0
    for _ in range(60):
        units = env.game.plan(0)
        violated = topology.rows @ units < topology.rhs * (1.0 - 1e-7)
        mask = observation["action_mask"].reshape(-1, 3)
        for j in range(len(units)):
            rows = violated & (topology.rows[:, j] > 1e-9)
            most = (((topology.rhs - topology.rows @ units)[rows]) / topology.rows[rows, j]).max(initial=0.0)
            for h, size in enumerate((1, 2, 4)):
                helps = most > (0.0, 1.0, 2.0)[h] + 1e-9
                assert bool(mask[j, h]) == (helps and units[j] + size <= topology.upper[j]), (j, size)
                seen += not mask[j, h]
        observation, _, terminated, truncated, _ = env.step(an_action(observation["action_mask"][None], rng)[0])
        if terminated or truncated:
            observation, _ = env.reset()
            topology = env.game.topologies[0]
    assert seen > 20


def test_a_masked_action_changes_nothing_and_costs() -> None:
    env = NetworkPlanningEnv([ring(5, demands=((0, 2, 10.0), (1, 3, 10.0)))], illegal_price=0.25)
    observation, _ = env.reset(seed=0)
    masked = int(np.flatnonzero(observation["action_mask"] < 0.5)[0])
    after, reward, terminated, truncated, _ = env.step(masked)
    assert (reward, terminated, truncated) == (-0.25, False, False)
    assert all(np.array_equal(observation[key], after[key]) for key in observation)


def test_limits_spectrum_and_leases_are_masked_and_dead_ends_end_the_episode() -> None:
    base = ring(4, demands=((0, 2, 20.0),))
    fiber = Fiber("f", "n0", "n1", spectrum_ghz=100.0)
    links = [
        dataclasses.replace(base.links[0], fibers=("f",), ghz_per_gbps=5.0),  # two units of 10 Gbps fit
        *base.links[1:],
    ]
    spare = Link("spare", "n0", "n2", (Module(10.0, 50.0),), max_gbps=10.0)
    instance = dataclasses.replace(base, links=(*links, spare), fibers=(fiber,))
    instance = instance.with_failures(single_link_failures(instance))
    env, rng = NetworkPlanningEnv([instance], units=(1, 2, 4)), np.random.default_rng(0)
    dead_ends = 0
    for episode in range(30):
        observation, _ = env.reset(seed=episode)
        is_over = False
        while not is_over:
            mask = observation["action_mask"].reshape(-1, 3)
            units = env.game.plan(0)
            assert not (mask[0] * (units[0] + np.array([1, 2, 4]) > 2)).any()
            assert not (mask[4] * (units[4] + np.array([1, 2, 4]) > 1)).any()
            observation, reward, terminated, truncated, info = env.step(
                an_action(observation["action_mask"][None], rng)[0]
            )
            is_over = terminated or truncated
        if not info["is_feasible"]:
            dead_ends += 1
            assert reward < -env.game.rules.failure_price + 1e-9
    assert env.game.topologies[0].is_survivable(np.array([2.0, 2.0, 2.0, 2.0, 0.0]))
    assert dead_ends == 0  # two units around each half suffice, and no allowed action leads away from that


def test_removals_take_away_only_what_no_known_cut_needs() -> None:
    env, rng = NetworkPlanningEnv([drawn(1, nodes=6)], units=(1, 2), allow_remove=True), np.random.default_rng(1)
    observation, _ = env.reset(seed=1)
    removed = 0
    for _ in range(200):
        topology, before = env.game.topologies[0], env.game.plan(0)
        action = int(an_action(observation["action_mask"][None], rng)[0])
        observation, _, terminated, truncated, _ = env.step(action)
        after = env.game.plan(0)
        if after.sum() < before.sum():
            removed += 1
            kept = topology.rows @ before >= topology.rhs * (1.0 - 1e-7)
            assert (topology.rows @ after >= topology.rhs * (1.0 - 1e-7) - 1e-9)[: len(kept)][kept].all()
            assert (after >= 0.0).all()
        if terminated or truncated:
            observation, _ = env.reset()
    assert removed > 3


def test_removals_beside_a_smaller_network() -> None:
    """Padded cuts need nothing and free nothing: removals keep every cut that was kept, without a warning."""
    batch, rng = VectorPlanningEnv(6, [drawn(0), drawn(1, nodes=7)], allow_remove=True), np.random.default_rng(2)
    observation, _ = batch.reset(seed=0, options={"problem": [0, 1, 0, 1, 0, 1]})
    heads = batch.game.rules.heads
    removed = 0
    for _ in range(60):
        actions = an_action(observation["action_mask"], rng)
        is_removal = actions % heads >= heads // 2
        before = batch.game.cuts.rows @ batch.game.units[:, :, None]
        kept = before[..., 0] >= batch.game.cuts.rhs
        playing = ~batch._ended
        observation, *_ = batch.step(actions)
        after = (batch.game.cuts.rows[:, : kept.shape[1]] @ batch.game.units[:, :, None])[..., 0]
        rows = is_removal & playing & ~batch._ended
        removed += int(rows.sum())
        assert (after >= batch.game.cuts.rhs[:, : kept.shape[1]] - 1e-6)[rows][kept[rows]].all()
    assert removed > 0


def test_a_batch_plays_like_single_environments() -> None:
    instances = [drawn(2, nodes=5), drawn(4, nodes=6)]
    padding = (6, 9)
    batch = VectorPlanningEnv(2, instances, padding=padding)
    singles = [NetworkPlanningEnv(instances, padding=padding) for _ in range(2)]
    together, _ = batch.reset(seed=0, options={"problem": [0, 1]})
    alone = [env.reset(seed=0, options={"problem": i})[0] for i, env in enumerate(singles)]
    rng, ended, ends = np.random.default_rng(0), np.zeros(2, dtype=bool), 0
    for _ in range(40):
        for b in range(2):
            if not ended[b]:
                for key, value in alone[b].items():
                    assert np.allclose(together[key][b], value, atol=1e-6), key
        action = an_action(together["action_mask"], rng)
        together, reward, terminated, truncated, _ = batch.step(action)
        for b, env in enumerate(singles):
            if ended[b]:
                continue
            alone[b], single, over, cut, _ = env.step(action[b])
            assert reward[b] == pytest.approx(single)
            assert (terminated[b], truncated[b]) == (over, cut)
            ended[b] = over or cut
            ends += ended[b]
        if ended.all():
            break
    assert ends == 2


def test_the_state_of_a_batch_round_trips() -> None:
    def make() -> VectorPlanningEnv:
        return VectorPlanningEnv(3, [drawn(5, nodes=6), drawn(6, nodes=5)], seed=4, proof_share=0.5)

    env, rng = make(), np.random.default_rng(0)
    observation, _ = env.reset(seed=2)
    for _ in range(25):
        observation, *_ = env.step(an_action(observation["action_mask"], rng))
    state, actions = env.checkpoint(), []
    first = []
    for _ in range(40):
        actions.append(an_action(observation["action_mask"], rng))
        observation, reward, terminated, truncated, _ = env.step(actions[-1])
        first.append((observation, reward, terminated | truncated))
    other = make()
    other.reset(seed=9)
    other.restore(state)
    for action, (expected, reward, over) in zip(actions, first, strict=True):
        observation, again, terminated, truncated, _ = other.step(action)
        assert all(np.array_equal(expected[key], observation[key]) for key in expected)
        assert np.array_equal(reward, again)
        assert np.array_equal(over, terminated | truncated)
    with pytest.raises(InvalidInputError, match="other topologies"):
        VectorPlanningEnv(2, [drawn(5, nodes=6)]).restore(state)


def test_episodes_start_with_their_share_of_the_cutset_relaxation() -> None:
    instances = [drawn(2, nodes=6), drawn(4, nodes=6), ring(4)]
    env, rng = VectorPlanningEnv(3, instances, start_share=1.0), np.random.default_rng(0)
    observation, _ = env.reset(seed=0, options={"problem": [0, 1, 2]})
    ends = 0
    for b, topology in enumerate(env.game.topologies):
        start = env.game.plan(b)
        assert (start == np.floor(topology.relaxed + 1e-9)).all()
        assert (start <= topology.upper).all()
        assert start.sum() > 0.0
        assert (start @ topology.cost) <= topology.bound + 1e-6  # the relaxation pays no more for it
    for _ in range(60):
        assert env.observation_space.contains(observation)
        observation, _, terminated, _, info = env.step(an_action(observation["action_mask"], rng))
        if terminated.any():
            assert (info["episode"]["cost_over_bound"][terminated] >= 1.0 - 1e-6).all()
            ends += int(terminated.sum())
    assert ends >= 3
    with pytest.raises(InvalidInputError, match="start_share"):
        VectorPlanningEnv(1, instances, start_share=1.5)


def test_rates_against_the_best_option() -> None:
    values = np.array([[2.0, 1.0, 0.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    price = np.array([[1.0, 2.0, 1.0, 2.0], [1.0, 2.0, 1.0, 2.0]])
    rates = against_best(values, price)
    assert rates[0, [0, 3]] == pytest.approx([0.0, 0.0])
    assert rates[0, 1] == pytest.approx(0.5 * np.log(0.25))
    assert rates[0, 2] == pytest.approx(-CLIP / 2.0)
    assert rates[1] == pytest.approx(-CLIP / 2.0)
    free = against_best(np.array([[1.0, 1.0]]), np.array([[0.0, 5.0]]))
    assert free == pytest.approx(np.array([[0.0, max(0.5 * np.log(1e-6), -CLIP / 2.0)]]))


def test_trimming_the_last_plan_pays_what_it_saves() -> None:
    instance = drawn(2, nodes=6)
    env = NetworkPlanningEnv([instance], trim_share=1.0)
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    total, is_over, info = 0.0, False, {}
    while not is_over:
        observation, reward, terminated, truncated, info = env.step(an_action(observation["action_mask"][None], rng)[0])
        total += reward
        is_over = terminated or truncated
    topology = env.game.topologies[0]
    assert info["cost"] <= topology.price(env.game.plan(0))
    assert total == pytest.approx(-info["cost"] / topology.bound + env.game.rules.shaping, abs=1e-9)


def test_wrong_arguments_are_refused() -> None:
    for options, words in (
        ({"units": (2, 1)}, "ascend"),
        ({"proof_share": 2.0}, "proof_share"),
        ({"unit": (1,)}, "unit"),
        ({"padding": (1, 1)}, "padding"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            NetworkPlanningEnv([drawn(0)], **options)
    with pytest.raises(InvalidInputError, match="list of problems"):
        NetworkPlanningEnv("planning/abilene-v0")


def test_random_networks_are_planar_survivable_and_repeatable() -> None:
    sizes = set()
    for seed in range(12):
        instance = random_instance(seed)
        assert instance == random_instance(seed)
        sizes.add(len(instance.nodes))
        graph = nx.Graph([(link.source, link.target) for link in instance.links])
        assert 8 <= len(graph) == len(instance.nodes) <= 30
        assert not nx.has_bridges(graph)
        assert nx.check_planarity(graph)[0]
        assert not compile_instance(instance).skipped
        assert all(1.0 <= link.length_km < 5000.0 for link in instance.links)
        served = {d.source for d in instance.demands} | {d.target for d in instance.demands}
        assert len(served) == len(instance.nodes)
    assert len(sizes) > 5
    assert not set(HELD_OUT) & set(TRAINED_ON)
    with pytest.raises(InvalidInputError, match="4 nodes"):
        random_topology(3, links_per_node=1.5, rng=np.random.default_rng(0))


def test_topologies_bound_and_relaxation_are_valid() -> None:
    for seed in range(3):
        instance = drawn(seed, nodes=4, extra=1, most=10.0)
        best = enumerate_optimum(instance, 3)
        topology = Topology(compile_instance(instance))
        assert best is not None
        assert 0.0 < topology.bound <= best + 1e-6
        assert topology.cost @ topology.relaxed == pytest.approx(topology.bound, rel=1e-6)
        assert ((topology.dual_share >= -1e-9) & (topology.dual_share <= 2.0)).all()
        units = topology.trimmed(topology.greedy)
        assert topology.is_survivable(units)
        assert best - 1e-6 <= topology.price(units) <= topology.price(topology.greedy)


def test_features_stay_in_their_space() -> None:
    env, rng = VectorPlanningEnv(4, [random_instance(3, nodes=(8, 10)), ring(4)]), np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(60):
            assert env.observation_space.contains(observation)
            assert (observation["action_mask"].sum(axis=1) >= 1.0).all()
            observation, *_ = env.step(an_action(observation["action_mask"], rng))
