"""The native trainer, driven by a configuration."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rl import policy as policies
from rl.config import RunConfig
from rl.environments import policy_config
from rl.evaluation import evaluate, summary
from rl.journal import Events
from rl.stall import StallError, StallGuard

BEST_BY = "evaluation_regret"


def train(
    config: RunConfig,
    out: str | Path,
    *,
    resume: bool = False,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train by `rl.native` until exactly ``config.trainer.steps`` environment steps are done.

    Args:
        config: the run.
        out: folder of journal, checkpoint and policy; the best one by evaluation is in ``out/best``.
        resume: go on from the checkpoint in ``out``.
        progress: called with every line of the journal, with ``seconds`` and ``steps_per_second`` besides.

    Returns:
        The last line of the journal.

    Raises:
        StallError: steps stopped growing, or figures are not numbers. A checkpoint was written before.
    """
    from rl import native

    torch.set_num_threads(config.trainer.threads)
    env, trainer, plan = config.env.spec(), config.trainer, config.evaluation
    folder = Path(out)
    if config.policy.start:
        policy = policies.load(config.policy.start)
    else:
        settings = policy_config(config.policy_name, env.vector(1, seed=trainer.seed), config.policy.settings)
        policy = policies.build(config.policy_name, settings, seed=trainer.seed)
    held_out = env.changed(plan.options).vector(plan.episodes, seed=plan.seed) if plan.every else None
    events = Events(folder) if trainer.tensorboard else None
    begun = clock = time.perf_counter()
    last: dict[str, Any] = {}
    known = 0

    def judge(module: nn.Module) -> dict[str, float]:
        assert held_out is not None
        return summary(evaluate(module, held_out, seed=plan.seed, device=trainer.device))

    def note(line: dict[str, Any]) -> None:
        nonlocal clock, last, known
        now = time.perf_counter()
        last = {
            **line,
            "seconds": now - begun,
            "steps_per_second": (line["steps"] - known) / max(now - clock, 1e-9),
        }
        clock, known = now, line["steps"]
        if events is not None:
            events.write(last)
        if progress is not None:
            progress(last)
        guard.observe(line["steps"], line.get("return"), line.get("value_loss"))

    def rescue() -> None:
        policies.save(policy, folder, about={"steps": known, "config": config.to_json()})

    try:
        with StallGuard(trainer.stall_seconds, trainer.nan_limit, rescue=rescue) as guard:
            native.train(
                env.maker(config.env.num_envs),
                policy,
                steps=trainer.steps,
                seed=trainer.seed,
                out=folder,
                resume=resume,
                workers=trainer.workers,
                settings=config.ppo,
                target_kl=trainer.target_kl,
                value_warmup=trainer.value_warmup,
                anneal=trainer.anneal,
                checkpoint_every=trainer.checkpoint_every,
                evaluate=judge if plan.every else None,
                evaluate_every=plan.every,
                best_by=BEST_BY if plan.every else "",
                callback=note,
                device=trainer.device,
                worker_options={"num_cpus": trainer.cpus_per_worker, "resources": dict(trainer.resources_per_worker)},
                about={"config": config.to_json()},
            )
    except native.NotANumberError as error:
        raise StallError(str(error)) from error
    finally:
        if events is not None:
            events.close()
    return last
