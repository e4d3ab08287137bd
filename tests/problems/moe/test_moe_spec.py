"""Reading and writing: JSON, npz, exports, and errors that say what was wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest

import surco
from problems.moe import Router
from surco.bridge import to_torch
from surco.errors import InvalidInputError, UnknownIdError


def base():
    return {"domain": "moe", "gpus": 4, "nodes": 2, "slots": 2, "loads": [5, 4, 3, 2, 1]}


def test_loads_alone_leave_traffic_out():
    problem = surco.from_spec(base())
    assert problem.traffic_weight == 0.0
    x = problem.heuristics()["lpt"]
    assert float(problem.objective(x)) == problem.metrics(x)["largest_over_mean_load"]
    assert "no tokens recorded" in problem.describe(x)


def test_npz_and_json_files_give_the_same_problem(tmp_path):
    routing = Router(64, 6, groups=4, top_groups=2).window(0, layers=2, seed=9)
    np.savez(tmp_path / "loads.npz", loads=routing.loads, tokens=routing.tokens, groups=4)
    text = {"loads": routing.loads.tolist(), "tokens": routing.tokens.tolist(), "groups": 4}
    (tmp_path / "loads.json").write_text(json.dumps(text))
    made = [surco.make("moe/64e-16g-2n-v0", file=str(tmp_path / f"loads.{kind}")) for kind in ("npz", "json")]
    x = made[0].heuristics()["eplb_hierarchical"]
    assert made[0].routing.layers == 2
    assert float(made[0].objective(x)) == float(made[1].objective(x))
    np.savez(tmp_path / "full.npz", loads=routing.loads, tokens=routing.tokens, gpus=16, nodes=2, slots=5)
    (tmp_path / "full.json").write_text(json.dumps({**text, "gpus": 16, "nodes": 2, "slots": 5}))
    for kind in ("npz", "json"):
        assert float(surco.load(tmp_path / f"full.{kind}").objective(x)) == float(made[0].objective(x))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"slotz": 2}, "Did you mean `slots`"),
        ({"nodes": 3}, "to divide"),
        ({"gpus": 2.5}, "integer"),
        ({"loads": [1, -1, 2]}, "at least 0"),
        ({"loads": [[0, 0]]}, "above 0"),
        ({"loads": [[1, 2], [1]]}, "rows alike"),
        ({"loads": "many"}, "array of numbers"),
        ({"tokens": [[0, 9]]}, "from 0 to 4"),
        ({"tokens": [[1, 1]]}, "distinct"),
        ({"tokens": [[0.5, 1]]}, "array of numbers"),
        ({"groups": 2}, "divide the 5 experts"),
        ({"traffic_weight": 0.5}, "recorded tokens"),
        ({"traffic_weight": -1}, "at least 0"),
        ({"max_copies": 0}, "max_copies"),
        ({"current": [[0], [1], [2], [3]]}, "together"),
        ({"current": [[0], [1]], "migration_cap": 1}, "4 GPUs"),
        ({"current": [[0], [1], [2], [7]], "migration_cap": 1}, "from 0 to 4"),
        ({"domain": "sharding"}, "sharding"),
    ],
)
def test_bad_specs_say_what_is_wrong(change, words):
    from problems.moe import DOMAIN

    with pytest.raises(InvalidInputError, match=words):
        DOMAIN.from_spec({**base(), **change})


def test_unknown_ids_and_overrides():
    with pytest.raises(UnknownIdError, match="Did you mean"):
        surco.make("moe/256e-64g-8n-v1")
    with pytest.raises(InvalidInputError, match="Did you mean `window`"):
        surco.make("moe/8e-4g-2n-v0", windou=1)
    with pytest.raises(InvalidInputError, match="skew"):
        surco.make("moe/8e-4g-2n-v0", skew=-1.0)
    with pytest.raises(InvalidInputError, match="no file"):
        surco.make("moe/8e-4g-2n-v0", file="nowhere.npz")


def test_traces_drift_and_repeat():
    router = Router(64, 6, groups=4, top_groups=2)
    first, again = (router.window(0, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.tokens, again.tokens)
    near, far = (np.corrcoef(first.loads[0], router.window(w, seed=5).loads[0])[0, 1] for w in (1, 20))
    assert far < near < 1.0
    groups = first.tokens[0] // 16
    assert max(len(set(row)) for row in groups.tolist()) == 2
    even = Router(64, 6, skew=0.0, topic_lift=0.0).window(0, seed=5).loads[0]
    assert even.max() / even.mean() < 1.15 < 1.5 < first.loads[0].max() / first.loads[0].mean()


def test_exports_can_be_loaded_by_engines_and_read_back(tmp_path):
    problem = surco.make("moe/16e-8g-2n-v0", slots=4)
    x = problem.heuristics()["lpt_single"]  # half of the slots are empty
    exports = problem.exports()
    exports["eplb"](x, tmp_path / "maps.json")
    maps = json.loads((tmp_path / "maps.json").read_text())
    physical = np.array(maps["physical_to_logical_map"])
    assert physical.shape == (1, 32)
    plan = problem.plan_of(x)[0]
    for g in range(8):
        here = physical[0, 4 * g : 4 * g + 4].tolist()
        assert len(set(here)) == 4
        assert set(np.flatnonzero(plan[:, g]).tolist()) <= set(here)
    for e, slots in enumerate(maps["logical_to_physical_map"][0]):
        used = [s for s in slots if s >= 0]
        assert len(used) == maps["logical_count"][0][e] == (physical[0] == e).sum()
        assert (physical[0, used] == e).all()
    exports["json"](x, tmp_path / "plan.json")
    saved = json.loads((tmp_path / "plan.json").read_text())
    again = surco.make("moe/16e-8g-2n-v0", slots=4, current=saved["experts"], migration_cap=0)
    assert float(again.objective(to_torch(again.migration.current.reshape(-1)))) == saved["value"]
