"""Items to bins: message passing over a soft plan that starts at a given one and is refined in rounds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surco.networks.layers import masked_max, masked_mean, masked_softmax, perceptron


class AssignmentNetwork(nn.Module):
    """Costs [B, T, D] of putting item t into bin d.

    A round looks at the soft plan P = softmax(logits): the loads of every bin are sums of item weights under P, bins
    exchange messages through their mean and maximum, items hear from their bins with P as attention weights, and each
    pair (item, bin) moves its logit by what the bin would look like with the item. The starting plan breaks the
    symmetry of identical bins: two bins with the same contents are treated alike, and get the same costs.

    Equivariant to the order of items and of bins, given that the starting plan is reordered with them. Before training
    the costs reproduce the starting plan.

    Features: ``weights`` [B, F, T, D], ``item`` [B, T, C], ``bin`` [B, D, C'], ``context`` [B, F], ``start``,
    ``allowed`` and ``variables`` [B, T, D].

    Args:
        items: channels C of an item.
        bins: channels C' of a bin.
        weights: kinds F of weights.
        hidden: width.
        rounds: of refinement, each with its own parameters.
        stay: first logit of the starting plan.
    """

    def __init__(
        self, items: int, bins: int, weights: int, *, hidden: int = 48, rounds: int = 4, stay: float = 4.0
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.stay = nn.Parameter(torch.tensor(float(stay)))
        self.item = perceptron(items + 2 * weights, hidden, hidden)
        self.rounds = nn.ModuleList(_Round(bins, weights, hidden) for _ in range(rounds))

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Costs [B, T, D], non-negative: zero at the preferred bin of each item."""
        mask = features["variables"]
        pairs = mask * features["allowed"]
        has_item, has_bin = mask.amax(-1), mask.amax(-2)
        # Loads relative to the mean load of a bin, so that a balanced plan has loads of one.
        weights = features["weights"] * mask[:, None]
        count = has_bin.sum(-1).clamp(min=1.0)[:, None, None]
        total = (weights.sum(-1) / count).sum(-1) / count[..., 0]  # [B, F]
        weights = (weights / total.clamp(min=1e-30)[..., None, None]).movedim(1, -1)  # [B, T, D, F]
        size = weights.sum(2) / count  # [B, T, F]
        context = features["context"][:, None].expand(-1, size.shape[1], -1)
        item = self.item(torch.cat([features["item"], (size + 1e-4).log(), context], dim=-1))
        item = item * has_item[..., None]
        logits = self.stay * features["start"]
        state = features["bin"].new_zeros(*has_bin.shape, self.hidden)
        for refine in self.rounds:
            change, state = refine(logits, item, weights, state, features, pairs, has_item, has_bin)
            logits = logits + change
        best = logits.masked_fill(pairs == 0, torch.finfo(logits.dtype).min).amax(-1, keepdim=True)
        return torch.where(pairs > 0, best - logits, (mask - pairs) * 1e3) * mask


class _Round(nn.Module):
    """One round: bins look at their contents, items at their bins, pairs move their logits."""

    def __init__(self, bins: int, weights: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.bin = perceptron(bins + 3 * weights + 2 * hidden, hidden, hidden)
        self.exchange = perceptron(3 * hidden, hidden, hidden)
        self.of_item = nn.Linear(2 * hidden, hidden)
        self.of_bin = nn.Linear(hidden, hidden, bias=False)
        self.of_pair = nn.Linear(2 * weights + 3, hidden, bias=False)
        last = nn.Linear(hidden, 1, bias=False)
        nn.init.zeros_(last.weight)
        self.last = nn.Sequential(nn.GELU(), last)

    def forward(
        self,
        logits: Tensor,
        item: Tensor,
        weights: Tensor,
        state: Tensor,
        features: dict[str, Tensor],
        pairs: Tensor,
        has_item: Tensor,
        has_bin: Tensor,
    ) -> tuple[Tensor, Tensor]:
        plan = masked_softmax(logits, pairs)  # [B, T, D]
        loads = torch.einsum("btdf,btd->bdf", weights, plan)
        contents = torch.einsum("btd,bth->bdh", plan, item)
        context = features["context"][:, None].expand(-1, loads.shape[1], -1)
        own = torch.cat([features["bin"], loads, (loads + 1e-3).log(), context, contents, state], dim=-1)
        own = self.bin(own)
        seen = torch.cat([own, masked_mean(own, has_bin).expand_as(own), masked_max(own, has_bin).expand_as(own)], -1)
        state = (own + self.exchange(seen)) * has_bin[..., None]
        heard = torch.einsum("btd,bdh->bth", plan, state)
        with_item = loads[:, None] + (1.0 - plan)[..., None] * weights  # what the bin would hold
        mean = masked_mean(loads, has_bin)[:, None]
        pair = torch.cat(
            [with_item - mean, weights, plan[..., None], features["start"][..., None], logits[..., None] / 8.0], dim=-1
        )
        mixed = self.of_item(torch.cat([item, heard], dim=-1))[:, :, None] + self.of_bin(state)[:, None]
        change = self.last(mixed + self.of_pair(pair)).squeeze(-1)
        return change * pairs, state
