"""The independent judge of plans: its own reading of the instance, per-demand path flows, plain LPs.

It shares no code with the engine. A plan is accepted in a failure only with flows in hand, one set of paths per demand,
that are added up and compared with the capacities; it is rejected only with arc lengths in hand whose shortest
distances prove that no routing exists. So a wrong LP cannot make a wrong verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from problems.planning.instance import Failure, PlanningInstance
from problems.planning.judge_routing import NO_FLOWS, Flows, Outcome, PathStore, route
from problems.planning.judge_states import Floats, Ground, NetworkState
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
        lost: demands without any path in this state, which no capacity can carry.
        shortfall_gbps: what the proof says is missing at least, weighted by the proof's arc lengths.
        proof: link name -> (length forward, length backward); empty if survived.
        needed: what the proof's lengths say all demands take, Gbps x length.
        flows: the routing by numbers of nodes and arcs, with ``names`` of nodes and of links.
    """

    failure: str
    is_survived: bool
    utilization: dict[str, float] = field(default_factory=dict)
    lost: tuple[tuple[str, str], ...] = ()
    shortfall_gbps: float = 0.0
    proof: dict[str, tuple[float, float]] = field(default_factory=dict)
    needed: float = 0.0
    flows: Flows = field(default=NO_FLOWS, repr=False)
    names: tuple[Sequence[str], Sequence[str]] = field(default=((), ()), repr=False)

    @property
    def routing(self) -> dict[tuple[str, str], list[tuple[tuple[str, ...], float]]]:
        """(source, target) -> list of (link names of a path, Gbps)."""
        nodes, links = self.names
        found: dict[tuple[str, str], list[tuple[tuple[str, ...], float]]] = {}
        for (u, v), arcs, gbps in self.flows:
            found.setdefault((nodes[u], nodes[v]), []).append((tuple(links[a // 2] for a in arcs), gbps))
        return found


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
        self._ground, self._link_names = Ground.of(instance), [link.name for link in instance.links]
        self._paths = PathStore(len(instance.nodes))
        failures = [Failure("no failure", services=instance.services), *instance.failures]
        self._failures = list(enumerate(failures))  # names may repeat that of the state without failure
        self._states: dict[int, NetworkState] = {}
        self._last = -1
        self._outcomes: dict[tuple[int, bool], list[Outcome]] = {}  # by state, and whether it was survived

    def __call__(self, plan: Plan, *, stop_early: bool = False) -> Verdict:
        """Check a plan against every rule and every failure.

        Args:
            plan: counts of modules.
            stop_early: stop at the first state that is not survived; the one that failed last time comes first.
        """
        instance = self._instance
        broken = _broken_rules(instance, plan)
        usable = np.array(
            [
                instance.load_factor * (link.existing_gbps + gbps)
                for link, gbps in zip(instance.links, plan.installed_gbps(instance), strict=True)
            ]
        )
        states, excused = [], []
        failures = sorted(self._failures, key=lambda entry: entry[0] != self._last) if stop_early else self._failures
        for number, failure in failures:
            verdict = self._judge_state(number, failure, usable)
            if verdict.lost and failure.name != "no failure" and instance.on_disconnection.value == "skip":
                excused.append(failure.name)
                continue
            states.append(verdict)
            if stop_early and not verdict.is_survived:
                self._last = number
                break
        feasible = not broken and all(s.is_survived for s in states)
        return Verdict(feasible, plan.cost(instance), tuple(broken), tuple(states), tuple(excused))

    def _judge_state(self, number: int, failure: Failure, usable: Floats) -> StateVerdict:
        """Verdict of one state for usable capacities [m] of the links."""
        if number not in self._states:
            self._states[number] = NetworkState.of(self._instance, failure, self._ground)
        state = self._states[number]
        if state.lost and (failure.name == "no failure" or self._instance.on_disconnection.value != "drop"):
            return StateVerdict(failure.name, False, lost=state.lost, shortfall_gbps=math.inf)
        outcome = self._from_memory(number, usable)
        if outcome is None:
            outcome = route(state, np.repeat(usable, 2), self._paths, tolerance=TOLERANCE)
            known = self._outcomes.setdefault((number, outcome.is_survived), [])
            known.append(outcome)
            del known[:-_REMEMBERED]
        return self._in_words(state, outcome, usable)

    def _from_memory(self, number: int, usable: Floats) -> Outcome | None:
        """What an earlier proof or earlier flows say, if one of them decides the state."""
        slack = TOLERANCE * float(usable.max(initial=0.0))
        capacity = np.repeat(usable, 2)
        for old in self._outcomes.get((number, False), []):
            if old.needed > float(old.lengths @ capacity) * (1 + TOLERANCE) + slack:
                return old
        for old in self._outcomes.get((number, True), []):
            if (old.load <= capacity * (1 + TOLERANCE)).all():
                return old
        return None

    def _in_words(self, state: NetworkState, outcome: Outcome, usable: Floats) -> StateVerdict:
        """An outcome with the names of links and nodes."""
        names = self._link_names
        if not outcome.is_survived:
            pairs = outcome.lengths.reshape(-1, 2)
            have = float(pairs.sum(axis=1) @ usable)
            missing = outcome.needed - have if outcome.lengths.any() else outcome.overload
            proof = {names[k]: (float(pairs[k, 0]), float(pairs[k, 1])) for k in np.flatnonzero(pairs.any(axis=1))}
            return StateVerdict(state.failure, False, {}, state.lost, missing, proof, outcome.needed)
        busiest = outcome.load.reshape(-1, 2).max(axis=1, initial=0.0)
        share = np.divide(busiest, usable, out=np.zeros_like(usable), where=usable > 0.0).tolist()
        use = {names[k]: share[k] for k in np.flatnonzero(state.is_up[::2]).tolist()}
        words = (state.ground.nodes, names)
        return StateVerdict(state.failure, True, use, state.lost, flows=outcome.flows, names=words)


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
