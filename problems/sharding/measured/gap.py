"""The additivity gap: held-out error of every model, launch-bound and bandwidth-bound readings apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from problems.sharding.measured import additive
from problems.sharding.measured.network import CommsNetwork, ComputeNetwork, Head
from problems.sharding.measured.records import BOTH, FORWARD, Campaign
from problems.sharding.measured.training import Readings, fit_comms, fit_compute, readings_of

Array = NDArray[np.float64]
NEAR_FLOOR = 1.5  # a reading within so many floors is launch-bound
QUANTITIES = ("forward", "backward", "forward + backward")


@dataclass(frozen=True, slots=True)
class Row:
    """Held-out error of one model.

    Attributes:
        model: its name.
        quantity: what is predicted.
        regime: ``all``, ``launch-bound`` or ``bandwidth-bound``.
        readings: how many held-out ones.
        mape: mean absolute percentage error, in percent.
        median_ape: median of it.
        r2: coefficient of determination (of milliseconds); NaN for fewer than two readings.
    """

    model: str
    quantity: str
    regime: str
    readings: int
    mape: float
    median_ape: float
    r2: float


def score(model: str, quantity: str, regime: str, predicted: Array, measured: Array) -> Row:
    """Errors of predictions [N]; those that a model could not make (NaN) are left out and so seen in the count."""
    known = np.isfinite(predicted)
    predicted, measured = predicted[known], measured[known]
    if not len(measured):
        return Row(model, quantity, regime, 0, np.nan, np.nan, np.nan)
    relative = 100.0 * np.abs(predicted / measured - 1.0)
    rest = ((measured - measured.mean()) ** 2).sum()
    r2 = float(1.0 - ((predicted - measured) ** 2).sum() / rest) if rest > 0 else np.nan
    return Row(model, quantity, regime, len(measured), float(relative.mean()), float(np.median(relative)), r2)


def is_launch_bound(times: Array) -> NDArray[np.bool_]:
    """[N], within ``NEAR_FLOOR`` times the floor, the fifth percentile of all readings."""
    return times <= NEAR_FLOOR * np.quantile(times, 0.05)


def predict(network: ComputeNetwork, readings: Readings) -> Array:
    """[N, 3] of ``QUANTITIES``, by a network."""
    with torch.no_grad():
        summed = readings.counts @ network.embed(readings.features, readings.numbers)
        times = network.times_ms(summed).double().numpy()
    return np.concatenate([times, times.sum(1, keepdims=True)], axis=1)


def networks(readings: Readings, *, seed: int = 0, **options: int) -> dict[Head, ComputeNetwork]:
    """One network a head, trained alike."""
    return {head: fit_compute(readings, head=head, seed=seed, **options) for head in Head}


def compute_gap(
    campaign: Campaign, clock: str = "device", *, trained: Mapping[Head, ComputeNetwork] | None = None, seed: int = 0
) -> list[Row]:
    """All models on the held-out readings of compute, by one clock.

    The backward time is forward + backward less forward, measured and predicted alike; additive models are fitted to
    each of the three.
    """
    readings = readings_of(campaign, clock)
    trained = networks(readings, seed=seed) if trained is None else trained
    plain = campaign.device_ms if clock == "device" else campaign.end_to_end_ms
    measured = {
        "forward": plain[:, FORWARD],
        "backward": np.maximum(plain[:, BOTH] - plain[:, FORWARD], 1e-6),
        "forward + backward": plain[:, BOTH],
    }
    by_head = {head: predict(network, readings) for head, network in trained.items()}
    regime = is_launch_bound(plain[:, BOTH])
    rows: list[Row] = []
    for q, quantity in enumerate(QUANTITIES):
        times = measured[quantity]
        models = {
            "sum of singles": additive.sum_of_singles(campaign, times),
            "affine in sum of singles and count": additive.affine_in_singles(campaign, times),
            "linear in features": additive.linear_in_features(campaign, times),
            "value per table": additive.value_per_table(campaign, times),
            **{f"{head.value} network": predicted[:, q] for head, predicted in by_head.items()},
        }
        for name, keep in (("all", np.ones_like(regime)), ("launch-bound", regime), ("bandwidth-bound", ~regime)):
            held = keep & campaign.is_held_out
            rows += [score(model, quantity, name, p[held], times[held]) for model, p in models.items()]
    return rows


def comms_gap(campaign: Campaign, *, trained: CommsNetwork | None = None, seed: int = 0) -> list[Row]:
    """Models of the exchange on the held-out ones: affine in the largest rank's bytes, in the total, the network."""
    trained = trained or fit_comms(campaign, seed=seed)
    sent = campaign.sent_bytes
    with torch.no_grad():
        learned = trained.times_ms(torch.from_numpy(sent).float()).double().numpy()
    rows: list[Row] = []
    for q, quantity in enumerate(("forward exchange", "backward exchange")):
        times = campaign.comms_ms[:, q]
        launch = is_launch_bound(times)
        models = {"convex network": learned[:, q]}
        for name, number in (("largest rank", sent.max(1)), ("total", sent.sum(1))):
            models[f"affine in bytes of {name}"] = _affine(number, times, ~campaign.comms_is_held_out)
        for regime, keep in (("all", np.ones_like(launch)), ("launch-bound", launch), ("bandwidth-bound", ~launch)):
            held = keep & campaign.comms_is_held_out
            rows += [score(model, quantity, regime, p[held], times[held]) for model, p in models.items()]
    return rows


def _affine(number: Array, times: Array, rows: NDArray[np.bool_]) -> Array:
    design = np.stack([np.ones_like(number), number / number.max()], axis=1)
    weights, *_ = np.linalg.lstsq(design[rows] / times[rows, None], np.ones(int(rows.sum())), rcond=None)
    return design @ weights


def markdown(rows: Sequence[Row]) -> str:
    """One table, a line for each quantity and model, the regimes side by side: MAPE, median, R2 and count."""
    regimes = ("all", "launch-bound", "bandwidth-bound")
    lines = [
        "| quantity | model | " + " | ".join(f"{regime}: MAPE % (median), R2, n" for regime in regimes) + " |",
        "|---|---|---|---|---|",
    ]
    found = {(row.quantity, row.model, row.regime): row for row in rows}
    for quantity, model in dict.fromkeys((row.quantity, row.model) for row in rows):
        cells = []
        for regime in regimes:
            row = found[quantity, model, regime]
            cells.append(f"{row.mape:.1f} ({row.median_ape:.1f}), {row.r2:.3f}, {row.readings}")
        lines.append(f"| {quantity} | {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
