"""Families of sharding instances: drawn tables on devices, as features for the assignment network."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from problems.sharding.costs import AdditiveCost, BoundAdditive, BoundCost, CostModel
from problems.sharding.fused import BoundFused, FusedCost
from problems.sharding.generator import DIMS
from problems.sharding.measured.cost import MeasuredCost
from problems.sharding.problem import ShardingProblem
from problems.sharding.symmetry import Index, first_positions
from problems.sharding.tables import GIB_BYTES, Device, Table, Workload
from solvers.fanout import MapPool
from solvers.oracle import Array
from surco.bridge import to_torch
from surco.errors import InvalidInputError
from surco.instance_family import Batch, Family, Features, Instance, Schema, Split
from surco.protocols import Problem

ITEM_CHANNELS = 5
BIN_CHANNELS = 3
MEMORY_SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class Distribution:
    """What is drawn: tables and devices log-uniform between their limits, and the keyword arguments of the domain."""

    tables: tuple[int, int]
    devices: tuple[int, int]
    cost_model: CostModel
    pooling_sigma: float = 1.6
    rows_sigma: float = 2.0
    dims: tuple[int, ...] = DIMS


class ShardingFamily(Family):
    """Tables on alike devices.

    Features of an instance with T tables and D devices: ``weights`` [F, T, D], the cost model's features of a table
    on a device; ``item`` [T, 5] and ``bin`` [D, 3], descriptions in logarithms; ``context`` [F], log of the mean load
    of a device; ``start`` [T, D], the plan of the ``marginal`` rule (else of another rule); ``allowed`` [T, D];
    ``memory`` [T] and ``capacity`` [D], as shares of the largest capacity; ``variables`` [T, D], ones.

    The rule's plan costs T D evaluations of the cost model, as it does when the rule is a baseline. No other value of
    the objective enters the features.

    Args:
        id: name of the family.
        distribution: what is drawn.
    """

    gradient = "landscape"
    # The bin model is small and learns from plans, of which each instance gives any number: few instances, many steps.
    training = MappingProxyType(
        {"samples": 8, "step_size": 3e-3, "instances": 96, "validation": 16, "validate_every": 500}
    )

    def __init__(self, id: str, distribution: Distribution) -> None:
        self.id = id
        self.distribution = distribution
        self.model = distribution.cost_model
        # Everything but the weights of a bound cost is a setting of the model, so one serves the whole batch.
        self._cost: BoundCost = _bound(self.model, distribution.devices[0])
        count = len(self._cost.weights)
        self.schema = Schema(
            f"sharding-{self.model.name}-1",
            {"item": ITEM_CHANNELS, "bin": BIN_CHANNELS, "context": count, "weights": count},
        )

    def draw(self, split: Split, rng: np.random.Generator) -> ShardingProblem:
        """Draw sizes, then tables; the memory is the smallest accelerator that serves."""
        from problems.sharding.makers import dlrm

        d = self.distribution
        count = _log_uniform(rng, *d.devices)
        tables = _log_uniform(rng, *d.tables)
        for _ in range(100):
            try:
                return dlrm(
                    tables,
                    count,
                    self.id,
                    self.model,
                    seed=int(rng.integers(2**62)),
                    dims=d.dims,
                    rows_sigma=d.rows_sigma,
                    pooling_sigma=d.pooling_sigma,
                )
            except InvalidInputError:  # more tables than any accelerator of that count holds: other sizes
                count = _log_uniform(rng, *d.devices)
                tables = _log_uniform(rng, *d.tables)
        raise InvalidInputError(f"{self.id}: a hundred draws in a row do not fit into memory. Draw fewer tables.")

    def features(self, problem: Problem) -> Features:
        """Describe a sharding problem with the same cost model.

        Raises:
            InvalidInputError: another domain, another cost model, or no rule finds a plan.
        """
        if not isinstance(problem, ShardingProblem):
            raise InvalidInputError(f"Expected a sharding problem for `{self.id}`, got {type(problem).__name__}.")
        if problem.cost_model != self.model:
            raise InvalidInputError(
                f"Expected the cost model {self.model} of `{self.id}`, got {problem.cost_model}. "
                "Train a prior on a family with that cost model."
            )
        start = next(
            (problem.rule_choices[name] for name in ("marginal", "lpt", "best_fit") if name in problem.rule_choices),
            None,
        )
        if start is None:
            raise InvalidInputError("Expected memory for at least one greedy plan, which the network starts from.")
        weights = to_torch(problem.cost.weights)
        total = weights.mean(-1).sum(-1) / len(problem.devices)  # [F], mean load of a device
        capacity = to_torch(problem.capacity_bytes)
        memory = to_torch(problem.table_bytes) / capacity.max()
        relative = weights.mean(-1) / total.clamp(min=1e-12)[:, None]  # [F, T]
        single = to_torch(problem.cost.single_ms()).sum(0).mean(-1)  # [T]
        item = torch.stack(
            [
                _log(single / single.sum() * len(problem.devices)),
                _log(relative.amax(0)),
                _log(relative.amin(0)),
                _log(memory),
                torch.tensor([math.log2(t.dim) / 7.0 for t in problem.tables], dtype=torch.float64),
            ],
            dim=-1,
        )
        count = len(problem.devices)
        speed = torch.tensor([d.hbm_gib_per_s for d in problem.devices], dtype=torch.float64)
        size = torch.full((count,), math.log(count) / 3.0, dtype=torch.float64)
        allowed = to_torch(problem.placement.allowed[problem.placement.group])
        plan = problem.plan(problem.design(start))
        return {
            "weights": weights,
            "item": item,
            "bin": torch.stack([capacity / capacity.max(), speed / speed.max(), size], dim=-1),
            "context": total.clamp(min=1e-12).log(),
            "start": plan,
            "allowed": allowed,
            "memory": memory,
            "capacity": capacity / capacity.max(),
            "variables": torch.ones_like(plan),
        }

    def objective(self, features: Features, x: Tensor) -> Tensor:
        """Milliseconds of padded plans [B, ..., T, D] -> [B, ...]."""
        weights = features["weights"].to(x)
        loads = torch.einsum("bftd,b...td->b...fd", weights, x)
        return self._value(features, self._cost.times_ms(self._cost.loads_ms(loads)))

    def _value(self, features: Features, times: Tensor) -> Tensor:
        """Times [B, ..., 4, D] -> [B, ...], padded devices left out."""
        exists = (features["capacity"] > 0)[(slice(None), *[None] * (times.ndim - 2), slice(None))]
        value = times.masked_fill(~exists, -torch.inf) if self._cost.temperature_ms else times
        return self._cost.value_ms(value)

    def local_values(self, features: Features, x: Tensor) -> Tensor:
        """F [B, T, D] of padded plans x [B, T, D] with one table moved; exact, of one device's change at a time."""
        cost, weights = self._cost, features["weights"].to(x)
        loads = torch.einsum("bftd,btd->bfd", weights, x)
        base = cost.times_ms(cost.loads_ms(loads))  # [B, 4, D]
        without = loads[:, :, None] - weights * x[:, None]  # [B, F, T, D], differs where the table is
        added = without + weights
        times_without = cost.times_ms(cost.loads_ms(without.transpose(1, 2).clamp(min=0.0)))  # [B, T, 4, D]
        times_with = cost.times_ms(cost.loads_ms(added.transpose(1, 2)))
        here = x[:, :, None, :] > 0.5  # [B, T, 1, D]
        removed = torch.where(here, times_without, base[:, None])  # [B, T, 4, D] with the table nowhere
        devices = x.shape[-1]
        target = torch.eye(devices, dtype=torch.bool, device=x.device)[:, None]  # [D, 1, D]
        moved = torch.where(target, times_with[:, :, None], removed[:, :, None])  # [B, T, D, 4, D]
        return self._value(features, moved)

    def scale(self, features: Features) -> Tensor:
        """[B], milliseconds of the starting plan."""
        return self.objective(features, features["start"]).clamp(min=1e-9)

    def relabeling(self, problem: Problem, costs: Array) -> Index | None:
        """Rename alike devices so that the cheapest choice of every table is a canonical plan.

        The oracle's set holds one labelling of a plan; costs that mean another labelling would be misread.
        """
        assert isinstance(problem, ShardingProblem)
        oracle = problem.oracle
        if not oracle.classes:
            return None
        tables, devices = oracle.tables, oracle.devices
        grouped = problem.placement.sum_groups(costs.reshape(-1, tables, devices)) + oracle.blocked
        first = first_positions(grouped.argmin(-1), oracle.order, devices)
        source = np.tile(np.arange(devices), (len(costs), 1))  # new name -> old name
        for members in oracle.classes:
            source[:, members] = members[np.argsort(first[:, members], axis=1, kind="stable")]
        names = devices * np.arange(tables)[:, None] + source[:, None, :]
        return names.reshape(len(costs), -1)

    def network(self, *, kind: str = "planning", **config: Any) -> torch.nn.Module:
        """A network for this schema.

        Args:
            kind: ``"planning"``, which searches in a learned landscape, or ``"assignment"``, which refines the plan of
                the greedy rule by messages.
            config: keyword arguments of the network.
        """
        from surco.networks import AssignmentNetwork, PlanningNetwork

        channels = self.schema.channels
        if kind == "assignment":
            return AssignmentNetwork(channels["item"], channels["bin"], channels["weights"], **config)
        if kind != "planning":
            raise InvalidInputError(f"Expected `kind` to be `planning` or `assignment`, got {kind!r}.")
        phases, temperature = (4, self._cost.temperature_ms) if self._cost.temperature_ms else (1, 1e-4)
        return PlanningNetwork(channels["weights"], phases, temperature, **config)

    def measured(self, features: Features, x: Tensor) -> Tensor:
        """What a profiler measures of padded plans [B, M, T, D]: milliseconds [B, M, P, D] of each phase and device."""
        loads = torch.einsum("bftd,bmtd->bmfd", features["weights"].to(x), x)
        times = self._cost.times_ms(self._cost.loads_ms(loads))
        return times if self._cost.temperature_ms else times.sum(-2, keepdim=True)

    def reference(self, problem: Problem) -> float:
        """Value of the best greedy rule."""
        assert isinstance(problem, ShardingProblem)
        return min(float(problem.objective(x)) for x in problem.heuristics().values())

    def solve(
        self,
        batch: Batch,
        instances: Sequence[Instance],
        costs: Tensor,
        *,
        pool: MapPool | None = None,
        is_relaxed: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Cheapest device of every table where the memory allows, on the device of the costs; else the oracle.

        The labels of alike devices are free here: the objective does not see them.
        """
        variables, features = batch.variables[:, None], batch.features
        blocked = ~(variables & (features["allowed"] > 0)[:, None])
        choice = costs.masked_fill(blocked, torch.inf).argmin(-1, keepdim=True)
        x = torch.zeros_like(costs).scatter_(-1, choice, 1.0) * variables
        used = torch.einsum("bmtd,bt->bmd", x.double(), features["memory"].double())
        capacity = features["capacity"].double()[:, None]
        fits = (used <= capacity * (1 + MEMORY_SLACK)).all(-1)  # [B, M]
        if bool(fits.all()):
            return x, torch.ones_like(fits)
        rows = (~fits).any(1).nonzero().squeeze(-1).tolist()
        part = Batch({name: value[rows] for name, value in features.items()})
        exact, found = super().solve(part, [instances[b] for b in rows], costs[rows], pool=pool, is_relaxed=is_relaxed)
        has_point = torch.ones_like(fits)
        for k, b in enumerate(rows):
            x[b] = torch.where(fits[b][:, None, None], x[b], exact[k])
            has_point[b] = fits[b] | found[k]
        return x, has_point


def _bound(model: CostModel, devices: int) -> BoundCost:
    """A bound cost whose weights nobody looks at: of ones, or of one table where networks must embed something."""
    if isinstance(model, MeasuredCost):
        alike = [Device(f"gpu{d}", GIB_BYTES) for d in range(devices)]
        return model.bind([Table("any", 1000, 16, 1.0)], alike, Workload(batch_size=1024))
    if isinstance(model, FusedCost):
        return BoundFused(model, np.ones((6, 1, 1)))
    return BoundAdditive(np.ones((4, 1, 1)))


def _log(values: Tensor) -> Tensor:
    return values.clamp(min=1e-9).log()


def _log_uniform(rng: np.random.Generator, low: int, high: int) -> int:
    return low if low == high else round(math.exp(rng.uniform(math.log(low), math.log(high))))


@functools.cache
def catalog() -> Mapping[str, tuple[str, Distribution]]:
    """Id -> (description, distribution)."""
    entries: dict[str, tuple[str, Distribution]] = {}
    for model, suffix, words in ((AdditiveCost(), "", "additive cost"), (FusedCost(), "-nonlinear", "nonlinear cost")):
        for tables in (50, 200):
            for devices in (4, 8, 16):
                entries[f"sharding/dlrm-{tables}t-{devices}d{suffix}-v0"] = (
                    f"{tables} drawn tables on {devices} devices; {words}",
                    Distribution((tables, tables), (devices, devices), model),
                )
        entries[f"sharding/dlrm-mixed{suffix}-v0"] = (
            f"10 to 200 drawn tables on 2 to 32 devices; {words}",
            Distribution((10, 200), (2, 32), model),
        )
        entries[f"sharding/dlrm-50t-8d-heavy{suffix}-v0"] = (
            f"50 drawn tables on 8 devices, pooling factors spread wider (a shifted distribution); {words}",
            Distribution((50, 50), (8, 8), model, pooling_sigma=2.0),
        )
        entries[f"sharding/dlrm-100t-8d{suffix}-v0"] = (
            f"100 drawn tables on 8 devices (a shifted distribution); {words}",
            Distribution((100, 100), (8, 8), model),
        )
    return entries


def family(id: str) -> ShardingFamily:
    """The family of an id of `catalog`."""
    return ShardingFamily(id, catalog()[id][1])
