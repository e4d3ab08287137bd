"""Message passing over undirected graphs: features of nodes and edges -> costs of the edges."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surco.networks.layers import masked_max, masked_mean, perceptron


class EdgeNetwork(nn.Module):
    """Costs [B, E] = mean weights + (slope of the graph, corrected) * variances, each edge corrected a little.

        c_e = w_0e exp(a_e) + slope' w_1e exp(b_e),   slope' = exp(g) slope + h,   clipped at zero

    with g, h from the pooled graph and a, b from the edge. Before training a = b = g = h = 0: the linearization that
    came with the features. Messages go both ways along an edge and are averaged at a node, so neither the order of
    nodes and edges nor the direction in which an edge is written matters.

    Features: ``weights`` [B, 2, E], ``edge`` [B, E, C], ``node`` [B, N, C'], ``ends`` [B, 2, E], ``context`` [B, G],
    ``slope`` [B], ``variables`` [B, E], ``exists`` [B, N].

    Args:
        edges: channels C of an edge.
        nodes: channels C' of a node.
        context: channels G of the graph.
        hidden: width.
        rounds: of messages.
        reach: largest |a| and |b|.
    """

    def __init__(
        self, edges: int, nodes: int, context: int, *, hidden: int = 32, rounds: int = 3, reach: float = 1.0
    ) -> None:
        super().__init__()
        self.reach = reach
        self.node = nn.Linear(nodes + context, hidden)
        self.edge = nn.Linear(edges + context, hidden)
        self.messages = nn.ModuleList(perceptron(2 * hidden, hidden, hidden) for _ in range(rounds))
        self.updates = nn.ModuleList(perceptron(3 * hidden, hidden, hidden) for _ in range(rounds))
        self.graph = perceptron(4 * hidden + context, hidden, 2, is_quiet=True)
        self.correction = perceptron(3 * hidden + context, hidden, 2, is_quiet=True)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Costs [B, E], non-negative."""
        mask, exists = features["variables"], features["exists"]
        u, v = features["ends"].unbind(1)
        context = features["context"]
        context = torch.sign(context) * torch.log1p(context.abs())
        node = self.node(torch.cat([features["node"], _spread(context, exists)], -1)) * exists[..., None]
        edge = self.edge(torch.cat([features["edge"], _spread(context, mask)], -1)) * mask[..., None]
        degree = node.new_zeros(exists.shape)
        degree = degree.scatter_add(1, u, mask).scatter_add(1, v, mask).clamp(min=1.0)[..., None]
        for message, update in zip(self.messages, self.updates, strict=True):
            to_v = message(torch.cat([_at(node, u), edge], -1)) * mask[..., None]
            to_u = message(torch.cat([_at(node, v), edge], -1)) * mask[..., None]
            heard = torch.zeros_like(node)
            heard = heard.scatter_add(1, _index(v, to_v), to_v).scatter_add(1, _index(u, to_u), to_u) / degree
            pooled = masked_mean(node, exists).expand_as(node)
            node = (node + update(torch.cat([node, heard, pooled], -1))) * exists[..., None]
        pooled = [masked_mean(node, exists), masked_max(node, exists), masked_mean(edge, mask), masked_max(edge, mask)]
        graph = self.graph(torch.cat([torch.cat(pooled, -1)[:, 0], context], -1))
        at_u, at_v = _at(node, u), _at(node, v)
        local = self.correction(torch.cat([edge, at_u + at_v, (at_u - at_v).abs(), _spread(context, mask)], -1))
        local = self.reach * torch.tanh(local / self.reach)
        slope = features["slope"] * graph[:, 0].clamp(-3.0, 3.0).exp() + graph[:, 1]
        first, second = features["weights"].unbind(1)
        costs = first * local[..., 0].exp() + slope[:, None] * second * local[..., 1].exp()
        # A hair above zero, with a gradient below it, so that an edge that was clipped can come back.
        return nn.functional.softplus(costs, beta=50.0) * mask


def _spread(context: Tensor, mask: Tensor) -> Tensor:
    """Context [B, G] for every one of S members, [B, S, G]."""
    return context[:, None].expand(-1, mask.shape[1], -1)


def _index(members: Tensor, like: Tensor) -> Tensor:
    return members[..., None].expand(-1, -1, like.shape[-1])


def _at(node: Tensor, members: Tensor) -> Tensor:
    """Node states [B, N, H] at positions [B, E], as [B, E, H]."""
    return node.gather(1, _index(members, node))
