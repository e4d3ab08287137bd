"""Imitation, rollouts, two stages and the method `neuroplan`, against the exact engine and the judge."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import surco
from problems.planning import Decomposition, Judge, PlanningProblem
from problems.planning.network import compile_instance
from problems.planning.plan import plan_of
from problems.planning.survival import Deadline
from rl.imitation import imitate, teacher
from rl.planner import rollout_plans
from rl.planning_game import N_CONTEXT, N_LINK, N_NODE
from rl.policy import build, describe, save
from rl.polish import exchanged, without_spare
from rl.topology import Topology
from rl.two_stage import box_of, first_stage, planning_policy, second_stage
from rl.vector_env import VectorPlanningEnv
from surco.errors import InvalidInputError, UnknownIdError
from tests.problems.planning.small import drawn, ring

CONFIG = {"link_features": N_LINK, "node_features": N_NODE, "context_features": N_CONTEXT, "heads": 4}


def small_policy(seed: int = 0, start_share: float = 0.0) -> torch.nn.Module:
    return build("planning-gnn", {**CONFIG, "width": 16, "rounds": 2, "start_share": start_share}, seed=seed)


def taught(seed: int) -> Topology:
    """A topology with the optimum as target."""
    network = compile_instance(drawn(seed, nodes=6))
    engine = Decomposition(network, tolerance=1e-6)
    engine.run(20.0)
    return Topology(network, bound=engine.lower, target=engine.best)


def test_the_teacher_leads_to_the_optimum_from_the_start() -> None:
    topology = taught(1)
    env = VectorPlanningEnv(2, [topology])
    env.reset(seed=0)
    assert topology.target is not None
    rng, prices = np.random.default_rng(0), []
    for _ in range(400):
        share, value = teacher(env.game)
        missing = topology.cost @ np.maximum(topology.target - env.game.plan(0), 0.0) / topology.bound
        if share[0].any():
            assert share[0].sum() == pytest.approx(1.0)
            assert value[0] == pytest.approx(-missing + env.game.rules.shaping * (1.0 - env.game.worst[0]))
        action = [rng.choice(len(p), p=p) if p.any() else 0 for p in share]
        _, _, over, _, info = env.step(np.array(action))
        if over.any():
            prices += (info["episode"]["cost_over_bound"] * topology.bound)[info["_episode"]].tolist()
            if len(prices) > 3:
                break
    assert len(prices) > 3
    # an episode may end before the target is complete, never dearer
    assert max(prices) <= topology.price(topology.target) + 1e-6


def test_imitation_learns_what_the_teacher_does() -> None:
    env = VectorPlanningEnv(8, [taught(1), taught(2)], proof_share=0.2)
    gaps: list[float] = []
    imitate(
        env,
        small_policy(),
        rounds=24,
        seed=0,
        steps=6,
        updates=6,
        minibatch=48,
        learning_rate=5e-3,
        callback=lambda n, g, e: gaps.append(g),
    )
    assert np.mean(gaps[-4:]) < 0.75 * np.mean(gaps[:2])
    with pytest.raises(InvalidInputError, match="target"):
        imitate(VectorPlanningEnv(2, [drawn(0)]), small_policy(), rounds=1, seed=0)


def test_rollouts_are_survivable_distinct_and_repeatable() -> None:
    instance = drawn(3, nodes=6)
    network, judge = compile_instance(instance), Judge(instance)
    topology = Topology(network)
    plans = rollout_plans(topology, small_policy(), samples=5, seed=1)
    assert plans
    assert len({plan.units.tobytes() for plan in plans}) == len(plans)
    assert sum(plan.is_greedy for plan in plans) == 1
    assert [plan.price for plan in plans] == sorted(plan.price for plan in plans)
    for plan in plans:
        assert judge(plan_of(network, topology.point(plan.units))).is_feasible
    again = rollout_plans(topology, small_policy(), samples=5, seed=1)
    assert {plan.units.tobytes() for plan in again if plan.is_greedy}
    assert rollout_plans(Topology(network), None, samples=3, greedy=False)
    ahead = rollout_plans(topology, small_policy(start_share=1.0), samples=2, seed=1)
    assert ahead
    for plan in ahead:
        assert (plan.units >= np.floor(topology.relaxed + 1e-9)).all()
        assert judge(plan_of(network, topology.point(plan.units))).is_feasible


def test_a_network_that_survives_already_needs_nothing() -> None:
    base = ring(4, demands=((0, 2, 10.0),))
    full = dataclasses.replace(base, links=tuple(dataclasses.replace(x, existing_gbps=50.0) for x in base.links))
    plans = rollout_plans(Topology(compile_instance(full)), small_policy(), samples=1)
    assert [plan.price for plan in plans] == [0.0]


@pytest.mark.parametrize("seed", range(3))
def test_stages_improve_in_turn_and_a_wide_box_holds_the_optimum(seed: int) -> None:
    instance = drawn(seed, nodes=6)
    network, judge = compile_instance(instance), Judge(instance)
    best = Decomposition(network, tolerance=1e-9)
    best.run(20.0)
    engine = Decomposition(network, tolerance=1e-6)
    found = first_stage(engine, small_policy(), samples=3)
    assert found.trimmed_price <= found.rollout_price
    assert judge(plan_of(network, found.trimmed)).is_feasible
    assert found.polished_price <= found.trimmed_price
    assert judge(plan_of(network, found.polished)).is_feasible
    prices = []
    for alpha in (1.0, 1.5, 50.0):
        plan = second_stage(engine, found.rollout, alpha, start=found.trimmed, seconds=20.0)
        assert judge(plan_of(network, plan)).is_feasible
        is_start = np.array_equal(plan, found.trimmed)
        assert is_start or (plan <= box_of(network, found.rollout, alpha) + 1e-9).all()
        prices.append(engine.cost_of(plan))
    assert prices == sorted(prices, reverse=True)
    assert prices[0] <= found.trimmed_price
    assert prices[-1] == pytest.approx(best.upper, rel=2e-4)
    assert (box_of(network, np.zeros(network.n), 1.0) >= 1.0).all()  # no link is closed for good


def test_exchanges_leave_survivable_plans_and_save_money() -> None:
    saved = 0.0
    for seed in range(6):
        instance = drawn(seed, nodes=7)
        network, judge = compile_instance(instance), Judge(instance)
        topology = Topology(network)
        lean = without_spare(topology, topology.greedy, Deadline(None))
        assert judge(plan_of(network, topology.point(lean))).is_feasible
        assert not any(topology.is_survivable(lean - step) for step in np.eye(len(lean)) if (lean >= step).all())
        known = len(topology.rhs)
        better = exchanged(topology, lean, deadline=Deadline(None))
        assert judge(plan_of(network, topology.point(better))).is_feasible
        assert topology.price(better) <= topology.price(lean)
        assert len(topology.rhs) >= known  # refusals are remembered
        saved += topology.price(lean) - topology.price(better)
        assert np.array_equal(exchanged(topology, lean, deadline=Deadline(0.0)), lean)
    assert saved > 0.0


@pytest.mark.parametrize("seed", range(3))
def test_trimming_among_cuts_gives_the_plan_of_asking_about_every_module(seed: int) -> None:
    network = compile_instance(drawn(seed, nodes=7))
    topology, asked = Topology(network), Topology(network)
    wide = np.minimum(topology.greedy + 1.0, topology.upper)
    plan = wide.copy()
    for j in np.argsort(-asked.cost, kind="stable").tolist():
        while plan[j] >= 1.0:
            plan[j] -= 1.0
            if not asked.is_survivable(plan):
                plan[j] += 1.0
                break
    assert np.array_equal(without_spare(topology, wide, Deadline(None)), plan)


def test_cuts_of_other_scenarios_that_a_refusal_brings_are_valid() -> None:
    translated = 0
    for seed in range(4):
        network = compile_instance(drawn(seed, nodes=7))
        engine = Decomposition(network, tolerance=1e-9)
        engine.run(20.0)
        assert engine.best is not None
        topology = Topology(network)
        lean = without_spare(topology, topology.greedy, Deadline(None))
        known = len(topology.evaluator.cuts)
        assert not topology.is_survivable(np.floor(0.7 * lean), is_translated=True)
        translated += len(topology.evaluator.cuts) - known - 1
        exchanged(topology, lean, deadline=Deadline(None))
        for plan in (engine.best[topology.options], topology.greedy, lean):  # survivable, so no cut may refuse them
            assert (topology.rows @ plan >= topology.rhs - 1e-6).all()
    assert translated > 0


def test_neuroplan_solves_by_name_with_a_policy_of_ones_own(tmp_path: Path) -> None:
    save(small_policy(), tmp_path)
    problem = PlanningProblem(drawn(4, nodes=6))
    result = surco.solve(problem, method="neuroplan", policy=str(tmp_path), alpha=2.0, samples=2, seconds=20, seed=1)
    assert result.method == "neuroplan"
    assert result.is_feasible
    assert result.bound is not None
    assert result.bound <= result.value + 1e-6
    exact = surco.solve(PlanningProblem(drawn(4, nodes=6)), method="exact", seconds=20)
    assert exact.value <= result.value * (1 + 1e-4)
    assert result.value <= 1.1 * exact.value
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"alpha": 0.5}, "alpha"),
        ({"policy": str(tmp_path / "none")}, "no `"),
        ({"alpa": 1}, "alpha"),
    )
    for options, words in wrong:
        with pytest.raises(InvalidInputError, match=words):
            surco.solve(problem, method="neuroplan", seconds=5, **options)
    with pytest.raises(InvalidInputError, match="linear prices"):
        surco.solve(surco.make("planning/abilene-bulk-v0"), method="neuroplan", policy=str(tmp_path), seconds=5)
    with pytest.raises(UnknownIdError, match="neuroplan"):
        surco.solve(problem, method="neuro_plan", seconds=5)


def test_the_shipped_policy_plans_a_network_that_it_has_never_seen() -> None:
    policy = planning_policy()
    folder = Path(__file__).parent.parent.parent / "rl" / "data" / "planning"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2 * 2**20
    about = describe(folder)["about"]
    assert {"command", "config", "date", "held_out"} <= set(about)
    assert "polska" in about["held_out"]
    problem = surco.make("planning/polska-v0")
    found = first_stage(problem.engine, policy, samples=8)  # type: ignore[attr-defined]
    assert float(problem.violation(torch.from_numpy(found.trimmed))) == 0.0
    assert found.trimmed_price <= 1.06 * 24584.0  # the proven optimum, benchmarks/reference/planning.json
    untrained = first_stage(surco.make("planning/polska-v0").engine, None, samples=9, greedy=False)  # type: ignore[attr-defined]
    assert found.trimmed_price < untrained.trimmed_price
