# ruff: noqa: E501 - small files in foreign formats
"""Formats in and out, on small files of our own; real files are read only where they lie beside the project."""

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest

from problems.planning import Decomposition, PlanningInstance, compile_instance, from_topohub, judge, plan_of
from problems.planning.charts import positions
from problems.planning.codec import from_json
from problems.planning.demand_models import gravity, lognormal, uniform
from problems.planning.distances import great_circle_km
from problems.planning.domain import DOMAIN
from problems.planning.evaluator import Evaluator, random_episodes
from problems.planning.formats import read_instance
from problems.planning.formats.export import save_plan
from problems.planning.modules import useful_modules
from problems.planning.plan import Plan, variables_of
from problems.planning.topologies import drawn_names, from_topology, sane_names, topology
from surco.errors import InvalidInputError, UnknownIdError
from tests.problems.planning.small import drawn, ring

NATIVE = """?SNDlib native format; type: network; version: 1.0
# network tri
NODES (
  a ( 10.5 50.25 )
  b ( 11.5 50.75 )
  c ( 10.75 51.5 )
)
LINKS (
  ab ( a b ) 5.00 0.00 0.00 7.00 ( 10.00 3.00 40.00 9.00 )
  bc ( b c ) 0.00 0.00 0.00 7.00 ( 10.00 3.00 40.00 9.00 )
  ca ( c a ) 0.00 0.00 2.00 7.00 ( 10.00 4.00 )
)
DEMANDS (
  d1 ( a b ) 1 12.00 UNLIMITED
  d2 ( c b ) 1 6.50 UNLIMITED
)
ADMISSIBLE_PATHS (
)
"""
LINKS = (
    ("ab", "a", "b", 5, 0, ((10, 3), (40, 9))),
    ("bc", "b", "c", 0, 0, ((10, 3), (40, 9))),
    ("ca", "c", "a", 0, 2, ((10, 4),)),
)
PLACES = {"a": (10.5, 50.25), "b": (11.5, 50.75), "c": (10.75, 51.5)}


def xml():
    nodes = "".join(
        f'<node id="{n}"><coordinates><x>{x}</x><y>{y}</y></coordinates></node>' for n, (x, y) in PLACES.items()
    )
    links = "".join(
        f'<link id="{i}"><source>{u}</source><target>{v}</target><preInstalledModule><capacity>{e}</capacity><cost>0</cost>'
        f"</preInstalledModule><routingCost>{r}</routingCost><setupCost>7</setupCost><additionalModules>"
        + "".join(f"<addModule><capacity>{c}</capacity><cost>{p}</cost></addModule>" for c, p in modules)
        + "</additionalModules></link>"
        for i, u, v, e, r, modules in LINKS
    )
    demands = "".join(
        f'<demand id="{u}{v}"><source>{u}</source><target>{v}</target><demandValue>{d}</demandValue></demand>'
        for u, v, d in (("a", "b", 12), ("c", "b", 6.5))
    )
    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?><network xmlns="http://sndlib.zib.de/network" version="1.0">'
        f'<networkStructure><nodes coordinatesType="geographical">{nodes}</nodes><links>{links}</links></networkStructure>'
        f"<demands>{demands}</demands></network>"
    )


def sndlib_json():
    return {
        "nodes": [{"id": n, "longitude": x, "latitude": y} for n, (x, y) in PLACES.items()],
        "links": [
            {
                "id": i, "source": u, "target": v, "pre_installed_capacity": e, "pre_installed_capacity_cost": 0,
                "routing_cost": r, "setup_cost": 7,
                "modules": [{"module_capacity": c, "module_cost": p} for c, p in modules],
            }
            for i, u, v, e, r, modules in LINKS
        ],
        "demands": [{"source": u, "target": v, "demand_value": d} for u, v, d in (("a", "b", 12), ("c", "b", 6.5))],
    }  # fmt: skip


def test_sndlib_formats_agree(tmp_path):
    files = {"tri.txt": NATIVE, "tri.xml": xml(), "tri.json": json.dumps(sndlib_json())}
    read = []
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        read.append(read_instance(tmp_path / name))
    assert read[0] == read[1] == read[2]
    assert "routing costs" in read[0].provenance
    engine = Decomposition(compile_instance(read[0]), tolerance=1e-9)
    engine.run(20)
    assert judge(read[0], plan_of(engine.network, engine.best)).is_feasible


