"""Survivability of whole batches of capacity vectors: cuts first, as one matrix product, linear programs last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from problems.planning.cuts import CutsetPool, cutset_pool
from problems.planning.explanation import cut_in_words
from problems.planning.network import Array, Network
from problems.planning.survival import MetricCut, Survival, metric_cut
from surco.errors import InvalidInputError

_TOLERANCE = 1e-7  # relative, of a cut's right-hand side


@dataclass(slots=True)
class Tally:
    """How checks were decided."""

    by_pool: int = 0  # refused by a cut that was known
    by_cutset: int = 0  # refused by a node set's cut, which then joins the pool
    by_dominance: int = 0  # accepted: at least a vector that was proven before
    by_programs: int = 0  # decided by linear programs
    lps: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """Of a batch.

    Attributes:
        is_survivable: [B] bool.
        cut: [B] number of a violated cut of the evaluator's pool, -1 where survivable.
        ratio: [B] worst known cut's left-hand side over its right-hand side, at most 1 unless survivable: a dense
            measure of how far a vector is from feasible.
    """

    is_survivable: NDArray[np.bool_]
    cut: NDArray[np.int64]
    ratio: Array


class Evaluator:
    """Exact survivability checks that get cheaper as they are used.

    Order: the pool of cuts that refused something before (one matrix product for the batch, on ``device``); the cuts of
    many small node sets; vectors that dominate one proven survivable; warm scenario programs, the last failed scenario
    first. Every refusal names a violated cut; every acceptance rests on flows in hand.

    Args:
        network: compiled instance.
        device: where the matrix products run.
        cutset_size: largest node sets.
        most_cutsets: how many.
        cutsets: those of an engine on this network, instead of a pool of its own.
    """

    def __init__(
        self,
        network: Network,
        *,
        device: str | torch.device = "cpu",
        cutset_size: int = 4,
        most_cutsets: int = 2000,
        cutsets: CutsetPool | None = None,
    ) -> None:
        self.network = network
        self.device = torch.device(device)
        self.survival = Survival(network)
        self.tally = Tally()
        self.cuts: list[MetricCut] = []
        sets = cutset_pool(network, largest=cutset_size, most=most_cutsets) if cutsets is None else cutsets
        keep = sets.link_rhs > 0.0
        self._set_rows, self._set_rhs = sets.link_rows[keep], sets.link_rhs[keep]
        self._set_scenario = sets.link_scenario[keep]
        self._rows = torch.zeros((0, network.n_links), dtype=torch.float64, device=self.device)
        self._rhs = torch.zeros(0, dtype=torch.float64, device=self.device)
        self._pending: list[MetricCut] = []
        self._proven: list[Array] = []
        self._here: Array | None = None  # [K, m] pool over its right-hand sides, on the CPU

    @property
    def pool(self) -> tuple[Tensor, Tensor]:
        """Rows [K, m] and right-hand sides [K] of the pool, on ``device``."""
        self._flush()
        return self._rows, self._rhs

    def is_survivable(self, capacities: object) -> NDArray[np.bool_]:
        """Decide usable link capacities [B, m] in Gbps (after the load factor, with what exists); [B] bool."""
        return self.decide(capacities).is_survivable

    def decide(self, capacities: object) -> Decision:
        """Decide a batch [B, m]; see :class:`Decision`.

        Raises:
            InvalidInputError: wrong shape, or values that are not finite.
        """
        if self.device.type == "cpu":
            return self._decide_here(capacities)
        values = torch.as_tensor(capacities, dtype=torch.float64, device=self.device)
        self._check_shape(tuple(values.shape))
        if not bool(torch.isfinite(values).all()):
            raise InvalidInputError("Expected finite `capacities`, got NaN or infinity.")
        batch = len(values)
        survivable = np.zeros(batch, dtype=bool)
        cut, ratio = self.screen(values)
        cut_numbers, ratios = cut.cpu().numpy().copy(), ratio.cpu().numpy().copy()
        self.tally.by_pool += int((cut_numbers >= 0).sum())
        count = len(self.cuts)
        for i in np.flatnonzero(cut_numbers < 0):
            row = values[i].cpu().numpy()
            verdict = self._decide_one(row, self.cuts[count:], count)
            survivable[i] = verdict is None
            if verdict is not None:
                cut_numbers[i] = verdict
                known = self.cuts[verdict]
                ratios[i] = min(ratios[i], float(known.weights @ row) / known.rhs)
        return Decision(survivable, cut_numbers, ratios)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 2 or shape[1] != self.network.n_links:
            raise InvalidInputError(f"Expected `capacities` of shape [B, {self.network.n_links}], got {list(shape)}.")

    def _decide_here(self, capacities: object) -> Decision:
        """``decide`` on the CPU: the same in NumPy, whose calls cost less than the arithmetic of a short batch."""
        values = np.asarray(capacities, dtype=np.float64)
        self._check_shape(values.shape)
        if not np.isfinite(values.sum()):  # infinite capacities too: inf times 0 is no number
            raise InvalidInputError("Expected finite `capacities`, got NaN or infinity.")
        batch = len(values)
        ratios, numbers = np.ones(batch), np.full(batch, -1)
        if self._here is None:
            self._here = np.array([cut.weights / cut.rhs for cut in self.cuts]).reshape(-1, self.network.n_links)
        if len(self._here):
            ratio = values @ self._here.T
            which = ratio.argmin(axis=1)
            ratios = ratio[np.arange(batch), which]
            numbers = np.where(ratios < 1.0 - _TOLERANCE, which, -1)
        survivable = np.zeros(batch, dtype=bool)
        undecided = (numbers < 0).nonzero()[0]
        self.tally.by_pool += batch - len(undecided)
        known = len(self.cuts)
        for i in undecided:
            verdict = self._decide_one(values[i], self.cuts[known:], known)
            survivable[i] = verdict is None
            if verdict is not None:
                numbers[i] = verdict
                ratios[i] = min(ratios[i], float(self.cuts[verdict].weights @ values[i]) / self.cuts[verdict].rhs)
        return Decision(survivable, numbers, ratios)

    def screen(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The pool alone, [B, m] on ``device``: most violated cut [B] (-1 where none) and worst ratio [B]."""
        rows, rhs = self.pool
        if not len(rhs):
            nothing = torch.full((len(values),), -1, dtype=torch.int64, device=self.device)
            return nothing, torch.ones(len(values), dtype=torch.float64, device=self.device)
        ratio, which = ((values @ rows.T) / rhs).min(dim=1)
        return which.masked_fill_(ratio >= 1.0 - _TOLERANCE, -1), ratio

    def explain(self, capacities: Array) -> str | None:
        """The violated cut in words for link capacities [m], or None if they survive."""
        decision = self.decide(np.asarray(capacities, dtype=np.float64)[None])
        if decision.is_survivable[0]:
            return None
        return cut_in_words(self.network, self.cuts[int(decision.cut[0])], np.asarray(capacities, dtype=np.float64))

    def add_cuts(self, cuts: Sequence[MetricCut]) -> None:
        """Put known cuts, such as an exact run's, into the pool."""
        self._pending += cuts
        self.cuts += cuts
        if cuts:
            self._here = None

    def _decide_one(self, row: Array, fresh: Sequence[MetricCut], first: int) -> int | None:
        """Number of a violated cut, or None if survivable, for a vector that the pool of the batch did not refuse.

        ``fresh`` are the cuts that joined during the batch, numbered from ``first``.
        """
        for number, known in enumerate(fresh, start=first):
            if known.weights @ row < known.rhs * (1.0 - _TOLERANCE):
                self.tally.by_pool += 1
                return number
        if len(self._set_rhs):
            ratio = (self._set_rows @ row) / self._set_rhs
            worst = int(ratio.argmin())
            if ratio[worst] < 1.0 - _TOLERANCE:
                self.tally.by_cutset += 1
                weights = self._set_rows[worst].copy()
                return self._add(MetricCut(int(self._set_scenario[worst]), weights, float(self._set_rhs[worst])))
        if any((row >= proven).all() for proven in self._proven):
            self.tally.by_dominance += 1
            return None
        self.tally.by_programs += 1
        before = self.survival.n_lps
        found = self.survival.first_failure(row)
        self.tally.lps += self.survival.n_lps - before
        if found is None:
            self._remember(row)
            return None
        return self._add(metric_cut(self.network, *found))

    def _add(self, cut: MetricCut) -> int:
        self.add_cuts([cut])
        return len(self.cuts) - 1

    def _flush(self) -> None:
        if self._pending:
            rows = torch.from_numpy(np.array([c.weights for c in self._pending])).to(self.device)
            rhs = torch.tensor([c.rhs for c in self._pending], dtype=torch.float64, device=self.device)
            self._rows, self._rhs = torch.cat([self._rows, rows]), torch.cat([self._rhs, rhs])
            self._pending = []

    def _remember(self, row: Array, *, most: int = 64) -> None:
        """Keep minimal proven vectors."""
        self._proven = [*[p for p in self._proven if not (p >= row).all()][-most + 1 :], row.copy()]


