"""Train cost networks on a campaign: full batches, error in logarithms, best on validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from problems.sharding.measured.features import logarithms, quantities, sums
from problems.sharding.measured.network import CommsNetwork, ComputeNetwork, CostNetworks, Head
from problems.sharding.measured.records import Campaign
from surco.errors import InvalidInputError

CLOCKS = ("device", "end_to_end")
MIN_READINGS = 20
CHECK_EVERY = 20


@dataclass(frozen=True, slots=True)
class Readings:
    """A campaign as tensors.

    A pair is a table at a batch size; a reading is a set of pairs.

    Attributes:
        features: [P, 10] logarithms of the pairs.
        numbers: [P, 6] of the pairs, adding up.
        counts: [N, P], 1 where a pair is in a reading.
        times_ms: [N, 2] forward, and forward + backward.
        is_held_out: [N].
    """

    features: Tensor
    numbers: Tensor
    counts: Tensor
    times_ms: Tensor
    is_held_out: NDArray[np.bool_]


def readings_of(campaign: Campaign, clock: str = "device") -> Readings:
    """Tensors (float32) of a campaign by one of its two clocks.

    Raises:
        InvalidInputError: an unknown clock, or fewer readings than it takes to learn anything.
    """
    if clock not in CLOCKS:
        raise InvalidInputError(f"Expected the clock to be one of {CLOCKS}, got {clock!r}.")
    if int((~campaign.is_held_out).sum()) < MIN_READINGS:
        raise InvalidInputError(f"Expected at least {MIN_READINGS} readings to train on, got {len(campaign.batch)}.")
    batches = np.unique(campaign.batch)
    plain = np.concatenate([quantities(campaign.tables, int(batch)) for batch in batches])
    counts = torch.zeros(len(campaign.batch), len(plain))
    for n, (members, batch) in enumerate(zip(campaign.members, campaign.batch, strict=True)):
        counts[n, torch.from_numpy(members + len(campaign.tables) * int(np.searchsorted(batches, batch)))] = 1.0
    times = campaign.device_ms if clock == "device" else campaign.end_to_end_ms
    return Readings(
        torch.from_numpy(logarithms(plain)).float(),
        torch.from_numpy(sums(plain)).float(),
        counts,
        torch.from_numpy(times).float(),
        campaign.is_held_out,
    )


def fit_compute(
    readings: Readings,
    *,
    head: Head = Head.CONVEX,
    steps: int = 2000,
    rate: float = 5e-3,
    seed: int = 0,
    width: int = 48,
) -> ComputeNetwork:
    """Train on what is not held out; a sixth of that decides which step to keep.

    The loss is the smooth absolute error of the logarithms of the forward time and of forward + backward: relative
    errors, without much weight on outliers.
    """
    keep = torch.from_numpy(np.flatnonzero(~readings.is_held_out))
    train, check = _split(len(keep), seed)
    train, check = keep[train], keep[check]
    features, numbers, times = readings.features, readings.numbers, readings.times_ms
    used = readings.counts[keep].sum(0) > 0
    backward = (times[train, 1] - times[train, 0]).clamp(min=0.0)
    network = ComputeNetwork(
        features[used].mean(0),
        features[used].std(0).clamp(min=1e-3),
        numbers[used].mean(0).clamp(min=1e-9),
        torch.stack([times[train, 0].median(), backward.median().clamp(min=1e-6)]),
        head=head,
        width=width,
        seed=seed,
    )
    target = times.clamp(min=1e-9).log()

    def loss(rows: Tensor) -> Tensor:
        summed = readings.counts[rows] @ network.embed(features, numbers)
        predicted = network.times_ms(summed)
        both = torch.stack([predicted[:, 0], predicted.sum(1)], dim=1)
        return nn.functional.smooth_l1_loss(both.clamp(min=1e-9).log(), target[rows], beta=0.1)

    _descend(network, loss, train, check, steps=steps, rate=rate)
    return network


def fit_comms(campaign: Campaign, *, steps: int = 1000, rate: float = 1e-2, seed: int = 0) -> CommsNetwork:
    """Train the exchange on what is not held out.

    Raises:
        InvalidInputError: fewer than ``MIN_READINGS`` exchanges to train on.
    """
    keep = torch.from_numpy(np.flatnonzero(~campaign.comms_is_held_out))
    if len(keep) < MIN_READINGS:
        raise InvalidInputError(f"Expected at least {MIN_READINGS} exchanges to train on, got {len(keep)}.")
    sent = torch.from_numpy(campaign.sent_bytes).float()
    times = torch.from_numpy(campaign.comms_ms).float()
    train, check = _split(len(keep), seed)
    network = CommsNetwork(sent[keep].amax(1).mean(), times[keep].median(0).values, seed=seed)

    def loss(rows: Tensor) -> Tensor:
        return nn.functional.smooth_l1_loss(network.times_ms(sent[rows]).log(), times[rows].log(), beta=0.1)

    _descend(network, loss, keep[train], keep[check], steps=steps, rate=rate)
    return network


def fit(
    campaign: Campaign,
    *,
    clock: str = "device",
    head: Head = Head.CONVEX,
    seed: int = 0,
    compute: ComputeNetwork | None = None,
    **options: Any,
) -> CostNetworks:
    """Both networks of a campaign; no comms network where no exchange was measured.

    Args:
        campaign: the measurements.
        clock: ``"device"`` or ``"end_to_end"``.
        head: of the compute network.
        seed: of weights and split.
        compute: network of that head, clock and seed, if it is trained already.
        options: of `fit_compute`.
    """
    readings = readings_of(campaign, clock)
    compute = compute or fit_compute(readings, head=head, seed=seed, **options)
    comms = fit_comms(campaign, seed=seed) if campaign.world else None
    limits = torch.stack([readings.features.amin(0), readings.features.amax(0)])
    origin: Mapping[str, Any] = {**campaign.provenance, "clock": clock, "training_seed": seed}
    return CostNetworks(compute, comms, campaign.world, limits, origin)


def _split(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Training and validation rows."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held = max(1, count // 6)
    return order[held:], order[:held]


def _descend(
    network: nn.Module, loss: Callable[[Tensor], Tensor], train: Tensor, check: Tensor, *, steps: int, rate: float
) -> None:
    """Adam with a cosine schedule; the weights of the best validation error stay."""
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    best, kept = math.inf, network.state_dict()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * step / steps)))
        optimizer.zero_grad()
        loss(train).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if step % CHECK_EVERY == CHECK_EVERY - 1 or step == steps - 1:
            with torch.no_grad():
                value = float(loss(check))
            if value < best:
                best = value
                kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.load_state_dict(kept)
    network.requires_grad_(False)
