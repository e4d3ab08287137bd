"""What must not change an optimum, what may only raise it, and degenerate inputs."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    PlanningProblem,
    compile_instance,
    judge,
    plan_of,
    shared_risk_failures,
    single_fiber_failures,
    single_node_failures,
)
from surco.errors import InfeasibleError
from tests.problems.planning.small import drawn, enumerate_optimum, ring


def optimum(instance):
    engine = Decomposition(compile_instance(instance), tolerance=1e-9)
    bounds = engine.run(60)
    assert bounds.gap <= 1e-9
    assert judge(instance, plan_of(engine.network, engine.best)).is_feasible
    return bounds.upper


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_names_order_and_direction_do_not_matter(seed):
    instance, rng = drawn(seed), np.random.default_rng(seed)
    names = {n.name: f"site {k}" for k, n in enumerate(rng.permutation(np.array(instance.nodes, dtype=object)))}
    links = []
    for link in rng.permutation(np.array(instance.links, dtype=object)):
        ends = (names[link.source], names[link.target])
        source, target = ends if rng.random() < 0.5 else ends[::-1]
        links.append(dataclasses.replace(link, source=source, target=target))
    other = dataclasses.replace(
        instance,
        nodes=tuple(Node(names[n.name]) for n in reversed(instance.nodes)),
        links=tuple(links),
        demands=tuple(Demand(names[d.source], names[d.target], d.gbps) for d in reversed(instance.demands)),
        failures=tuple(reversed(instance.failures)),
    )
    assert optimum(other) == pytest.approx(optimum(instance))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 1000.0), st.floats(0.01, 1000.0))
def test_units_of_cost_and_capacity_do_not_matter(seed, money, gbps):
    instance = drawn(seed)
    scaled = dataclasses.replace(
        instance,
        links=tuple(
            dataclasses.replace(x, modules=tuple(Module(m.capacity_gbps * gbps, m.cost * money) for m in x.modules))
            for x in instance.links
        ),
        demands=tuple(dataclasses.replace(d, gbps=d.gbps * gbps) for d in instance.demands),
    )
    assert optimum(scaled) == pytest.approx(money * optimum(instance), rel=1e-6)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000))
def test_more_failures_and_reserve_never_lower_the_optimum(seed):
    instance = drawn(seed)
    base = optimum(instance)
    assert optimum(instance.with_failures(instance.failures[: len(instance.failures) // 2])) <= base + 1e-9
    assert optimum(dataclasses.replace(instance, load_factor=0.8)) >= base - 1e-9
    nodes = single_node_failures(instance)
    assert optimum(instance.with_failures((*instance.failures, *nodes))) >= base - 1e-9


def with_fibers(spectrum):
    """Ring of four with a parallel link 0-2 on its own fiber, 1 GHz per Gbps."""
    instance = ring(4, chords=((0, 2),), demands=((0, 2, 15.0), (1, 3, 5.0)))
    return dataclasses.replace(
        instance,
        links=tuple(dataclasses.replace(x, fibers=(f"f{x.name}",), ghz_per_gbps=1.0) for x in instance.links),
        fibers=tuple(Fiber(f"f{x.name}", x.source, x.target, spectrum_ghz=spectrum) for x in instance.links),
    )


def test_less_spectrum_never_lowers_the_optimum_until_none_is_left():
    costs = [optimum(with_fibers(s)) for s in (1000.0, 30.0, 20.0)]
    assert costs == sorted(costs)
    with pytest.raises(InfeasibleError, match=r"Gbps must cross around \{n"):
        optimum(with_fibers(9.0))
    assert "must cross around" in PlanningProblem(with_fibers(9.0)).explain_infeasibility()


def test_largest_capacity_is_named_in_the_cut():
    instance = ring(4, demands=((0, 2, 15.0),))
    tight = dataclasses.replace(instance, links=tuple(dataclasses.replace(x, max_gbps=10.0) for x in instance.links))
    with pytest.raises(InfeasibleError, match="15 Gbps must cross"):
        optimum(tight)


def bridged(policy):
    base = ring(3, demands=((0, 1, 5.0),))
    return dataclasses.replace(
        base,
        nodes=(*base.nodes, Node("leaf")),
        links=(*base.links, Link("bridge", "n0", "leaf", (Module(10.0, 7.0),))),
        demands=(*base.demands, Demand("n1", "leaf", 5.0)),
        failures=(*base.failures, Failure("link bridge", links=("bridge",))),
        on_disconnection=policy,
    )


def test_bridges_are_explicit():
    with pytest.raises(InfeasibleError, match="disconnects"):
        compile_instance(bridged(Disconnection.REFUSE))
    skipped = bridged(Disconnection.SKIP)
    assert compile_instance(skipped).skipped == ("link bridge",)
    engine = Decomposition(compile_instance(skipped))
    engine.run(10)
    assert judge(skipped, plan_of(engine.network, engine.best)).excused == ("link bridge",)
    dropped = compile_instance(bridged(Disconnection.DROP))
    assert dropped.scenarios[-1].dropped == (("n1", "leaf"),)
    assert optimum(skipped) == pytest.approx(enumerate_optimum(skipped, 2))


def test_no_path_at_all_is_an_error():
    instance = PlanningInstance("two", (Node("a"), Node("b")), (), (Demand("a", "b", 1.0),))
    with pytest.raises(InfeasibleError, match="no path even without failure"):
        compile_instance(instance)


def test_zero_demand_and_enough_capacity_cost_nothing():
    assert optimum(ring(4, demands=())) == 0.0
    assert optimum(ring(4, demands=((0, 2, 0.0),))) == 0.0
    instance = ring(4, demands=((0, 2, 15.0),))
    rich = dataclasses.replace(
        instance, links=tuple(dataclasses.replace(x, existing_gbps=15.0) for x in instance.links)
    )
    assert optimum(rich) == 0.0


def test_asymmetric_demand_needs_one_direction_only():
    one = ring(4, demands=((0, 2, 10.0),))
    both = ring(4, demands=((0, 2, 10.0), (2, 0, 10.0)))
    assert optimum(one) == pytest.approx(enumerate_optimum(one, 2))
    assert optimum(both) == pytest.approx(optimum(one))  # full duplex
    two_way = dataclasses.replace(one, is_two_way=True)
    assert optimum(two_way) == pytest.approx(optimum(one))


def test_parallel_links_on_one_fiber_fail_together():
    nodes = (Node("a"), Node("b"))
    links = tuple(Link(f"p{k}", "a", "b", (Module(10.0, 1.0 + k),), fibers=(f,)) for k, f in enumerate("xxy"))
    fibers = (Fiber("x", "a", "b"), Fiber("y", "a", "b"))
    base = PlanningInstance("parallel", nodes, links, (Demand("a", "b", 10.0),), fibers=fibers)
    together = base.with_failures(single_fiber_failures(base))
    alone = base.with_failures(tuple(Failure(x.name, links=(x.name,)) for x in links))
    assert optimum(together) == pytest.approx(1.0 + 3.0)  # one unit on either fiber
    assert optimum(alone) == pytest.approx(1.0 + 2.0)  # p0 and p1 suffice if they never fail together
    assert enumerate_optimum(together, 2) == pytest.approx(4.0)


def test_shared_risk_groups_and_classes_of_service():
    base = ring(4, demands=((0, 2, 10.0),), chords=((0, 2),))
    group = shared_risk_failures({"duct": ["l0", "l3"]}, of="links")
    assert optimum(base.with_failures(group)) == pytest.approx(5.0)  # only the chord is left
    bronze = dataclasses.replace(base, demands=(Demand("n0", "n2", 10.0, "BRONZE"), Demand("n0", "n2", 10.0, "GOLD")))
    failures = tuple(dataclasses.replace(f, services=("GOLD",)) for f in base.failures)
    assert optimum(bronze.with_failures(failures)) < optimum(bronze)


def test_stub_nodes_carry_no_transit():
    base = ring(4, demands=((0, 2, 10.0),), failures=())
    stub = dataclasses.replace(
        base, nodes=tuple(dataclasses.replace(n, has_transit=n.name != "n1") for n in base.nodes)
    )
    assert optimum(base) == pytest.approx(3.0)
    assert optimum(stub) == pytest.approx(7.0)
    assert enumerate_optimum(stub, 1) == pytest.approx(7.0)


def test_modules_setup_and_exclusive_links_against_enumeration():
    base = ring(3, demands=((0, 1, 17.0), (1, 2, 8.0)))
    modules = (Module(10.0, 3.0), Module(25.0, 5.0), Module(60.0, 8.0))
    for options in ({"setup_cost": 4.0}, {"is_exclusive": True}, {"is_exclusive": True, "setup_cost": 2.0}):
        instance = dataclasses.replace(
            base, links=tuple(dataclasses.replace(x, modules=modules, **options) for x in base.links)
        )
        most = 1 if "is_exclusive" in options else 2
        assert optimum(instance) == pytest.approx(enumerate_optimum(instance, most)), options
