"""The training loop around RLlib: steps by its own clock, a journal, and an end where nothing happens any more."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rl import policy as policies
from rl.config import RunConfig
from rl.evaluation import evaluate, summary
from rl.journal import Events, Journal
from rl.rllib import policy_of, ppo_config
from rl.stall import StallError, StallGuard
from surco.errors import InvalidInputError, ResumeError

_LOG = logging.getLogger(__name__)

CHECKPOINT = "rllib"
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
        out: folder of journal, policy, and checkpoint (``rllib``).
        resume: go on from the checkpoint in ``out``; without one the run starts afresh.
        progress: called with every line of the journal.

    Returns:
        The last line of the journal.

    Raises:
        StallError: steps stopped growing, or returns are not numbers. A checkpoint was written.
        ResumeError: the checkpoint cannot be read.
        InvalidInputError: the folder holds a run, and it is not to be resumed.
    """
    folder = Path(out)
    found = next((folder / name for name in (CHECKPOINT, _OLD) if (folder / name).is_dir()), None)
    if found is not None and not resume:
        raise InvalidInputError(f"`{folder}` holds a run already. Resume it, or choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    algorithm = _algorithm(config)
    events = Events(folder) if config.trainer.tensorboard else None
    try:
        steps = 0
        if found is not None:
            steps = _restore(algorithm, found)
        elif config.policy.start:
            weights = policies.load(config.policy.start).state_dict()
            policy_of(algorithm).load_state_dict(weights)
            _broadcast(algorithm)
        journal = Journal(folder, resumed_at=steps if resume else None)

        def note(line: dict[str, Any]) -> None:
            journal.write(line)
            if events is not None:
                events.write(line)
            if progress is not None:
                progress(line)

        return _loop(config, algorithm, folder, note, steps)
    finally:
        if events is not None:
            events.close()
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


def _loop(
    config: RunConfig, algorithm: Any, folder: Path, note: Callable[[dict[str, Any]], None], steps: int
) -> dict[str, Any]:
    trainer, plan = config.trainer, config.evaluation
    held_out = config.env.spec().changed(plan.options).vector(plan.episodes, seed=plan.seed) if plan.every else None
    policy = policy_of(algorithm)

    def keep() -> None:
        policies.save(policy, folder, about={"steps": steps, "config": config.to_json()})

    line: dict[str, Any] = {}
    iteration = int(algorithm.iteration)
    begun = clock = time.perf_counter()
    used = time.process_time()
    with StallGuard(trainer.stall_seconds, trainer.nan_limit, rescue=keep) as guard:
        while steps < trainer.steps:
            result = algorithm.train()
            before, steps = steps, _lifetime(result, steps)
            health = result.get("fault_tolerance", {})
            workers = int(health.get("num_healthy_workers", 0))
            try:
                if steps == before:  # RLlib repeats the figures of the last episodes, or has none
                    _LOG.warning("an iteration without any step; %d workers are alive", workers)
                    guard.observe(steps)
                    continue
                iteration += 1
                now, cpu = time.perf_counter(), time.process_time()
                line = {
                    "iteration": iteration,
                    "steps": steps,
                    **_figures(result),
                    "cpu_s": cpu - used,  # of this process; workers have their own
                    "wall_s": now - clock,
                    "seconds": now - begun,
                    "steps_per_second": (steps - before) / (now - clock),
                    "workers": workers,
                    "restarts": int(health.get("num_remote_worker_restarts", 0)),
                }
                clock, used = now, cpu
                is_last = steps >= trainer.steps
                if held_out is not None and (iteration % plan.every == 0 or is_last):
                    line |= summary(evaluate(policy, held_out, seed=plan.seed))
                note(line)
                guard.observe(steps, line.get("return"), line.get("loss"))
            except StallError:
                keep()
                _save(algorithm, folder)
                raise
            if iteration % trainer.checkpoint_every == 0 or is_last:
                keep()
                _save(algorithm, folder)
    return line


def _lifetime(result: dict[str, Any], known: int) -> int:
    """Steps since the first start; RLlib leaves the counter out where no runner answered."""
    value = result.get(_RESULTS, {}).get("num_env_steps_sampled_lifetime")
    return known if value is None or not math.isfinite(value) else max(int(value), known)


def _figures(result: dict[str, Any]) -> dict[str, float]:
    """Means over the episodes that ended in this iteration (none: no figures), and the loss."""
    found = result.get(_RESULTS, {})
    figures: dict[str, float] = {}
    if found.get("num_episodes"):
        figures["return"] = float(found.get("episode_return_mean", math.nan))
        figures["best_return"] = float(found.get("episode_return_max", math.nan))
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
