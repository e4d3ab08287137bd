"""The planning policy: message passing on the line graph of the network, with parameters that know no sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rl.policy import ILLEGAL, Observation, masked, register
from surco.errors import InvalidInputError


def _mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))


class LineGraphRound(nn.Module):
    """One exchange: links -> their end nodes -> all links that share an end node (parallel and antiparallel ones too).

    The message to a link is the sum over its two ends of the mean of the *other* links there, which is the mean over
    its neighbors in the true line graph, end by end; node states and the network's mean come along.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.node = nn.Linear(2 * width, width)
        self.own = nn.Linear(width, width)
        self.neighbor = nn.Linear(width, width, bias=False)
        self.end = nn.Linear(width, width, bias=False)
        self.whole = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, link: Tensor, node: Tensor, at: Tensor, degree: Tensor, mask: Tensor, count: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Links [B, M, d], nodes [B, N, d], incidence [B, N, M], its row sums [B, N, 1], mask [B, M, 1], [B, 1, 1]."""
        total = at @ link
        node = node + torch.relu(self.node(torch.cat([node, total / degree.clamp(min=1.0)], dim=-1)))
        back = at.transpose(1, 2)
        # of each end: (sum of its links - the link itself) / (its degree - 1); the weights 1 / (degree - 1) go first
        weight = 1.0 / (degree - 1.0).clamp(min=1.0)
        others = back @ (total * weight) - link * (back @ weight)
        whole = (link * mask).sum(dim=1, keepdim=True) / count
        mixed = self.own(link) + self.neighbor(others) + self.end(back @ node) + self.whole(whole)
        return self.norm(link + self.out(torch.relu(mixed))) * mask, node


@register("planning-gnn")
class PlanningPolicy(nn.Module):
    """Scores of (link, units) actions and the value of a state of ``surco/NetworkPlanning-v0``.

    Parameters depend on the numbers of features and of unit sizes only, so one policy serves every network. Padding
    rows change nothing; permuting links (or nodes, or the two ends of a link) permutes the logits and leaves the value.

    Args:
        link_features: columns of ``observation["links"]``.
        node_features: columns of ``observation["nodes"]``.
        context_features: columns of ``observation["context"]``.
        heads: actions of each link: unit sizes to add, then (where the environment allows it) to remove.
        width: of all hidden states.
        rounds: of message passing.
        start_share: of the games that it learns in (see ``rl.game_rules``); plans are made from the same start.
    """

    def __init__(
        self,
        *,
        link_features: int,
        node_features: int,
        context_features: int,
        heads: int,
        width: int = 64,
        rounds: int = 3,
        start_share: float = 0.0,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "link_features": link_features,
            "node_features": node_features,
            "context_features": context_features,
            "heads": heads,
            "width": width,
            "rounds": rounds,
            "start_share": start_share,
        }
        self.start_share = start_share
        self.link_in = _mlp(link_features + context_features, width, width)
        self.node_in = nn.Linear(node_features, width)
        self.rounds = nn.ModuleList(LineGraphRound(width) for _ in range(rounds))
        self.head = _mlp(width, width, heads)
        self.value = _mlp(2 * width + context_features, width, 1)
        last = self.head[2]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():  # nearly uniform at first: exploration is left to the mask
            last.weight.mul_(0.1)
            last.bias.zero_()

    def forward(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Observations of B networks padded to N nodes and M links -> logits [B, M * heads], values [B].

        Raises:
            InvalidInputError: other numbers of features than the policy was made for.
        """
        if not torch.jit.is_tracing() and len(observation["link_mask"]):  # pyright: ignore[reportPrivateImportUsage]
            self._check(observation)
            most = int(observation["link_mask"].sum(dim=1).max())
            if most < observation["link_mask"].shape[1]:  # rows of padding cost as much as real ones: leave them out
                logits, value = self(_cropped(observation, most, self.config["heads"]))
                spare = observation["action_mask"].shape[1] - logits.shape[1]
                return torch.nn.functional.pad(logits, (0, spare), value=ILLEGAL), value
        link_mask, node_mask = observation["link_mask"].unsqueeze(-1), observation["node_mask"].unsqueeze(-1)
        context, ends = observation["context"], observation["ends"].long()
        batch, most = link_mask.shape[0], link_mask.shape[1]
        numbers = torch.arange(node_mask.shape[1], device=ends.device).view(1, -1, 1)
        at = ((ends[:, None, :, 0] == numbers) | (ends[:, None, :, 1] == numbers)).to(context.dtype)
        at = at * link_mask.transpose(1, 2)
        degree = at.sum(dim=2, keepdim=True)
        count = link_mask.sum(dim=1, keepdim=True).clamp(min=1.0)
        spread = context.unsqueeze(1).expand(batch, most, context.shape[1])
        link = self.link_in(torch.cat([observation["links"], spread], dim=-1)) * link_mask
        node = torch.relu(self.node_in(observation["nodes"])) * node_mask
        for exchange in self.rounds:
            link, node = exchange(link, node, at, degree, link_mask, count)
        logits = self.head(link).reshape(batch, -1)
        mean = link.sum(dim=1) / count.squeeze(1)
        top = torch.where(link_mask > 0.5, link, torch.full_like(link, -1e4)).amax(dim=1)
        value = self.value(torch.cat([mean, top, context], dim=-1)).squeeze(-1)
        return masked(logits, observation["action_mask"]), value

    def _check(self, observation: Observation) -> None:
        for key in ("links", "nodes", "context"):
            expected, count = self.config[f"{key.removesuffix('s')}_features"], observation[key].shape[-1]
            if count != expected:
                raise InvalidInputError(
                    f"Expected `{key}` of the {expected} features that this policy was trained on, got {count}: the "
                    "policy comes from another version of the environment. Train it again."
                )


def _cropped(observation: Observation, links: int, heads: int) -> Observation:
    """The observation with its first ``links`` links alone."""
    cut = {key: observation[key][:, :links] for key in ("links", "ends", "link_mask")}
    return {**observation, **cut, "action_mask": observation["action_mask"][:, : links * heads]}


def export_onnx(policy: PlanningPolicy, observation: Observation, path: str) -> None:
    """Write the policy as ONNX; batch, nodes, links and actions stay dynamic.

    Args:
        policy: on the CPU.
        observation: an example batch.
        path: of the file.
    """
    keys = ["nodes", "links", "context", "ends", "node_mask", "link_mask", "action_mask"]
    axes = {key: {0: "batch"} for key in [*keys, "logits", "value"]}
    for key, size in (("nodes", "nodes"), ("node_mask", "nodes"), ("links", "links"), ("ends", "links")):
        axes[key][1] = size
    axes["link_mask"][1] = "links"
    axes["action_mask"][1] = axes["logits"][1] = "actions"

    class Positional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.policy = policy

        def forward(self, *values: Tensor) -> tuple[Tensor, Tensor]:
            return self.policy(dict(zip(keys, values, strict=True)))

    torch.onnx.export(
        Positional().eval(),
        tuple(observation[key] for key in keys),
        path,
        input_names=keys,
        output_names=["logits", "value"],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )
