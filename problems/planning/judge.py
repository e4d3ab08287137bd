"""The independent judge of plans: its own reading of the instance, per-demand path flows, plain LPs.

It shares no code with the engine. A plan is accepted in a failure only with flows in hand, one set of paths per demand,
that are added up and compared with the capacities; it is rejected only with arc lengths in hand whose shortest
distances prove that no routing exists. So a wrong LP cannot make a wrong verdict.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from problems.planning.instance import Failure, PlanningInstance
from problems.planning.judge_states import NetworkState, Pair, Path
from problems.planning.plan import Plan

TOLERANCE = 1e-6  # relative, of capacities and demands
_REMEMBERED = 8  # flows and proofs kept per state


@dataclass(frozen=True, slots=True)
class StateVerdict:
    """One network state: the routing if it is survived, the proof if not.

    Attributes:
        failure: its name.
        is_survived: whether everything that must be carried fits.
        utilization: link name -> largest share of the usable capacity over both directions (links that are up).
        routing: (source, target) -> list of (link names of a path, Gbps).
        lost: demands without any path in this state, which no capacity can carry.
        shortfall_gbps: what the proof says is missing at least, weighted by the proof's arc lengths.
        proof: link name -> (length forward, length backward); empty if survived.
        needed: what the proof's lengths say all demands take, Gbps x length.
        loads: link name -> larger load of its two directions, Gbps, of the links that are up.
    """

    failure: str
    is_survived: bool
    utilization: dict[str, float] = field(default_factory=dict)
    routing: dict[tuple[str, str], list[tuple[tuple[str, ...], float]]] = field(default_factory=dict)
    lost: tuple[tuple[str, str], ...] = ()
    shortfall_gbps: float = 0.0
    proof: dict[str, tuple[float, float]] = field(default_factory=dict)
    needed: float = 0.0
    loads: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of a whole plan.

    Attributes:
        is_feasible: all rules kept and all states survived (states excused by the instance do not count).
        cost: recomputed from the instance's prices.
        broken_rules: in words.
        states: verdict per state, the failure-free one first.
        excused: failures that the instance excuses because they disconnect a demand whatever the plan.
    """

    is_feasible: bool
    cost: float
    broken_rules: tuple[str, ...]
    states: tuple[StateVerdict, ...]
    excused: tuple[str, ...]

    def __str__(self) -> str:
        bad = [s for s in self.states if not s.is_survived]
        words = "feasible" if self.is_feasible else "NOT feasible"
        lines = [f"{words}: cost {self.cost:,.6g}, {len(self.states) - len(bad)} of {len(self.states)} states survived"]
        lines += list(self.broken_rules)
        lines += [f"not survived: {s.failure} (short of {s.shortfall_gbps:,.4g} Gbps x length)" for s in bad[:5]]
        if self.excused:
            lines.append(f"excused, a demand is disconnected whatever the plan: {', '.join(self.excused)}")
        return "\n".join(lines)


class Judge:
    """Judges plans of one instance; paths, flows and proofs that it found serve the next plan too.

    A proof (arc lengths and the shortest distances under them) refuses any plan that it holds against, and flows accept
    any plan whose capacities hold them; both are only looked up and added up again, so no linear program is trusted.

    Args:
        instance: as given, never the compiled one.
    """

    def __init__(self, instance: PlanningInstance) -> None:
        self._instance = instance
        self._paths: dict[Pair, dict[Path, None]] = {}
        failures = [Failure("no failure", services=instance.services), *instance.failures]
        self._failures = list(enumerate(failures))  # names may repeat that of the state without failure
        self._states: dict[int, NetworkState] = {}
        self._last = -1
        self._survived: dict[int, list[StateVerdict]] = {}
        self._refused: dict[int, list[StateVerdict]] = {}

    def __call__(self, plan: Plan, *, stop_early: bool = False) -> Verdict:
        """Check a plan against every rule and every failure.

        Args:
            plan: counts of modules.
            stop_early: stop at the first state that is not survived; the one that failed last time comes first.
        """
        instance = self._instance
        broken = _broken_rules(instance, plan)
        usable = {
            link.name: instance.load_factor * (link.existing_gbps + gbps)
            for link, gbps in zip(instance.links, plan.installed_gbps(instance), strict=True)
        }
        states, excused = [], []
        failures = sorted(self._failures, key=lambda entry: entry[0] != self._last) if stop_early else self._failures
        for number, failure in failures:
            verdict = self._from_memory(number, usable)
            if verdict is None:
                if number not in self._states:
                    self._states[number] = NetworkState.of(instance, failure)
                verdict = _judge_state(instance, self._states[number], usable, self._paths)
                if not verdict.lost:
                    memory = self._survived if verdict.is_survived else self._refused
                    memory.setdefault(number, []).append(verdict)
                    del memory[number][:-_REMEMBERED]
            if verdict.lost and failure.name != "no failure" and instance.on_disconnection.value == "skip":
                excused.append(failure.name)
                continue
            states.append(verdict)
            if stop_early and not verdict.is_survived:
                self._last = number
                break
        feasible = not broken and all(s.is_survived for s in states)
        return Verdict(feasible, plan.cost(instance), tuple(broken), tuple(states), tuple(excused))

    def _from_memory(self, failure: int, usable: dict[str, float]) -> StateVerdict | None:
        """Verdict of a state by an earlier proof or by earlier flows, if one of them decides it."""
        slack = TOLERANCE * max(usable.values(), default=0.0)
        for old in self._refused.get(failure, []):
            have = sum((forward + backward) * usable[name] for name, (forward, backward) in old.proof.items())
            if old.proof and old.needed > have * (1 + TOLERANCE) + slack:
                return replace(old, shortfall_gbps=old.needed - have)
        for old in self._survived.get(failure, []):
            if all(load <= usable[name] * (1 + TOLERANCE) for name, load in old.loads.items()):
                share = {name: load / usable[name] if usable[name] > 0 else 0.0 for name, load in old.loads.items()}
                return replace(old, utilization=share)
        return None


def judge(instance: PlanningInstance, plan: Plan, *, stop_early: bool = False) -> Verdict:
    """Check one plan; see :class:`Judge`."""
    return Judge(instance)(plan, stop_early=stop_early)


def _broken_rules(instance: PlanningInstance, plan: Plan) -> list[str]:
    broken = []
    total = {}
    for link, row in zip(instance.links, plan.counts, strict=True):
        new = sum(k * module.capacity_gbps for k, module in zip(row, link.modules, strict=True))
        total[link.name] = link.existing_gbps + new
        if any(k < 0 or k != int(k) for k in row):
            broken.append(f"link {link.name}: module counts {row} are not whole numbers >= 0")
        if link.is_exclusive and sum(row) > 1:
            broken.append(f"link {link.name}: {sum(row)} modules where at most one is allowed")
        if link.max_gbps is not None and total[link.name] > link.max_gbps * (1 + TOLERANCE):
            broken.append(f"link {link.name}: {total[link.name]:g} Gbps exceed its largest capacity {link.max_gbps:g}")
    for fiber in instance.fibers:
        over = [link for link in instance.links if fiber.name in link.fibers]
        gbps = sum(total[link.name] for link in over)
        ghz = 0.0
        for link in over:
            rates = link.fiber_ghz_per_gbps or (link.ghz_per_gbps,) * len(link.fibers)
            ghz += total[link.name] * dict(zip(link.fibers, rates, strict=True))[fiber.name]
        if fiber.is_leased and fiber.lease_gbps is not None and gbps > fiber.lease_gbps * (1 + TOLERANCE):
            broken.append(f"fiber {fiber.name}: {gbps:g} Gbps exceed its lease of {fiber.lease_gbps:g}")
        if not fiber.is_leased and fiber.spectrum_ghz is not None and ghz > fiber.spectrum_ghz * (1 + TOLERANCE):
            broken.append(f"fiber {fiber.name}: {ghz:g} GHz exceed its spectrum of {fiber.spectrum_ghz:g}")
    return broken


def _judge_state(
    instance: PlanningInstance, state: NetworkState, usable: dict[str, float], pool: dict[Pair, dict[Path, None]]
) -> StateVerdict:
    is_excused = state.failure != "no failure" and instance.on_disconnection.value == "drop"
    if state.lost and not is_excused:
        return StateVerdict(state.failure, False, lost=state.lost, shortfall_gbps=math.inf)
    if not state.wanted:
        return StateVerdict(state.failure, True, {name: 0.0 for name, _ in state.arcs}, lost=state.lost)
    return _route(state, usable, pool)


