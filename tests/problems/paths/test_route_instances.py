"""Grids, real networks, ids and specs."""

import json

import networkx as nx
import numpy as np
import pytest

import surco
from problems.paths import DEADLINES, DOMAIN, OnTimeRoute, grid, real_network, reference_seeds
from surco.checks import check_problem
from surco.errors import InvalidInputError, UnknownIdError


@pytest.mark.parametrize(("distribution", "limit"), [("code", 0.2), ("paper", 1.0)])
def test_grid_keeps_to_its_distribution(distribution, limit):
    graph = grid(30, distribution, 7)
    assert graph.number_of_edges() == 2 * 30 * 29
    mean = np.array([data["mean"] for *_, data in graph.edges(data=True)])
    ratio = np.array([data["variance"] / (1.0 - data["mean"]) for *_, data in graph.edges(data=True)])
    for sample, low, high in ((mean, 0.1, limit), (ratio, 0.1, 0.3)):
        assert low <= sample.min()
        assert sample.max() <= high
        assert sample.mean() == pytest.approx((low + high) / 2, abs=0.05 * (high - low))
        assert sample.std() == pytest.approx((high - low) / 12**0.5, rel=0.05)


def test_grid_draws_in_the_published_order():
    """Edge by edge in networkx's own order of the same grid, mean before variance."""
    rng = np.random.default_rng(776)
    other = nx.grid_2d_graph(4, 4)
    ours = grid(4, "code", 776)
    assert list(ours.edges) == list(other.edges)
    for edge in other.edges:
        mean = rng.uniform(0.1, 0.2)
        assert ours.edges[edge] == {"mean": mean, "variance": rng.uniform(0.1, 0.3) * (1.0 - mean)}
    assert reference_seeds()[:4] == [776, 956, 264, 207]


@pytest.mark.parametrize("arguments", [(1, "code", 0), (5, "code", -1), (5, "printed", 0), (5, "code", 1.5)])
def test_grid_names_bad_arguments(arguments):
    with pytest.raises(InvalidInputError):
        grid(*arguments)


def test_real_networks_use_lengths_and_see_drawings():
    germany = real_network("sndlib", "germany50", 0)
    assert germany.graph["length_unit"] == "km"
    assert germany.edges["Hamburg", "Kiel"]["mean"] == pytest.approx(87.0, abs=5.0)
    drawings = ("atlanta", "di-yuan", "france", "giul39", "india35", "newyork", "norway", "pioro40", "sun", "ta1")
    drawings += ("ta2", "zib54")
    maps = ("abilene", "brain", "cost266", "dfn-bwin", "geant", "janos-us-ca", "nobel-eu", "nobel-us", "pdh", "polska")
    for name in drawings + maps:
        unit = real_network("sndlib", name, 0).graph["length_unit"]
        assert unit == ("drawing unit" if name in drawings else "km")
    france = real_network("sndlib", "france", 0)
    assert max(data["mean"] for *_, data in france.edges(data=True)) < 1000.0


def test_every_topology_zoo_network_makes_a_problem():
    names = [id for id in DOMAIN.ids() if id.startswith("paths/topozoo-")]
    assert len(names) > 200
    for id in names[::12]:
        problem = surco.make(id, seed=1, deadline="tight")
        assert problem.exact(seconds=2.0).is_optimal


def test_seed_and_deadline_are_overrides():
    first, same, other = (surco.make("paths/grid-5-code-v0", seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.network.mean, same.network.mean)
    assert not np.array_equal(first.network.mean, other.network.mean)
    for name, factor in DEADLINES.items():
        problem = surco.make("paths/grid-5-paper-v0", deadline=name)
        assert problem.deadline == factor * problem.least_expected_time
    assert surco.make("paths/grid-5-paper-v0", deadline=2.5).deadline == 2.5
    route = surco.make("paths/sndlib-germany50-v0", source="Aachen", target="Berlin")
    assert (route.path(route.exact().x)[0], route.path(route.exact().x)[-1]) == ("Aachen", "Berlin")
    assert surco.make("paths/grid-5-paper-v0", source=[0, 4], target=(4, 0)).source == (0, 4)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ({"deadline": "lose"}, "loose"),
        ({"sead": 1}, "Did you mean `seed`"),
        ({"seed": -1}, "seed"),
        ({"source": "Aachn"}, "Did you mean 'Aachen'"),
    ],
)
def test_bad_overrides_are_named(overrides, text):
    with pytest.raises(InvalidInputError, match=text):
        DOMAIN.make("paths/sndlib-germany50-v0", **overrides)


