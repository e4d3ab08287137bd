from __future__ import annotations

import json
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import VectorEnv

from problems.sharding.costs import AdditiveCost
from problems.sharding.fused import FusedCost
from problems.sharding.makers import dlrm
from rl.policy import ILLEGAL, build, to_tensors
from rl.protocols import Resumable
from rl.sharding_board import CONTEXT_FEATURES, DEVICE_FEATURES, TABLE_FEATURES, Boards, Game
from rl.sharding_env import DEAD_END, FAMILY, ID, ShardingEnv, ShardingVectorEnv
from surco.errors import InvalidInputError, ResumeError
from surco.instance_family import family

MIXED = "sharding/dlrm-mixed-nonlinear-v0"
PARTS = {
    "table_features": TABLE_FEATURES,
    "device_features": DEVICE_FEATURES,
    "context_features": CONTEXT_FEATURES,
    "width": 16,
}


def masked_choice(observation: dict[str, Any], rng: np.random.Generator) -> Any:
    mask = observation["action_mask"]
    return (mask * (0.1 + rng.random(mask.shape))).argmax(-1)


def test_gymnasium_takes_it() -> None:
    env = gymnasium.make(ID, instances=4)
    check_env(env.unwrapped, skip_render_check=True)
    vector = gymnasium.make_vec(ID, num_envs=2, vectorization_mode="vector_entry_point", instances=4)
    assert isinstance(vector, VectorEnv)
    assert isinstance(vector.unwrapped, Resumable)


@pytest.mark.parametrize("id", [FAMILY, "sharding/dlrm-50t-4d-v0", MIXED])
def test_the_return_is_the_objective_over_the_bound(id: str) -> None:
    rng = np.random.default_rng(0)
    env = ShardingVectorEnv(3, family=id, split="validation")
    observation, _ = env.reset(options={"instances": [0, 1, 2]})
    problems = [family(id).sample("validation", seed=k).problem for k in range(3)]
    total, alive, seen = np.zeros(3), np.ones(3, dtype=bool), 0
    while alive.any():
        observation, reward, over, _, infos = env.step(masked_choice(observation, rng))
        total += np.where(alive, reward, 0.0)
        for b in np.flatnonzero(over & alive):
            problem = problems[b]
            x = torch.from_numpy(env.boards.design(b))
            assert float(problem.violation(x)) == 0.0
            assert problem.oracle.violation(x.numpy()) == 0.0  # canonical
            expected = 1.0 - float(problem.objective(x)) / problem.lower_bound()
            assert total[b] == pytest.approx(expected, abs=1e-9)
            assert infos["episode"]["r"][b] == pytest.approx(expected, abs=1e-9)
            assert infos["episode"]["l"][b] == len(problem.tables)
            seen += 1
        alive &= ~over
    assert seen == 3


def test_one_board_and_many_boards_play_the_same_game() -> None:
    rng = np.random.default_rng(1)
    vector = ShardingVectorEnv(2, family=MIXED)
    plain = ShardingEnv(family=MIXED)
    many, _ = vector.reset(options={"instances": [5, 9]})
    one, _ = plain.reset(options={"instance": 9})
    for _ in range(400):
        for key, value in one.items():
            np.testing.assert_allclose(many[key][1], value, atol=1e-6, err_msg=key)
        assert plain.observation_space.contains(one)
        actions = masked_choice(many, rng)
        many, rewards, overs, _, infos = vector.step(actions)
        one, reward, over, _, info = plain.step(actions[1])
        assert rewards[1] == pytest.approx(reward)
        assert overs[1] == over
        if over:
            assert info["cost_over_bound"] == pytest.approx(infos["episode"]["cost_over_bound"][1])
            return
    raise AssertionError("the game did not end")


def test_features_hold_what_the_marginal_rule_needs() -> None:
    """An independent judge of the features: greedy on the growth of the step time is the field's rule."""
    env = ShardingVectorEnv(4)
    observation, _ = env.reset(options={"instances": range(4)})
    over = np.zeros(4, dtype=bool)
    while not over.any():
        own, growth = observation["devices"][..., 8], observation["devices"][..., 9]
        score = np.where(observation["action_mask"] > 0, growth + 1e-6 * own, np.inf)
        observation, _, over, _, infos = env.step(score.argmin(1))
    for b in range(4):
        problem: Any = family(FAMILY).sample("train", seed=b).problem
        expected = float(problem.objective(problem.heuristics()["marginal"])) / problem.lower_bound()
        assert infos["episode"]["cost_over_bound"][b] == pytest.approx(expected, rel=2e-3)


