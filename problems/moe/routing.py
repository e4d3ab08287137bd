"""Drawn routing traces: skewed, co-activated, group-limited, and drifting from window to window.

A token's affinity to expert e is popularity[e] + topic[e] + Gumbel noise, and the router takes the best experts of the
best groups. Popularities are normal (so loads are heavy-tailed, near a Zipf law over the middle ranks); a topic lifts a
few experts, so that they are active together; topics follow a Zipf law. From window to window popularities and the
topics' shares drift as stationary first-order processes.

Source: the group-limited router (a group's score is the sum of its two best affinities) is that of DeepSeek-V3,
arXiv 2412.19437, section 2.1.2. The laws of popularities, topics and drift are choices of this module, not fits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from problems.moe.instance import Index, Routing, whole
from solvers.oracle import Array
from surco.errors import InvalidInputError

SAMPLE = 2048  # recorded tokens a layer
COUNTED = 16384  # tokens behind the loads
CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Router:
    """A router and the traffic it sees.

    Attributes:
        experts: of a layer.
        top_k: experts of a token.
        groups: groups of experts.
        top_groups: groups that one token may use.
        skew: standard deviation of popularities; 0 is an even router.
        topics: number of topics.
        topic_experts: experts that a topic lifts.
        topic_lift: by how much.
        drift: 0 to 1, how far popularities and shares move from one window to the next.
    """

    experts: int
    top_k: int
    groups: int = 1
    top_groups: int = 1
    skew: float = 0.8
    topics: int = 32
    topic_experts: int = 12
    topic_lift: float = 2.5
    drift: float = 0.15

    def __post_init__(self) -> None:
        for name in ("experts", "top_k", "groups", "top_groups", "topics"):
            whole(getattr(self, name), name, minimum=1)
        whole(self.topic_experts, "topic_experts", minimum=0)
        reach = self.top_groups * (self.experts // self.groups)
        if self.experts % self.groups or self.top_groups > self.groups or self.top_k > reach:
            raise InvalidInputError(
                f"Expected groups of one size with room for top_k experts in top_groups of them, got {self.experts} "
                f"experts in {self.groups} groups, top_k {self.top_k} and top_groups {self.top_groups}."
            )
        for name, most in (("skew", 5.0), ("topic_lift", 20.0), ("drift", 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= most:
                raise InvalidInputError(f"Expected `{name}` from 0 to {most:g}, got {value!r}.")

    def window(self, window: int, *, layers: int = 1, seed: int = 0) -> Routing:
        """Loads and recorded tokens of one window of the trace ``seed``; windows of one trace drift into each other.

        Raises:
            InvalidInputError: a window, seed or number of layers that is not a whole number in range.
        """
        whole(window, "window", minimum=0)
        whole(layers, "layers", minimum=1)
        whole(seed, "seed", minimum=0)
        loads, tokens = zip(*(self._layer(seed, layer, window) for layer in range(layers)), strict=True)
        return Routing(np.stack(loads), np.stack(tokens), self.groups)

    def _layer(self, seed: int, layer: int, window: int) -> tuple[Array, Index]:
        fixed = np.random.default_rng([seed, layer, 0])
        popularity = fixed.standard_normal(self.experts)
        appeal = fixed.standard_normal(self.topics)
        lifted = np.zeros((self.topics, self.experts))
        for topic in range(self.topics):
            chosen = fixed.choice(self.experts, min(self.topic_experts, self.experts), replace=False)
            lifted[topic, chosen] = self.topic_lift
        keep = np.sqrt(1.0 - self.drift**2)
        for _ in range(window):
            popularity = keep * popularity + self.drift * fixed.standard_normal(self.experts)
            appeal = keep * appeal + self.drift * fixed.standard_normal(self.topics)
        rank = np.empty(self.topics)
        rank[np.argsort(-appeal)] = np.arange(self.topics)
        share = 1.0 / (rank + 1.0)
        rng = np.random.default_rng([seed, layer, 1, window])
        tokens = np.concatenate(
            [
                self.route(
                    self.skew * popularity
                    + lifted[rng.choice(self.topics, CHUNK, p=share / share.sum())]
                    + rng.gumbel(size=(CHUNK, self.experts))
                )
                for _ in range(COUNTED // CHUNK)
            ]
        )
        loads = np.bincount(tokens.reshape(-1), minlength=self.experts).astype(np.float64)
        return loads, tokens[:SAMPLE]

    def route(self, affinity: Array) -> Index:
        """Experts [T, top_k] of tokens with affinities [T, E]: the best ones of the best groups, in order of number."""
        tokens, experts = affinity.shape
        if self.top_groups < self.groups:
            grouped = affinity.reshape(tokens, self.groups, experts // self.groups)
            best_two = -np.sort(-grouped, axis=2)[:, :, :2].sum(axis=2)
            out = np.argsort(-best_two, axis=1)[:, self.top_groups :]
            grouped = grouped.copy()
            grouped[np.arange(tokens)[:, None], out] = -np.inf
            affinity = grouped.reshape(tokens, experts)
        return np.sort(np.argpartition(-affinity, self.top_k - 1, axis=1)[:, : self.top_k], axis=1).astype(np.int64)
