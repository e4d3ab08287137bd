"""Two-stage planning: rollouts of a policy, trim and exchanges, and the exact engine in a box around the plan."""

from __future__ import annotations

import functools
import importlib.resources
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from problems.planning.decomposition import Decomposition
from problems.planning.neighborhoods import search_box
from problems.planning.network import Array, Network
from problems.planning.survival import Deadline
from rl.planner import rollout_plans
from rl.policy import load
from rl.polish import exchanged, without_spare
from rl.topology import Topology
from surco.errors import InvalidInputError, NoDesignError

SHIPPED = Path(str(importlib.resources.files("rl") / "data" / "planning"))
"""Folder of the policy that comes with this package."""


@functools.lru_cache(maxsize=4)
def planning_policy(folder: str | None = None) -> nn.Module:
    """The policy saved in ``folder``, or the one that comes with this package.

    Raises:
        InvalidInputError: no planning policy there.
    """
    if folder is not None and not Path(folder).is_dir():
        raise InvalidInputError(f"Expected the folder of a policy, but there is no `{folder}`.")
    place = Path(folder) if folder is not None else SHIPPED
    policy = load(place)
    if policy.policy_name != "planning-gnn":
        raise InvalidInputError(f"Expected a policy of planning, but `{place}` holds one named `{policy.policy_name}`.")
    return policy


@dataclass(frozen=True, slots=True)
class FirstStage:
    """Plans of stage 1, all survivable.

    Attributes:
        rollout: [n], the cheapest plan as the policy left it.
        trimmed: [n], the cheapest after trimming; ``polished`` [n] that one after exchanges (see ``rl.polish``).
        rollout_price, trimmed_price, polished_price: their prices.
        rollout_cpu_s, trim_cpu_s, polish_cpu_s: CPU seconds of each part, those of features and cuts in the first.
    """

    rollout: Array
    trimmed: Array
    polished: Array
    rollout_price: float
    trimmed_price: float
    polished_price: float
    rollout_cpu_s: float
    trim_cpu_s: float
    polish_cpu_s: float


def first_stage(
    engine: Decomposition,
    policy: nn.Module | None,
    *,
    samples: int = 0,
    greedy: bool = True,
    trims: int = 4,
    seed: int = 0,
    temperature: float = 1.0,
    exchanges: int = 200,
    seconds: float = float("inf"),
    topology: Topology | None = None,
) -> FirstStage:
    """Rollouts, of which the ``trims`` cheapest are trimmed and the best of those polished.

    Args:
        engine: exact engine of the network, whose linear programs and cuts are shared.
        policy: of planning; None plays at random among what the mask allows.
        samples: sampled rollouts.
        greedy: whether to play greedily too.
        trims: plans to trim.
        seed: of the samples.
        temperature: of the samples.
        exchanges: that the evaluator may refuse in polishing; 0 leaves it out.
        seconds: wall seconds for trimming and polishing.
        topology: of the engine's network, if it is there already.

    Raises:
        NoDesignError: no rollout ended with a plan.
        InfeasibleError: no plan can survive.
    """
    started = time.process_time()
    if topology is None:
        topology = Topology(engine.network, engine=engine)
    topology.share(engine)
    plans = rollout_plans(topology, policy, samples=samples, greedy=greedy, seed=seed, temperature=temperature)
    if not plans:
        raise NoDesignError(
            "No rollout of the policy ended with a plan that survives. Try more samples, or method `exact`."
        )
    played = time.process_time()
    deadline = Deadline(None if seconds == float("inf") else seconds)
    best, price = plans[0].units, plans[0].price
    for plan in plans[:trims]:
        if deadline.is_over():
            break
        units = without_spare(topology, plan.units, deadline)
        if topology.price(units) < price:
            best, price = units, topology.price(units)
    trimmed = time.process_time()
    final = exchanged(topology, best, deadline=deadline, most_refusals=exchanges) if exchanges else best
    topology.teach(engine)
    return FirstStage(
        topology.point(plans[0].units),
        topology.point(best),
        topology.point(final),
        plans[0].price,
        price,
        topology.price(final),
        played - started,
        trimmed - played,
        time.process_time() - trimmed,
    )


def second_stage(
    engine: Decomposition,
    plan: Array,
    alpha: float,
    *,
    start: Array | None = None,
    seconds: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Array:
    """The best plan in the box of at most ``alpha`` times each link's units of ``plan`` [n] (at least one unit each).

    Args:
        engine: exact engine; the cuts that it finds are valid outside of the box too and stay.
        plan: [n], survivable, around which the box is.
        alpha: at least 1.
        start: [n], survivable, such as the trimmed plan: only cheaper ones are looked for. Default ``plan``.
        seconds: limit, on ``clock``.
        clock: of the limit.

    Returns:
        [n], never dearer than ``start``.
    """
    if not alpha >= 1.0:
        raise InvalidInputError(f"Expected `alpha` >= 1, got {alpha}.")
    start = plan if start is None else start
    upper = box_of(engine.network, plan, alpha)
    price = float(engine.network.cost @ start)
    lower = np.zeros(engine.network.n)
    found, _ = search_box(engine, lower, upper, Deadline(seconds, clock), cutoff=price)
    if found is None or float(engine.network.cost @ found) >= price:
        return start
    engine.offer(found)
    return found


def box_of(network: Network, plan: Array, alpha: float) -> Array:
    """[n] upper bounds of stage 2: ``alpha`` times the plan's modules, at least one; covers as in the network."""
    upper = np.maximum(np.ceil(alpha * plan - 1e-9), 1.0)
    upper[network.variable_module < 0] = network.upper[network.variable_module < 0]
    return np.minimum(upper, network.upper)
