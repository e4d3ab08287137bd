"""Training of the planning policy from scratch: labels by the exact engine, imitation, then reinforcement learning.

``python -m rl.planning_training --out FOLDER`` repeats the training of the shipped policy.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from problems.planning.decomposition import Decomposition
from problems.planning.instance import PlanningInstance
from problems.planning.network import compile_instance
from rl.game_rules import GameRules
from rl.generator import HELD_OUT, random_instance, training_instances
from rl.imitation import imitate
from rl.planner import rollout_plans
from rl.planning_game import N_CONTEXT, N_LINK, N_NODE
from rl.policy import build, save
from rl.topology import Topology
from rl.vector_env import VectorPlanningEnv
from surco.atomic import write_text

VALIDATION_SEEDS = range(900_000, 900_036)  # of instances that no training seed draws


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """All that training depends on.

    Attributes:
        instances: random networks; the SNDlib networks of ``rl.generator.TRAINED_ON`` come on top.
        nodes: fewest and most nodes of the random ones.
        seed: of networks, weights, actions.
        width, rounds: of the policy.
        imitation_rounds: see ``rl.imitation.imitate``.
        envs: slots played at once.
        proof_share: see ``GameRules``.
        label_gap: relative gap at which the exact engine's plan becomes a teacher.
        validate_every: rounds.
        start_share: see ``GameRules``.
        average: decay, a round, of the moving average of the weights, which is what is validated and kept.
    """

    instances: int = 400
    nodes: tuple[int, int] = (8, 32)
    seed: int = 1
    width: int = 48
    rounds: int = 4
    imitation_rounds: int = 240
    envs: int = 64
    proof_share: float = 0.1
    label_gap: float = 2e-3
    validate_every: int = 20
    start_share: float = 1.0
    average: float = 0.9


def labeled(instance: PlanningInstance, *, gap: float, seconds: float = 20.0) -> Topology:
    """A topology with the exact engine's plan as target and its bound to normalize rewards."""
    network = compile_instance(instance)
    engine = Decomposition(network, tolerance=gap, cutset_size=4, most_cutsets=1000)
    bounds = engine.run(seconds, clock=time.process_time)
    return Topology(network, bound=bounds.lower, target=engine.best)


def figures_on(topologies: Sequence[Topology], policy: nn.Module) -> dict[str, float]:
    """Mean over topologies of greedy plan and trimmed greedy plan over the bound, in percent above it."""
    plain, trimmed = [], []
    for topology in topologies:
        plans = rollout_plans(topology, policy)
        if not plans:
            plain.append(np.inf)
            trimmed.append(np.inf)
            continue
        plain.append(plans[0].price / topology.bound)
        trimmed.append(topology.price(topology.trimmed(plans[0].units)) / topology.bound)
    return {
        "greedy_percent": 100.0 * (float(np.mean(plain)) - 1.0),
        "trim_percent": 100.0 * (float(np.mean(trimmed)) - 1.0),
    }


def new_policy(config: TrainingConfig) -> nn.Module:
    """The policy before training."""
    sizes = {"link_features": N_LINK, "node_features": N_NODE, "context_features": N_CONTEXT}
    heads = GameRules().heads
    return build(
        "planning-gnn",
        {**sizes, "heads": heads, "width": config.width, "rounds": config.rounds, "start_share": config.start_share},
        seed=config.seed,
    )


class Curve:
    """Lines of progress: kept, written as JSONL, shown on standard error; the best validation's weights are saved."""

    def __init__(self, out: Path, about: Mapping[str, Any]) -> None:
        self.out, self.about = out, about
        self.lines: list[dict[str, Any]] = []
        self.best = float("inf")
        out.mkdir(parents=True, exist_ok=True)

    def add(self, policy: nn.Module, **line: Any) -> None:
        """Note a validation, and save the policy if it is the best so far."""
        line = {key: round(value, 4) if isinstance(value, float) else value for key, value in line.items()}
        self.lines.append({**line, "cpu_s": round(time.process_time(), 1)})
        write_text(self.out / "curve.jsonl", "".join(json.dumps(row) + "\n" for row in self.lines))
        print(json.dumps(self.lines[-1]), file=sys.stderr, flush=True)  # noqa: T201 - a command
        if line["trim_percent"] < self.best:
            self.best = line["trim_percent"]
            save(policy, self.out, about={**self.about, "validation_trim_percent": self.best})


def train_by_imitation(config: TrainingConfig, out: str | Path) -> nn.Module:
    """Labels, then imitation; the weights of the best validation end up in ``out``, the last ones are returned."""
    torch.set_num_threads(1)
    about = {
        "command": "python -m rl.planning_training --out FOLDER" + _arguments(config),
        "config": asdict(config),
        "date": datetime.now(UTC).date().isoformat(),
        "held_out": list(HELD_OUT),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    instances = training_instances(config.instances, seed=config.seed, nodes=config.nodes)
    topologies = [labeled(instance, gap=config.label_gap) for instance in instances]
    validation = [labeled(random_instance(seed), gap=config.label_gap) for seed in VALIDATION_SEEDS]
    rules = GameRules(proof_share=config.proof_share, start_share=config.start_share)
    env = VectorPlanningEnv(config.envs, topologies, rules=rules, seed=config.seed)
    policy = new_policy(config)
    curve = Curve(Path(out), about)
    curve.add(policy, stage="untrained", round=0, **figures_on(validation, policy))

    averaged = AveragedModel(policy, multi_avg_fn=get_ema_multi_avg_fn(config.average)).eval()

    def note(number: int, gap: float, error: float) -> None:
        averaged.update_parameters(policy)
        if (number + 1) % config.validate_every == 0:
            figures = figures_on(validation, averaged.module)
            line = {"round": number + 1, "cross_entropy": gap, "value_error": error}
            curve.add(averaged.module, stage="imitation", **line, **figures)

    imitate(env, policy, rounds=config.imitation_rounds, seed=config.seed, callback=note)
    return averaged.module


def _arguments(config: TrainingConfig) -> str:
    """Command-line arguments of what differs from the defaults."""
    plain, given = asdict(TrainingConfig()), asdict(config)
    return "".join(f" --{key.replace('_', '-')} {given[key]}" for key in given if given[key] != plain[key])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Train the planning policy.")
    parser.add_argument("--out", required=True, type=Path, help="folder of policy and curve")
    defaults = TrainingConfig()
    for name in (
        "instances",
        "seed",
        "width",
        "rounds",
        "imitation_rounds",
        "validate_every",
        "start_share",
        "average",
    ):
        default = getattr(defaults, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    options = vars(parser.parse_args(arguments))
    out = options.pop("out")
    train_by_imitation(TrainingConfig(**options), out)


if __name__ == "__main__":
    main()
