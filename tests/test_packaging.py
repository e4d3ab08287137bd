"""What a stranger meets first: the README's code, the metadata, the tested versions, the make targets."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import surco

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONSTRAINTS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"
)


def code_block(marker: str) -> str:
    """The README's Python block that holds ``marker``."""
    (block,) = [text for text in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if marker in text]
    return block


def run_block(block: str, folder: Path) -> str:
    script = folder / "script.py"
    script.write_text(block)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_problem_of_your_own_runs_and_is_solved_to_the_optimum(tmp_path: Path) -> None:
    block = code_block("mathopt")
    lines = [line for line in block.splitlines() if line.strip()]
    assert len(lines) <= 25
    out = run_block(block, tmp_path)
    match = re.search(r"my/servers: value ([\d.]+)", out)
    assert match, out
    milliseconds = np.random.default_rng(0).uniform(1.0, 9.0, (200, 12))
    best = min(
        np.quantile(milliseconds[:, list(sites)].min(1), 0.95)
        for k in (4, 5)
        for sites in itertools.combinations(range(12), k)
        if len({site % 4 for site in sites}) == 4
    )
    assert float(match[1]) == pytest.approx(best, rel=1e-5)
    assert "no bound" in out
    assert "optimal" not in out  # nothing is proven about a black box
    assert (tmp_path / "servers.html").stat().st_size > 10_000


def test_the_whole_story_runs(tmp_path: Path) -> None:
    out = run_block(code_block("surco.make").replace("seconds=10", "seconds=2"), tmp_path)
    assert "True" in out
    assert (tmp_path / "plan.html").is_file()


def test_constraints_satisfy_the_requirements_and_exclude_highspy() -> None:
    assert "highspy" not in CONSTRAINTS
    assert CONSTRAINTS["torch"] == "2.13.0"
    texts = list(PROJECT["dependencies"])
    for extra, more in PROJECT["optional-dependencies"].items():
        texts += more if extra in ("photonics", "bench", "dev") else []
    for text in texts:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        assert name in CONSTRAINTS, f"{name} is not in constraints.txt: `make lock`"
        assert requirement.specifier.contains(CONSTRAINTS[name]), text


def test_metadata_fits_the_code() -> None:
    assert PROJECT["version"] == surco.__version__ == version("surco")
    assert SpecifierSet(PROJECT["requires-python"]).contains("3.11.0")
    for name, target in PROJECT["entry-points"]["surco.problems"].items():
        module = target.partition(":")[0].replace(".", "/")
        assert (ROOT / module).is_dir() or (ROOT / f"{module}.py").is_file(), target
        assert name in {point.name for point in entry_points(group="surco.problems")}, "run `make setup` again"


def test_every_id_begins_with_its_domain() -> None:
    for id in surco.ids():
        assert re.fullmatch(r"[a-z]+/[a-z0-9-]+-v\d+", id), id
        assert id.partition("/")[0] in PROJECT["entry-points"]["surco.problems"]


def test_ids_and_files_that_the_readme_names_exist() -> None:
    known = surco.ids()
    for id in re.findall(r"`((?:paths|sharding)/[a-z0-9-]+-v\d+)`", README):
        assert id in known, id
    for module in re.findall(r"python -m (benchmarks(?:\.\w+)?)", README):
        path = ROOT / module.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), module
    for target in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


def test_every_room_is_typed_and_packed() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build["packages"] == ["surco", "problems", "solvers", "rl"]
    for room in build["packages"]:
        assert (ROOT / room / "__init__.py").is_file()
        assert (ROOT / room / "py.typed").is_file()


def test_highspy_is_imported_nowhere_but_in_the_oracle_benchmark() -> None:
    pattern = re.compile(r"^\s*(import|from)\s+highspy", re.MULTILINE)
    for room in ("surco", "problems", "solvers", "rl"):
        for path in (ROOT / room).rglob("*.py"):
            assert not pattern.search(path.read_text(encoding="utf-8")), path


@pytest.mark.skipif("CI" not in os.environ, reason="needs an idle checkout: runs make in CI")
def test_setup_is_idempotent() -> None:
    done = subprocess.run(["make", "setup"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Nothing to be done" in done.stdout or "up to date" in done.stdout, done.stdout