@pytest.mark.parametrize(
    "broken", [NATIVE.replace("LINKS (", "LINK ("), NATIVE.replace("12.00", "twelve"), NATIVE[:200]]
)
def test_broken_files_name_the_place(tmp_path, broken):
    (tmp_path / "bad.txt").write_text(broken)
    with pytest.raises(InvalidInputError, match=r"LINKS|DEMANDS|NODES"):
        read_instance(tmp_path / "bad.txt")


def test_entities_are_refused(tmp_path):
    (tmp_path / "bomb.xml").write_text('<!DOCTYPE network [<!ENTITY a "b">]><network></network>')
    with pytest.raises(InvalidInputError, match="entities"):
        read_instance(tmp_path / "bomb.xml")
    (tmp_path / "other.bin").write_text("nothing of ours")
    assert read_instance(tmp_path / "other.bin") is None


def test_gml_and_graphml_agree(tmp_path):
    import networkx as nx

    graph = nx.MultiGraph()
    for i, (name, (x, y)) in enumerate(PLACES.items()):
        graph.add_node(i, label=name, Longitude=x, Latitude=y)
    graph.add_edges_from([(0, 1), (1, 2), (2, 0), (0, 1)])
    nx.write_gml(nx.relabel_nodes(graph, str), tmp_path / "g.gml")
    nx.write_graphml(graph, tmp_path / "g.graphml")
    one, two = read_instance(tmp_path / "g.gml"), read_instance(tmp_path / "g.graphml")
    assert [d.gbps for d in one.demands] == pytest.approx([d.gbps for d in two.demands])
    assert len(one.links) == 4
    assert len(compile_instance(one).edges) == 3


def workbook(path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    sheets = {
        "Fibers": [("name", "src", "dst", "rtt", "max_fp", "spectrum_size_ghz_per_fp")]
        + [(f"f{u}{v}", u, v, 3, 2, 4800) for u, v in ("ab", "bc", "ca")],
        "Leases": [("name", "src", "dst", "rtt", "min_capacity_gbps", "max_capacity_gbps"), ("x", "a", "c", 9, 0, 800)],
        "L3Nodes": [("name", "l1_node", "stub"), ("a", "a", False), ("b", "b", False), ("c", "c", False)],
        "L3Links": [
            ("name", "src", "dst", "min_capacity_gbps", "final_capacity_gbps", "max_capacity_gbps", "igp", "fiber_name_map_spectrum"),
            ("ab", "a", "b", 100, 400, 4000, 1, "fab:0.375"),
            ("bc", "b", "c", 0, 400, 4000, 1, "fbc:0.375"),
            ("abc", "a", "c", 0, 400, 4000, 1, "fab:0.375;fbc:0.5"),
            ("lease", "a", "c", 0, 400, 4000, 1, "x:0"),
        ],
        "Flows": [("name", "src", "dst", "cos", "capacity_gbps"), ("1", "a", "c", "GOLD", 149.5), ("2", "a", "b", "BRONZE", 30)],
        "Spofs": [("fiber_names", "cos_to_protect"), ("fab;fca", "GOLD")],
    }  # fmt: skip
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)


def test_neuroplan_workbook(tmp_path):
    workbook(tmp_path / "net.xlsx")
    instance = read_instance(tmp_path / "net.xlsx")
    assert instance.load_factor == 0.8
    assert {d.gbps for d in instance.demands} == {150.0, 30.0}
    assert instance.links[2].modules[0].cost == 6 * 100
    assert instance.links[2].ghz_on("fbc") == 0.5
    assert [f.name for f in instance.failures] == ["spof 1", "fiber fab", "fiber fbc", "fiber fca"]
    assert instance.failures[0].services == ("GOLD",)
    engine = Decomposition(compile_instance(instance), tolerance=1e-9)
    engine.run(20)
    assert judge(instance, plan_of(engine.network, engine.best)).is_feasible
    assert engine.best[3] == 2  # GOLD must get through when fab is cut: 150 / 0.8 Gbps on the lease


def test_spec_round_trip_and_strictness():
    instance = from_topohub("polska")
    spec = json.loads(json.dumps(instance.to_spec()))
    assert PlanningInstance.from_spec(spec) == instance
    schema = PlanningInstance.schema()
    assert set(spec) <= set(schema["properties"])
    with pytest.raises(InvalidInputError, match="Unknown key 'colour'"):
        PlanningInstance.from_spec({**spec, "colour": 1})
    with pytest.raises(InvalidInputError, match=r"demands\[0\].gbps"):
        PlanningInstance.from_spec({**spec, "demands": [{**spec["demands"][0], "gbps": "many"}]})
    with pytest.raises(InvalidInputError, match="Missing key 'name'"):
        from_json(PlanningInstance, {})


