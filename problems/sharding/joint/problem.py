"""The joint sharding problem: a type and ranks for every table, rated as TorchRec rates plans."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from problems.sharding.joint.builder import SpaceBuilder
from problems.sharding.joint.model import Choice, Model
from problems.sharding.joint.oracle import JointOracle
from problems.sharding.joint.plan import JointPlan
from problems.sharding.joint.space import KINDS, Index
from problems.sharding.joint.spec import JointSpec, Objective
from surco.bridge import to_numpy, to_torch
from surco.protocols import Exact, Verification

if TYPE_CHECKING:
    from problems.sharding.joint.exact import JointRun


class JointProblem:
    """Choose the sharding type and the ranks of every embedding table.

    Variables: x[a] = 1 takes atom a, a piece (a table, or a column shard) in one sharding type at one place (a rank, a
    host, or everywhere); see ``problems.sharding.joint.space``. ``plan`` turns a design into placements.

    Objective, ms per step (minimized), under TorchRec's estimates of each shard (``problems.sharding.joint.costs``):
    ``rating``, the largest total of a rank; or ``critical_path``, the sum of the largest forward and backward compute
    of a rank and, for each sharding type, the largest forward and backward comms. Both are sums of maxima of linear
    functions, convex in x.

    Rules: one type and all its shards placed for each table; bytes of weights, optimizer state and buffers within the
    capacity of each device less the reserve; pinned, forbidden, colocated and spread tables; allowed types and least
    widths.

    Args:
        spec: tables, topology, rules, score.

    Raises:
        InvalidInputError: by the spec. Rules that leave no plan are no input error: the oracle labels them and
            ``explain_infeasibility`` names them.
    """

    is_differentiable = True
    is_convex = True
    exact_is_fast = True
    exact_goes_on = True
    auto_method = "joint"

    def __init__(self, spec: JointSpec) -> None:
        self.joint_spec = spec
        self.id = spec.id
        self.builder = SpaceBuilder(spec)
        self.space = self.builder.build()
        self.oracle = JointOracle(self.space)
        self.model = Model(self.space, spec.objective) if self.oracle.has_units else None
        self._run: JointRun | None = None
        self._allowed = self._allowed_atoms()
        if self.model is not None:
            from problems.sharding.joint.exact import compile_loops

            compile_loops(self.model)

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> JointProblem:
        """Build from a JSON object (see ``problems.sharding.joint.spec``)."""
        return cls(JointSpec.from_json(spec))

    @property
    def spec(self) -> Mapping[str, Any]:
        """JSON object that ``from_spec`` turns back into an equal problem."""
        return self.joint_spec.to_json()

    # ------------------------------------------------------------------ designs and plans

    def design(self, choice: Choice) -> Tensor:
        """Design [A] of a choice."""
        return self._design(choice.chosen())

    def _design(self, atoms: Index) -> Tensor:
        x = torch.zeros(self.oracle.n, dtype=torch.float64)
        x[torch.from_numpy(atoms)] = 1.0
        return x

    def plan(self, x: Tensor) -> JointPlan:
        """The plan of a feasible design [A]."""
        return self.space.plan(np.flatnonzero(to_numpy(x) > 0.5))

    def design_of(self, plan: JointPlan) -> Tensor:
        """Design [A] of a plan.

        Raises:
            InvalidInputError: the plan is not in the space; the message names the table.
        """
        return self._design(self.space.atoms(plan))

    # ------------------------------------------------------------------ objective and rules

    @functools.cached_property
    def _loads_matrix(self) -> Tensor:
        """[F W, A] sparse: load of each feature on each rank."""
        space, model = self.space, self.model
        assert model is not None
        atoms = space.entry_atom()
        rows = (model.feature[atoms] * space.ranks + space.entry_rank[:, None]).ravel()
        columns = np.repeat(atoms, model.weights.shape[1])
        indices = torch.from_numpy(np.stack([rows, columns]))
        size = (model.features * space.ranks, space.n)
        return torch.sparse_coo_tensor(
            indices, torch.from_numpy(model.weights.ravel()), size, check_invariants=True
        ).coalesce()

    def loads_ms(self, x: Tensor) -> Tensor:
        """Load of each feature on each rank, [..., A] -> [..., F, W]; one feature for the rating."""
        if self.model is None:
            return x.new_zeros(*x.shape[:-1], 1, self.space.ranks)
        flat = x.reshape(-1, x.shape[-1]).to(torch.float64)
        loads = torch.sparse.mm(self._loads_matrix, flat.T).T
        return loads.reshape(*x.shape[:-1], self.model.features, self.space.ranks)

    def objective(self, x: Tensor) -> Tensor:
        """Milliseconds per step, [..., A] -> [...]; differentiable, defined on fractional plans too."""
        return self.loads_ms(x).amax(-1).sum(-1)

    def phases_ms(self, x: Tensor) -> np.ndarray:
        """[4, W] milliseconds of each phase on each rank of one design [A], in the order of ``PHASES``."""
        on = to_numpy(x)[self.space.entry_atom()]
        phases = np.zeros((4, self.space.ranks))
        for p in range(4):
            np.add.at(phases[p], self.space.entry_rank, self.space.entry_ms[:, p] * on)
        return phases

    def used_bytes(self, x: Tensor) -> np.ndarray:
        """[W] bytes on each rank of one design [A]."""
        used = np.zeros(self.space.ranks)
        np.add.at(used, self.space.entry_rank, self.space.entry_bytes * to_numpy(x)[self.space.entry_atom()])
        return used

    def _allowed_atoms(self) -> Tensor:
        """[A], 1 where the rules of the spec, read anew from names, let an atom be."""
        spec, space = self.joint_spec, self.space
        rules = spec.constraints
        rank = {device.name: r for r, device in enumerate(spec.devices)}
        owners = space.mode_unit()[space.piece_mode()[space.atom_piece()]]
        kinds = space.mode_kind[space.piece_mode()[space.atom_piece()]]
        entry_atom = space.entry_atom()
        allowed = np.ones(space.n, dtype=bool)
        for unit, members in enumerate(space.units):
            own = owners == unit if any(self._has_rule(t) for t in members) else None
            if own is None:
                continue
            entries = own[entry_atom]
            for t in members:
                name = spec.tables[t].name
                types = [KINDS.index(kind) for kind in rules.types.get(name, rules.default_types)]
                allowed &= ~own | np.isin(kinds, types)
                banned = {rank[device] for table, device in rules.forbid if table == name}
                if name in rules.pin:
                    banned |= set(range(space.ranks)) - {rank[rules.pin[name]]}
                allowed[entry_atom[entries & np.isin(space.entry_rank, list(banned))]] = False
        return torch.from_numpy(allowed.astype(np.float64))

    def _has_rule(self, t: int) -> bool:
        rules, name = self.joint_spec.constraints, self.joint_spec.tables[t].name
        return name in rules.pin or name in rules.types or any(table == name for table, _ in rules.forbid)

    def violation(self, x: Tensor) -> Tensor:
        """Largest violation of a rule, [..., A] -> [...]; 0 if feasible, inf with NaN or where a table has no place.

        Integrality, modes and pieces in units of x; memory as a share of the capacity (of one byte where that is 0);
        spread in shards too many.
        """
        flat = x.reshape(-1, x.shape[-1]).to(torch.float64)
        if self.model is None:
            return torch.full(x.shape[:-1], torch.inf, dtype=torch.float64)
        space, rows = self.space, len(flat)

        def total(values: Tensor, index: Index, size: int) -> Tensor:
            out = torch.zeros(rows, size, dtype=torch.float64)
            return out.index_add(1, torch.from_numpy(np.ascontiguousarray(index)), values)

        pieces = total(flat, space.atom_piece(), len(space.piece_start) - 1)
        modes = pieces[:, torch.from_numpy(space.mode_start[:-1])]
        entry_on = flat[:, torch.from_numpy(space.entry_atom())]
        used = total(entry_on * torch.from_numpy(space.entry_bytes), space.entry_rank, space.ranks)
        capacity = torch.from_numpy(space.capacity)
        parts = [
            (flat - flat.round().clamp(0.0, 1.0)).abs().amax(1),
            (pieces - modes[:, torch.from_numpy(space.piece_mode())]).abs().amax(1),
            (total(modes, space.mode_unit(), len(space.units)) - 1.0).abs().amax(1),
            (flat.abs() * (1.0 - self._allowed)).amax(1),
            ((used - capacity).clamp(min=0.0) / capacity.clamp(min=1.0)).amax(1),
        ]
        owners = self.model.atom_unit[space.entry_atom()]
        for group in space.groups:
            inside = torch.from_numpy(np.isin(owners, group).astype(np.float64))
            parts.append((total(entry_on * inside, space.entry_rank, space.ranks) - 1.0).clamp(min=0.0).amax(1))
        worst = torch.stack(parts).amax(0)
        worst = torch.where(worst < 1e-9, 0.0, worst)
        worst = torch.where(worst.isnan() | flat.isnan().any(1), torch.inf, worst)
        return worst.reshape(x.shape[:-1])

    # ------------------------------------------------------------------ starts, neighbors, bounds

    @property
    def run(self) -> JointRun:
        """The search of this problem; it goes on from call to call."""
        if self._run is None:
            from problems.sharding.joint.exact import JointRun

            self._run = JointRun(self)
        return self._run

    @functools.cached_property
    def rule_choices(self) -> dict[str, Choice]:
        """Plans of the constructive rules that fit."""
        from problems.sharding.joint.starts import Starts

        if self.model is None:
            return {}
        starts = Starts(self.model, self.lower_bound())
        found = {
            "table_wise": starts.whole(),
            "sweep": starts.best(starts.cut_sweep()),
            "level_sweep": starts.best(starts.level_sweep()),
        }
        return {name: plan[0] for name, plan in found.items() if plan is not None}

    def heuristics(self) -> Mapping[str, Tensor]:
        """Constructive rules (see ``problems.sharding.joint.starts``), as designs."""
        return {name: self.design(choice) for name, choice in self.rule_choices.items()}

    @functools.cached_property
    def _initial_costs(self) -> Tensor:
        if self.model is None:
            return torch.zeros(self.oracle.n, dtype=torch.float64)
        costs = self.model.atom_top.copy()
        plans = self.rule_choices
        start = plans.get("level_sweep", next(iter(plans.values()), None))
        if start is not None:
            costs[start.chosen()] = 0.0
        return to_torch(costs)

    def initial_costs(self) -> Tensor:
        """[A], milliseconds of each atom alone, free where the level sweep has it.

        A largest load over alike ranks has no useful gradient where all ranks look the same, so the linearization is
        taken at a plan: leaving it costs what the piece weighs.
        """
        return self._initial_costs

    def moves(self, x: Tensor, *, count: int, generator: torch.Generator) -> Tensor:
        """At most ``count`` feasible neighbors of x [A]: one unit in another mode or place, as [K, A]."""
        space = self.space
        chosen = np.flatnonzero(to_numpy(x) > 0.5)
        if self.model is None or not len(chosen):
            return x.new_zeros(0, self.oracle.n)
        rng = np.random.default_rng(int(torch.randint(0, 2**62, (1,), generator=generator).item()))
        owners = self.model.atom_unit[chosen]
        found: list[Index] = []
        for _ in range(3 * count):
            unit = int(rng.integers(len(space.units)))
            mode = int(rng.integers(space.unit_start[unit], space.unit_start[unit + 1]))
            pieces = range(space.mode_start[mode], space.mode_start[mode + 1])
            new = [int(rng.integers(space.piece_start[p], space.piece_start[p + 1])) for p in pieces]
            atoms = np.sort(np.concatenate([chosen[owners != unit], new]))
            if not np.array_equal(atoms, chosen) and self.oracle.fits(atoms):
                found.append(atoms)
            if len(found) == count:
                break
        neighbors = torch.zeros(len(found), self.oracle.n, dtype=torch.float64)
        for row, atoms in enumerate(found):
            neighbors[row, torch.from_numpy(atoms)] = 1.0
        return neighbors

    @functools.cached_property
    def _bound(self) -> float:
        from problems.sharding.joint.bounds import level_bound

        return level_bound(self.model) if self.model is not None else float("inf")

    def lower_bound(self) -> float:
        """Cheap valid bound (see ``problems.sharding.joint.bounds``), ms."""
        return self._bound

    def exact(self, *, seconds: float | None = None, start: Tensor | None = None) -> Exact:
        """Sweeps, annealing and CP-SAT with a certified bound; a further call goes on where the last one stopped."""
        return self.run.run(seconds=seconds, start=start)

    def methods(self) -> Mapping[str, Any]:
        """The search above, a phase a step."""
        from problems.sharding.joint.method import methods

        return methods(self)

    def explain_infeasibility(self) -> str:
        """Which rule or table leaves no plan, and the smallest relaxation."""
        from problems.sharding.joint.explain import explain

        return explain(self)

    # ------------------------------------------------------------------ reports and judges

    def score(self, x: Tensor, objective: Objective) -> float:
        """Either score of one design [A], ms."""
        if self.model is None:
            return float("nan")
        atoms = np.flatnonzero(to_numpy(x) > 0.5)
        model = self.model if objective is self.joint_spec.objective else Model(self.space, objective)
        return model.value(model.choice(atoms))

    def metrics(self, x: Tensor) -> Mapping[str, float]:
        """Both scores, balance, fullest device, and the number of tables of each type, of one design [A]."""
        from problems.sharding.joint.report import metrics

        return metrics(self, x)

    def describe(self, x: Tensor) -> str:
        """Scores, types, the busiest ranks, and the tables that matter with their runner-up."""
        from problems.sharding.joint.report import describe

        return describe(self, x)

    def figures(self, x: Tensor) -> Mapping[str, Any]:
        """Load of every rank by phase, and memory."""
        from problems.sharding.joint.report import figures

        return figures(self, x)

    def exports(self) -> Mapping[str, Callable[[Tensor, Path], None]]:
        """File formats of a plan, see ``problems.sharding.handover.exports``."""
        from problems.sharding.handover.exports import exports, joint_reasons

        return exports(self.joint_spec.tables, self.plan, functools.partial(joint_reasons, self))

    def judges(self) -> Mapping[str, Callable[[Tensor], Verification]]:
        """TorchRec's own objects as judge of a plan."""
        from problems.sharding.joint.judge import verify

        return {"torchrec": functools.partial(verify, self)}
