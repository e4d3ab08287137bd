"""A policy of this project as an RLlib module (new API stack). Imported by `rl.rllib` only: it needs Ray."""

from __future__ import annotations

from typing import Any

from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

from rl import policy as policies


class PolicyModule(TorchRLModule, ValueFunctionAPI):
    """Around any policy of `rl.policy`; ``model_config`` holds ``policy`` (name), ``config`` and ``seed``.

    Masked logits are the inputs of the action distribution, in sampling and in the loss alike.
    """

    def setup(self) -> None:
        """Build the policy."""
        settings: Any = self.model_config
        self.policy = policies.build(settings["policy"], settings["config"], seed=settings.get("seed"))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        logits, _ = self.policy(batch[Columns.OBS])
        return {Columns.ACTION_DIST_INPUTS: logits}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        logits, value = self.policy(batch[Columns.OBS])
        # The value is as good as known: handed on where RLlib would hand an embedding to the value head.
        return {Columns.ACTION_DIST_INPUTS: logits, Columns.EMBEDDINGS: value}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Values [B]; ``embeddings`` are those of the training pass."""
        return self.policy(batch[Columns.OBS])[1] if embeddings is None else embeddings
