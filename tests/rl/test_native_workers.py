"""Native training with rollout workers on Ray: a worker that dies is replaced, and the steps come out exactly."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np

from rl.config import PpoSettings
from rl.native import train
from rl.planning_game import N_CONTEXT, N_LINK, N_NODE
from rl.policy import build, load
from rl.ray_session import session
from rl.vector_env import VectorPlanningEnv


class DiesOnce(VectorPlanningEnv):
    """Takes its process with it in its 20th step, if nobody has done so before."""

    def __init__(self, *, marker: str, seed: int) -> None:
        super().__init__(4, seed=seed, proof_share=0.0)
        self.marker, self.count = marker, 0

    def step(self, actions: np.ndarray) -> Any:
        self.count += 1
        if self.count == 20:
            try:
                os.close(os.open(self.marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os._exit(1)
        return super().step(actions)


def make(seed: int, *, marker: str) -> VectorPlanningEnv:
    return DiesOnce(marker=marker, seed=seed)


def test_a_dead_worker_is_replaced_and_a_resumed_crew_goes_on(tmp_path: Path) -> None:
    config = {"link_features": N_LINK, "node_features": N_NODE, "context_features": N_CONTEXT, "heads": 4}
    policy = build("planning-gnn", {**config, "width": 8, "rounds": 1}, seed=0)
    maker = functools.partial(make, marker=str(tmp_path / "died"))
    settings = PpoSettings(steps_per_iteration=64, minibatch=64, epochs=1)
    lines: list[dict[str, Any]] = []
    options: dict[str, Any] = {
        "seed": 0,
        "out": tmp_path / "run",
        "workers": 2,
        "settings": settings,
        "checkpoint_every": 3,
    }
    with session("local", cpus=2):
        train(maker, policy, steps=300, callback=lines.append, **options)
        assert (tmp_path / "died").exists()
        assert lines[-1]["steps"] == 300
        train(maker, policy, steps=400, resume=True, callback=lines.append, **options)
    assert lines[-1]["steps"] == 400
    assert [line["steps"] for line in lines] == sorted(line["steps"] for line in lines)
    assert load(tmp_path / "run").policy_name == "planning-gnn"