def test_unknown_ids_name_the_closest():
    for id, near in (("paths/grid-6-code-v0", "grid-5"), ("paths/sndlib-germany5-v0", "germany50")):
        with pytest.raises(UnknownIdError, match=near):
            DOMAIN.make(id)
    with pytest.raises(UnknownIdError, match="sndlib/polska"):
        real_network("sndlib", "polsca", 0)


def through_json(spec):
    return DOMAIN.from_spec(json.loads(json.dumps(spec)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: surco.make("paths/grid-5-paper-v0", seed=4, deadline="tight"),
        lambda: surco.make("paths/sndlib-polska-v0", seed=2, deadline=900.0, source="Gdansk", target="Krakow"),
        lambda: OnTimeRoute(grid(4, "code", 1), (0, 0), (3, 3), 1.0),
    ],
)
def test_spec_round_trip(make):
    problem = make()
    again = through_json(problem.spec)
    assert again.spec == problem.spec
    assert again.id == problem.id
    assert again.oracle.edges == problem.oracle.edges
    assert again.deadline == problem.deadline
    assert again.exact().bound == problem.exact().bound


@pytest.mark.parametrize("kind", [nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph])
def test_spec_round_trip_of_every_kind_of_graph(kind):
    rng = np.random.default_rng(3)
    graph = kind()
    names = ["x", ("y", 1), 3, 2.5, np.int64(7), frozenset({1})]
    graph.add_nodes_from(names)
    for u, v in rng.integers(0, len(names), size=(14, 2)).tolist():
        graph.add_edge(names[u], names[v])
    graph.add_edge("x", 3)
    for *_, data in graph.edges(data=True):
        data.update(mean=float(rng.random()), variance=float(rng.random()) + 0.1)
    problem = OnTimeRoute(graph, "x", 3, 0.7)
    again = through_json(problem.spec)
    assert type(again.graph) is kind
    assert again.spec == problem.spec
    assert np.array_equal(again.network.mean, problem.network.mean)
    assert np.array_equal(again.network.tail, problem.network.tail)
    assert again.exact().bound == problem.exact().bound


def test_names_of_equal_text_become_numbers():
    class Stop:
        def __str__(self):
            return "stop"

    first, second = Stop(), Stop()
    graph = nx.Graph()
    graph.add_edge(first, second, mean=1.0, variance=2.0)
    again = through_json(OnTimeRoute(graph, first, second, 1.5).spec)
    assert (again.source, again.target) == (0, 1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.pop("target"), "`target` is missing"),
        (lambda s: s.update(dead_line=1), "`dead_line`"),
        (lambda s: s["edges"].append(["a", "b"]), r"\[u, v, mean, variance\]"),
        (lambda s: s["edges"].append(["b", "a", 1.0, 1.0]), "multigraph"),
        (lambda s: s.update(positions=[[0, 0]]), "positions"),
        (lambda s: s.update(source="c"), "source"),
        (lambda s: s.update(directed="false"), "`directed` to be true or false, got 'false'"),
        (lambda s: s.update(nodes=3), "`nodes` to be a list, got 3"),
        (lambda s: s["edges"].append(["a", "c", "1.0", 1.0]), "the mean of edge"),
        (lambda s: s.update(deadline="soon"), "the `deadline` to be a number"),
        (lambda s: s.update(positions=[[0, 0], [1]]), r"position to be \[x, y\]"),
    ],
)
def test_bad_specs_are_named(change, text):
    edges = [["a", "b", 1.0, 1.0]]
    spec = {"domain": "paths", "edges": edges, "source": "a", "target": "b", "deadline": 1.0}
    assert DOMAIN.from_spec(spec).oracle.n == 1
    change(spec)
    with pytest.raises(InvalidInputError, match=text):
        DOMAIN.from_spec(spec)


@pytest.mark.parametrize("deadline", ["loose", "tight"])
@pytest.mark.parametrize("id", ["paths/grid-5-code-v0", "paths/grid-10-paper-v0", "paths/sndlib-nobel-germany-v0"])
def test_shipped_problems_pass_the_shipped_checks(id, deadline):
    report = check_problem(surco.make(id, seed=3, deadline=deadline))
    ran = {check.name for check in report.checks if not check.is_skipped}
    assert {"gradient", "moves", "heuristics", "aggregates", "lower bound", "exact", "spec"} <= ran
