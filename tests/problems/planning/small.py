"""Small planning instances, drawn or written by hand, and an enumeration that judges them."""

import itertools

import networkx as nx
import numpy as np

from problems.planning import Demand, Judge, Link, Module, Node, PlanningInstance, single_link_failures
from problems.planning.network import compile_instance
from problems.planning.plan import plan_of

UNIT = Module(10.0, 1.0)


def ring(n=4, *, chords=(), demands=((0, 2, 10.0),), unit=10.0, prices=None, **options):
    """A ring of n nodes with chords; prices 1, 2, 3, ... per unit by link."""
    pairs = [(i, (i + 1) % n) for i in range(n)] + list(chords)
    links = tuple(
        Link(f"l{k}", f"n{u}", f"n{v}", (Module(unit, float(prices[k] if prices else k + 1)),))
        for k, (u, v) in enumerate(pairs)
    )
    instance = PlanningInstance(
        "ring",
        tuple(Node(f"n{i}", float(np.cos(i)), float(np.sin(i))) for i in range(n)),
        links,
        tuple(Demand(f"n{u}", f"n{v}", d) for u, v, d in demands),
        **options,
    )
    return instance if "failures" in options else instance.with_failures(single_link_failures(instance))


def drawn(seed, *, nodes=5, extra=2, two_way=True, most=25.0):
    """A random two-edge-connected network with random demands."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(nodes)
    graph = nx.Graph([(int(order[i]), int(order[(i + 1) % nodes])) for i in range(nodes)])
    free = list(nx.non_edges(graph))
    graph.add_edges_from(free[i] for i in rng.permutation(len(free))[:extra])
    links = tuple(
        Link(f"l{u}-{v}", f"n{u}", f"n{v}", (Module(10.0, float(rng.integers(1, 20))),)) for u, v in graph.edges
    )
    pairs = [p for p in itertools.permutations(range(nodes), 2) if not two_way or p[0] < p[1]]
    demands = tuple(
        Demand(f"n{u}", f"n{v}", float(rng.uniform(1.0, most))) for u, v in pairs if rng.random() < 0.5
    ) or (Demand("n0", "n1", 5.0),)
    instance = PlanningInstance(
        f"drawn{seed}", tuple(Node(f"n{i}") for i in range(nodes)), links, demands, is_two_way=two_way
    )
    return instance.with_failures(single_link_failures(instance))


def enumerate_optimum(instance, most):
    """Cheapest plan with at most ``most`` units per variable, each candidate decided by the judge, cheap ones first."""
    network, judge = compile_instance(instance), Judge(instance)
    points = np.array(list(itertools.product(*[range(int(min(u, most)) + 1) for u in network.upper])), dtype=float)
    for x in points[np.argsort(points @ network.cost, kind="stable")]:
        if (network.complete(x) > x).any():
            continue
        if judge(plan_of(network, x), stop_early=True).is_feasible:
            return float(network.cost @ x)
    return None