def test_drawing_units_are_told_from_kilometers():
    assert set(drawn_names()) >= {"atlanta", "india35", "ta2", "zib54"}
    assert len(sane_names()) + len(drawn_names()) == 26
    with pytest.raises(InvalidInputError, match="drawing units"):
        from_topology(topology("sndlib/india35"))
    with pytest.raises(UnknownIdError):
        topology("sndlib/atlantis")
    lengths = [link.length_km for link in DOMAIN.make("planning/india35-drawn-v0").instance.links]
    assert sum(lengths) / len(lengths) == pytest.approx(100.0, abs=0.5)
    assert "drawing units" in DOMAIN.ids()["planning/ta2-drawn-v0"]
    with pytest.raises(UnknownIdError, match="ta2-drawn"):
        DOMAIN.make("planning/ta2-v0")


def test_topology_zoo_ids_draw_their_demands_from_the_seed():
    one, again, other = (DOMAIN.make("planning/zoo-abilene-v0", seed=seed) for seed in (0, 0, 1))
    assert one.instance == again.instance != other.instance
    assert DOMAIN.make("planning/zoo-abilene-v0").instance == one.instance
    assert DOMAIN.from_spec(json.loads(json.dumps(other.spec))).instance == other.instance
    assert sum(id.startswith("planning/zoo-") for id in DOMAIN.ids()) > 200
    one.use_clock(time.process_time)
    x = one.exact(seconds=60).x
    assert float(one.violation(x)) == 0.0


def test_own_lengths_of_a_graph_are_kept_on_a_drawing(tmp_path):
    import networkx as nx

    graph = nx.cycle_graph(4)
    for node in graph:
        graph.nodes[node].update(x=100 * node, y=300)
    nx.set_edge_attributes(graph, 250.0, "length")
    nx.write_graphml(graph, tmp_path / "measured.graphml")
    assert {link.length_km for link in read_instance(tmp_path / "measured.graphml").links} == {250.0}
    for *_, data in graph.edges(data=True):
        del data["length"]
    nx.write_graphml(graph, tmp_path / "drawn.graphml")
    drawn_instance = read_instance(tmp_path / "drawn.graphml")
    assert sorted({link.length_km for link in drawn_instance.links}) == [67.0, 200.0]
    assert "drawing units" in drawn_instance.provenance


def test_prices_and_capacities_of_a_graph_are_read_and_its_lengths_kept(tmp_path):
    import networkx as nx

    graph = nx.relabel_nodes(nx.cycle_graph(4), str)
    for i, (*_, data) in enumerate(graph.edges(data=True)):
        data.update(length=0.25 + 0.5 * i, cost=3.0 + i, existing_gbps=200.0, max_gbps=5000.0)
    nx.write_graphml(graph, tmp_path / "metro.graphml")
    instance = read_instance(tmp_path / "metro.graphml")
    assert sorted(link.length_km for link in instance.links) == [0.25, 0.75, 1.25, 1.75]
    assert sorted(link.modules[0].cost for link in instance.links) == [3.0, 4.0, 5.0, 6.0]
    assert {(link.existing_gbps, link.max_gbps) for link in instance.links} == {(200.0, 5000.0)}
    assert all(node.x is None for node in instance.nodes)  # no positions: the map lays it out, not all on one point
    assert len(np.unique(positions(instance).round(6), axis=0)) == 4


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("length", "far", "expected a number in `length`, got 'far'"),
        ("length", float("nan"), "finite number in `length`"),
        ("length", -3.0, "`length` >= 0"),
        ("cost", -1.0, "`cost` >= 0"),
        (None, None, "Give the edge `length_km`"),
    ],
)
def test_a_wrong_number_in_a_graph_is_named(tmp_path, key, value, words):
    import networkx as nx

    graph = nx.cycle_graph(4)
    nx.set_edge_attributes(graph, {edge: {"length": 2.0, key: value} if key else {} for edge in graph.edges})
    nx.write_graphml(graph, tmp_path / "wrong.graphml")
    with pytest.raises(InvalidInputError, match=words):
        read_instance(tmp_path / "wrong.graphml")