@dataclass(slots=True)
class EpisodeFigures:
    """Work of add-one-module episodes: steps, linear programs, and share of refusals without one."""

    steps: list[int] = field(default_factory=list)
    lps: list[int] = field(default_factory=list)
    refused_without_lp: list[float] = field(default_factory=list)


def random_episodes(evaluator: Evaluator, episodes: int, *, rng: np.random.Generator) -> EpisodeFigures:
    """Add one module on a random link until the network survives, ``episodes`` times, and count the work."""
    figures, network = EpisodeFigures(), evaluator.network
    step = np.zeros((network.n_links, network.n_links))
    for j in np.flatnonzero(network.gbps > 0.0):
        step[network.variable_link[j], network.variable_link[j]] = network.gbps[j]
    for _ in range(episodes):
        capacity = network.offset.copy()
        steps, lps, by_programs = 0, evaluator.tally.lps, 0
        while True:
            programs = evaluator.tally.by_programs
            if evaluator.is_survivable(capacity[None])[0]:
                break
            by_programs += evaluator.tally.by_programs - programs
            capacity += step[rng.integers(network.n_links)]
            steps += 1
        figures.steps.append(steps)
        figures.lps.append(evaluator.tally.lps - lps)
        figures.refused_without_lp.append(1.0 - by_programs / max(steps, 1))
    return figures
