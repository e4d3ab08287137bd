"""Certified lower bound on load and traffic of a layer together, from how often experts can share a node.

Let p_e [N] be the shares of expert e's copies in the nodes. The plan's traffic is the mean over all ways to draw one
node for each expert by p_e, independently; so a bound on the number of nodes of a token in every draw is one on its
expectation. In one draw the experts of a token fall into groups, one a node; for any prices w of its pairs,

    nodes(t) >= c_t(w) - sum over pairs together of w_ef,   c_t(w) = min over partitions of (groups + prices inside).

In expectation pair (e, f) is together with G_ef = <p_e, p_f>, and every plan with largest GPU load T (mean 1) obeys

    0 <= G_ef <= 1,   1/r_e <= G_ee <= 1 with r_e copies, sum_e r_e <= slots of all GPUs,
    sum_{f != e} G_ef <= slots of a node - 1             (a node has no more experts in any draw),
    sum_f load_f G_ef <= T / N                           (loads of sum 1: no node has more than its GPUs can),
    G - J / N positive semidefinite                      (J of ones; sum_m (sum_e v_e p_em)^2 >= (sum_e v_e)^2 / N).

Multipliers rho, sigma >= 0 and V [E, R] (Z = V V^T) of these rows give nodes per token >= A - B T for *any* values of
w, rho, sigma, V, so what ascent finds needs no proof of convergence; only its quality depends on the steps. With the
weight f of a node, cost >= min over T of T + f (A - B T), at one of the ends of T's range.

Source: pair-wise relaxations of graph partitioning with a semidefinite row, as in Frieze and Jerrum, "Improved
approximation algorithms for MAX k-CUT and MAX BISECTION", Algorithmica 18 (1997); ascent by Kingma and Ba,
arXiv 1412.6980. The grouping of tokens and its prices are derived here.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from problems.moe.instance import Cluster, Index
from solvers.oracle import Array

if TYPE_CHECKING:
    from problems.moe.problem import ExpertPlacement

RANK = 16  # columns of V
MOST_GROUPED = 10  # experts of a token that are looked at; fewer nodes for fewer experts, so the bound holds
RATES = {"prices": 0.02, "slots": 5e-4, "loads": 0.02, "factors": 1.5e-3}
DECAYS = (0.9, 0.99)
SLACK = 1e-9
CYCLE = 60  # steps of one run of falling rates
FIRST_CYCLE = 8  # under a clock: it tells the pace
LEAST_CYCLE = 4
SAFE_SHARE = 0.8  # of the seconds that a cycle may plan with


@dataclass(slots=True)
class TrafficBound:
    """Ascent on the multipliers of one layer; ``value`` is the best bound so far and always valid.

    Args:
        loads: [E] tokens of each expert.
        tokens: [P, k] experts of recorded tokens, P and k at least 1.
        cluster: nodes and slots.
        weight: of one further node per token.
        most: most copies of one expert.
        least_load: certified bound on the largest GPU load, 1 is the mean.
    """

    loads: Array
    tokens: Index
    cluster: Cluster
    weight: float
    most: int
    least_load: float
    value: float = field(default=-math.inf, init=False)
    steps: int = field(default=0, init=False)
    _variables: dict[str, Array] = field(init=False, repr=False)
    _pairs: Index = field(init=False, repr=False)

    def __post_init__(self) -> None:
        loads = self.loads / self.loads.sum()
        tokens = self.tokens
        if tokens.shape[1] > MOST_GROUPED:
            busiest = np.argsort(-loads[tokens], axis=1, kind="stable")[:, :MOST_GROUPED]
            tokens = np.take_along_axis(tokens, busiest, axis=1)
        self.loads, self.tokens = loads, tokens
        experts, size = len(loads), tokens.shape[1]
        first, second = np.triu_indices(size, 1)
        self._pairs = (tokens[:, first] * experts + tokens[:, second]).reshape(-1)
        rng = np.random.default_rng(0)
        self._variables = {
            "prices": np.full((len(tokens), len(first)), 0.4),
            "slots": np.full(experts, 1e-3),
            "loads": np.full(experts, 0.04),
            "factors": 0.01 * rng.standard_normal((experts, RANK)),
        }

    def run(self, steps: int) -> float:
        """``steps`` more steps of ascent at falling rates; the best bound so far. Equal calls give equal answers."""
        means = {name: np.zeros_like(value) for name, value in self._variables.items()}
        squares = {name: np.zeros_like(value) for name, value in self._variables.items()}
        for step in range(1, steps + 1):
            value, slopes = self._evaluate()
            self.value = max(self.value, float(value) - SLACK * max(abs(float(value)), 1.0))
            rate = 0.5 * (1.0 + math.cos(math.pi * step / (steps + 1)))
            for name, slope in slopes.items():
                means[name] += (1.0 - DECAYS[0]) * (slope - means[name])
                squares[name] += (1.0 - DECAYS[1]) * (slope**2 - squares[name])
                size = np.sqrt(squares[name] / (1.0 - DECAYS[1] ** step)) + 1e-12
                self._variables[name] += rate * RATES[name] * means[name] / (1.0 - DECAYS[0] ** step) / size
            for name in ("slots", "loads"):
                np.maximum(self._variables[name], 0.0, out=self._variables[name])
        self.steps += steps
        return self.value

    def _evaluate(self) -> tuple[float, dict[str, Array]]:
        """The bound at the present multipliers, and its slopes."""
        from problems.moe.grouping import cheapest_groupings

        prices, slots, sigma, factors = (self._variables[name] for name in ("prices", "slots", "loads", "factors"))
        loads, cluster, nodes = self.loads, self.cluster, self.cluster.nodes
        experts, count = len(loads), len(self.tokens)
        together = np.empty_like(prices)
        grouped = cheapest_groupings(prices, self.tokens.shape[1], together)

        gain = np.bincount(self._pairs, weights=prices.reshape(-1) / count, minlength=experts**2)
        gain = gain.reshape(experts, experts)
        gain = gain + gain.T + factors @ factors.T
        gain -= slots[:, None] + slots + sigma[:, None] * loads + loads[:, None] * sigma
        is_chosen = (gain > 0.0).astype(np.float64)
        np.fill_diagonal(is_chosen, 0.0)
        own = (factors**2).sum(axis=1) / 2.0 - sigma * loads  # what G_ee gains
        diagonal = self._diagonal(np.maximum(-own, 0.0))
        room = cluster.per_node * cluster.slots - 1
        upper = 0.5 * (gain * is_chosen).sum() + own @ diagonal + room * slots.sum()
        summed = factors.sum(axis=0)
        upper -= (summed**2).sum() / (2.0 * nodes)
        least, falls = grouped - upper, sigma.sum() / nodes

        per_node = self.weight * (1.0 - 1.0 / nodes)
        ends = [load + per_node * (least - falls * load) for load in (self.least_load, max(nodes, self.least_load))]
        load = self.least_load if ends[0] <= ends[1] else max(nodes, self.least_load)
        pulled = is_chosen + np.diag(diagonal)
        slopes = {
            "prices": (together - is_chosen.reshape(-1)[self._pairs].reshape(prices.shape)) / count,
            "slots": is_chosen.sum(axis=1) - room,
            "loads": pulled @ loads - load / nodes,
            "factors": summed / nodes - pulled @ factors,
        }
        return min(ends), slopes

    def _diagonal(self, worth: Array) -> Array:
        """[E], G_ee: 1, or 1 / copies where ``worth`` [E] is what G_ee less 1 costs; the copies are shared greedily.

        The gain worth (1 - 1/r) is concave in the copies r, so the greedy choice is the best one.
        """
        most = min(self.cluster.nodes, self.most)
        copies = np.ones(len(worth))
        extra = self.cluster.total_slots - len(worth)
        if most > 1 and extra > 0:
            steps = np.arange(1, most)
            gains = (worth[:, None] / (steps * (steps + 1))).reshape(-1)
            best = np.argsort(-gains, kind="stable")[:extra]
            copies += np.bincount(best[gains[best] > 0.0] // (most - 1), minlength=len(worth))
        return 1.0 / copies


class CostBound:
    """The bound of all layers of a problem, raised cycle by cycle."""

    def __init__(self, problem: ExpertPlacement) -> None:
        routing = problem.routing
        self.cycles = 0
        self.value = problem.lower_bound()
        self._seconds_per_step = 0.0
        self._layers: list[TrafficBound] = []
        self._floors: list[float] = []
        is_open = problem.oracle.is_roomy and problem.traffic_weight > 0.0 and problem.cluster.nodes > 1
        if is_open and routing.has_tokens and routing.tokens.shape[2] > 1:
            self._floors = problem.layer_bounds()
            self._layers = [
                TrafficBound(loads, tokens, problem.cluster, problem.traffic_weight, problem.most, least)
                for loads, tokens, least in zip(routing.loads, routing.tokens, problem.load_bounds(), strict=True)
            ]

    @property
    def applies(self) -> bool:
        """Whether traffic counts, so that there is more to prove than the cheap bound."""
        return bool(self._layers)

    def run(self, *, seconds: float | None = None) -> float:
        """One cycle of ascent in every layer, of `CYCLE` steps or as many as fit; the best bound so far.

        Args:
            seconds: about what it may take; None gives equal answers for equal calls.
        """
        if not self.applies:
            return self.value
        steps = CYCLE
        if seconds is not None:
            pace = self._seconds_per_step
            steps = min(CYCLE, int(SAFE_SHARE * seconds / pace)) if pace > 0.0 else FIRST_CYCLE
            if steps < LEAST_CYCLE:
                return self.value
        begin = time.perf_counter()
        values = [max(layer.run(steps), floor) for layer, floor in zip(self._layers, self._floors, strict=True)]
        self._seconds_per_step = (time.perf_counter() - begin) / steps
        self.cycles += 1
        self.value = max(self.value, float(np.mean(values)))
        return self.value