def test_demand_models_and_distance():
    data = topology("topozoo/Abilene")
    assert set(uniform(data).values()) == {1.0}
    assert lognormal(data, seed=1) == lognormal(data, seed=1) != lognormal(data, seed=2)
    near = gravity(data, power=2.0)
    assert len(near) == len(uniform(data))
    assert great_circle_km((0.0, 0.0), (0.0, 90.0)) == pytest.approx(math.pi / 2 * 6371.0088)
    instance = from_topohub("topozoo/Abilene", model="lognormal", seed=4)
    assert "seed 4" in instance.provenance


def test_dominated_modules_go():
    instance = ring(3)
    from dataclasses import replace

    from problems.planning import Module

    link = replace(
        instance.links[0], modules=(Module(20, 7), Module(40, 9), Module(60, 16), Module(80, 18), Module(50, 9.5))
    )
    assert useful_modules(link) == (0, 1, 4)


def test_everything_about_a_plan_is_written(tmp_path):
    instance = from_topohub("polska")
    engine = Decomposition(compile_instance(instance), tolerance=1e-6)
    bounds = engine.run(20)
    plan = plan_of(engine.network, engine.best)
    save_plan(tmp_path, instance, plan, bound=bounds.lower)
    assert Plan.from_json(json.loads((tmp_path / "plan.json").read_text()), instance) == plan
    assert (variables_of(engine.network, plan) == engine.best).all()
    routing = json.loads((tmp_path / "routing.json").read_text())
    usable = dict(zip((x.name for x in instance.links), plan.installed_gbps(instance), strict=True))
    ends = {x.name: (x.source, x.target) for x in instance.links}
    for state in routing["states"]:  # anyone can check by addition
        load = dict.fromkeys(((name, way) for name in usable for way in (0, 1)), 0.0)
        for demand in state["demands"]:
            for path in demand["paths"]:
                at = demand["source"]
                for name in path["links"]:
                    way = ends[name].index(at)
                    at = ends[name][1 - way]
                    load[name, way] += path["gbps"]
                    assert state["failure"] != f"link {name}"
                assert at == demand["target"]
        assert all(load[name, way] <= usable[name] * (1 + 1e-5) + 1e-3 for name, way in load)
    page = (tmp_path / "map.html").read_text()
    assert "http://www.w3.org/2000/svg" in page
    assert "src=" not in page
    assert "@DATA@" not in page
    assert json.loads((tmp_path / "certificate.json").read_text())["gap"] <= 1e-6
    assert (tmp_path / "map.png").stat().st_size > 10_000
    assert len(json.loads((tmp_path / "plan.geojson").read_text())["features"]) == 30


def test_evaluator_agrees_with_the_judge():
    import numpy as np

    for seed in range(3):
        instance = drawn(seed, nodes=5, extra=2)
        network = compile_instance(instance)
        evaluator = Evaluator(network)
        rng = np.random.default_rng(seed)
        points = rng.integers(0, 7, (25, network.n)).astype(float)
        said = evaluator.is_survivable(network.capacities(points))
        again = evaluator.is_survivable(network.capacities(points))
        truth = [judge(instance, plan_of(network, x), stop_early=True).is_feasible for x in points]
        assert said.tolist() == again.tolist() == truth
        bad = int(np.flatnonzero(~said)[0])
        assert "Gbps" in evaluator.explain(network.capacities(points[bad]))
        with pytest.raises(InvalidInputError, match="shape"):
            evaluator.is_survivable(np.zeros(network.n))


def test_evaluator_needs_few_programs_after_warm_up():
    import numpy as np

    evaluator = Evaluator(compile_instance(from_topohub("polska")))
    random_episodes(evaluator, 1, rng=np.random.default_rng(0))
    later = random_episodes(evaluator, 3, rng=np.random.default_rng(1))
    assert min(later.refused_without_lp) >= 0.98


REAL = Path(__file__).parents[4] / "shared" / "data" / "sndlib"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real SNDlib files are not part of the project")
@pytest.mark.parametrize("name", ["abilene", "nobel-us", "polska", "geant"])
def test_real_sndlib_files(name):
    text, markup, data = (read_instance(REAL / f"{name}.{kind}") for kind in ("txt", "xml", "json"))
    assert text.links == markup.links == data.links
    assert {(d.source, d.target, d.gbps) for d in text.demands} == {(d.source, d.target, d.gbps) for d in data.demands}
    engine = Decomposition(compile_instance(text), tolerance=1e-3)
    assert engine.run(30).gap <= 1e-3
    assert judge(text, plan_of(engine.network, engine.best)).is_feasible
