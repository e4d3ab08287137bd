"""Environment steps per CPU second of whole training loops: the native trainer and sb3-contrib's MaskablePPO.

    python -m benchmarks.rl_trainers native --envs 64
    PYTHONPATH=FOLDER_OF_SB3 python -m benchmarks.rl_trainers sb3 --envs 16

Both train the same network on the same environment rules with the same batch sizes, epochs and optimizer; each loop
runs one iteration to warm up and is then timed by ``time.process_time``. stable-baselines3 and sb3-contrib are no
dependency of this project: install them into a folder
(``pip install --no-deps --target FOLDER stable-baselines3 sb3-contrib``).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rl.config import PpoSettings
from rl.game_rules import GameRules
from rl.native import train
from rl.planning_env import NetworkPlanningEnv
from rl.planning_game import N_CONTEXT, N_LINK, N_NODE
from rl.policy import build
from rl.vector_env import VectorPlanningEnv
from surco import provenance as origin

PROBLEMS = ["planning/nobel-germany-v0"]
RULES = GameRules(proof_share=1.0 / 16.0)
NETWORK = {"link_features": N_LINK, "node_features": N_NODE, "context_features": N_CONTEXT, "heads": RULES.heads}
SHAPE = {"width": 48, "rounds": 4}


def native(envs: int, settings: PpoSettings, iterations: int) -> dict[str, Any]:
    """The native trainer on the batched environment."""
    lines: list[dict[str, Any]] = []
    train(
        lambda seed: VectorPlanningEnv(envs, PROBLEMS, rules=RULES, seed=seed),
        build("planning-gnn", {**NETWORK, **SHAPE}, seed=0),
        steps=settings.steps_per_iteration * (iterations + 1),
        seed=0,
        settings=settings,
        target_kl=1e9,
        callback=lines.append,
    )
    timed = lines[1:]
    steps = timed[-1]["steps"] - lines[0]["steps"]
    used = sum(line["cpu_s"] for line in timed)
    return {"steps": steps, "cpu_s": used, "sampling_cpu_s": sum(line["sampling_cpu_s"] for line in timed)}


def sb3(envs: int, settings: PpoSettings, iterations: int) -> dict[str, Any]:
    """MaskablePPO with a policy class around the same module, on plain environments."""
    from sb3_contrib import MaskablePPO  # pyright: ignore[reportMissingImports]
    from sb3_contrib.common.maskable.policies import (  # pyright: ignore[reportMissingImports]
        MaskableMultiInputActorCriticPolicy,
    )
    from stable_baselines3.common.callbacks import BaseCallback  # pyright: ignore[reportMissingImports]
    from stable_baselines3.common.vec_env import DummyVecEnv  # pyright: ignore[reportMissingImports]

    class SamePolicy(MaskableMultiInputActorCriticPolicy):
        """Distribution and value of the planning policy."""

        def _build(self, lr_schedule: Any) -> None:
            super()._build(lr_schedule)
            self.graph = build("planning-gnn", {**NETWORK, **SHAPE}, seed=0)
            for name in ("mlp_extractor", "action_net", "value_net", "features_extractor"):
                delattr(self, name)
            for name in ("pi_features_extractor", "vf_features_extractor"):
                if name in self._modules:
                    delattr(self, name)
            self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

        def _both(self, obs: dict[str, Tensor], masks: Any) -> tuple[Any, Tensor]:
            logits, value = self.graph(obs)
            distribution = self.action_dist.proba_distribution(action_logits=logits)
            if masks is not None:
                distribution.apply_masking(masks)
            return distribution, value.unsqueeze(-1)

        def forward(self, obs: Any, deterministic: bool = False, action_masks: Any = None) -> Any:
            distribution, value = self._both(obs, action_masks)
            actions = distribution.get_actions(deterministic=deterministic)
            return actions, value, distribution.log_prob(actions)

        def evaluate_actions(self, obs: Any, actions: Tensor, action_masks: Any = None) -> Any:
            distribution, value = self._both(obs, action_masks)
            return value, distribution.log_prob(actions), distribution.entropy()

        def predict_values(self, obs: Any) -> Tensor:
            return self.graph(obs)[1].unsqueeze(-1)

    class Clock(BaseCallback):
        """CPU seconds and steps at the start of each rollout."""

        def __init__(self) -> None:
            super().__init__()
            self.marks: list[tuple[int, float]] = []

        def _on_rollout_start(self) -> None:
            self.marks.append((self.num_timesteps, time.process_time()))

        def _on_step(self) -> bool:
            return True

    vector = DummyVecEnv([lambda: NetworkPlanningEnv(PROBLEMS, rules=RULES) for _ in range(envs)])
    model = MaskablePPO(
        SamePolicy,
        vector,
        learning_rate=settings.step_size,
        n_steps=settings.steps_per_iteration // envs,
        batch_size=settings.minibatch,
        n_epochs=settings.epochs,
        gamma=settings.discount,
        gae_lambda=settings.smoothing,
        ent_coef=settings.entropy,
        seed=0,
        device="cpu",
    )
    clock = Clock()
    model.learn(settings.steps_per_iteration * (iterations + 1), callback=clock)
    clock.marks.append((model.num_timesteps, time.process_time()))
    return {"steps": clock.marks[-1][0] - clock.marks[1][0], "cpu_s": clock.marks[-1][1] - clock.marks[1][1]}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trainer", choices=("native", "sb3"))
    parser.add_argument("--envs", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/reference/rl_trainers.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = PpoSettings(steps_per_iteration=2048, minibatch=512, epochs=4)
    found = {"native": native, "sb3": sb3}[options.trainer](options.envs, settings, options.iterations)
    row = {
        "trainer": options.trainer,
        "envs": options.envs,
        **found,
        "steps_per_cpu_s": found["steps"] / found["cpu_s"],
        "date": origin.now(),
        "commit": origin.commit(),
        "machine": origin.machine(),
        "versions": origin.versions(),
        "network": PROBLEMS[0],
        "proof_share": RULES.proof_share,
        "policy": SHAPE,
        "command": f"python -m benchmarks.rl_trainers {options.trainer} --envs {options.envs} "
        f"--iterations {options.iterations}",
    }
    rows = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else []
    rows = [r for r in rows if (r["trainer"], r["envs"]) != (row["trainer"], row["envs"])] + [row]
    options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print({key: row[key] for key in ("trainer", "envs", "steps", "cpu_s", "steps_per_cpu_s")}, flush=True)


if __name__ == "__main__":
    main()
