"""Synthetic clicks with a planted factor model, so that the best possible AUC is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from problems.sharding.embeddings.data import ClickData
from problems.sharding.embeddings.metrics import expected_auc
from problems.sharding.mlperf import MULTI_HOT_SIZES, ROWS
from surco.errors import InvalidInputError

_SALT = -7046029254386353131
_MIX = (-4658895280553007687, -7723592293110705685)
FACTORS = 8


@dataclass(frozen=True, slots=True)
class PlantedClicks:
    """A click task. The data are synthetic: say so wherever figures on them are printed.

    Every id has 8 hidden factors in [-1, 1], a hash of its number and table, so tables of any size cost no memory. With
    u_t the mean of the factors over the bag of table t, A and B the tables with even and odd number,

        logit = bias + strength * (2 <sum_A u, sum_B u> / z + <h, sum_t u> / z'),   click ~ Bernoulli(sigmoid(logit))

    where z, z' make both terms of unit deviation for uniform ids. Ids follow a Zipf-Mandelbrot law, probability of
    rank k proportional to (k + shift)^-exponent, drawn by inversion of its continuous form.

    Attributes:
        rows: ids of each table.
        pooling: largest bag of each; bag sizes are uniform from 1 to this.
        exponent: of the law, not 1.
        shift: of the law.
        strength: deviation of the logit, about.
        bias: of the logit.
        seed: of the planted factors.
    """

    rows: tuple[int, ...] = (20_000, 8_000, 3_000, 1_000, 300, 100, 40, 20, 7, 3)
    pooling: tuple[int, ...] = (1, 1, 5, 1, 1, 3, 1, 1, 1, 1)
    exponent: float = 1.15
    shift: float = 20.0
    strength: float = 1.0
    bias: float = -1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.pooling) or len(self.rows) < 2:
            raise InvalidInputError(
                f"Expected one `pooling` for each of at least two `rows`; got {len(self.rows)} and {len(self.pooling)}."
            )
        if self.exponent == 1.0:
            raise InvalidInputError("Expected `exponent` other than 1 (the inversion divides by 1 - exponent).")

    def draw(self, count: int, *, seed: int, device: torch.device | str = "cpu") -> ClickData:
        """``count`` independent samples; the same planted model for every ``seed``."""
        place = torch.device(device)
        generator = torch.Generator(place).manual_seed(seed)
        ids, sums = [], [torch.zeros(count, FACTORS, device=place) for _ in range(2)]
        for table, (rows, largest) in enumerate(zip(self.rows, self.pooling, strict=True)):
            bag = self._ranks(rows, count, largest, generator)
            size = torch.randint(1, largest + 1, (count, 1), device=place, generator=generator)
            is_used = torch.arange(largest, device=place) < size
            factors = self.factors(bag, table) * is_used[..., None]
            sums[table % 2] += factors.sum(dim=1) / size
            ids.append(torch.where(is_used, bag, rows))
        logits = self._logits(sums[0], sums[1])
        labels = torch.rand(count, device=place, generator=generator) < logits.sigmoid()
        return ClickData(
            names=tuple(f"cat_{table}" for table in range(len(self.rows))),
            rows=self.rows,
            ids=tuple(ids),
            dense=torch.zeros(count, 0, device=place),
            labels=labels.to(torch.float32),
            bayes_auc=expected_auc(logits.sigmoid()),
            source=f"synthetic, planted factors, seed {self.seed}",
        )

    def factors(self, ids: Tensor, table: int) -> Tensor:
        """Hidden factors [..., 8] in [-1, 1] of ids of a table, a pure function of (id, table, seed)."""
        start = (self.seed * 1009 + table) * 2**40
        mixed = (ids[..., None] * FACTORS + torch.arange(FACTORS, device=ids.device) + start) * _SALT
        for shift, factor in zip((30, 27), _MIX, strict=True):
            mixed = (mixed ^ ((mixed >> shift) & ((1 << (64 - shift)) - 1))) * factor
        return ((mixed >> 40) & 0xFFFFFF).to(torch.float32) / 2**23 - 1.0

    def _logits(self, first: Tensor, second: Tensor) -> Tensor:
        tables = len(self.rows)
        even, odd = (tables + 1) // 2, tables // 2
        variance = 1.0 / 3.0  # of a uniform number in [-1, 1]
        product = (first * second).sum(dim=1) / (variance * math.sqrt(FACTORS * even * odd))
        taste = torch.linspace(-1.0, 1.0, FACTORS, device=first.device)
        linear = ((first + second) @ taste) / math.sqrt(variance * tables * float(taste.square().sum()))
        return self.bias + self.strength * (2.0 * product + linear) / math.sqrt(5.0)

    def _ranks(self, rows: int, count: int, largest: int, generator: torch.Generator) -> Tensor:
        power = 1.0 - self.exponent
        low, high = (1.0 + self.shift) ** power, (rows + 1.0 + self.shift) ** power
        u = torch.rand(count, largest, dtype=torch.float64, device=generator.device, generator=generator)
        ranks = (low + u * (high - low)) ** (1.0 / power) - self.shift
        return (ranks.to(torch.int64) - 1).clamp_(0, rows - 1)


def mlperf_like(total_rows: int, *, seed: int = 0) -> PlantedClicks:
    """The 26 tables of MLPerf's DLRM-DCNv2, the largest capped so that all have about ``total_rows`` rows together.

    Multi-hot sizes are those of the benchmark, at most 10.
    """
    if not 1000 <= total_rows <= sum(ROWS):
        raise InvalidInputError(f"Expected `total_rows` in 1000..{sum(ROWS)}; got {total_rows}.")
    low, high = 1, max(ROWS)
    while low < high:
        cap = (low + high) // 2
        if sum(min(rows, cap) for rows in ROWS) < total_rows:
            low = cap + 1
        else:
            high = cap
    return PlantedClicks(
        rows=tuple(min(rows, low) for rows in ROWS), pooling=tuple(min(size, 10) for size in MULTI_HOT_SIZES), seed=seed
    )
