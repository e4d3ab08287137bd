"""What a plan costs: expert load of every GPU, and tokens sent between nodes.

The model of one MoE layer in one step:

* Tokens start evenly on the GPUs (attention is data parallel), and each is sent to a copy of each of its experts. The
  copy is drawn evenly among the expert's copies, whatever GPU the token is on: this is how static dispatch spreads a
  logical expert over its physical copies, and what EPLB assumes when it divides a load by its copies.
* The load of GPU g is sum_e load_e x_eg / r_e with r_e = sum_g x_eg copies.
* A token is sent once to each node other than its own that serves any of its experts, and forwarded inside the node:
  the two-step all-to-all that DeepSeek-V3 describes (arXiv 2412.19437, section 3.2.2). With p_em, the share of e's
  copies in node m, a recorded token with the experts S reaches node m with chance 1 - prod_{e in S} (1 - p_em), and
  starts elsewhere with chance 1 - 1/N. Without that counting once, or without recorded tokens, every plan has the same
  expected traffic: that is why loads alone do not do.

The layer's cost is (largest GPU load) / (mean GPU load) + weight * (mean number of further nodes per token); the value
of a plan is the mean over layers. A smaller ratio shortens the slowest GPU's experts, fewer nodes shorten dispatch and
combine; their weight is a ratio of two times (see ``problems.moe.instance.DEFAULT_TRAFFIC_WEIGHT``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from problems.moe.instance import Cluster, Routing
from surco.bridge import to_torch

ROWS = 64  # designs times layers whose token products are held at once


class PlanCost:
    """Loads and traffic of designs [..., n] of one instance; torch, differentiable where every expert has a copy."""

    def __init__(self, routing: Routing, cluster: Cluster, weight: float) -> None:
        self.routing, self.cluster, self.weight = routing, cluster, weight
        loads = to_torch(routing.loads)
        self.loads = loads / loads.sum(1, keepdim=True) * cluster.gpus  # [L, E]; 1 is the mean load of a GPU
        self.tokens = torch.from_numpy(routing.tokens)  # [L, P, k]

    def shares(self, x: Tensor) -> Tensor:
        """Share of each expert's tokens on each GPU, [..., n] -> [..., L, E, G]."""
        plan = x.reshape(*x.shape[:-1], self.routing.layers, self.routing.experts, self.cluster.gpus)
        return plan / plan.sum(-1, keepdim=True).clamp(min=1e-9)

    def gpu_loads(self, shares: Tensor) -> Tensor:
        """Loads [..., L, G] of the GPUs, in units of their mean."""
        return torch.einsum("le,...leg->...lg", self.loads.to(shares), shares)

    def node_chances(self, shares: Tensor) -> Tensor:
        """Mean chance [..., L, N] that a token needs each node."""
        lead, layers, nodes = shares.shape[:-3], self.routing.layers, self.cluster.nodes
        parts = shares.reshape(*lead, layers, self.routing.experts, nodes, self.cluster.per_node)
        miss = 1.0 - parts.sum(-1)  # [..., L, E, N]
        layer = torch.arange(layers)[:, None]
        missed = miss[..., layer, self.tokens[:, :, 0], :]
        for i in range(1, self.tokens.shape[2]):
            missed = missed * miss[..., layer, self.tokens[:, :, i], :]
        return (1.0 - missed).mean(-2)

    def further_nodes(self, shares: Tensor) -> Tensor:
        """Mean number of further nodes per token, [..., L, E, G] -> [..., L]; 0 without recorded tokens."""
        if not self.routing.has_tokens or self.cluster.nodes == 1:
            return shares.new_zeros(shares.shape[:-2])
        return self.node_chances(shares).sum(-1) * (1.0 - 1.0 / self.cluster.nodes)

    def value(self, x: Tensor) -> Tensor:
        """Cost [..., n] -> [...]."""
        lead = x.shape[:-1]
        flat = x.reshape(-1, x.shape[-1])
        rows = max(ROWS // self.routing.layers, 1)
        parts = []
        for chunk in flat.split(rows):
            shares = self.shares(chunk)
            cost = self.gpu_loads(shares).amax(-1)
            if self.weight > 0.0:
                cost = cost + self.weight * self.further_nodes(shares)
            parts.append(cost.mean(-1))
        return torch.cat(parts).reshape(lead) if parts else flat.new_zeros(lead)
