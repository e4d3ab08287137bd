"""Suite files: what is read, what is refused, and that equal work has equal keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import suite
from surco.errors import InvalidInputError
from surco.registry import ids

SUITES = Path(suite.__file__).parent / "suites"


def data(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "name": "t",
        "methods": ["random", {"label": "fast zero", "method": "zero", "options": {"step_size": 1.0}}],
        "budget": {"calls": 10},
        "instances": [{"id": "toy/choose-v0", "draws": 2}, {"id": "toy/slow-v0", "budget": {"seconds": 1.5}}],
        "seeds": [0, 1],
    }
    return {**base, **changes}


def test_cells_are_the_product() -> None:
    plan = suite.parse(data())
    cells = list(plan.cells())
    assert len(cells) == 3 * 2 * 2
    assert len({cell.key for cell in cells}) == len(cells)
    assert cells[0].instance.key == 'toy/choose-v0 {"seed": 0}'
    assert [dict(instance.budget) for instance in plan.instances] == [{"calls": 10}, {"calls": 10}, {"seconds": 1.5}]
    assert cells[1].row == suite.MethodRow("fast zero", "zero", {"step_size": 1.0})


def test_keys_depend_on_the_work_alone() -> None:
    keys = {cell.key for cell in suite.parse(data()).cells()}
    renamed = data(
        name="other", description="x", metrics=["m"], methods=["random", {**data()["methods"][1], "label": "z"}]
    )
    renamed["instances"] = [{**item, "group": "g"} for item in data()["instances"]]
    assert {cell.key for cell in suite.parse(renamed).cells()} == keys
    for change in ({"budget": {"calls": 11}}, {"seeds": [2, 3]}):
        assert {cell.key for cell in suite.parse(data(**change)).cells()} != keys


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nmae": "x"}, "Did you mean `name`"),
        ({"name": ""}, "`name`"),
        ({"methods": []}, "`methods`"),
        ({"methods": ["zero", "zero"]}, "label of its own"),
        ({"methods": [{"method": "zero"}]}, "`label`"),
        ({"methods": [3]}, "method's name"),
        ({"budget": {"call": 3}}, "Did you mean `calls`"),
        ({"budget": {"calls": 0}}, "`calls`"),
        ({"budget": {}, "instances": [{"id": "toy/choose-v0"}]}, "has no budget"),
        ({"instances": [{"id": "toy/choose-v0"}, {"id": "toy/choose-v0", "group": "again"}]}, "same run"),
        ({"instances": ["toy/choose-v0"]}, "number 1"),
        ({"instances": [{"id": "a", "draw": 3}]}, "Did you mean `draws`"),
        ({"seeds": [0.5]}, "list of integers"),
        ({"seeds": [-1]}, "list of integers >= 0"),
        ({"tolerance": "small"}, "`tolerance`"),
        ({"tolerance": float("nan")}, "`tolerance`"),
        ({"metrics": 5}, "`metrics`"),
        ({"cell_seconds": -1}, "`cell_seconds`"),
        ({"budget": {"calls": 1.5}}, "to be an integer"),
        ({"budget": {"seconds": float("inf")}}, "finite"),
        ({"methods": [{"label": "z", "options": 3}]}, "`options` of method `z`"),
        ({"methods": [{"label": "z", "method": 3}]}, "`method`"),
        ({"instances": [{"id": "a", "set": 3}]}, "`set` of instance `a`"),
        ({"instances": [{"id": "a", "group": 3}]}, "`group`"),
        ({"instances": [{"id": "a", "draws": 0}]}, "at least 1"),
        ({"instances": [{"id": "a", "draws": True}]}, "`draws`"),
        ({"instances": [{"id": "a", "draws": [-1]}]}, "`draws`"),
        ({"instances": [{"id": "a", "draws": 2, "set": {"seed": 3}}]}, "both `draws` and a `seed`"),
        ({"regret": "none"}, "regret"),
    ],
)
def test_bad_suites_are_refused_in_words(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        suite.parse(data(**change))


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no `"):
        suite.load(tmp_path / "none.toml")
    for text in (b"name = [", b"\xff\xfe"):
        (tmp_path / "bad.toml").write_bytes(text)
        with pytest.raises(InvalidInputError, match="not TOML"):
            suite.load(tmp_path / "bad.toml")


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_suites_name_real_problems(path: Path) -> None:
    plan = suite.load(path)
    known = ids()
    assert plan.name == path.stem
    assert {instance.id for instance in plan.instances} <= set(known)
