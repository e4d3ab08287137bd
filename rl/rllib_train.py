"""The training loop around RLlib: steps by its own clock, a journal, and an end where nothing happens any more."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rl import policy as policies
from rl.config import RunConfig
from rl.evaluation import evaluate, summary
from rl.rllib import policy_of, ppo_config
from rl.stall import StallError, StallGuard
from surco.errors import ResumeError
from surco.training.journal import Journal

CHECKPOINT, POLICY = "rllib", "policy"
_OLD, _NEW = ".rllib-old", ".rllib-new"
_RESULTS = "env_runners"


def train(
    config: RunConfig,
    out: str | Path,
    *,
    resume: bool = False,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train by RLlib until ``config.trainer.steps`` environment steps are done; Ray must be connected.

    RLlib samples whole batches: the run ends with the first iteration that reaches the number, not before it.

    Args:
        config: the run.
        out: folder of journal, checkpoint (``rllib``) and policy (``policy``).
        resume: go on from the checkpoint in ``out``; without one the run starts afresh.
        progress: called with every line of the journal.

    Returns:
        The last line of the journal.

    Raises:
        StallError: steps stopped growing, or returns are not numbers. A checkpoint was written.
        ResumeError: the checkpoint cannot be read.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder, progress, has_tensorboard=config.trainer.tensorboard)
    algorithm = _algorithm(config)
    try:
        steps = 0
        found = next((folder / name for name in (CHECKPOINT, _OLD) if (folder / name).is_dir()), None)
        if resume and found is not None:
            steps = _restore(algorithm, found)
            journal.rewind(steps)
        elif config.policy.start:
            weights = policies.load(config.policy.start).state_dict()
            policy_of(algorithm).load_state_dict(weights)
            _broadcast(algorithm)
        return _loop(config, algorithm, folder, journal, steps)
    finally:
        journal.close()
        algorithm.stop()


def _algorithm(config: RunConfig) -> Any:
    trainer = config.trainer
    built = ppo_config(
        config.env.spec(),
        config.policy_name,
        config.policy.settings,
        ppo=config.ppo,
        num_envs=config.env.num_envs,
        workers=trainer.workers,
        cpus_per_worker=trainer.cpus_per_worker,
        resources_per_worker=trainer.resources_per_worker,
        seed=trainer.seed,
        torch_threads=trainer.threads,
    )
    return built.build_algo()


def _loop(config: RunConfig, algorithm: Any, folder: Path, journal: Journal, steps: int) -> dict[str, Any]:
    trainer, plan = config.trainer, config.evaluation
    held_out = config.env.spec().changed(plan.options).vector(plan.episodes, seed=plan.seed) if plan.every else None
    policy = policy_of(algorithm)

    def keep() -> None:
        policies.save(policy, folder / POLICY, about={"steps": steps, "config": config.to_json()})

    best, line = -math.inf, {}
    iteration = int(algorithm.iteration)
    begun = clock = time.perf_counter()
    with StallGuard(trainer.stall_seconds, trainer.nan_limit, rescue=keep) as guard:
        while steps < trainer.steps:
            result = algorithm.train()
            now = time.perf_counter()
            iteration += 1
            before, steps = steps, int(_lifetime(result, steps))
            figures = _figures(result)
            best = max(best, figures.pop("best", -math.inf))
            line = {
                "step": steps,
                "iteration": iteration,
                "seconds": round(now - begun, 3),
                "steps_per_second": round((steps - before) / (now - clock), 3),
                **figures,
                "best": best if math.isfinite(best) else None,
                "workers": int(result.get("fault_tolerance", {}).get("num_healthy_workers", 0)),
                "restarts": int(result.get("fault_tolerance", {}).get("num_remote_worker_restarts", 0)),
            }
            clock = now
            is_last = steps >= trainer.steps
            if held_out is not None and (iteration % plan.every == 0 or is_last):
                found = summary(evaluate(policy, held_out, seed=plan.seed))
                line |= {f"evaluation_{name}": value for name, value in found.items()}
            journal.write(**line)
            try:
                guard.observe(steps, line.get("return"), line.get("loss"))
            except StallError:
                keep()
                _save(algorithm, folder)
                raise
            if iteration % trainer.checkpoint_every == 0 or is_last:
                keep()
                _save(algorithm, folder)
    return line


def _lifetime(result: dict[str, Any], known: int) -> float:
    """Steps since the first start; RLlib leaves the counter out where no runner answered."""
    value = result.get(_RESULTS, {}).get("num_env_steps_sampled_lifetime")
    return known if value is None or not math.isfinite(value) else max(float(value), known)


def _figures(result: dict[str, Any]) -> dict[str, float]:
    """Means over the episodes that ended in this iteration (none: no figures), and the loss."""
    found = result.get(_RESULTS, {})
    figures: dict[str, float] = {}
    if found.get("num_episodes"):
        figures["return"] = float(found.get("episode_return_mean", math.nan))
        figures["best"] = float(found.get("episode_return_max", -math.inf))
        figures |= {name[7:]: float(value) for name, value in found.items() if name.startswith("figure_")}
    learned = result.get("learners", {}).get("default_policy", {})
    if "total_loss" in learned:
        figures["loss"] = float(learned["total_loss"])
        figures["entropy"] = float(learned.get("entropy", math.nan))
    return figures


def _broadcast(algorithm: Any) -> None:
    """Give the learner's weights to all env runners."""
    algorithm.env_runner_group.sync_weights(from_worker_or_learner_group=algorithm.learner_group)


def _save(algorithm: Any, folder: Path) -> None:
    """Replace the checkpoint; the old one stays until the new one is whole."""
    new, old, place = folder / _NEW, folder / _OLD, folder / CHECKPOINT
    shutil.rmtree(new, ignore_errors=True)
    algorithm.save_to_path(str(new.absolute()))
    shutil.rmtree(old, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _restore(algorithm: Any, place: Path) -> int:
    try:
        algorithm.restore_from_path(str(place.absolute()))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ResumeError(f"`{place}` is not a checkpoint of this run: {error}.") from error
    counted = algorithm.metrics.peek((_RESULTS, "num_env_steps_sampled_lifetime"), default=0)
    return int(counted)
