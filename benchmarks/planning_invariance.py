"""What must not change an optimum, what can only raise it, and degenerate inputs, each on real networks.

    python -m benchmarks.planning_invariance --networks polska pdh --out FILE

Every optimum is proven to a relative 1e-6 and its plan accepted by the independent judge. A row holds the relation
that is expected, the two figures, whether it ``holds``, and CPU seconds; degenerate inputs hold cost 0 or the words of
the error, which must name the cut that is violated. A row that does not hold makes the exit status 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import planning
from problems.planning import (
    Decomposition,
    Demand,
    Disconnection,
    Failure,
    Fiber,
    Link,
    Module,
    Node,
    PlanningInstance,
    compile_instance,
    single_fiber_failures,
    single_link_failures,
    single_node_failures,
)
from surco.errors import InfeasibleError

Row = dict[str, Any]
EXACT = 1e-6  # relative gap to which every optimum is proven
UNIT_GBPS = 100.0


def optimum(instance: PlanningInstance) -> tuple[float, np.ndarray]:
    """Proven cost, accepted by the judge, and its plan.

    Raises:
        InfeasibleError: no plan survives.
        SystemExit: not proven, or the judge refuses the plan.
    """
    network = compile_instance(instance)
    engine = Decomposition(network, tolerance=EXACT)
    bounds = engine.run()
    if engine.best is None or bounds.gap > EXACT:
        raise SystemExit(f"{instance.name} is not proven: {bounds}")
    return planning.judged(instance, network, engine.best), engine.best


def renamed(instance: PlanningInstance, rng: np.random.Generator) -> PlanningInstance:
    """Other names of nodes, another order of nodes."""
    order = rng.permutation(len(instance.nodes))
    names = {instance.nodes[k].name: f"site {place}" for place, k in enumerate(order)}
    return replace(
        instance,
        nodes=tuple(replace(instance.nodes[k], name=names[instance.nodes[k].name]) for k in order),
        links=tuple(replace(x, source=names[x.source], target=names[x.target]) for x in instance.links),
        fibers=tuple(replace(x, source=names[x.source], target=names[x.target]) for x in instance.fibers),
        demands=tuple(replace(x, source=names[x.source], target=names[x.target]) for x in instance.demands),
    )


def shuffled(instance: PlanningInstance, rng: np.random.Generator) -> PlanningInstance:
    """Another order of links, demands and failures."""
    parts = {
        name: tuple(getattr(instance, name)[k] for k in rng.permutation(len(getattr(instance, name))))
        for name in ("links", "demands", "failures")
    }
    return replace(instance, **parts)


def flipped(instance: PlanningInstance, rng: np.random.Generator) -> PlanningInstance:
    """Half of the links, and all demands that stand for both directions, written from the other end."""
    links = tuple(
        replace(x, source=x.target, target=x.source) if turn else x
        for x, turn in zip(instance.links, rng.random(len(instance.links)) < 0.5, strict=True)
    )
    demands = instance.demands
    if instance.is_two_way:
        demands = tuple(replace(d, source=d.target, target=d.source) for d in demands)
    return replace(instance, links=links, demands=demands)


def scaled(instance: PlanningInstance, *, money: float = 1.0, gbps: float = 1.0) -> PlanningInstance:
    """Other units of prices, and of capacities and demands together."""
    return replace(
        instance,
        links=tuple(
            replace(x, modules=tuple(Module(m.capacity_gbps * gbps, m.cost * money) for m in x.modules))
            for x in instance.links
        ),
        demands=tuple(replace(d, gbps=d.gbps * gbps) for d in instance.demands),
    )


def with_spectrum(instance: PlanningInstance, gbps: float | None) -> PlanningInstance:
    """Every link alone on its fiber, which carries at most ``gbps``."""
    return replace(
        instance,
        links=tuple(replace(x, fibers=(x.name,), ghz_per_gbps=1.0) for x in instance.links),
        fibers=tuple(Fiber(x.name, x.source, x.target, spectrum_ghz=gbps) for x in instance.links),
    )


def doubled(instance: PlanningInstance) -> PlanningInstance:
    """Every link twice, in parallel on one fiber."""
    links: list[Link] = []
    for x in instance.links:
        links += [replace(x, name=f"{x.name}/{k}", fibers=(x.name,)) for k in (1, 2)]
    fibers = tuple(Fiber(x.name, x.source, x.target) for x in instance.links)
    return replace(instance, links=tuple(links), fibers=fibers, failures=())


def one_way(instance: PlanningInstance) -> PlanningInstance:
    """Asymmetric traffic: of each pair of nodes one direction only."""
    kept = instance.demands if instance.is_two_way else (d for d in instance.demands if d.source < d.target)
    return replace(instance, is_two_way=False, demands=tuple(kept))


def same(name: str, base: float, other: Callable[[], float]) -> Row:
    """A row that expects an equal optimum."""
    return _timed(name, "equal", base, other, lambda value: abs(value - base) <= 2 * EXACT * max(abs(base), 1.0))


def no_less(name: str, base: float, other: Callable[[], float]) -> Row:
    """A row that expects an optimum at least as high."""
    return _timed(name, "not lower", base, other, lambda value: value >= base * (1 - 2 * EXACT))


def no_more(name: str, base: float, other: Callable[[], float]) -> Row:
    """A row that expects an optimum at most as high."""
    return _timed(name, "not higher", base, other, lambda value: value <= base * (1 + 2 * EXACT))


def _timed(
    name: str, expected: str, base: float | None, other: Callable[[], float], is_right: Callable[[float], bool]
) -> Row:
    begin = time.process_time()
    row: Row = {"case": name, "expected": expected, "base": base}
    try:
        value = other()
    except InfeasibleError as error:  # more duties or less room may leave no plan; then the words say why
        return row | {
            "value": None,
            "words": str(error),
            "holds": expected == "not lower",
            "cpu_s": time.process_time() - begin,
        }
    return row | {"value": value, "holds": bool(is_right(value)), "cpu_s": time.process_time() - begin}


def refused(name: str, instance: PlanningInstance, *words: str) -> Row:
    """A row that expects an error with these words."""
    begin = time.process_time()
    try:
        value, _ = optimum(instance)
    except InfeasibleError as error:
        found, value = str(error), None
    else:
        found = ""
    return {
        "case": name,
        "expected": f"refused: {', '.join(words)}",
        "value": value,
        "words": found,
        "holds": bool(found) and all(word in found for word in words),
        "cpu_s": time.process_time() - begin,
    }


def rows(name: str, *, seed: int = 0) -> Iterator[Row]:
    """All cases of a network."""
    instance, rng = planning.load(name), np.random.default_rng(seed)
    begin = time.process_time()
    base, best = optimum(instance)
    yield {"case": "as it is", "expected": "", "value": base, "holds": True, "cpu_s": time.process_time() - begin}

    def cost(other: PlanningInstance) -> Callable[[], float]:
        return lambda: optimum(other)[0]

    yield same("nodes renamed and reordered", base, cost(renamed(instance, rng)))
    yield same("links, demands, failures reordered", base, cost(shuffled(instance, rng)))
    yield same("links and demands flipped", base, cost(flipped(instance, rng)))
    yield same("all three", base, cost(flipped(shuffled(renamed(instance, rng), rng), rng)))
    yield same("prices x 3.7 (value / 3.7)", base, lambda: optimum(scaled(instance, money=3.7))[0] / 3.7)
    yield same("capacity and demand x 0.25", base, cost(scaled(instance, gbps=0.25)))
    yield same("every link twice on one fiber, fibers fail", base, cost(_failing_fibers(doubled(instance))))
    twice = doubled(instance)
    yield no_more("every link twice, each fails alone", base, cost(twice.with_failures(single_link_failures(twice))))

    half = instance.failures[: len(instance.failures) // 2]
    yield no_more("half of the failures", base, cost(instance.with_failures(half)))
    nodes = single_node_failures(instance)
    yield no_less("and every node fails", base, cost(instance.with_failures((*instance.failures, *nodes))))
    yield no_less(
        "and two pairs of links fail", base, cost(instance.with_failures((*instance.failures, *_pairs(instance))))
    )
    last = base
    for load in (0.9, 0.8, 0.6):
        row = no_less(f"reserve: load factor {load:g}", last, cost(replace(instance, load_factor=load)))
        yield row
        last = row["value"] if row["value"] is not None else last
    largest, last = float(best.max()), base
    for units in (largest, largest - 1.0, largest - 2.0):
        row = no_less(f"spectrum for {units:g} units a fiber", last, cost(with_spectrum(instance, units * UNIT_GBPS)))
        yield row
        last = row["value"] if row["value"] is not None else last

    yield refused("spectrum for one unit a fiber", with_spectrum(instance, UNIT_GBPS), "Gbps must cross")
    yield refused("a bridge, to be survived", _with_leaf(instance, Disconnection.REFUSE), "disconnects")
    yield no_less("a bridge, skipped by name", base, cost(_with_leaf(instance, Disconnection.SKIP)))
    zero = replace(instance, demands=tuple(replace(d, gbps=0.0) for d in instance.demands))
    yield _timed("demands of 0", "0", 0.0, cost(zero), lambda value: value == 0.0)
    yield _timed("no demands", "0", 0.0, cost(replace(instance, demands=())), lambda value: value == 0.0)
    enough = _existing(instance, best)
    yield _timed("the optimal capacity is there", "0", 0.0, cost(enough), lambda value: value == 0.0)
    yield no_more("demands one way only", base, cost(one_way(instance)))
    yield no_more("one way only, twice as much, against both scaled", *_doubled_one_way(instance))


def _failing_fibers(instance: PlanningInstance) -> PlanningInstance:
    return instance.with_failures(single_fiber_failures(instance))


def _pairs(instance: PlanningInstance) -> tuple[Failure, ...]:
    """Two pairs of links without a common end; a pair that cuts the network is skipped by name."""
    found: list[Failure] = []
    links = instance.links
    for a, b in zip(links, links[len(links) // 2 :], strict=False):
        if len({a.source, a.target, b.source, b.target}) == 4:
            found.append(Failure(f"pair {a.name} {b.name}", links=(a.name, b.name)))
        if len(found) == 2:
            break
    return tuple(found)


def _with_leaf(instance: PlanningInstance, policy: Disconnection) -> PlanningInstance:
    """A new node behind one link, with a demand of half a unit to the first node."""
    first = instance.nodes[0].name
    bridge = Link("bridge", first, "leaf", (Module(UNIT_GBPS, 1.0),))
    return replace(
        instance,
        nodes=(*instance.nodes, Node("leaf")),
        links=(*instance.links, bridge),
        demands=(*instance.demands, Demand(first, "leaf", 0.5 * UNIT_GBPS)),
        failures=(*instance.failures, Failure("link bridge", links=("bridge",))),
        on_disconnection=policy,
    )


def _existing(instance: PlanningInstance, plan: np.ndarray) -> PlanningInstance:
    """The plan's capacity is there already."""
    links = tuple(
        replace(x, existing_gbps=float(units) * x.modules[0].capacity_gbps)
        for x, units in zip(instance.links, plan, strict=True)
    )
    return replace(instance, links=links)


def _doubled_one_way(instance: PlanningInstance) -> tuple[float, Callable[[], float]]:
    """Twice the demand both ways can carry twice the demand one way."""
    double = replace(instance, demands=tuple(replace(d, gbps=2 * d.gbps) for d in instance.demands))
    return optimum(double)[0], lambda: optimum(one_way(double))[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases of some networks."""
    parser = argparse.ArgumentParser(description="Invariance and degenerate inputs of exact planning.")
    parser.add_argument("--networks", nargs="*", default=("polska", "nobel-germany", "pdh", "janos-us"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    chosen = parser.parse_args(arguments)
    fresh: list[Row] = []
    for name in chosen.networks:
        for row in rows(name, seed=chosen.seed):
            fresh.append({"network": name, **row})
            print(planning.table([fresh[-1]]).splitlines()[-1], flush=True)
            if chosen.out is not None:
                done = planning.stored(chosen.out, "invariance")
                planning.store(chosen.out, "invariance", planning.replaced(done, fresh))
    wrong = [row for row in fresh if not row["holds"]]
    print(f"{len(fresh)} cases, {len(wrong)} do not hold")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
