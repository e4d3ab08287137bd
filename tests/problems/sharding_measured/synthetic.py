"""A campaign with a known truth: a launch floor, then bandwidth, and a little noise."""

from __future__ import annotations

import numpy as np

from problems.sharding.measured.features import quantities, sums
from problems.sharding.measured.inputs import draw_pool
from problems.sharding.measured.records import Campaign

FLOOR_MS = np.array([0.2, 0.5])
WEIGHTS = np.array([[0.002, 1e-6, 0.0, 4e-9, 1e-8, 1e-8], [0.004, 6e-6, 0.0, 2e-9, 3e-8, 1e-8]])
COMMS_MS = (0.05, 0.06)
COMMS_BYTES_PER_MS = 2e7


def truth_ms(numbers: np.ndarray) -> np.ndarray:
    """Forward and backward [..., 2] of summed numbers [..., 6]."""
    return (FLOOR_MS**3 + (numbers @ WEIGHTS.T) ** 3) ** (1.0 / 3.0)


def campaign(*, count: int = 400, tables: int = 40, seed: int = 0, noise: float = 0.02, world: int = 2) -> Campaign:
    """Readings of random combinations of drawn tables; the first ones are every table alone."""
    rng = np.random.default_rng(seed)
    pool = draw_pool(tables, rng=rng, rows=(1e2, 1e6), dims=(4, 16, 64, 128), pooling=(0.5, 40.0))
    batch = rng.choice([1024, 4096], count)
    members, times = [], np.zeros((count, 2))
    for n in range(count):
        size = max(2, round(float(np.exp(rng.uniform(0.7, np.log(30))))))
        chosen = np.array([n % tables]) if n < 2 * tables else np.sort(rng.permutation(tables)[:size])
        batch[n] = (1024, 4096)[n // tables] if n < 2 * tables else batch[n]
        forward, backward = truth_ms(sums(quantities([pool[t] for t in chosen], int(batch[n]))).sum(0))
        members.append(chosen)
        times[n] = (forward, forward + backward)
    times *= np.exp(noise * rng.standard_normal(times.shape))
    held = rng.random(count) < 0.25
    held[: 2 * tables] = False
    sent = rng.uniform(1e5, 5e7, (160, world))
    comms = np.stack([floor + sent.max(1) / COMMS_BYTES_PER_MS for floor in COMMS_MS], axis=1)
    return Campaign(
        tables=pool,
        provenance={"device": "synthetic", "operator": "none", "date": "2026-01-01", "command": "test"},
        members=tuple(members),
        batch=batch.astype(np.int64),
        device_ms=times,
        end_to_end_ms=times + 0.1,
        spread_ms=np.zeros((count, 2, 2)),
        is_ahead=np.ones(count, dtype=bool),
        is_held_out=held,
        sent_bytes=sent,
        comms_ms=comms * np.exp(noise * rng.standard_normal(comms.shape)),
        comms_is_held_out=rng.random(160) < 0.25,
    )
