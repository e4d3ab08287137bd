"""The sharding problem: tables to devices, so that the slowest device is fast."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from problems.sharding import rules
from problems.sharding.constraints import Constraints, resolve
from problems.sharding.costs import PHASES, AdditiveCost, Combine, CostModel, features_of
from problems.sharding.growth import tractable_classes
from problems.sharding.memory import capacity_bytes, memory_bytes
from problems.sharding.moves import neighbors
from problems.sharding.oracle import PlacementOracle
from problems.sharding.spec import ShardingSpec, spec_from_json
from problems.sharding.symmetry import Index, device_classes
from problems.sharding.tables import GIB_BYTES, Device, Table, Workload
from surco.bridge import to_numpy, to_torch
from surco.errors import InvalidInputError
from surco.protocols import Exact

if TYPE_CHECKING:
    from problems.sharding.embeddings import ClickModel
    from problems.sharding.embeddings.data import ClickData
    from problems.sharding.exact import ExactRun


class ShardingProblem:
    """Place embedding tables on devices so that a training step is short.

    Variables: x[t * D + d] = 1 puts table t (of T) on device d (of D); n = T D.

    Objective, in ms per step (minimized): the value of ``cost_model`` on the features that the tables of each device
    add up to; `AdditiveCost` is TorchRec's estimate (max over devices of a sum), `FusedCost` a nonlinear model.

    Rules: every table on one device; memory (weights, optimizer state, buffers) within each device's capacity less the
    reserve; pinned, forbidden and colocated tables. ``violation`` judges exactly these. The oracle's set also fixes
    the names of alike devices (one labelling per partition; ``break_symmetry=False`` turns that off), which no cost
    can tell apart; `canonical` renames any plan.

    Args:
        tables: at least one, with unique names.
        devices: at least one, with unique names; they may differ in memory, speed and host.
        cost_model: settings of the objective.
        constraints: pin, forbid, colocate, by name.
        workload: batch, optimizer, reserve.
        break_symmetry: whether the oracle returns canonical plans only.
        id: name of the instance.

    Raises:
        InvalidInputError: no tables or devices, a duplicate name, a rule about an unknown name. Rules or memory that
            leave no plan are not an input error: the oracle labels them and ``explain_infeasibility`` names them.
    """

    is_differentiable = True

    def __init__(
        self,
        tables: Sequence[Table],
        devices: Sequence[Device],
        cost_model: CostModel | None = None,
        constraints: Constraints | None = None,
        *,
        workload: Workload | None = None,
        break_symmetry: bool = True,
        id: str = "sharding/custom",
    ) -> None:
        self.tables = tuple(tables)
        self.devices = tuple(devices)
        self.cost_model = cost_model or AdditiveCost()
        self.constraints = constraints or Constraints()
        self.workload = workload or Workload()
        self.break_symmetry = break_symmetry
        self.id = id
        for what, things in (("table", self.tables), ("device", self.devices)):
            names = [thing.name for thing in things]
            if not names:
                raise InvalidInputError(f"Expected at least one {what}, got none.")
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise InvalidInputError(f"Expected unique names, got two {what}s named {twice!r}. Rename one.")

        self.placement = resolve(self.tables, self.devices, self.constraints)
        self.cost = self.cost_model.bind(self.tables, self.devices, self.workload)
        self.is_convex = self.cost.is_convex
        self.table_bytes = memory_bytes(self.tables, self.workload, len(self.devices))  # [T]
        self.capacity_bytes = capacity_bytes(self.devices, self.workload)  # [D]
        self.single_ms = self.placement.sum_groups(self.cost.single_ms())  # [4, G, D]
        self.group_weights = to_torch(self.placement.sum_groups(self.cost.weights))  # [F, G, D]
        self._weights = to_torch(self.cost.weights)  # [F, T, D]
        self._table_bytes = to_torch(self.table_bytes)
        self._capacity_bytes = to_torch(self.capacity_bytes)
        self._allowed = torch.from_numpy(self.placement.allowed[self.placement.group].astype(np.float64))

        self._exact_run: ExactRun | None = None

        classes: tuple[Index, ...] = ()
        if break_symmetry:
            columns = np.moveaxis(self.cost.weights, -1, 0)
            keys = [
                (float(self.capacity_bytes[d]), device.speed, columns[d].tobytes())
                for d, device in enumerate(self.devices)
            ]
            classes = tractable_classes(device_classes(keys, self.placement.allowed))
        heaviest_first = np.argsort(-self.single_ms.sum(0).min(axis=1), kind="stable")
        self.oracle = PlacementOracle(
            self.placement,
            self.placement.sum_groups(self.table_bytes[:, None])[:, 0],
            self.capacity_bytes,
            classes,
            heaviest_first,
        )

    # ------------------------------------------------------------------ spec

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any] | ShardingSpec) -> ShardingProblem:
        """Build from a JSON object (see ``problems.sharding.spec``)."""
        s = spec if isinstance(spec, ShardingSpec) else spec_from_json(spec)
        return cls(
            s.tables,
            s.devices,
            s.cost_model,
            s.constraints,
            workload=s.workload,
            break_symmetry=s.break_symmetry,
            id=s.id,
        )

    @classmethod
    def from_model(
        cls,
        model: ClickModel,
        optimizer: torch.optim.Optimizer,
        batches: Iterable[ClickData],
        devices: Sequence[Device],
        **options: Any,
    ) -> ShardingProblem:
        """Shard the tables of a trained model: its rows, width, true optimizer bytes, measured pooling and reuse.

        Args:
            model: the click model.
            optimizer: of its tables, after at least one step: the bytes of its states count.
            batches: samples of the workload, each as large as a step's batch: the reuse of rows depends on it.
            devices: where the tables may go.
            options: of the problem: ``cost_model``, ``constraints``, ``workload``, ``id``.

        Raises:
            InvalidInputError: no batches, or batches of other tables than the model's.
        """
        from problems.sharding.embeddings.export import table_entries, tables_from_model
        from problems.sharding.spec import table_from_json

        entries = table_entries(tables_from_model(model, optimizer, batches))
        return cls([table_from_json(entry, entry["name"]) for entry in entries], devices, **options)

    @property
    def spec(self) -> Mapping[str, Any]:
        """JSON object that ``from_spec`` turns back into an equal problem."""
        return ShardingSpec(
            self.tables, self.devices, self.workload, self.cost_model, self.constraints, self.break_symmetry, self.id
        ).to_json()

    # ------------------------------------------------------------------ objective and rules

    def plan(self, x: Tensor) -> Tensor:
        """Designs [..., n] as [..., T, D]."""
        return x.reshape(*x.shape[:-1], len(self.tables), len(self.devices))

    def times_ms(self, x: Tensor) -> Tensor:
        """Milliseconds of each phase on each device, [..., n] -> [..., 4, D], in the order of ``PHASES``."""
        return self.cost.times_ms(self.cost.loads_ms(features_of(self._weights.to(x), self.plan(x))))

    def objective(self, x: Tensor) -> Tensor:
        """Milliseconds per step, [..., n] -> [...]; differentiable, defined on fractional plans too."""
        return self.cost.value_ms(self.times_ms(x))

    def violation(self, x: Tensor) -> Tensor:
        """Largest violation of a rule, [..., n] -> [...]; 0 if feasible, inf with NaN. Names of alike devices are free.

        Integrality, one device per table, groups, and allowed devices in units of x; memory as a share of the capacity
        (of one byte where that is 0).
        """
        plan = self.plan(x.to(torch.float64))
        parts = [
            (plan - plan.round().clamp(0.0, 1.0)).abs().amax((-2, -1)),
            (plan.sum(-1) - 1.0).abs().amax(-1),
            (plan.abs() * (1.0 - self._allowed)).amax((-2, -1)),
            (
                (torch.einsum("...td,t->...d", plan, self._table_bytes) - self._capacity_bytes).clamp(min=0.0)
                / self._capacity_bytes.clamp(min=1.0)
            ).amax(-1),
        ]
        for members in self.placement.members:
            if len(members) > 1:
                group = plan[..., list(members), :]
                parts.append((group - group[..., :1, :]).abs().amax((-2, -1)))
        worst = torch.stack(parts).amax(0)
        return torch.where(worst.isnan() | plan.isnan().any(-1).any(-1), torch.inf, worst)

    def canonical(self, x: Tensor) -> Tensor:
        """Rename alike devices so that designs [..., n] lie in the oracle's set; the objective stays the same."""
        choice = self.oracle.canonical(self.oracle.choice(to_numpy(x)))
        return to_torch(self.oracle.design(choice), like=x).reshape(x.shape)

    # ------------------------------------------------------------------ starts, neighbors, bounds

    @functools.cached_property
    def rule_choices(self) -> dict[str, Index]:
        """Choices [G] of the greedy rules."""
        return rules.greedy_choices(self)

    def heuristics(self) -> Mapping[str, Tensor]:
        """Greedy rules of the field (see ``problems.sharding.rules``), as canonical designs."""
        return {name: self.design(choice) for name, choice in self.rule_choices.items()}

    def design(self, choice: Index) -> Tensor:
        """Canonical design [n] of a choice [G] of a device per group."""
        return to_torch(self.oracle.design(self.oracle.canonical(choice[None]))[0])

    def initial_costs(self) -> Tensor:
        """[n], the milliseconds of a table on a device, free where the LPT plan has it.

        A max over alike devices has no useful gradient at the symmetric point: all devices look the same. So the
        linearization is taken at a plan: leaving it costs what the table weighs, and perturbations move light tables
        before heavy ones. Without an LPT plan (full memory), the plain milliseconds.
        """
        single = to_torch(self.cost.single_ms().sum(0))
        start = self.rule_choices.get("lpt")
        if start is None:
            return single.reshape(-1)
        return (single * (1.0 - self.plan(self.design(start)))).reshape(-1)

    def moves(self, x: Tensor, *, count: int, generator: torch.Generator) -> Tensor:
        """At most ``count`` feasible neighbors of x [n] by shifting or swapping groups, as [K, n]."""
        seed = int(torch.randint(0, 2**62, (1,), generator=generator).item())
        choice = self.oracle.choice(to_numpy(x)[None])[0]
        busy = to_numpy(self.times_ms(x).sum(0))
        found = neighbors(self.oracle, choice, busy, count=count, rng=np.random.default_rng(seed))
        return to_torch(self.oracle.design(found))

    def feature_matrix(self) -> Tensor:
        """W [F * D, n]: the features of each device; the objective depends on x through W x alone.

        Not published as `aggregates` on purpose: a balanced plan has W x in the *interior* of the hull of all W x, and
        costs W' lambda are minimized on its boundary, where devices are as unequal as can be. The small space does not
        hold the good plans.
        """
        features, tables, devices = self._weights.shape
        rows = torch.einsum("ftd,de->fetd", self._weights, torch.eye(devices, dtype=torch.float64))
        rows = rows.reshape(features * devices, tables * devices)
        return rows[(rows != 0).any(1)]

    def lower_bound(self) -> float:
        """Cheap valid bound (see ``problems.sharding.bounds``), in ms."""
        from problems.sharding.bounds import quick_bound

        return quick_bound(self)

    @property
    def exact_is_fast(self) -> bool:
        """Whether `exact` is a matter of a second or so on most instances: where loads add up."""
        return self.cost.combine is Combine.SLOWEST_DEVICE

    exact_goes_on = True
    exact_share = 0.9  # its search is the best of the field here too: no other method found a better plan in equal time

    def exact(self, *, seconds: float | None = None, start: Tensor | None = None) -> Exact:
        """Local search and a certified bound; a further call goes on where the last one stopped.

        See ``problems.sharding.exact``.
        """
        if self._exact_run is None:
            from problems.sharding.exact import ExactRun

            self._exact_run = ExactRun(self)
        return self._exact_run.run(seconds=seconds, start=start)

    def explain_infeasibility(self) -> str:
        """Which rule or table leaves no plan, and the smallest relaxation."""
        from problems.sharding.explain import explain

        return explain(self)

    # ------------------------------------------------------------------ reports

    def metrics(self, x: Tensor) -> Mapping[str, float]:
        """Step time, its phases, balance, and per-device milliseconds and GiB of one design x [n]."""
        times = self.times_ms(x)
        total = times.sum(0)
        gib = self.plan(x).T @ self._table_bytes / GIB_BYTES
        share = self.plan(x).T @ self._table_bytes / self._capacity_bytes.clamp(min=1.0)
        values = {
            "step_ms": float(self.objective(x)),
            "slowest_device_ms": float(total.max()),
            "mean_device_ms": float(total.mean()),
            "imbalance": float(total.max() / total.mean()) if float(total.mean()) > 0 else 1.0,
            "memory_share_max": float(share.max()),
        }
        for phase, row in zip(PHASES, times, strict=True):
            values[f"{phase.replace(' ', '_')}_max_ms"] = float(row.max())
        for device, ms, used in zip(self.devices, total, gib, strict=True):
            values[f"{device.name}_ms"] = float(ms)
            values[f"{device.name}_gib"] = float(used)
        return values

    def describe(self, x: Tensor) -> str:
        """One line per device: time, memory, tables."""
        from problems.sharding.report import describe

        return describe(self, x)

    def figures(self, x: Tensor) -> Mapping[str, Any]:
        """Device loads by phase, and memory."""
        from problems.sharding.report import figures

        return figures(self, x)

    def exports(self) -> Mapping[str, Callable[[Tensor, Path], None]]:
        """File formats of a plan, see ``problems.sharding.handover.exports``."""
        from problems.sharding.handover.exports import exports, table_wise_plan, table_wise_reasons

        plan, reasons = functools.partial(table_wise_plan, self), functools.partial(table_wise_reasons, self)
        return exports(self.tables, plan, reasons)
