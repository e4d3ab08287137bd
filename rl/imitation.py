"""Imitation: a policy learns from proven plans before it learns from its own.

The exact engine solves small networks in about a second, so the best plan is known. In every state that the policy
itself reaches (as in DAgger), the teacher is asked which options still lack modules; any order of additions leads to
the same plan, so the teacher's answer is a distribution: each option in proportion to what it lacks, with the largest
size that does not overshoot.

Source: Ross, Gordon, Bagnell 2011, "A reduction of imitation learning and structured prediction to no-regret online
learning".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from problems.planning.network import Array
from rl.planning_game import PlanningGame
from rl.policy import to_tensors
from rl.rollout import choose
from rl.vector_env import VectorPlanningEnv
from surco.errors import InvalidInputError


def teacher(game: PlanningGame) -> tuple[Array, Array]:
    """The teacher's distribution [B, A] and value [B] in the current states.

    Rows are zero where the target offers no allowed action (an episode that is over). The value is the price of what
    is missing, as a reward to come.

    Raises:
        InvalidInputError: a topology has no target.
    """
    sizes = np.array(game.rules.units, dtype=np.float64)
    lacking = np.zeros((game.slots, game.n_options))
    for b in range(game.slots):
        target = game.topologies[game.which[b]].target
        if target is None:
            raise InvalidInputError("Expected topologies with a `target` plan to imitate.")
        lacking[b, : len(target)] = np.maximum(target - game.units[b, : len(target)], 0.0)
    mask = game.observation["action_mask"].reshape(game.slots, game.n_options, game.rules.heads)[:, :, : len(sizes)]
    fits = (sizes <= lacking[:, :, None]) & (mask > 0.5)
    largest = fits & ~np.concatenate([fits[:, :, 1:], np.zeros_like(fits[:, :, :1])], axis=-1)
    weight = np.zeros((game.slots, game.n_options, game.rules.heads))
    weight[:, :, : len(sizes)] = largest * lacking[:, :, None]
    flat = weight.reshape(game.slots, -1)
    flat /= np.maximum(flat.sum(axis=1, keepdims=True), 1e-12)
    to_come = -(game.cost * lacking).sum(axis=1) / game.bound + game.rules.shaping * (1.0 - game.worst)
    return flat, to_come


def imitate(
    env: VectorPlanningEnv,
    policy: nn.Module,
    *,
    rounds: int,
    seed: int,
    steps: int = 16,
    updates: int = 8,
    minibatch: int = 256,
    learning_rate: float = 1e-3,
    memory: int = 24,
    teacher_share: tuple[float, float] = (0.5, 0.0),
    value_weight: float = 0.5,
    weight_decay: float = 1e-3,
    callback: Callable[[int, float, float], bool | None] | None = None,
) -> None:
    """Train ``policy`` in place on what the teacher would do where the policy goes.

    Args:
        env: topologies with targets.
        policy: of planning observations.
        rounds: of playing ``steps`` steps and then doing ``updates`` gradient steps on ``minibatch`` states each.
        seed: of actions and minibatches.
        steps: see rounds.
        updates: see rounds.
        minibatch: see rounds.
        learning_rate: of AdamW at the start; it falls to a tenth along a cosine.
        memory: rounds whose states are kept to learn from.
        teacher_share: share of the slots that follow the teacher, at the start and from half of the rounds on.
        value_weight: of the squared error of the value.
        weight_decay: of AdamW.
        callback: called with (round, cross entropy above the teacher's own entropy, squared error of the value);
            returning True stops.
    """
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, weight_decay=weight_decay)
    kept: deque[tuple[dict[str, Tensor], Tensor, Tensor]] = deque(maxlen=memory)
    observation, _ = env.reset(seed=seed)
    policy.train()
    for number in range(rounds):
        part = min(1.0, 2.0 * number / max(rounds, 1))
        share = teacher_share[0] + (teacher_share[1] - teacher_share[0]) * part
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (0.1 + 0.45 * (1.0 + np.cos(np.pi * number / max(rounds, 1))))
        seen, wanted, values = [], [], []
        for _ in range(steps):
            tensors = to_tensors(observation)
            target, value = teacher(env.game)
            goal = torch.from_numpy(target).float()
            useful = goal.sum(dim=1) > 0.5
            with torch.no_grad():
                logits, _ = policy(tensors)
            action = choose(logits, generator=generator)
            follows = torch.from_numpy(rng.random(env.num_envs) < share) & useful
            drawn = choose(torch.where(goal > 0.0, goal.clamp(min=1e-12).log(), -1e9), generator=generator)
            action = torch.where(follows, drawn, action)
            if useful.any():
                seen.append({key: tensor[useful] for key, tensor in tensors.items()})
                wanted.append(goal[useful])
                values.append(torch.from_numpy(value).float()[useful])
            observation, *_ = env.step(action.numpy())
        if seen:
            kept.append(
                ({key: torch.cat([s[key] for s in seen]) for key in seen[0]}, torch.cat(wanted), torch.cat(values))
            )
        losses = _learn(policy, optimizer, kept, updates, minibatch, value_weight, generator)
        if callback is not None and callback(number, *losses):
            return
    policy.eval()


def _learn(
    policy: nn.Module,
    optimizer: torch.optim.Optimizer,
    kept: deque[tuple[dict[str, Tensor], Tensor, Tensor]],
    updates: int,
    minibatch: int,
    value_weight: float,
    generator: torch.Generator,
) -> tuple[float, float]:
    total = [0.0, 0.0]
    for _ in range(updates):
        # a minibatch is a window of one round's states, which are sorted by size
        observation, goal, value = kept[int(torch.randint(len(kept), (1,), generator=generator))]
        size = min(minibatch, len(goal))
        first = int(torch.randint(len(goal) - size + 1, (1,), generator=generator))
        rows = slice(first, first + size)
        logits, guess = policy({key: tensor[rows] for key, tensor in observation.items()})
        wanted = goal[rows]
        log_policy = torch.log_softmax(logits, dim=-1)
        gap = torch.where(wanted > 0.0, wanted * (wanted.clamp(min=1e-12).log() - log_policy), 0.0).sum(dim=-1).mean()
        error = torch.nn.functional.mse_loss(guess, value[rows])
        optimizer.zero_grad()
        (gap + value_weight * error).backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        total[0] += float(gap.detach()) / updates
        total[1] += float(error.detach()) / updates
    return total[0], total[1]
