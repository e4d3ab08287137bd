"""Training by RLlib (new API stack): PPO around any policy of this project, with limits that notice a dead cluster.

The same environments, policies and policy files as the native trainer; for Tune and RLlib's fault tolerance. It costs
more per step and starts in 10 to 20 seconds; see ``benchmarks/rl_throughput.py``.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from rl import policy as policies
from rl.config import PpoSettings
from rl.environments import EnvSpec, policy_config
from rl.ray_session import import_ray
from surco.errors import InvalidInputError, MissingExtraError

LEAST_ENVS = 16
"""Environments of a runner: RLlib's default of one costs six times as much per step."""

PROBE_SECONDS, RESTORE_SECONDS, RESTART_SECONDS, SAMPLE_SECONDS = 10.0, 60.0, 20.0, 60.0
MODULE_FOLDER = "learner_group/learner/rl_module/default_policy"
_NOISE = ("RLModule(config=", "gputil", "Overriding environment", "new API stack", "UnifiedLogger", "been deprecated")


def ppo_config(
    env: EnvSpec,
    policy: str,
    settings: Mapping[str, Any] | None = None,
    *,
    ppo: PpoSettings | None = None,
    num_envs: int = 64,
    workers: int = 0,
    cpus_per_worker: float = 1.0,
    resources_per_worker: Mapping[str, float] | None = None,
    seed: int = 0,
    evaluation: EnvSpec | None = None,
    evaluation_episodes: int = 32,
    evaluate_every: int = 5,
    torch_threads: int = 1,
) -> Any:
    """RLlib's ``PPOConfig``; change it further, give it to Tune (``param_space=config``), or call ``build_algo()``.

    Args:
        env: what is played.
        policy: name of the policy.
        settings: of the policy, beyond the column counts that the environment gives.
        ppo: learning settings.
        num_envs: environments of a runner, at least 16.
        workers: env runner actors; 0 samples in the driver.
        cpus_per_worker: what a runner books.
        resources_per_worker: custom resources that pin runners to nodes.
        seed: of weights, environments and sampling.
        evaluation: held-out environment, played greedily; none by default.
        evaluation_episodes: of an evaluation.
        evaluate_every: iterations.
        torch_threads: of every process; more than one is slower on busy machines.

    Raises:
        MissingExtraError: Ray with RLlib is not installed.
        InvalidInputError: fewer than 16 environments a runner, or settings that do not fit.
    """
    import torch

    import_ray()
    hush()
    try:
        from ray.rllib.algorithms.ppo import PPOConfig
        from ray.rllib.core.rl_module.rl_module import RLModuleSpec

        from rl.rllib_module import PolicyModule
    except ImportError as error:
        raise MissingExtraError(f'RLlib is incomplete ({error}). Try `pip install "surco[rl]"`.') from error
    if num_envs < LEAST_ENVS:
        raise InvalidInputError(f"Expected `num_envs` >= {LEAST_ENVS}, got {num_envs}: sampling would cost a multiple.")
    if workers < 0:
        raise InvalidInputError(f"Expected `workers` >= 0, got {workers}.")
    torch.set_num_threads(torch_threads)
    ppo = ppo or PpoSettings()
    shown = env.vector(1, seed=seed)
    config = policy_config(policy, shown, settings or {})
    policies.build(policy, config)  # tell of wrong settings now, not from a worker
    model = {"policy": policy, "config": config, "seed": seed}
    built = (
        PPOConfig()
        .environment(VectorEntry, env_config={"id": env.id, "options": dict(env.options), "seed": seed})
        .env_runners(
            num_env_runners=workers,
            num_envs_per_env_runner=num_envs,
            num_cpus_per_env_runner=cpus_per_worker,  # type: ignore[arg-type] - fractions are fine
            custom_resources_per_env_runner=dict(resources_per_worker or {}),
            gym_env_vectorize_mode="vector_entry_point",
            batch_mode="truncate_episodes",
            rollout_fragment_length="auto",
            sample_timeout_s=SAMPLE_SECONDS,
        )
        .fault_tolerance(
            restart_failed_env_runners=True,
            ignore_env_runner_failures=False,
            env_runner_health_probe_timeout_s=PROBE_SECONDS,
            env_runner_restore_timeout_s=RESTORE_SECONDS,
            delay_between_env_runner_restarts_s=RESTART_SECONDS,
        )
        .rl_module(rl_module_spec=RLModuleSpec(module_class=PolicyModule, model_config=model))
        .training(
            train_batch_size_per_learner=ppo.steps_per_iteration,
            minibatch_size=ppo.minibatch,
            num_epochs=ppo.epochs,
            lr=ppo.step_size,
            gamma=ppo.discount,
            lambda_=ppo.smoothing,
            clip_param=ppo.clip,
            entropy_coeff=ppo.entropy,
            vf_loss_coeff=ppo.value_weight,
            vf_clip_param=float("inf"),
            grad_clip=ppo.max_norm,
            use_kl_loss=False,
        )
        .callbacks(on_episode_end=_tell)
        .debugging(seed=seed, log_level="ERROR")
        .framework("torch")
    )
    if torch_threads == 1:
        built.python_environment(extra_python_environs_for_worker={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
    if evaluation is not None:
        built.evaluation(
            evaluation_interval=evaluate_every,
            evaluation_duration=evaluation_episodes,
            evaluation_duration_unit="episodes",
            evaluation_num_env_runners=0,
            evaluation_config={
                "explore": False,
                "env_config": {"id": evaluation.id, "options": dict(evaluation.options), "seed": seed + 1},
            },
        )
    return built


def _tell(*, episode: Any, metrics_logger: Any, **others: Any) -> None:
    """Log what the environment tells of an ended episode (cost over bound, whether it is feasible)."""
    infos = episode.get_infos(-1)
    for name, value in infos.get("episode", {}).items():
        if name not in ("r", "l"):
            metrics_logger.log_value(f"figure_{name}", float(value), reduce="mean", clear_on_reduce=True)


class VectorEntry:
    """What RLlib calls to make environments: with ``num_envs`` a vector environment from plain data."""

    def __new__(cls, context: Mapping[str, Any]) -> Any:
        """The environment of a runner; each runner has a seed of its own."""
        index = int(getattr(context, "worker_index", 0))
        spec = EnvSpec(str(context["id"]), context["options"])
        return spec.vector(int(context.get("num_envs", 1)), seed=1_000_003 * index + int(context["seed"]))


def policy_of(algorithm: Any) -> nn.Module:
    """The policy that an algorithm trains, as a plain module (not a copy)."""
    return algorithm.learner_group._learner.module["default_policy"].policy


def load_policy(checkpoint: str | Path) -> nn.Module:
    """The policy of an RLlib checkpoint, without a cluster.

    Raises:
        InvalidInputError: no such checkpoint.
    """
    import_ray()
    from ray.rllib.core.rl_module.rl_module import RLModule

    folder = Path(checkpoint) / MODULE_FOLDER
    if not folder.is_dir():
        raise InvalidInputError(f"Expected an RLlib checkpoint in `{checkpoint}`, but there is no {MODULE_FOLDER}.")
    hush()
    module: Any = RLModule.from_checkpoint(str(folder.absolute()))
    return module.policy


def hush() -> None:
    """Keep RLlib's notices about itself out of logs; errors of training are raised, not logged."""
    for name in ("ray.rllib", "ray.tune", "ray.train", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger(name).addFilter(_is_news)
    logging.getLogger("ray._common.deprecation").setLevel(logging.ERROR)
    for text in _NOISE:
        warnings.filterwarnings("ignore", message=f".*{text.replace('(', '[(]')}.*")
    for category in (DeprecationWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module=r"ray\..*")


def _is_news(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return not any(noise in text for noise in _NOISE)
