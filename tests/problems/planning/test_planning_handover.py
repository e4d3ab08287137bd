"""Plans handed over by command: exports that add up, and a judge that did not make the plan."""

import csv
import json

import numpy as np
import pytest

import surco
from problems.planning import PlanningProblem
from problems.planning.construction import shortest_path_plan
from problems.planning.domain import DOMAIN
from problems.planning.plan import Plan, variables_of
from surco.bridge import to_torch
from surco.cli import main
from surco.protocols import HasExports, HasJudges
from tests.problems.planning.small import ring

RUN = ["solve", "planning/polska-v0", "--method", "linear", "--calls", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Exports of a plan of polska, its run in ``run``."""
    folder = tmp_path_factory.mktemp("plan")
    kinds = ("json", "csv", "routing", "certificate", "map", "geojson")
    exports = [part for kind in kinds for part in ("--export", kind, str(folder / kind))]
    assert main([*RUN, "--out", str(folder / "run"), *exports]) == 0
    return folder


def test_plan_and_table_say_the_same_as_the_result(folder):
    result = json.loads((folder / "run" / "result.json").read_text())
    problem = DOMAIN.make("planning/polska-v0")
    plan = json.loads((folder / "json").read_text())
    assert plan["cost"] == pytest.approx(result["value"], rel=1e-12)
    again = Plan.from_json(plan, problem.instance)
    assert variables_of(problem.network, again).tolist() == result["x"]
    rows = list(csv.DictReader((folder / "csv").read_text().splitlines()))
    assert [row["link"] for row in rows] == [link.name for link in problem.instance.links]
    assert sum(float(row["price"]) for row in rows) == pytest.approx(result["value"], rel=1e-9)
    assert "<svg" in (folder / "map").read_text() or "<script" in (folder / "map").read_text()
    lines = [f for f in json.loads((folder / "geojson").read_text())["features"] if f["geometry"]["type"] != "Point"]
    assert [f["properties"]["new_gbps"] for f in lines] == [float(row["new_gbps"]) for row in rows]


def test_routing_adds_up_in_every_failure(folder):
    instance = DOMAIN.make("planning/polska-v0").instance
    usable = {name: row["total_gbps"] for name, row in json.loads((folder / "json").read_text())["links"].items()}
    ends = {link.name: {link.source, link.target} for link in instance.links}
    wanted = {(d.source, d.target): d.gbps for d in instance.demands}
    if instance.is_two_way:
        wanted |= {(v, u): gbps for (u, v), gbps in wanted.items()}
    states = json.loads((folder / "routing").read_text())["states"]
    assert [s["failure"] for s in states][1:] == [f.name for f in instance.failures]
    for state, down in zip(states, [(), *(f.links for f in instance.failures)], strict=True):
        load: dict[tuple[str, str, str], float] = {}
        carried = {}
        for demand in state["demands"]:
            for path in demand["paths"]:
                at = demand["source"]
                for link in path["links"]:
                    assert link not in down
                    (to,) = ends[link] - {at}
                    load[link, at, to] = load.get((link, at, to), 0.0) + path["gbps"]
                    at = to
                assert at == demand["target"]
            carried[demand["source"], demand["target"]] = sum(path["gbps"] for path in demand["paths"])
        assert carried == pytest.approx(wanted, rel=1e-6)
        for (link, _, _), gbps in load.items():
            assert gbps <= usable[link] * (1 + 2e-6)


def test_the_judge_confirms_the_plan_and_refuses_a_cheaper_one(folder, capsys):
    capsys.readouterr()
    assert main(["verify", str(folder / "run"), "--with", "flows"]) == 0
    assert "flows: confirmed" in capsys.readouterr().out
    file = folder / "run" / "result.json"
    text = file.read_text()
    data = json.loads(text)
    data["x"] = (np.array(data["x"]) * np.array([0, *[1] * (len(data["x"]) - 1)])).tolist()
    assert data["x"] != json.loads(text)["x"]
    try:
        file.write_text(json.dumps(data))
        assert main(["verify", str(folder / "run"), "--with", "flows", "--json"]) == 1
    finally:
        file.write_text(text)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["flows"]
    assert not found["is_confirmed"]
    assert "is not survived" in found["problems"]
    assert found["states_survived"] < found["states"]


def test_certificates_name_bounds_only_of_prices(tmp_path):
    problem = PlanningProblem(ring(chords=((0, 2),)))
    result = surco.solve(problem, "exact", seconds=5, seed=0)
    problem.exports()["certificate"](to_torch(result.x), tmp_path / "c.json")
    said = json.loads((tmp_path / "c.json").read_text())
    assert said["lower_bound"] == pytest.approx(said["cost"])
    bulk = DOMAIN.make("planning/polska-bulk-v0")
    x = to_torch(shortest_path_plan(bulk.network))
    bulk.lower_bound()
    bulk.exports()["certificate"](x, tmp_path / "b.json")
    said = json.loads((tmp_path / "b.json").read_text())
    assert said["lower_bound"] is None  # that of the prices alone would say nothing of the objective
    found = bulk.judges()["flows"](x)
    assert found.is_confirmed
    assert found.facts["price"] != pytest.approx(float(bulk.objective(x)))


def test_drawings_have_no_geojson():
    problem = DOMAIN.make("planning/ta2-drawn-v0")
    assert isinstance(problem, HasExports)
    assert isinstance(problem, HasJudges)
    assert set(problem.exports()) == {"json", "csv", "routing", "certificate", "map"}
