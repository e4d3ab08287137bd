"""Cost networks: sets of tables to milliseconds.

    z(S) = sum over the tables t of S of (phi(features of t), numbers that add up),     z >= 0
    forward ms, backward ms = head(z)

phi is a perceptron on features normalized over the pool of the campaign (never within one task: a lone table or equal
tables would have no spread). Three heads:

* ``convex``: non-negative weights and softplus, so convex and non-decreasing in z. A launch floor followed by a slope
  is of this kind, and so the engine's bounds hold: a tangent plane is a lower bound.
* ``free``: a plain perceptron, as in DreamShard and NeuroShard. To see what convexity costs.
* ``additive``: an intercept and a non-negative value per table, the best additive model there is.

An all-to-all waits for the rank that has most to send: its time is the largest over the ranks of a convex head of the
rank's bytes.

Source: Zaheer et al. 2017 (sets as sums); Amos et al. 2017 (input-convex networks); Zha et al. 2022, 2023 (sharding).
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from problems.sharding.measured.features import FEATURES, SUMS
from surco.errors import InvalidInputError

FORMAT = 1


class Head(enum.StrEnum):
    """How summed features become milliseconds."""

    CONVEX = "convex"
    FREE = "free"
    ADDITIVE = "additive"


class NonNegative(nn.Module):
    """Linear map with non-negative weights [out, in], the softplus of its parameters."""

    def __init__(self, inputs: int, outputs: int, *, gain: float, generator: torch.Generator) -> None:
        super().__init__()
        start = math.log(math.expm1(gain / inputs))
        noise = torch.randn(outputs, inputs, generator=generator)
        self.raw = nn.Parameter(start + 0.5 * noise)

    def forward(self, z: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return z @ softplus(self.raw).to(z).T


class ConvexHead(nn.Module):
    """[..., inputs] non-negative -> [..., outputs] positive; convex and non-decreasing in every input."""

    def __init__(self, inputs: int, outputs: int, width: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.first = NonNegative(inputs, width, gain=1.0, generator=generator)
        self.first_bias = nn.Parameter(torch.randn(width, generator=generator) - 1.0)
        self.second = NonNegative(width, width, gain=1.0, generator=generator)
        self.skip = NonNegative(inputs, width, gain=0.3, generator=generator)
        self.second_bias = nn.Parameter(torch.randn(width, generator=generator) - 1.0)
        self.last = NonNegative(width, outputs, gain=0.3, generator=generator)
        self.straight = NonNegative(inputs, outputs, gain=0.1, generator=generator)
        self.floor = nn.Parameter(torch.zeros(outputs))

    def forward(self, z: Tensor) -> Tensor:
        """Input-convex network of two hidden layers."""
        hidden = softplus(self.first(z) + self.first_bias.to(z))
        hidden = softplus(self.second(hidden) + self.skip(z) + self.second_bias.to(z))
        return self.last(hidden) + self.straight(z) + softplus(self.floor.to(z))


class FreeHead(nn.Module):
    """Plain perceptron with a positive output."""

    def __init__(self, inputs: int, outputs: int, width: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _linear(inputs, width, generator), nn.ReLU(), _linear(width, width, generator), nn.ReLU(),
            _linear(width, outputs, generator),
        )  # fmt: skip

    def forward(self, z: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return softplus(self.layers(z))


class AdditiveHead(nn.Module):
    """Intercept plus the first ``outputs`` summed features."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.floor = nn.Parameter(torch.zeros(outputs))

    def forward(self, z: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return z[..., : len(self.floor)] + softplus(self.floor.to(z))


class ComputeNetwork(nn.Module):
    """Forward and backward milliseconds of the tables of one device.

    Args:
        mean, spread: [10] of the features over the pool, for normalization.
        scale: [6] typical size of the numbers that add up, over the pool.
        milliseconds: [2] typical forward and backward time; outputs are in units of it.
        head: see the module.
        embedding: features that phi gives.
        width: hidden width.
        seed: of the initial weights.
    """

    mean: Tensor
    spread: Tensor
    scale: Tensor
    milliseconds: Tensor

    def __init__(
        self,
        mean: Tensor,
        spread: Tensor,
        scale: Tensor,
        milliseconds: Tensor,
        *,
        head: Head = Head.CONVEX,
        embedding: int = 16,
        width: int = 48,
        seed: int = 0,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.settings = {"head": Head(head).value, "embedding": embedding, "width": width}
        for name, value in (("mean", mean), ("spread", spread), ("scale", scale), ("milliseconds", milliseconds)):
            self.register_buffer(name, value.to(torch.float32).clone())
        outputs = 2 if head is Head.ADDITIVE else embedding
        self.phi = nn.Sequential(
            _linear(len(FEATURES), 2 * width, generator), nn.ReLU(), _linear(2 * width, outputs, generator)
        )
        self.is_additive = head is Head.ADDITIVE
        if head is Head.ADDITIVE:
            self.head: nn.Module = AdditiveHead(2)
        else:
            make = ConvexHead if head is Head.CONVEX else FreeHead
            self.head = make(embedding + len(SUMS), 2, width, generator=generator)

    @property
    def is_convex(self) -> bool:
        """Whether times are convex and non-decreasing in the summed features."""
        return self.settings["head"] != Head.FREE

    @property
    def channels(self) -> int:
        """Summed features of a device."""
        return 2 if self.is_additive else int(self.settings["embedding"]) + len(SUMS)

    def embed(self, features: Tensor, numbers: Tensor) -> Tensor:
        """Features [..., 10] (logarithms) and numbers that add up [..., 6] -> non-negative [..., channels]."""
        learned = softplus(self.phi((features - self.mean.to(features)) / self.spread.to(features)))
        return learned if self.is_additive else torch.cat([learned, numbers / self.scale.to(numbers)], dim=-1)

    def times_ms(self, summed: Tensor) -> Tensor:
        """Summed features [..., channels] -> forward and backward [..., 2] in ms."""
        return self.head(summed) * self.milliseconds.to(summed)


class CommsNetwork(nn.Module):
    """Forward and backward all-to-all: the largest over the ranks of a convex head of a rank's bytes.

    Args:
        scale: typical bytes of a rank.
        milliseconds: [2] typical times.
        seed: of the initial weights.
    """

    scale: Tensor
    milliseconds: Tensor

    def __init__(self, scale: Tensor, milliseconds: Tensor, *, width: int = 16, seed: int = 0) -> None:
        super().__init__()
        self.settings = {"width": width}
        self.register_buffer("scale", scale.to(torch.float32).clone())
        self.register_buffer("milliseconds", milliseconds.to(torch.float32).clone())
        self.head = ConvexHead(1, 2, width, generator=torch.Generator().manual_seed(seed))

    def rank_ms(self, sent: Tensor) -> Tensor:
        """Bytes [...] of a rank -> [..., 2] ms, as if it were the slowest."""
        return self.head((sent / self.scale.to(sent))[..., None]) * self.milliseconds.to(sent)

    def times_ms(self, sent: Tensor) -> Tensor:
        """Bytes [..., W] of all ranks -> [..., 2] ms."""
        return self.rank_ms(sent).amax(-2)


@dataclass(frozen=True, slots=True)
class CostNetworks:
    """What was learned from one campaign.

    Attributes:
        compute: lookups of a device.
        comms: exchange among ``world`` ranks; None where it was not measured.
        world: ranks of the measured exchange, 0 without.
        limits: [2, 10] least and largest features of the pool, to know an extrapolation.
        provenance: of the campaign, the clock and the training.
    """

    compute: ComputeNetwork
    comms: CommsNetwork | None
    world: int
    limits: Tensor
    provenance: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Write one safetensors file, settings and provenance in its header."""
        from safetensors.torch import save_file

        tensors = {f"compute.{name}": value.contiguous() for name, value in self.compute.state_dict().items()}
        if self.comms is not None:
            tensors |= {f"comms.{name}": value.contiguous() for name, value in self.comms.state_dict().items()}
        tensors["limits"] = self.limits.to(torch.float32).contiguous()
        head = {
            "format": FORMAT,
            "compute": self.compute.settings,
            "comms": None if self.comms is None else self.comms.settings,
            "world": self.world,
            "provenance": dict(self.provenance),
        }
        save_file(tensors, path, metadata={"surco": json.dumps(head)})

    @classmethod
    def load(cls, path: Path) -> CostNetworks:
        """Read what `save` wrote.

        Raises:
            InvalidInputError: no such file, or something else in it.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                head = json.loads((file.metadata() or {})["surco"])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            if head["format"] != FORMAT:
                raise ValueError(f"format {head['format']} is not {FORMAT}")
            settings = head["compute"]
            ten, six, two = torch.ones(len(FEATURES)), torch.ones(len(SUMS)), torch.ones(2)
            compute = ComputeNetwork(
                ten, ten, six, two,
                head=Head(settings["head"]), embedding=int(settings["embedding"]), width=int(settings["width"]),
            )  # fmt: skip
            compute.load_state_dict(_part(state, "compute."))
            comms = None
            if head["comms"] is not None:
                comms = CommsNetwork(torch.ones(()), two, width=int(head["comms"]["width"]))
                comms.load_state_dict(_part(state, "comms."))
            return cls(compute, comms, int(head["world"]), state["limits"], head["provenance"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise InvalidInputError(f"Expected cost networks at `{path}`: {error}.") from error


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    bound = 1.0 / math.sqrt(inputs)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer
