"""The data of an expert placement: measured routing, the cluster, and the plan that runs now; checked when built."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solvers.oracle import Array
from surco.errors import InvalidInputError

Index = NDArray[np.int64]

DEFAULT_TRAFFIC_WEIGHT = 0.25
"""One more node per token, in units of the mean expert time of a GPU, for a model like DeepSeek-V3 on H800-like nodes.

A token costs each of its 8 experts 6 * 7168 * 2048 flop, 1.8 us in all at 400 Tflop/s; each further node costs 7168
bytes there (FP8) and 14336 bytes back (BF16), 0.43 us at 50 GB/s. Their ratio is 0.24: an order of magnitude to be
replaced by one's own measurement.
"""


@dataclass(frozen=True, slots=True)
class Cluster:
    """GPUs in alike nodes.

    Attributes:
        gpus: number of GPUs, at least 1.
        nodes: number of nodes, a divisor of ``gpus``; GPU g is in node g // (gpus / nodes).
        slots: experts that each GPU has room for in every layer, at least 1.
    """

    gpus: int
    nodes: int
    slots: int

    def __post_init__(self) -> None:
        for name in ("gpus", "nodes", "slots"):
            whole(getattr(self, name), name, minimum=1)
        if self.gpus % self.nodes:
            raise InvalidInputError(
                f"Expected `nodes` to divide `gpus`, got {self.gpus} GPUs in {self.nodes} nodes. Nodes are alike."
            )

    @property
    def per_node(self) -> int:
        """GPUs in a node."""
        return self.gpus // self.nodes

    @property
    def total_slots(self) -> int:
        """Slots of all GPUs."""
        return self.gpus * self.slots

    @property
    def node_of(self) -> Index:
        """[G] node of each GPU."""
        return np.arange(self.gpus) // self.per_node


@dataclass(frozen=True, slots=True)
class Routing:
    """What was measured of the router of every layer.

    Attributes:
        loads: [L, E] float64, tokens that each expert received; at least 0, some above 0 in every layer.
        tokens: [L, P, k] int64, the k distinct experts of P recorded tokens a layer, a sample; P = 0 where none were
            recorded. Loads may come from many more tokens.
        groups: the experts are in ``groups`` consecutive groups of one size (as group-limited routing has them), 1 for
            none.
    """

    loads: Array
    tokens: Index
    groups: int = 1

    def __post_init__(self) -> None:
        loads = self.loads
        if loads.ndim != 2 or 0 in loads.shape:
            raise InvalidInputError(f"Expected `loads` of shape [layers, experts], got {list(loads.shape)}.")
        if not np.isfinite(loads).all() or (loads < 0).any():
            raise InvalidInputError("Expected finite `loads` of at least 0, got NaN, infinity or a negative number.")
        if (loads.sum(axis=1) <= 0).any():
            layer = int(np.flatnonzero(loads.sum(axis=1) <= 0)[0])
            raise InvalidInputError(f"Expected a load above 0 in every layer, layer {layer} has none. Leave it out.")
        tokens = self.tokens
        if tokens.ndim != 3 or len(tokens) != len(loads):
            raise InvalidInputError(
                f"Expected `tokens` of shape [{len(loads)}, tokens, experts of a token], got {list(tokens.shape)}."
            )
        if tokens.size:
            if tokens.min() < 0 or tokens.max() >= self.experts:
                raise InvalidInputError(
                    f"Expected `tokens` to name experts from 0 to {self.experts - 1}, got {tokens.min()} to "
                    f"{tokens.max()}."
                )
            ordered = np.sort(tokens, axis=2)
            if (ordered[:, :, 1:] == ordered[:, :, :-1]).any():
                raise InvalidInputError("Expected the experts of a token to be distinct, got one twice in `tokens`.")
        whole(self.groups, "groups", minimum=1)
        if self.experts % self.groups:
            raise InvalidInputError(f"Expected `groups` to divide the {self.experts} experts, got {self.groups}.")

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.loads.shape[0]

    @property
    def experts(self) -> int:
        """Number of experts of a layer."""
        return self.loads.shape[1]

    @property
    def has_tokens(self) -> bool:
        """Whether there is a sample of tokens, without which traffic is the same for every plan."""
        return self.tokens.size > 0


@dataclass(frozen=True, slots=True)
class Migration:
    """The plan that runs now, and how far the next one may be from it.

    Attributes:
        current: [L, E, G] bool, whether GPU g holds expert e now.
        cap: most copies of experts in all layers that may be sent to a GPU that does not hold them now; at least 0.
    """

    current: NDArray[np.bool_]
    cap: int

    def __post_init__(self) -> None:
        whole(self.cap, "migration_cap", minimum=0)


def whole(value: object, name: str, *, minimum: int) -> int:
    """``value`` if it is an int of at least ``minimum``, else InvalidInputError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise InvalidInputError(f"Expected `{name}` to be an integer of at least {minimum}, got {value!r}.")
    return int(value)
