"""The expert placement problem: copies of experts on GPUs, so that no GPU is busy long and tokens stay in few nodes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from problems.moe import eplb
from problems.moe.bound import load_bound, traffic_bound
from problems.moe.instance import DEFAULT_TRAFFIC_WEIGHT, Cluster, Migration, Routing, whole
from problems.moe.judge import judge
from problems.moe.oracle import ExpertOracle
from problems.moe.search import ROUND_MOVES, ExactRun, PlacementSearch
from problems.moe.traffic import PlanCost
from problems.moe.traffic_bound import CostBound
from surco.bridge import to_numpy, to_torch
from surco.errors import InvalidInputError
from surco.protocols import Exact, Verification

Plan = NDArray[np.bool_]

CAPPED_HEATS = (1.0, 0.3, 0.1, 0.02)


class ExpertPlacement:
    """Place the experts of mixture-of-experts layers on GPUs, with copies of the busy ones.

    Variables: x[(l * E + e) * G + g] = 1 puts a copy of expert e of layer l on GPU g; n = L E G.

    Objective (minimized), the mean over layers of

        (largest GPU load) / (mean GPU load) + traffic_weight * (mean number of further nodes per token),

    where an expert's tokens are spread evenly over its copies: not linear in x. `problems.moe.traffic` states the model
    and its source. Both parts are reported apart by ``metrics``.

    Rules: every expert of a layer on at least one GPU and at most ``max_copies``; at most ``cluster.slots`` experts of
    a layer on a GPU; and, where a plan runs already, at most ``migration.cap`` copies on GPUs that do not hold that
    expert now.

    Args:
        routing: measured loads and recorded tokens.
        cluster: GPUs, nodes, slots.
        traffic_weight: of one further node per token, in units of the mean GPU's expert time, at least 0; None is
            `problems.moe.instance.DEFAULT_TRAFFIC_WEIGHT` with recorded tokens, else 0.
        max_copies: of one expert; None for as many as GPUs.
        migration: the plan that runs now, and the cap.
        id: name of the instance.

    Raises:
        InvalidInputError: a traffic weight without recorded tokens (every plan then has the same traffic), or a current
            plan of another shape. More experts than slots, or a cap that no plan keeps, is not an input error: the
            oracle labels it and ``explain_infeasibility`` names it.
    """

    is_differentiable = True
    is_convex = False
    exact_is_fast = False
    exact_goes_on = True
    auto_method = "annealing"  # no other arm of the portfolio comes near it here

    def __init__(
        self,
        routing: Routing,
        cluster: Cluster,
        *,
        traffic_weight: float | None = None,
        max_copies: int | None = None,
        migration: Migration | None = None,
        id: str = "moe/custom",
    ) -> None:
        if traffic_weight is None:
            traffic_weight = DEFAULT_TRAFFIC_WEIGHT if routing.has_tokens else 0.0
        is_number = isinstance(traffic_weight, int | float) and not isinstance(traffic_weight, bool)
        if not is_number or not 0.0 <= traffic_weight < np.inf:
            raise InvalidInputError(f"Expected `traffic_weight` to be a number of at least 0, got {traffic_weight!r}.")
        if traffic_weight > 0.0 and not routing.has_tokens:
            raise InvalidInputError(
                "Expected recorded tokens with a `traffic_weight` above 0: from loads alone every plan has the same "
                "traffic. Record the experts of some thousand tokens, or set the weight to 0."
            )
        shape = (routing.layers, routing.experts, cluster.gpus)
        if migration is not None and migration.current.shape != shape:
            raise InvalidInputError(
                f"Expected the current plan for {shape} layers, experts and GPUs, got {migration.current.shape}."
            )
        self.routing, self.cluster, self.migration, self.id = routing, cluster, migration, id
        self.traffic_weight = float(traffic_weight)
        self.max_copies = max_copies
        limit = cluster.gpus if max_copies is None else whole(max_copies, "max_copies", minimum=1)
        self.most = min(limit, cluster.gpus)
        self.cost = PlanCost(routing, cluster, self.traffic_weight)
        self.oracle = ExpertOracle(*shape[:2], cluster, self.most, migration)
        self._shape = shape
        self._starts: list[Plan] | None = None
        self._rules: dict[str, Tensor] | None = None
        self._exact_run: ExactRun | None = None

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> ExpertPlacement:
        """Build from a JSON object (see ``problems.moe.spec``)."""
        from problems.moe.spec import problem_from_json

        return problem_from_json(spec)

    @property
    def spec(self) -> Mapping[str, Any]:
        """JSON object that ``from_spec`` turns back into an equal problem."""
        from problems.moe.spec import problem_to_json

        return problem_to_json(self)

    # ------------------------------------------------------------------ objective and rules

    def plan_of(self, x: Tensor) -> Plan:
        """One design x [n] as [L, E, G] bool."""
        return to_numpy(x).reshape(self._shape) > 0.5

    def objective(self, x: Tensor) -> Tensor:
        """Value of designs [..., n] -> [...]."""
        return self.cost.value(x)

    def violation(self, x: Tensor) -> Tensor:
        """Largest violation of integrality, coverage, slots, copies or the cap, in experts; [..., n] -> [...]."""
        plan = x.unflatten(-1, self._shape)
        off_grid = torch.minimum(x.abs(), (x - 1.0).abs()).amax(-1)
        copies, held = plan.sum(-1).flatten(-2), plan.sum(-2).flatten(-2)
        worst = torch.stack(
            [off_grid, 1.0 - copies.amin(-1), copies.amax(-1) - self.most, held.amax(-1) - self.cluster.slots]
        ).amax(0)
        if self.migration is not None:
            stays = torch.from_numpy(self.migration.current)
            sent = torch.where(stays, torch.zeros_like(plan), plan).flatten(-3).sum(-1)
            worst = torch.maximum(worst, sent - self.migration.cap)
        return worst.clamp(min=0.0)

    def initial_costs(self) -> Tensor:
        """[n]: the share of load that a copy takes, negative where the best of the field's plans puts one."""
        loads = self.routing.loads / self.routing.loads.sum(axis=1, keepdims=True) * self.routing.experts
        plans = self.start_plans()
        if not plans:
            return to_torch(np.broadcast_to(loads[:, :, None], self._shape).reshape(-1).copy())
        plan = plans[0]
        per_copy = (loads / plan.sum(axis=2))[:, :, None]
        return to_torch((np.where(plan, -1.0, 1.0) * per_copy).reshape(-1))

    def explain_infeasibility(self) -> str:
        """Too few slots, or a cap that no plan keeps, and the smallest relaxation."""
        experts, slots = self.routing.experts, self.cluster.total_slots
        if experts > slots:
            needed = -(-experts // self.cluster.gpus)
            return (
                f"{experts} experts do not fit into {slots} slots ({self.cluster.gpus} GPUs with {self.cluster.slots} "
                f"each). Smallest relaxation: {needed} slots on every GPU."
            )
        least = self.oracle.least_migration()
        if self.migration is not None and least > self.migration.cap:
            return (
                f"The plan that runs now breaks the rules, and any plan must send at least {least} copies; the cap is "
                f"{self.migration.cap}. Smallest relaxation: a migration_cap of {least}."
            )
        return "There is a feasible plan: the slots and the cap leave room."

    # ------------------------------------------------------------------ ways to a plan

    def start_plans(self) -> list[Plan]:
        """Feasible plans [L, E, G] of the field's rules, best value first; with a cap, the plan that runs, repaired."""
        if self._starts is None:
            plans = [self.plan_of(x) for x in self._rule_designs().values()]
            if not plans and self.oracle.is_roomy:
                costs = np.ones(self.oracle.n)
                if self.migration is not None:
                    costs -= 2.0 * self.migration.current.reshape(-1)
                found = self.oracle.solve(costs[None])
                plans = [found.x[0].reshape(self._shape) > 0.5] if found.has_point[0] else []
            values = [float(self.objective(to_torch(plan.reshape(-1)))) for plan in plans]
            self._starts = [plans[i] for i in np.argsort(values, kind="stable")]
        return self._starts

    def _rule_designs(self) -> dict[str, Tensor]:
        """The field's rules on every layer, where they keep all rules; EPLB's double copies on one GPU count once."""
        cluster, groups = self.cluster, self.routing.groups
        rules: dict[str, Callable[[np.ndarray], np.ndarray | None]] = {
            "eplb_global": lambda loads: eplb.eplb_global(loads, cluster),
            "eplb_hierarchical": lambda loads: eplb.eplb_hierarchical(loads, cluster, groups),
            "lpt": lambda loads: eplb.lpt(loads, cluster, most=self.most),
            "lpt_single": lambda loads: eplb.lpt(loads, cluster, has_copies=False),
        }
        found: dict[str, Tensor] = {}
        if not self.oracle.is_roomy:
            return found
        for name, rule in rules.items():
            layers = [counts for loads in self.routing.loads if (counts := rule(loads)) is not None]
            if len(layers) == self.routing.layers:
                x = to_torch((np.stack(layers) > 0).reshape(-1))
                if float(self.violation(x)) == 0.0:
                    found[name] = x
        if self.migration is not None:
            x = to_torch(self.migration.current.reshape(-1))
            if float(self.violation(x)) == 0.0:
                found["stay"] = x
        return found

    def heuristics(self) -> Mapping[str, Tensor]:
        """EPLB in both variants, LPT with and without copies, the plan that runs now, and one round of annealing."""
        if self._rules is None:
            rules = self._rule_designs()
            if self.start_plans():
                rules["annealed"] = to_torch(self.replan().reshape(-1))
            self._rules = rules
        return {name: x.clone() for name, x in self._rules.items()}

    def replan(self, *, moves: int = ROUND_MOVES, seed: int = 0) -> Plan:
        """A good plan [L, E, G] at once: annealing from the field's best plan, or from the one that runs now.

        Deterministic in its arguments: the work is counted in ``moves`` (about a microsecond each), not in seconds.

        Raises:
            InvalidInputError: there is no feasible plan to start from.
        """
        starts = self.start_plans()
        if not starts:
            raise InvalidInputError(f"There is no plan to start from. {self.explain_infeasibility()}")
        search = PlacementSearch(self, starts[0])
        # Under a cap, moves are cheap and what was sent early cannot be taken back: several starts at several heats.
        for heat in (1.0,) if self.migration is None else CAPPED_HEATS:
            search.round(moves, seed=seed, fresh=starts[0], heat=heat)
        return search.best

    def moves(self, x: Tensor, *, count: int, generator: torch.Generator) -> Tensor:
        """At most ``count`` feasible neighbors of x [n]: a copy elsewhere, one more, one less, or two swapped."""
        rng = np.random.default_rng(int(torch.randint(0, 2**62, (1,), generator=generator).item()))
        here = self.plan_of(x)
        layers, experts, gpus = self._shape
        found: dict[bytes, Plan] = {}
        for _ in range(4 * count):
            if len(found) >= count:
                break
            plan = here.copy()
            layer, kind = plan[int(rng.integers(layers))], int(rng.integers(4))
            e, f = rng.integers(experts, size=2)
            a = int(rng.choice(np.flatnonzero(layer[e])))
            b = int(rng.integers(gpus))
            if kind != 0:
                layer[e, a] = False  # moved, swapped, or dropped
            if kind != 3:
                layer[e, b] = True
            if kind == 2 and layer[f, b] and f != e:
                layer[f, b], layer[f, a] = False, True
            if (plan != here).any() and float(self.violation(to_torch(plan.reshape(-1)))) == 0.0:
                found[plan.tobytes()] = plan
        if not found:
            return x.new_zeros(0, self.oracle.n)
        return to_torch(np.stack(list(found.values())).reshape(len(found), -1))

    def lower_bound(self) -> float:
        """Certified and cheap: see ``problems.moe.bound``. Weak in the traffic, which ``cost_bound`` improves."""
        return float(np.mean(self.layer_bounds())) if self.oracle.is_roomy else np.inf

    def layer_bounds(self) -> list[float]:
        """Cheap certified lower bound of the value of each layer."""
        top_k = self.routing.tokens.shape[2] if self.routing.has_tokens else 0
        traffic = self.traffic_weight * traffic_bound(top_k, self.cluster)
        return [load + traffic for load in self.load_bounds()]

    @functools.cached_property
    def cost_bound(self) -> CostBound:
        """Load and traffic bounded together, better from cycle to cycle (see ``problems.moe.traffic_bound``)."""
        return CostBound(self)

    def load_bounds(self) -> list[float]:
        """Certified lower bound of each layer's (largest GPU load) / (mean GPU load)."""
        return [load_bound(loads, self.cluster, self.most) for loads in self.routing.loads]

    def exact(self, *, seconds: float | None = None, start: Tensor | None = None) -> Exact:
        """Annealing in rounds and the certified bound; a further call goes on where the last one stopped."""
        if self._exact_run is None:
            self._exact_run = ExactRun(self)
        return self._exact_run.run(seconds=seconds, start=start)

    def methods(self) -> Mapping[str, Any]:
        """``annealing``: the search of ``replan`` and ``exact``, a round a step; compiled before any clock starts."""
        from problems.moe.method import methods
        from problems.moe.search import compile_loops

        compile_loops(self)
        return methods(self)

    # ------------------------------------------------------------------ reports

    def metrics(self, x: Tensor) -> Mapping[str, float]:
        """Load and traffic apart, of one design x [n]."""
        plan = self.plan_of(x)
        shares = self.cost.shares(x)
        largest = self.cost.gpu_loads(shares).amax(-1)
        values = {
            "largest_over_mean_load": float(largest.mean()),
            "balance": float((1.0 / largest).mean()),
            "further_nodes_per_token": float(self.cost.further_nodes(shares).mean()),
            "load_bound": float(np.mean(self.load_bounds())) if self.oracle.is_roomy else np.inf,
            "copies": float(plan.sum()),
        }
        if self.migration is not None:
            values["moved_copies"] = float((plan & ~self.migration.current).sum())
        return values

    def describe(self, x: Tensor) -> str:
        """Loads and traffic by layer and node."""
        from problems.moe.report import describe

        return describe(self, x)

    def figures(self, x: Tensor) -> Mapping[str, Any]:
        """Load of every GPU, and tokens between nodes."""
        from problems.moe.report import figures

        return figures(self, x)

    def judges(self) -> Mapping[str, Callable[[Tensor], Verification]]:
        """``draws``: the plan valued by code that did not make it, and by drawing copies for the recorded tokens."""
        return {"draws": self._verify}

    def _verify(self, x: Tensor) -> Verification:
        routing = self.routing
        verdicts = [
            judge(plan.astype(np.int64), loads, tokens, self.cluster, seed=layer)
            for layer, (plan, loads, tokens) in enumerate(
                zip(self.plan_of(x), routing.loads, routing.tokens, strict=True)
            )
        ]
        found = float(np.mean([v.largest_over_mean + self.traffic_weight * v.further_nodes for v in verdicts]))
        claimed = float(self.objective(x))
        problems = "; ".join(f"layer {layer}: {v.problem}" for layer, v in enumerate(verdicts) if v.problem)
        drawn = float(np.mean([v.drawn_further_nodes for v in verdicts]))
        is_equal = abs(found - claimed) <= 1e-9 * max(abs(claimed), 1.0)
        facts: dict[str, float | int | str] = {"claimed": claimed, "found": found, "drawn_further_nodes": drawn}
        return Verification(is_equal and not problems, facts | ({"problems": problems} if problems else {}))

    def exports(self) -> Mapping[str, Callable[[Tensor, Path], None]]:
        """File formats of a plan: ``json`` (experts of every GPU) and ``eplb`` (the maps that serving engines load)."""
        from problems.moe.export import exports

        return exports(self)
