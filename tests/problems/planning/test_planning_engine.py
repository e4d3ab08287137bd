"""The decomposition against enumeration, the compact model and published anchors; cuts against the judge."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from problems.planning import (
    Decomposition,
    Demand,
    Link,
    Module,
    Node,
    PlanningInstance,
    compile_instance,
    from_topohub,
    judge,
    plan_of,
)
from problems.planning.compact import solve_compact
from problems.planning.cuts import cutset_pool, round_rows, strengthen
from problems.planning.separation import exact_rhs
from problems.planning.survival import Survival, metric_cut
from tests.problems.planning.small import drawn, enumerate_optimum, ring


def optimum(instance, **options):
    engine = Decomposition(compile_instance(instance), tolerance=1e-9, **options)
    bounds = engine.run(60)
    assert bounds.gap <= 1e-9
    verdict = judge(instance, plan_of(engine.network, engine.best))
    assert verdict.is_feasible
    assert verdict.cost == pytest.approx(bounds.upper)
    return bounds.upper


@pytest.mark.parametrize("seed", range(4))
def test_enumeration_agrees_on_tiny_networks(seed):
    instance = drawn(seed, nodes=4, extra=seed % 2, two_way=seed % 2 == 0, most=7.0)
    assert optimum(instance) == pytest.approx(enumerate_optimum(instance, 3))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_compact_model_agrees(seed, two_way):
    instance = drawn(seed, nodes=6, extra=3, two_way=two_way)
    network = compile_instance(instance)
    answer = solve_compact(network, seconds=30, gap=1e-9)
    assert optimum(instance) == pytest.approx(answer.bound, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "cost"), [("polska", 24_584), ("nobel-us", 147_513), ("nobel-germany", 29_233), ("abilene", 178_730)]
)
def test_published_optima(name, cost):
    assert optimum(from_topohub(name)) == pytest.approx(cost, abs=0.5)


def test_glop_backend_agrees():
    instance = drawn(3, nodes=6, extra=3)
    assert optimum(instance, backend="glop") == pytest.approx(optimum(instance, backend="highs"))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_every_cut_holds_for_every_survivable_plan(seed):
    instance = drawn(seed, nodes=5, extra=2, two_way=seed % 2 == 0)
    network = compile_instance(instance)
    engine = Decomposition(network, tolerance=1e-9)
    engine.run(30)
    pool = cutset_pool(network)
    rng = np.random.default_rng(seed)
    survival = Survival(network)
    assert (pool.rows @ engine.best >= pool.rhs - 1e-6).all()
    for _ in range(6):
        x = np.minimum(engine.best + rng.integers(-1, 3, network.n), network.upper).clip(0)
        if survival.is_survivable(network.capacities(x)):
            assert judge(instance, plan_of(network, x)).is_feasible
            assert (pool.rows @ x >= pool.rhs - 1e-6).all()
            assert (engine.master.rows @ x >= engine.master.rhs - 1e-6).all()
        else:
            assert not judge(instance, plan_of(network, x)).is_feasible


def test_cut_right_hand_sides_are_shortest_path_sums():
    network = compile_instance(from_topohub("polska"))
    survival = Survival(network)
    rng = np.random.default_rng(0)
    for scenario in survival.binding.tolist():
        capacity = network.capacities(rng.integers(0, 12, network.n).astype(float))
        answer = survival.separate(capacity, scenario)
        if answer.is_survived:
            continue
        assert answer.rhs == pytest.approx(exact_rhs(network, network.scenarios[scenario], answer.lengths))
        cut = metric_cut(network, scenario, answer)
        assert cut.weights @ capacity < cut.rhs


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_rounding_keeps_all_whole_points(seed):
    rng = np.random.default_rng(seed)
    row = rng.choice([0.0, 1.0, 2.5, 4.0, rng.uniform(0.1, 9)], 5)
    if not row.any():
        row[0] = 1.0
    rhs = float(rng.uniform(0.5, 20))
    points = rng.integers(0, 8, (400, 5)).astype(float)
    points = points[points @ row >= rhs]
    divisors = rng.uniform(0.3, 6, 10)
    rounded = round_rows(np.tile(row, (10, 1)), np.full(10, rhs), divisors)
    assert (points @ rounded.rows.T >= rounded.rhs - 1e-7).all()
    best_row, best_rhs = strengthen(row, rhs, rng.uniform(0, 2, 5))
    assert (points @ best_row >= best_rhs - 1e-7).all()


def test_deadline_keeps_bounds_and_resume_finishes():
    engine = Decomposition(compile_instance(from_topohub("nobel-germany")), tolerance=1e-6)
    first = engine.run(0.05)
    assert first.lower <= 29_233.5
    second = engine.run(60)
    assert second.lower >= first.lower
    assert second.upper == pytest.approx(29_233, abs=0.5)


def test_callback_stops_the_run():
    engine = Decomposition(compile_instance(from_topohub("geant")), tolerance=1e-6)
    bounds = engine.run(60, callback=lambda b: b.lower > 0)
    assert bounds.gap > 0


def test_plans_get_better_before_the_relaxation_is_solved():
    instance = from_topohub("geant")
    engine = Decomposition(compile_instance(instance), tolerance=1e-6)
    plans = []

    def record(bounds):
        if engine.best is not None and not engine.is_root_done and (not plans or bounds.upper < plans[-1][0]):
            plans.append((bounds.upper, engine.best))

    engine.run(60, callback=record, is_root_only=True)
    assert len(plans) >= 3  # the shortest-path plan, and survivors on the way
    assert plans[-1][0] < 0.9 * plans[0][0]
    for cost, x in plans:
        verdict = judge(instance, plan_of(engine.network, x))
        assert verdict.is_feasible
        assert verdict.cost == pytest.approx(cost)


def test_separation_on_bridges_equals_the_judge():
    instance = ring(3, demands=((0, 1, 7.0), (2, 1, 4.0)))  # each failure leaves a path, whose links are bridges
    assert optimum(instance) == pytest.approx(enumerate_optimum(instance, 3))


def test_a_scan_ends_after_patience_or_enough_and_says_so():
    network = compile_instance(from_topohub("polska"))
    engine = Decomposition(network, tolerance=1e-6)
    engine.run(30)
    assert engine.best is not None
    survival, weak = Survival(network), network.capacities(engine.best)
    assert survival.failures(weak, patience=1) == ([], True)
    weak[int(np.argmax(weak))] -= 100.0  # a module less of an optimum: some scenarios fail now
    everything, is_complete = survival.failures(weak)
    assert is_complete
    failing = {s for s, _ in everything}
    order = sorted(failing) + sorted(set(survival.binding.tolist()) - failing)
    assert 1 < len(failing) < len(order) - 1
    some, is_complete = survival.failures(weak, order, patience=1)
    assert ({s for s, _ in some}, is_complete) == (failing, False)
    assert survival.failures(weak, order[::-1], patience=1)[0]  # patience begins at the first that fails
    assert len(survival.failures(weak, order, most=1)[0]) == 1


def test_many_demands_leave_no_more_tolerance_than_the_judge():
    names = [f"n{k}" for k in range(40)]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    instance = PlanningInstance(
        "mesh",
        tuple(Node(name) for name in names),
        tuple(Link(f"{a}-{b}", a, b, (Module(16.0, 1.0),)) for a, b in pairs),
        tuple(Demand(a, b, 16.0) for a, b in pairs),
        is_two_way=True,
    )
    survival, capacities = Survival(compile_instance(instance)), np.full(len(pairs), 16.0)
    assert survival.is_survivable(capacities)
    capacities[7] -= 5e-4  # 3e-5 of a demand, and less than 1e-7 of the sum of the 780
    assert not survival.is_survivable(capacities)


def test_demands_summed_over_bridges_allow_no_more_than_single_ones():
    # two stars of 30 leaves make the demand between their centers 900 times as large as any single one, and beside
    # them a demand of 1.0002 Gbps ends at a link of 1 Gbps
    leaves = [f"{side}{i}" for side in "ab" for i in range(30)]
    names = ("a", "b", "c", *leaves)
    thick, thin = (Module(1000.0, 1.0),), (Module(1.0, 1.0),)
    links = (
        Link("ab", "a", "b", thick),
        Link("ac", "a", "c", thin),
        *(Link(f"{leaf}-", leaf, leaf[0], thick) for leaf in leaves),
    )
    demands = [Demand(f"a{i}", f"b{j}", 1.0) for i in range(30) for j in range(30)]
    for gbps, is_enough in ((1.0, True), (1.0002, False)):
        instance = PlanningInstance("stars", tuple(map(Node, names)), links, (*demands, Demand("a", "c", gbps)))
        network = compile_instance(instance)
        x = np.ones(network.n)
        assert Survival(network).is_survivable(network.capacities(x)) == is_enough
        assert judge(instance, plan_of(network, x)).is_feasible == is_enough
