"""Items to bins by planning in a learned landscape: the network has learned what a bin costs, and searches with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEAST_LOAD = 1e-3  # ms; loads below it look alike in the logarithm
LEAST_GAIN = 1e-6  # relative, of a move in the learned landscape
LEAST_COST = 1e-6  # relative, of leaving the plan
SLACK = 1e-6  # relative, of memory in single precision; the oracle has the last word


class BinModel(nn.Module):
    """Times of the P phases of a bin from the F sums of what it holds, [..., F] -> [..., P].

        log times = log(sum of loads + floor) + net(log loads, loads / (1 + loads))

    Args:
        weights: F.
        phases: P.
        hidden: width.
    """

    def __init__(self, weights: int, phases: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2 * weights, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, phases),
        )
        self.floor = nn.Parameter(torch.tensor(-2.0))

    def forward(self, loads: Tensor) -> Tensor:
        """Positive times."""
        seen = torch.cat([(loads.clamp(min=0.0) + LEAST_LOAD).log() / 2.0, loads / (1.0 + loads)], dim=-1)
        base = (loads.sum(-1, keepdim=True) + self.floor.exp()).log()
        return (base + self.net(seen)).exp()


class PlanningNetwork(nn.Module):
    """Costs [B, T, D] by a search that never asks the objective: only the learned bin model.

    The value of a plan is, in the model, the sum over phases of the smooth maximum over bins. The forward pass places
    items one after another where that grows least, heaviest first; takes that plan or ``start``, whichever the model
    likes better; then improves it by moves from, and swaps with, the most critical bin. The costs are the model's
    single changes: entry (t, d) is what moving item t to bin d would cost, relative to the value of the plan; zero
    where the item is. They are what SurCo calls the linear surrogate, and the oracle turns them into the nearest plan
    that keeps every rule.

    All steps are batched over instances; the loops run over items and rounds. Nothing is differentiated through the
    search: the bin model is trained on measured times (:meth:`landscape_loss`).

    Features: ``weights`` [B, F, T, D], ``variables`` and ``allowed`` [B, T, D], ``memory`` [B, T], ``capacity``
    [B, D]; ``start`` [B, T, D], a known plan, around which measurements are taken to learn.

    Args:
        weights: F.
        phases: P.
        temperature: of the smooth maximum, in the unit of the times.
        hidden: width of the bin model.
        rounds: of improvement.
        candidates: items of the critical bin that a round looks at.
    """

    def __init__(
        self,
        weights: int,
        phases: int,
        temperature: float,
        *,
        hidden: int = 64,
        rounds: int = 40,
        candidates: int = 16,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.rounds, self.candidates = rounds, candidates
        self.model = BinModel(weights, phases, hidden)

    # ------------------------------------------------------------------ learning

    def explored(self, features: dict[str, Tensor], samples: int, generator: torch.Generator) -> Tensor:
        """Plans [B, M, T, D] to measure: ``start`` with a share of the items moved at random, from few to all."""
        own = features["start"]
        pairs = (features["variables"] * features["allowed"])[:, None]
        shape = (len(own), samples, *own.shape[1:])
        options = {"generator": generator, "dtype": torch.float64, "device": generator.device}
        draw = torch.rand(shape, **options).to(own)
        choice = draw.masked_fill(pairs == 0, -1.0).argmax(-1, keepdim=True)
        other = torch.zeros(shape, dtype=own.dtype, device=own.device).scatter_(-1, choice, 1.0) * pairs
        share = torch.rand(shape[:2], **options).to(own).square()[..., None]
        is_moved = torch.rand(shape[:3], **options).to(own) < share
        return torch.where(is_moved[..., None], other, own[:, None])

    def landscape_loss(self, features: dict[str, Tensor], x: Tensor, times: Tensor) -> Tensor:
        """[B], mean squared error of the log of the times [B, M, P, D] of the plans x [B, M, T, D]."""
        loads = torch.einsum("bftd,bmtd->bmdf", features["weights"], x)
        error = (self.model(loads).clamp(min=1e-9).log() - times.transpose(-1, -2).clamp(min=1e-9).log()).square()
        exists = (features["variables"].amax(1) > 0)[:, None, :, None]
        return (error * exists).sum((1, 2, 3)) / (exists.sum((1, 2, 3)) * x.shape[1] * error.shape[-1])

    # ------------------------------------------------------------------ planning

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Costs [B, T, D], non-negative, zero at the planned bin and where padded."""
        with torch.no_grad():
            view = _View(features)
            plan = self._improved(view, self._begun(view, features))
            changes, value = self._moves(view, plan)
            relative = ((changes - value[:, None, None]) / value[:, None, None]).clamp(min=LEAST_COST)
            costs = torch.where(plan > 0, 0.0, relative)
            return torch.where(view.pairs > 0, costs, (view.mask - view.pairs) * 1e3) * view.mask

    def plan(self, features: dict[str, Tensor]) -> Tensor:
        """The plan [B, T, D] that the search ends with."""
        view = _View(features)
        return self._improved(view, self._begun(view, features))

    def _begun(self, view: _View, features: dict[str, Tensor]) -> Tensor:
        """The better one in the learned landscape [B, T, D]: the grown plan, or the given one where it keeps memory."""
        grown, given = self._grown(view), features["start"].to(view.mask)
        plans = torch.stack([grown, given], dim=1)
        loads = torch.einsum("btdf,bmtd->bmdf", view.weights, plans)
        values = self._value(self.model(loads), view.has_bin)  # [B, 2]
        used = torch.einsum("btd,bt->bd", given, view.memory)
        is_plan = ((given * view.pairs).sum(-1) == view.mask.amax(-1)).all(-1)
        is_given = (values[:, 1] < values[:, 0]) & is_plan & (used <= view.capacity * (1.0 + SLACK)).all(-1)
        return torch.where(is_given[:, None, None], given, grown)

    def _value(self, times: Tensor, has_bin: Tensor) -> Tensor:
        """Times [B, ..., D, P] -> [B, ...]."""
        exists = has_bin[(slice(None), *[None] * (times.ndim - 3), slice(None), None)]
        scaled = (times / self.temperature).masked_fill(exists == 0, -torch.inf)
        return self.temperature * torch.logsumexp(scaled, dim=-2).sum(-1)

    def _grown(self, view: _View) -> Tensor:
        """Greedy plan [B, T, D] in the learned landscape, heaviest item first."""
        batch, items, bins, _ = view.weights.shape
        alone = self.model(view.weights).sum(-1).masked_fill(view.pairs == 0, torch.inf).amin(-1)  # [B, T]
        order = torch.where(view.mask.amax(-1) > 0, alone, -1.0).argsort(dim=1, descending=True, stable=True)
        rows = torch.arange(batch, device=order.device)
        loads = torch.zeros_like(view.weights[:, 0])  # [B, D, F]
        times = self.model(loads)
        used = torch.zeros_like(view.capacity)
        plan = torch.zeros_like(view.mask)
        target = torch.eye(bins, dtype=torch.bool, device=order.device)[None, :, :, None]  # [1, D, D, 1]
        for k in range(items):
            t = order[:, k]
            weight = view.weights[rows, t]  # [B, D, F]
            added = self.model(loads + weight)  # [B, D, P]
            value = self._value(torch.where(target, added[:, None], times[:, None]), view.has_bin)
            value = value + 1e-6 * added.sum(-1)  # where the slowest bin is elsewhere
            size = view.memory[rows, t][:, None]
            fits = (view.pairs[rows, t] > 0) & (used + size <= view.capacity)
            allowed = torch.where(fits.any(-1, keepdim=True), fits, view.pairs[rows, t] > 0)
            d = value.masked_fill(~allowed, torch.inf).argmin(-1)
            exists = (view.mask[rows, t].amax(-1) > 0).to(value)
            chosen = nn.functional.one_hot(d, bins).to(value) * exists[:, None]
            plan[rows, t] = chosen
            loads = loads + weight * chosen[..., None]
            used = used + size * chosen
            times = torch.where(chosen[..., None] > 0, added, times)
        return plan

    def _improved(self, view: _View, plan: Tensor) -> Tensor:
        """Rounds of the best move or swap between a critical bin and the others."""
        for k in range(self.rounds):
            plan, is_better = self._round(view, plan, k % 4)
            if k % 4 == 3 and not bool(is_better.any()) and k >= 7:
                break
        return plan

    def _round(self, view: _View, plan: Tensor, phase: int) -> tuple[Tensor, Tensor]:
        """One step for every instance; the critical bin is the slowest in one phase, or (0) in all together."""
        batch, items, bins, _ = view.weights.shape
        rows = torch.arange(batch, device=plan.device)
        loads = torch.einsum("btdf,btd->bdf", view.weights, plan)
        times = self.model(loads)
        now = self._value(times, view.has_bin)
        phases = times.shape[-1]
        busy = times.sum(-1) if phase == 0 or phases == 1 else times[..., (phase - 1) % phases]
        critical = busy.masked_fill(view.has_bin == 0, -torch.inf).argmax(-1)  # [B]
        held = plan[rows, :, critical]  # [B, T]
        count = min(self.candidates, items)
        alone = view.weights.sum(-1)[rows, :, critical]
        offered, chosen = torch.where(held > 0, alone, -1.0).topk(count, dim=1)  # [B, K]
        is_real = offered >= 0
        where = plan.argmax(-1)  # [B, T]
        # Partner j of a candidate: j < T swaps with item j, j >= T moves to bin j - T.
        own = view.weights[rows[:, None], chosen]  # [B, K, D, F]
        leave = own[rows[:, None], torch.arange(count, device=plan.device)[None], critical[:, None]]  # [B, K, F]
        other = torch.cat([where, torch.arange(bins, device=plan.device).expand(batch, bins)], dim=1)  # [B, J]
        arrive = view.weights[rows[:, None], torch.arange(items, device=plan.device)[None], critical[:, None]]
        arrive = torch.cat([arrive, torch.zeros_like(loads)], dim=1)  # [B, J, F], what the critical bin gets
        drop = view.weights.gather(2, where[..., None, None].expand(-1, -1, 1, loads.shape[-1]))[:, :, 0]
        drop = torch.cat([drop, torch.zeros_like(loads)], dim=1)  # [B, J, F], what the other bin gives up
        gets = own.gather(2, other[:, None, :, None].expand(-1, count, -1, loads.shape[-1]))  # [B, K, J, F]
        here = loads[rows, critical]  # [B, F]
        there = loads.gather(1, other[..., None].expand(-1, -1, loads.shape[-1]))  # [B, J, F]
        new_here = self.model((here[:, None, None] - leave[:, :, None] + arrive[:, None]).clamp(min=0.0))
        new_there = self.model((there[:, None] - drop[:, None] + gets).clamp(min=0.0))  # [B, K, J, P]
        value = self._exchanged(times, view, critical, other, new_here, new_there)
        size = view.memory
        size_k = size[rows[:, None], chosen]
        size_j = torch.cat([size, torch.zeros_like(view.capacity)], dim=1)
        used = torch.einsum("btd,bt->bd", plan, size)
        room_here = view.capacity[rows, critical] - used[rows, critical]
        room_there = (view.capacity - used).gather(1, other)
        grows = size_k[:, :, None] - size_j[:, None]
        fits = (grows <= room_there[:, None]) & (-grows <= room_here[:, None, None])
        pairs = view.pairs > 0
        allowed_there = pairs[rows[:, None], chosen].gather(2, other[:, None].expand(-1, count, -1))
        allowed_here = torch.cat([pairs[rows, :, critical], torch.ones_like(pairs[:, 0])], dim=1)
        exists = torch.cat([view.mask.amax(-1), view.has_bin], dim=1) > 0
        is_open = is_real[:, :, None] & (other != critical[:, None])[:, None] & fits & allowed_there
        is_open = is_open & (allowed_here & exists)[:, None]
        best, place = value.masked_fill(~is_open, torch.inf).flatten(1).min(1)
        is_better = best < now * (1.0 - LEAST_GAIN)
        k, j = place // value.shape[2], place % value.shape[2]
        moved = plan.clone()
        t, d = chosen[rows, k], other[rows, j]
        moved[rows, t] = nn.functional.one_hot(d, bins).to(plan)
        partner = j.clamp(max=items - 1)
        back = nn.functional.one_hot(critical, bins).to(plan)
        moved[rows, partner] = torch.where((j < items)[:, None], back, moved[rows, partner])
        return torch.where(is_better[:, None, None], moved, plan), is_better

    def _exchanged(
        self, times: Tensor, view: _View, critical: Tensor, other: Tensor, new_here: Tensor, new_there: Tensor
    ) -> Tensor:
        """Value [B, K, J] with new times of two bins, [B, K, J, P] each; the rest by a smooth maximum without them."""
        bins = times.shape[1]
        is_changed = nn.functional.one_hot(other, bins) + nn.functional.one_hot(critical, bins)[:, None]  # [B, J, D]
        closed = (is_changed > 0) | (view.has_bin == 0)[:, None]
        scaled = (times / self.temperature)[:, None].masked_fill(closed[..., None], -torch.inf)
        rest = torch.logsumexp(scaled, dim=2)[:, None].expand(-1, new_here.shape[1], -1, -1)  # [B, K, J, P]
        parts = torch.stack([rest, new_here / self.temperature, new_there / self.temperature])
        return self.temperature * torch.logsumexp(parts, dim=0).sum(-1)

    def _moves(self, view: _View, plan: Tensor) -> tuple[Tensor, Tensor]:
        """Value [B, T, D] after each single move, and of the plan [B]."""
        loads = torch.einsum("btdf,btd->bdf", view.weights, plan)
        times = self.model(loads)
        without = torch.einsum("bdf,btd->btf", loads, plan) - torch.einsum("btdf,btd->btf", view.weights, plan)
        emptied = self.model(without.clamp(min=0.0))  # [B, T, P]
        filled = self.model(loads[:, None] + view.weights)  # [B, T, D, P]
        here = plan > 0
        base = (times / self.temperature)[:, None].masked_fill((view.has_bin == 0)[:, None, :, None], -torch.inf)
        base = base.masked_fill(here[..., None], -torch.inf)  # [B, T, D, P] without the item's own bin
        bins = plan.shape[-1]
        target = torch.eye(bins, dtype=torch.bool, device=plan.device)[None, None, :, :, None]
        rest = torch.logsumexp(base[:, :, None].masked_fill(target, -torch.inf), dim=3)  # [B, T, D, P]
        emptied = (emptied / self.temperature)[:, :, None].expand_as(rest)
        value = self.temperature * torch.logsumexp(torch.stack([rest, filled / self.temperature, emptied]), 0).sum(-1)
        now = self._value(times, view.has_bin)
        return torch.where(here, now[:, None, None], value), now


class _View:
    """Features in the shapes that the search wants: weights [B, T, D, F], masks, memory."""

    def __init__(self, features: dict[str, Tensor]) -> None:
        self.mask = features["variables"]
        self.pairs = self.mask * features["allowed"]
        self.weights = (features["weights"] * self.mask[:, None]).movedim(1, -1).contiguous()
        self.has_bin = self.mask.amax(1)
        self.memory, self.capacity = features["memory"], features["capacity"]
