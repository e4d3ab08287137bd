"""The native trainer: proximal policy optimization in one file, exact to resume, with or without Ray.

The mask of an action is part of the observation, so the probabilities that were sampled and those in the loss are of
the same masked distribution.

Source: Schulman et al. 2017, "Proximal policy optimization algorithms", eq. 7 (clipped surrogate).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl.config import PpoSettings
from rl.policy import save as save_policy
from rl.protocols import MakeVectorEnv
from rl.rollout import Collector, Rollout, advantages, joined
from surco import checkpoint as checkpoints
from surco.atomic import write_text
from surco.errors import InvalidInputError, ResumeError

JOURNAL = "progress.jsonl"
BEST = "best"


class NotANumberError(ArithmeticError):
    """The loss or a weight is not a number any more; the last checkpoint is from before."""


def train(
    make_vector_env: MakeVectorEnv,
    policy: nn.Module,
    *,
    steps: int,
    seed: int,
    out: str | Path | None = None,
    resume: bool = False,
    workers: int = 0,
    settings: PpoSettings | None = None,
    target_kl: float = 0.03,
    value_warmup: int = 0,
    anneal: bool = False,
    checkpoint_every: int = 10,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    evaluate_every: int = 10,
    best_by: str = "",
    callback: Callable[[dict[str, Any]], object] | None = None,
    device: str | torch.device = "cpu",
    worker_options: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Train ``policy`` in place for exactly ``steps`` environment steps.

    Args:
        make_vector_env: makes the environment of a seed; importable if ``workers`` > 0.
        policy: maps observations to masked logits and values.
        steps: environment steps in all, those before a resume included.
        seed: of environments, actions and minibatches.
        out: folder of journal, checkpoint and policy; None keeps nothing.
        resume: go on from the checkpoint in ``out``, if there is one. With ``workers=0`` and the same settings the
            final weights are bit-equal to those of the uninterrupted run.
        workers: Ray actors that play; 0 plays in this process and does not import Ray. A worker that dies is started
            again with a fresh environment.
        settings: of PPO.
        target_kl: the epochs of an iteration end where the policy has moved this far.
        value_warmup: iterations in which only the value learns, for policies that come from imitation.
        anneal: whether the step size falls linearly to zero.
        checkpoint_every: iterations.
        evaluate: figures of the policy for the journal, every ``evaluate_every`` iterations and at the end.
        evaluate_every: iterations.
        best_by: figure of ``evaluate`` whose least value chooses the policy kept in ``out/best``.
        callback: called with every line of the journal; what it raises ends the run, after a checkpoint.
        device: of the learner.
        worker_options: of the Ray actors, such as ``{"num_cpus": 1}``.
        about: for the description of the saved policy.

    Returns:
        The policy.

    Raises:
        InvalidInputError: settings that do not fit.
        NotANumberError: training diverged.
    """
    if steps < 1 or workers < 0 or checkpoint_every < 1:
        raise InvalidInputError(
            f"Expected steps >= 1, workers >= 0, checkpoint_every >= 1, got {steps}, {workers}, {checkpoint_every}."
        )
    if resume and out is None:
        raise ResumeError("Expected `out`, the folder to resume from, together with `resume=True`.")
    run = _Run(make_vector_env, policy, settings or PpoSettings(), seed, workers, device, worker_options)
    run.target_kl, run.value_warmup, run.anneal_to = target_kl, value_warmup, steps if anneal else 0
    folder = None if out is None else Path(out)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        if resume and (folder / checkpoints.FILE).is_file():
            run.load(folder)
        elif not resume and (folder / checkpoints.FILE).is_file():
            raise InvalidInputError(f"`{folder}` holds a run already. Resume it, or choose another folder.")
    try:
        while run.steps < steps:
            line = run.iterate(steps)
            is_last = run.steps >= steps
            if evaluate is not None and (is_last or run.iteration % max(evaluate_every, 1) == 0):
                policy.eval()
                figures = dict(evaluate(policy))
                line |= figures
                if best_by and figures[best_by] < run.best:
                    run.best = figures[best_by]
                    if folder is not None:
                        save_policy(policy, folder / BEST, about={**(about or {}), "figures": figures})
            run.journal.append(line)
            if folder is not None and (is_last or run.iteration % checkpoint_every == 0):
                run.save(folder)
            if folder is not None:
                write_text(folder / JOURNAL, "".join(json.dumps(row) + "\n" for row in run.journal))
            if callback is not None:
                try:
                    callback(line)
                except BaseException:
                    if folder is not None and not is_last and run.iteration % checkpoint_every:
                        run.save(folder)
                    raise
    finally:
        run.close()
    policy.eval()
    if folder is not None:
        save_policy(policy, folder, about=dict(about or {}))
    return policy


