"""Tables to measure and the lookups of a batch: skewed rows drawn on the device itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from problems.sharding.access import Uniform, ZipfMandelbrot
from problems.sharding.tables import Table
from surco.errors import InvalidInputError

MULTIPLIER = 2_654_435_761  # odd and prime: ranks are scattered over the rows by a bijection


def draw_pool(
    count: int,
    *,
    rng: np.random.Generator,
    rows: tuple[float, float] = (1e3, 2e7),
    dims: Sequence[int] = (4, 8, 16, 32, 64, 128, 256, 512),
    pooling: tuple[float, float] = (0.5, 120.0),
    max_bytes: float = 12e9,
) -> tuple[Table, ...]:
    """Draw the tables of a measuring campaign.

    Rows and pooling factors are log-uniform between their limits, so that corners are seen as often as the middle;
    narrow widths are as frequent as wide ones; access is Zipf-Mandelbrot with exponent 0.8 to 1.4 over a log-uniform
    part of the rows, or uniform for one table in eight. Rows are cut where the weights would pass ``max_bytes``.
    """
    tables = []
    for t in range(count):
        dim = int(rng.choice(np.asarray(dims)))
        height = min(_log_uniform(rng, *rows), max_bytes / (4 * dim))
        height = max(1, int(height))
        lookups = round(_log_uniform(rng, *pooling), 2)
        access: Uniform | ZipfMandelbrot = Uniform()
        if rng.random() > 0.125:
            touched = max(1, int(height * _log_uniform(rng, 0.05, 1.0)))
            shift = touched * 3e-3 * math.exp(1.5 * rng.standard_normal())
            access = ZipfMandelbrot(touched, exponent=round(float(rng.uniform(0.8, 1.4)), 3), shift=round(shift, 3))
        tables.append(Table(f"pool_{t}", height, dim, lookups, access=access))
    return tuple(tables)


def draw_inputs(
    tables: Sequence[Table], batch: int, device: torch.device, *, seed: int
) -> tuple[Tensor, Tensor, list[int]]:
    """Indices, offsets (see ``operators``) and the lookups of each table of one batch.

    Every bag has floor(pooling) lookups or one more, by chance with the right mean. Each table has a generator of
    its own (from ``seed`` and its name), so that a table's lookups do not depend on the tables around it.
    """
    if not tables or batch < 1:
        raise InvalidInputError(f"Expected tables and a batch of at least 1, got {len(tables)} and {batch}.")
    parts, lengths, counts = [], [], []
    for table in tables:
        generator = torch.Generator(device).manual_seed(_seed_of(table.name, seed))
        whole = math.floor(table.pooling_factor)
        chance = torch.rand(batch, generator=generator, device=device) < table.pooling_factor - whole
        length = whole + chance.long()
        count = int(length.sum())
        lengths.append(length)
        counts.append(count)
        parts.append(draw_rows(table, count, generator))
    offsets = torch.zeros(len(tables) * batch + 1, dtype=torch.int64, device=device)
    torch.cumsum(torch.cat(lengths), 0, out=offsets[1:])
    return torch.cat(parts), offsets, counts


def draw_rows(table: Table, count: int, generator: torch.Generator) -> Tensor:
    """[count] int64 row numbers of a table by its access law, the popular ones scattered over the table.

    Zipf-Mandelbrot ranks come from the inverse of the integrated law, rank k standing for k - 1/2 to k + 1/2.

    Raises:
        InvalidInputError: an access law that cannot be drawn from (a reuse histogram fixes no row).
    """
    device = generator.device
    uniform = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
    access = table.access
    if isinstance(access, Uniform):
        return (uniform * table.rows).long().clamp_(max=table.rows - 1)
    if not isinstance(access, ZipfMandelbrot):
        raise InvalidInputError(f"Expected uniform or Zipf-Mandelbrot access to draw rows, got {access!r:.60}.")
    touched = min(access.touched_rows, table.rows)
    low, high = 0.5 + access.shift, touched + 0.5 + access.shift
    power = 1.0 - access.exponent
    if abs(power) < 1e-9:
        rank = low * (high / low) ** uniform
    else:
        rank = (low**power + uniform * (high**power - low**power)) ** (1.0 / power)
    rank = (rank - access.shift - 0.5).long().clamp_(0, touched - 1)
    step = MULTIPLIER % table.rows
    while math.gcd(step, table.rows) != 1:
        step += 1
    return (rank * step) % table.rows


def _seed_of(name: str, seed: int) -> int:
    value = seed & 0xFFFFFFFF
    for character in name.encode():
        value = (value * 1_000_003 + character) & 0x7FFFFFFFFFFF
    return value


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))
