"""Exact answers on whole plans: which scenario fails, and the metric cut that proves it, by warm scenario LPs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from problems.planning.network import Array, Network
from problems.planning.paths import PathPool
from problems.planning.separation import Answer, ScenarioProgram


@dataclass(frozen=True, slots=True)
class MetricCut:
    """``weights @ capacities >= rhs`` holds for every plan that survives ``scenario``.

    Attributes:
        scenario: its number.
        weights: [m] per usable Gbps of each link, scaled to a largest weight of 1.
        rhs: Gbps.
    """

    scenario: int
    weights: Array
    rhs: float


def metric_cut(network: Network, scenario: int, answer: Answer) -> MetricCut:
    """Cut on links of a separation's answer."""
    assert answer.lengths is not None
    per_edge = answer.lengths.sum(axis=0)
    weights = np.where(network.scenarios[scenario].alive, per_edge[network.link_edge], 0.0)
    top = float(per_edge.max())
    return MetricCut(scenario, weights / top, answer.rhs / top)


def binding_scenarios(network: Network) -> NDArray[np.int64]:
    """Scenarios that no other one implies (fewer links up and at least its demand)."""
    alive = np.array([s.alive for s in network.scenarios])
    demand: list[Array] = [s.demand for s in network.scenarios]
    keep: list[int] = []
    for s in range(len(alive)):
        implied = False
        for t in np.flatnonzero((alive <= alive[s]).all(axis=1)).tolist():
            same = (alive[t] == alive[s]).all() and np.array_equal(demand[t], demand[s])
            if t != s and (t < s if same else (demand[t] >= demand[s]).all()):
                implied = True
                break
        if not implied:
            keep.append(s)
    return np.array(keep, dtype=np.int64)


class Survival:
    """Warm scenario LPs over one network, tried in the order in which they failed lately.

    Attributes:
        n_lps: linear programs solved so far.
        binding: numbers of the scenarios that are checked (the others are implied).
        order: the same, in the order in which they are tried.
    """

    def __init__(self, network: Network, *, backend: str = "auto") -> None:
        self.network = network
        self.binding = binding_scenarios(network)
        self._backend = backend
        self._paths = PathPool(len(network.is_transit))
        self._programs: dict[int, ScenarioProgram] = {}
        self.order = self.binding.tolist()
        self._price = edge_prices(network)

    @property
    def n_lps(self) -> int:
        """LPs solved so far."""
        return sum(p.n_solves for p in self._programs.values())

    def learn_paths(self, other: Survival) -> None:
        """Begin with the paths that another demand matrix took over the same links, in both directions."""
        ends, arcs = other._paths.all()
        n_edges = len(self.network.edges)
        back = np.where(arcs >= 0, (arcs + n_edges) % (2 * n_edges), -1)
        self._paths.add(ends, arcs)
        self._paths.add(ends[:, ::-1], back)

    def program(self, scenario: int) -> ScenarioProgram:
        """The warm LP of a scenario, built at first use."""
        if scenario not in self._programs:
            self._programs[scenario] = ScenarioProgram(
                self.network, self.network.scenarios[scenario], self._price, self._paths, self._backend
            )
        return self._programs[scenario]

    def separate(self, capacities: Array, scenario: int, *, share: float = 0.9) -> Answer:
        """Decide one scenario for link capacities [m]; see ``ScenarioProgram.separate``."""
        answer = self.program(scenario).separate(capacities, share=share)
        if not answer.is_survived:
            self.failed(scenario)
        return answer

    def failed(self, scenario: int) -> None:
        """Try ``scenario`` first from now on."""
        self.order.remove(scenario)
        self.order.insert(0, scenario)

    def first_failure(self, capacities: Array) -> tuple[int, Answer] | None:
        """A scenario that link capacities [m] do not survive, or None if they survive all."""
        for scenario in list(self.order):
            answer = self.separate(capacities, scenario, share=0.0)
            if not answer.is_survived:
                return scenario, answer
        return None

    def failures(
        self,
        capacities: Array,
        scenarios: Iterable[int] | None = None,
        *,
        share: float = 0.9,
        until: Callable[[], bool] | None = None,
        most: int | None = None,
        patience: int | None = None,
    ) -> tuple[list[tuple[int, Answer]], bool]:
        """Scenarios not survived among ``scenarios`` (default all), and whether none was skipped.

        Some are skipped when ``until`` says stop, after ``most`` were found, or after ``patience`` were survived in a
        row since one was found: most programs of a scan confirm survival, and one cut is enough to go on with.
        """
        found, survived = [], 0
        for scenario in list(self.order if scenarios is None else scenarios):
            if until is not None and until():
                return found, False
            answer = self.separate(capacities, scenario, share=share)
            survived += 1
            if not answer.is_survived:
                found.append((scenario, answer))
                survived = 0
                if most is not None and len(found) >= most:
                    return found, False
            elif found and patience is not None and survived >= patience:
                return found, False
        return found, True

    def is_survivable(self, capacities: Array) -> bool:
        """Whether link capacities [m] survive every scenario."""
        return self.first_failure(capacities) is None


def edge_prices(network: Network) -> Array:
    """[e] cheapest price of a usable Gbps on each edge, relative to the mean; 1 where nothing can be bought."""
    result = np.full(len(network.edges), np.inf)
    buys = np.flatnonzero(network.gbps > 0.0)
    price = network.module_cost[buys] / network.gbps[buys]
    np.minimum.at(result, network.link_edge[network.variable_link[buys]], price)
    known = result[np.isfinite(result)]
    mean = float(known.mean()) if len(known) and known.mean() > 0.0 else 1.0
    result = np.where(np.isfinite(result), result / mean, 1.0)
    return np.maximum(result, 1e-3)


class Deadline:
    """A budget of seconds on one clock (wall by default; ``time.process_time`` for CPU)."""

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._start = clock, clock()
        self.seconds = np.inf if seconds is None else float(seconds)

    @property
    def used(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    @property
    def left(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self.seconds - self.used)

    def slice(self, seconds: float) -> Deadline:
        """A budget on the same clock, of at most what is left of this one."""
        return Deadline(min(seconds, self.left), self._clock)

    def again(self) -> Deadline:
        """The same number of seconds from now, on the same clock."""
        return Deadline(self.seconds, self._clock)

    def is_over(self) -> bool:
        """Whether the budget is spent."""
        return self.left <= 0.0
