"""Plans by a policy: one greedy rollout and as many sampled ones as wanted, each a survivable plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from problems.planning.network import Array
from rl.game_rules import GameRules
from rl.planning_game import PlanningGame
from rl.policy import to_tensors
from rl.rollout import choose
from rl.topology import Topology


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """A plan that survives: units of the options [M], their price, and whether the greedy rollout found it."""

    units: Array
    price: float
    is_greedy: bool


@torch.no_grad()
def rollout_plans(
    topology: Topology,
    policy: nn.Module | None,
    *,
    samples: int = 0,
    greedy: bool = True,
    seed: int = 0,
    temperature: float = 1.0,
    rules: GameRules | None = None,
) -> list[RolloutPlan]:
    """Distinct survivable plans of rollouts, cheapest first; empty if every rollout failed.

    Args:
        topology: to plan.
        policy: of planning observations; None plays uniformly among the actions that the mask allows.
        samples: sampled rollouts.
        greedy: whether to play the most probable actions too.
        seed: of the samples.
        temperature: of the samples; below 1 they stay nearer to the greedy rollout.
        rules: of the game; default those of the environment, started as the policy was in training, every plan proven.
    """
    slots = samples + int(greedy)
    rules = rules or GameRules(start_share=getattr(policy, "start_share", 0.0))
    game = PlanningGame([topology], slots=slots, rules=rules, seed=seed)
    for units in (np.zeros(len(topology.options)), game.start(topology)):
        if topology.is_survivable(units):
            return [RolloutPlan(units, topology.price(units), greedy)]
    generator = torch.Generator().manual_seed(seed)
    game.reset(np.arange(slots))
    active = np.ones(slots, dtype=bool)
    found: dict[bytes, RolloutPlan] = {}
    while active.any():
        rows = np.flatnonzero(active)
        observation = to_tensors({key: value[rows] for key, value in game.observation.items()})
        mask = observation["action_mask"]
        logits = torch.where(mask > 0.5, 0.0, -1e9) if policy is None else policy(observation)[0]
        drawn = choose(logits, generator=generator, temperature=temperature)
        if greedy and rows[0] == 0:
            drawn[0] = logits[0].argmax()
        actions = np.zeros(slots, dtype=np.int64)
        actions[rows] = drawn.numpy()
        outcome = game.step(actions, active)
        for b in np.flatnonzero(active & (outcome.is_terminated | outcome.is_truncated)).tolist():
            active[b] = False
            if outcome.is_feasible[b]:
                plan = RolloutPlan(game.plan(b), float(outcome.price[b]), greedy and b == 0)
                found.setdefault(plan.units.tobytes(), plan)
    return sorted(found.values(), key=lambda plan: plan.price)