def _route(state: NetworkState, usable: dict[str, float], pool: dict[Pair, dict[Path, None]]) -> StateVerdict:
    """Column generation over paths: least total overload; 0 means survived."""
    name, arcs, wanted, lost = state.failure, state.arcs, state.wanted, state.lost
    number = {arc: i for i, arc in enumerate(arcs)}
    capacity = np.array([usable[link] for link, _ in arcs])
    scale = max(max(wanted.values()), 1e-12)
    columns: list[tuple[Pair, Path]] = []
    known = set()

    def add(pair: Pair, path: Path) -> bool:
        if (pair, path) in known:
            return False
        known.add((pair, path))
        columns.append((pair, path))
        return True

    row = {pair: i for i, pair in enumerate(wanted)}
    for pair in wanted:
        add(pair, state.fewest_links[pair])
        for path in list(pool.get(pair, {})):
            if all(key in number for key in path):
                add(pair, path)
    demand = np.array(list(wanted.values())) / scale
    while True:
        n, m = len(columns), len(arcs)
        use = sparse.csc_matrix(
            (
                np.ones(sum(len(path) for _, path in columns)),
                (
                    [number[key] for _, path in columns for key in path],
                    [j for j, (_, path) in enumerate(columns) for _ in path],
                ),
            ),
            shape=(m, n),
        )
        serve = sparse.csc_matrix((np.ones(n), ([row[pair] for pair, _ in columns], np.arange(n))), shape=(len(row), n))
        result = linprog(
            np.r_[np.zeros(n), np.ones(m)],
            A_ub=sparse.hstack([use, -sparse.identity(m)]).tocsc(),
            b_ub=capacity / scale,
            A_eq=sparse.hstack([serve, sparse.csc_matrix((len(row), m))]).tocsc(),
            b_eq=demand,
            method="highs",
        )
        if result.status != 0:
            raise RuntimeError(f"The judge's LP of state {name!r} ended with {result.message!r}.")
        flow = np.maximum(result.x[:n], 0.0)
        served = serve @ flow
        flow *= (demand / np.maximum(served, 1e-300))[[row[pair] for pair, _ in columns]]  # serves every demand exactly
        load = (use @ flow) * scale
        if (load <= capacity * (1 + TOLERANCE) + TOLERANCE * scale).all():
            routing: dict[Pair, list[tuple[tuple[str, ...], float]]] = {}
            for (pair, path), value in zip(columns, flow, strict=True):
                if value > 1e-9:
                    routing.setdefault(pair, []).append((tuple(key[0] for key in path), float(value * scale)))
            for (pair, path), value in zip(columns, flow, strict=True):
                if value > 1e-9:
                    pool.setdefault(pair, {})[path] = None
            share: dict[str, float] = {}
            loads: dict[str, float] = {}
            for (link, _), used, limit in zip(arcs, load, capacity, strict=True):
                part = float(used / limit) if limit > 0 else 0.0
                share[link] = max(share.get(link, 0.0), part)
                loads[link] = max(loads.get(link, 0.0), float(used))
            return StateVerdict(name, True, share, routing, lost, loads=loads)
        length = np.maximum(-result.ineqlin.marginals, 0.0)
        best, distance = state.shortest(length)
        need = sum(distance[pair] * gbps for pair, gbps in wanted.items())
        have = float(length @ capacity)
        if need > have * (1 + TOLERANCE) + TOLERANCE * scale:
            proof: dict[str, list[float]] = {}
            for (link, is_forward), value in zip(arcs, length, strict=True):
                proof.setdefault(link, [0.0, 0.0])[0 if is_forward else 1] = float(value)
            pairs = {link: (a, b) for link, (a, b) in proof.items() if a > 0 or b > 0}
            return StateVerdict(name, False, lost=lost, shortfall_gbps=need - have, proof=pairs, needed=need)
        if not sum([add(pair, path) for pair, path in best.items()]):
            # LP optimal over all paths and neither proof holds: inside the tolerance band, so not accepted
            return StateVerdict(name, False, lost=lost, shortfall_gbps=float(result.fun * scale))
