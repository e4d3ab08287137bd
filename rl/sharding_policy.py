"""The sharding policy: sets of tables and devices, with parameters that know no sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rl.policy import Observation, masked, register


@register("sharding-set")
class ShardingPolicy(nn.Module):
    """Scores of the devices for the current table, and the value of a state of ``surco/TableSharding-v0``.

    Tables to come are a deep set (a network of each, their masked mean). Devices are states that see the table, the
    context, and in every round the mean and the maximum over all devices. So the policy serves any number of tables
    and devices; padding changes nothing, and permuting the devices permutes the logits.

    Args:
        table_features: columns of ``observation["tables"]``.
        device_features: columns of ``observation["devices"]``.
        context_features: columns of ``observation["context"]``.
        width: of device states.
        rounds: exchanges between the devices.

    Source: Zaheer et al. (2017), "Deep sets"; Zha et al. (2022), "DreamShard", for sums over tables and devices.
    """

    def __init__(
        self, *, table_features: int, device_features: int, context_features: int, width: int = 64, rounds: int = 2
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "table_features": table_features,
            "device_features": device_features,
            "context_features": context_features,
            "width": width,
            "rounds": rounds,
        }
        half = max(width // 2, 1)
        self.coming = nn.Sequential(nn.Linear(table_features, half), nn.ReLU(), nn.Linear(half, half))
        self.shared = nn.Linear(half + table_features + context_features, width)
        self.device = nn.Linear(device_features, width)
        self.rounds = nn.ModuleList(nn.Linear(3 * width, width) for _ in range(rounds))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(rounds))
        score = nn.Linear(width, 1)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), score)
        self.value = nn.Sequential(nn.Linear(3 * width, width), nn.ReLU(), nn.Linear(width, 1))
        with torch.no_grad():  # nearly uniform at first: exploration is left to the mask
            score.weight.mul_(0.1)
            score.bias.zero_()

    def forward(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Observations of B boards padded to T tables and D devices -> logits [B, D], values [B]."""
        table_mask = observation["table_mask"].unsqueeze(-1)
        mask = observation["device_mask"].unsqueeze(-1)
        coming = (self.coming(observation["tables"]) * table_mask).sum(1) / table_mask.sum(1).clamp(min=1.0)
        shared = self.shared(torch.cat([coming, observation["table"], observation["context"]], dim=-1))
        state = torch.relu(self.device(observation["devices"]) + shared.unsqueeze(1)) * mask
        count = mask.sum(1).clamp(min=1.0)
        for exchange, norm in zip(self.rounds, self.norms, strict=True):
            mean, most = _pooled(state, mask, count)
            around = torch.cat([mean, most], dim=-1).unsqueeze(1).expand(-1, state.shape[1], -1)
            state = norm(state + torch.relu(exchange(torch.cat([state, around], dim=-1)))) * mask
        logits = self.head(state).squeeze(-1)
        value = self.value(torch.cat([*_pooled(state, mask, count), shared], dim=-1)).squeeze(-1)
        return masked(logits, observation["action_mask"]), value


def _pooled(state: Tensor, mask: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and maximum over the devices that exist, each [B, d]."""
    most = torch.where(mask > 0.5, state, torch.full_like(state, -1e4)).amax(dim=1)
    return state.sum(dim=1) / count, most