def test_masks_are_memory_and_sameness() -> None:
    problem = dlrm(30, 4, "test", FusedCost(), seed=3)
    boards = Boards(1, 30, 6)
    game = Game.of(problem)
    boards.start(0, game)
    rng = np.random.default_rng(0)
    used, count = np.zeros(4), np.zeros(4, dtype=int)
    for k, group in enumerate(game.order):
        legal = boards.legal()[0]
        assert not legal[4:].any()  # padding
        fits = used + problem.table_bytes[group] <= problem.capacity_bytes * (1 + 1e-9)
        empty = np.flatnonzero(count == 0)
        fits[empty[1:]] = False  # four alike devices: the first empty one stands for all
        np.testing.assert_array_equal(legal[:4], fits)
        if not legal.any():
            return
        device = int(rng.choice(np.flatnonzero(legal)))
        boards.place(np.array([device]), np.array([True]))
        used[device] += problem.table_bytes[group]
        count[device] += 1
        assert boards.placed[0] == k + 1


def test_a_dead_end_ends_the_episode() -> None:
    drawn = dlrm(8, 2, "test", AdditiveCost(), seed=0)
    sizes = np.sort(drawn.table_bytes)
    assert sizes[0] > 0
    env = ShardingEnv(family="sharding/dlrm-50t-4d-v0")
    env.reset(options={"instance": 0})
    tight = np.full(4, sizes[-1])
    env.boards.start(0, Game.of(drawn))
    env.boards._limit[0, :] = 0.0
    env.boards._limit[0, :2] = tight[:2]  # room for hardly more than the largest table
    total, over, info = 0.0, False, {}
    observation = {key: value[0] for key, value in env.boards.observe().items()}
    while not over:
        assert observation["action_mask"].any()
        observation, reward, over, _, info = env.step(np.int64(observation["action_mask"].argmax()))
        total += reward
    assert info["is_feasible"] == 0.0
    assert info["is_legal"] == 1.0
    assert total == pytest.approx(DEAD_END)
    assert info["r"] == DEAD_END


def test_an_illegal_action_is_told() -> None:
    env = ShardingEnv()
    observation, _ = env.reset(options={"instance": 0})
    illegal = int(np.flatnonzero(observation["action_mask"] == 0)[0])
    _, reward, over, _, info = env.step(np.int64(illegal))
    assert over
    assert reward == pytest.approx(DEAD_END)
    assert info["is_legal"] == 0.0


def test_a_saved_environment_goes_on_alike() -> None:
    rng = np.random.default_rng(2)
    env = ShardingVectorEnv(3, family=MIXED, seed=7)
    observation, _ = env.reset()
    for _ in range(60):
        observation, *_ = env.step(masked_choice(observation, rng))
    state = json.loads(json.dumps(env.checkpoint()))  # plain data
    other = ShardingVectorEnv(3, family=MIXED)
    other.restore(state)
    choices = [masked_choice(observation, rng)]
    for _ in range(150):
        a, b = env.step(choices[-1]), other.step(choices[-1])
        for key in a[0]:
            np.testing.assert_allclose(a[0][key], b[0][key], atol=1e-6)
        np.testing.assert_allclose(a[1], b[1], atol=1e-12)
        np.testing.assert_array_equal(a[2], b[2])
        choices.append(masked_choice(a[0], rng))
    with pytest.raises(ResumeError):
        ShardingVectorEnv(2, family=MIXED).restore(state)


def test_splits_differ_and_settings_are_checked() -> None:
    first = [ShardingEnv(split=split).reset(options={"instance": 0})[0]["table"] for split in ("train", "test")]
    assert not np.allclose(*first)
    cases: tuple[dict[str, Any], ...]
    cases = ({"split": "exam"}, {"instances": 0}, {"family": "paths/grid-5-code-v0"}, {"family": "sharding/none"})
    for wrong in cases:
        with pytest.raises(InvalidInputError):
            ShardingEnv(**wrong)
    with pytest.raises(InvalidInputError, match="max_tables"):
        ShardingEnv(max_tables=10).reset()


def test_padding_changes_nothing_and_devices_may_be_renamed() -> None:
    policy = build("sharding-set", PARTS, seed=0)
    small, large = ShardingVectorEnv(2), ShardingVectorEnv(2, max_tables=64, max_devices=12)
    a, _ = small.reset(options={"instances": [0, 1]})
    b, _ = large.reset(options={"instances": [0, 1]})
    rng = np.random.default_rng(0)
    for _ in range(20):
        actions = masked_choice(a, rng)
        a, b = small.step(actions)[0], large.step(actions)[0]
    with torch.no_grad():
        logits, value = policy(to_tensors(a))
        padded, padded_value = policy(to_tensors(b))
    torch.testing.assert_close(padded[:, :8], logits, atol=1e-5, rtol=1e-5)
    assert bool((padded[:, 8:] == ILLEGAL).all())
    torch.testing.assert_close(padded_value, value, atol=1e-5, rtol=1e-5)

    order = rng.permutation(8)
    renamed = {k: v[:, order] if k in ("devices", "device_mask", "action_mask") else v for k, v in a.items()}
    with torch.no_grad():
        moved, moved_value = policy(to_tensors(renamed))
    torch.testing.assert_close(moved, logits[:, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moved_value, value, atol=1e-5, rtol=1e-5)