class _Run:
    """A run's moving parts."""

    def __init__(
        self,
        make_vector_env: MakeVectorEnv,
        policy: nn.Module,
        settings: PpoSettings,
        seed: int,
        workers: int,
        device: str | torch.device,
        worker_options: Mapping[str, Any] | None,
    ) -> None:
        self.policy, self.settings, self.seed = policy.to(device), settings, seed
        self.optimizer = torch.optim.Adam(policy.parameters(), lr=settings.step_size, fused=True)
        self.generator = torch.Generator().manual_seed(seed)
        self.steps = self.iteration = 0
        self.target_kl, self.value_warmup, self.anneal_to = 0.03, 0, 0
        self.best = math.inf
        self.real_share = 1.0  # of the steps of slots, those that were no resets; of the last iteration
        self.journal: list[dict[str, Any]] = []
        self.collector: Collector | None = None
        self.crew: Any = None
        if workers:
            from rl.workers import Crew

            self.crew = Crew(make_vector_env, policy, workers=workers, seed=seed, options=worker_options or {})
            self.num_envs = self.crew.num_envs
        else:
            self.collector = Collector(make_vector_env, seed=seed, device=device)
            self.num_envs = self.collector.env.num_envs

    def iterate(self, limit: int) -> dict[str, Any]:
        """Play, learn, and describe it."""
        started, wall = time.process_time(), time.monotonic()
        horizon = self._horizon(limit - self.steps)
        self.policy.train()
        if self.crew is not None:
            rollout = joined(self.crew.collect(self.policy, horizon))
        else:
            assert self.collector is not None
            rollout = self.collector.collect(self.policy, horizon)
        self.real_share = max(0.1, rollout.n_steps / rollout.is_real.numel())
        rollout = _at_most(rollout, limit - self.steps)
        sampled = time.process_time()
        figures = self._learn(rollout)
        self.steps += rollout.n_steps
        self.iteration += 1
        episodes = {key: values for key, values in rollout.episodes.items() if values and key not in ("r", "l")}
        returns = rollout.episodes.get("r") or []
        used = time.process_time() - started
        return {
            "iteration": self.iteration,
            "steps": self.steps,
            "episodes": len(returns),
            "return": float(np.mean(returns)) if returns else None,
            "best_return": float(np.max(returns)) if returns else None,
            "length": float(np.mean(rollout.episodes["l"])) if returns else None,
            **{key: float(np.mean(values)) for key, values in episodes.items()},
            **figures,
            "sampling_cpu_s": sampled - started,
            "cpu_s": used,
            "wall_s": time.monotonic() - wall,
            "steps_per_cpu_s": rollout.n_steps / max(used, 1e-9),
        }

    def _horizon(self, left: int) -> int:
        """Steps of every slot: of a whole iteration, or what ends the run if about one iteration is left.

        Slots that only reset count no step, so the last iteration is a little longer and its surplus is dropped; a
        remainder of a few steps would be a gradient of noise.
        """
        usual = self.settings.steps_per_iteration
        wanted = usual if left > 1.25 * usual else math.ceil(1.02 * left / self.real_share)
        return max(1, math.ceil(wanted / self.num_envs))

    # ------------------------------------------------------------------ learning

    def _learn(self, rollout: Rollout) -> dict[str, float]:
        settings = self.settings
        if self.anneal_to:
            share = max(0.0, 1.0 - self.steps / self.anneal_to)
            for group in self.optimizer.param_groups:
                group["lr"] = settings.step_size * share
        advantage, target = advantages(rollout, discount=settings.discount, smoothing=settings.smoothing)
        real = rollout.is_real.reshape(-1).nonzero().squeeze(-1)
        if not len(real):
            return {}
        flat = {key: value.flatten(0, 1)[real] for key, value in rollout.observation.items()}
        action, old = rollout.action.reshape(-1)[real], rollout.log_prob.reshape(-1)[real]
        advantage, target = advantage.reshape(-1)[real], target.reshape(-1)[real]
        spread = float(advantage.std()) if len(real) > 1 else 1.0
        normalized = (advantage - advantage.mean()) / max(spread, 1e-8)
        missed, spread_of = target - rollout.value.reshape(-1)[real], target.var(unbiased=False)
        explained = 1.0 - float(missed.var(unbiased=False)) / max(float(spread_of), 1e-12)
        weight = 0.0 if self.iteration < self.value_warmup else 1.0
        sums, count, epochs = {"policy_loss": 0.0, "value_loss": 0.0, "entropy": 0.0, "kl": 0.0}, 0, 0
        for _ in range(settings.epochs):
            order = torch.randperm(len(real), generator=self.generator).to(action.device)
            moved = 0.0
            for part in order.split(settings.minibatch):
                observation = {key: value[part] for key, value in flat.items()}
                found = self._losses(observation, action[part], old[part], normalized[part], target[part])
                loss = weight * (found["policy_loss"] - settings.entropy * found["entropy"])
                self.optimizer.zero_grad()
                (loss + settings.value_weight * found["value_loss"]).backward()
                norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), settings.max_norm)
                if not bool(torch.isfinite(norm)):
                    raise NotANumberError(
                        f"The gradient is not finite at step {self.steps}. Resume from the last checkpoint with a "
                        "smaller step size."
                    )
                self.optimizer.step()
                for key in sums:
                    sums[key] += float(found[key].detach())
                moved += float(found["kl"].detach()) * len(part) / len(order)
                count += 1
            epochs += 1
            if moved > self.target_kl:
                break
        means = {key: value / count for key, value in sums.items()}
        return {**means, "explained_variance": explained, "epochs": epochs}

    def _losses(
        self, observation: dict[str, Tensor], action: Tensor, old: Tensor, advantage: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        logits, value = self.policy(observation)
        log_probs = torch.log_softmax(logits, dim=-1)
        new = log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)
        change = new - old
        ratio = change.exp()
        clipped = ratio.clamp(1.0 - self.settings.clip, 1.0 + self.settings.clip)
        entropy = -(log_probs.exp() * log_probs).sum(dim=-1)  # masked terms are exactly 0
        return {
            "policy_loss": -torch.minimum(ratio * advantage, clipped * advantage).mean(),
            "value_loss": 0.5 * (value - target).square().mean(),
            "entropy": entropy.mean(),
            "kl": ((ratio - 1.0) - change).mean(),  # Schulman's k3 estimate, >= 0
        }

    # ------------------------------------------------------------------ state

    def save(self, folder: Path) -> None:
        """Write the whole state atomically."""
        if not all(bool(torch.isfinite(p).all()) for p in self.policy.parameters()):
            raise NotANumberError(f"A weight is not a number at step {self.steps}; the last checkpoint is kept.")
        source = self.collector if self.collector is not None else self.crew
        state = {
            "kind": "native",
            "seed": self.seed,
            "steps": self.steps,
            "iteration": self.iteration,
            "best": self.best,
            "real_share": self.real_share,
            "policy": dict(self.policy.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "players": source.checkpoint(),
            "journal": self.journal,
        }
        checkpoints.save(folder / checkpoints.FILE, state)

    def load(self, folder: Path) -> None:
        """Take over a saved state."""
        state = checkpoints.load(folder / checkpoints.FILE)
        if state.get("kind") != "native" or state.get("seed") != self.seed:
            raise ResumeError(
                f"The checkpoint in `{folder}` is of kind {state.get('kind')!r} and seed {state.get('seed')}, but this "
                f"run is native with seed {self.seed}. Resume with the same settings, or choose another folder."
            )
        try:
            self.policy.load_state_dict(state["policy"])
            optimizer = state["optimizer"]
            optimizer["state"] = {int(key): value for key, value in optimizer["state"].items()}
            self.optimizer.load_state_dict(optimizer)
        except (RuntimeError, ValueError, KeyError) as error:
            raise ResumeError(f"The checkpoint in `{folder}` is of another policy: {error}.") from error
        self.generator.set_state(state["generator"])
        self.steps, self.iteration, self.best = state["steps"], state["iteration"], state["best"]
        self.real_share = state.get("real_share", 1.0)
        self.journal = list(state["journal"])
        source = self.collector if self.collector is not None else self.crew
        source.restore(state["players"])

    def close(self) -> None:
        """End the workers."""
        if self.crew is not None:
            self.crew.close()


def _at_most(rollout: Rollout, most: int) -> Rollout:
    """The rollout with only its first ``most`` real steps, in order of time, counted and learned from."""
    if rollout.n_steps <= most:
        return rollout
    order = rollout.is_real.reshape(-1).long().cumsum(0).reshape(rollout.is_real.shape)
    rollout.is_real.logical_and_(order <= most)
    return rollout
