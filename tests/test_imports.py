"""The direction of imports, and the lightness of ``import surco``."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("solvers", "surco", "problems", "rl", "benchmarks")  # each may import those before it
FORBIDDEN = {"solvers": {"torch", "ray", "gymnasium"}, "surco": {"ray", "gymnasium", "ortools", "highspy"}}
HEAVY = ("ray", "gymnasium", "ortools", "pyscipopt", "matplotlib")
CPU_SECONDS = 2.5  # of `import surco`, beyond torch


def imported(source: str, module: str, *, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """(line, absolute module name) of every import in a source text, also inside functions and by literal name."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")
            up = base[: len(base) - node.level + 1] if node.level else []
            yield node.lineno, ".".join([*up, *([node.module] if node.module else [])])
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def broken_rules(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What a module may not import, in words."""
    room = module.partition(".")[0]
    above = set(ROOMS[ROOMS.index(room) + 1 :]) | {"tests"} | FORBIDDEN.get(room, set())
    return [
        f"{module}:{line} imports {name}"
        for line, name in imported(source, module, is_package=is_package)
        if name.partition(".")[0] in above
    ]


def modules(room: str) -> Iterator[tuple[Path, str, bool]]:
    """(file, module name, is a package) of every module of a room."""
    for path in sorted((ROOT / room).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        yield path, ".".join(parts[:-1] if is_package else parts), is_package


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_one_way(room: str) -> None:
    found = list(modules(room))
    assert found, f"no module in {room}/"
    broken = [
        rule
        for path, module, is_package in found
        for rule in broken_rules(path.read_text(encoding="utf-8"), module, is_package=is_package)
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("source", "module", "is_broken"),
    [
        ("import problems.paths", "surco.cli", True),
        ("from problems import paths", "surco.cli", True),
        ("def f():\n    from rl import agents", "problems.paths.graph", True),
        ("importlib.import_module('problems.paths')", "surco.cli", True),
        ("import torch", "solvers.milp", True),
        ("from ..problems import x", "surco.cli", True),
        ("from . import registry", "surco.cli", False),
        ("from surco import make", "problems.paths.graph", False),
        ("import problemsolver", "surco.cli", False),
        ("from tests import helpers", "benchmarks.runner", True),
    ],
)
def test_the_judge_sees_each_way_to_import(source: str, module: str, is_broken: bool) -> None:
    assert bool(broken_rules(source, module)) is is_broken


def test_relative_imports_are_resolved() -> None:
    assert list(imported("from ..room import x", "a.b.c")) == [(1, "a.room")]
    assert list(imported("from . import x", "a.b", is_package=True)) == [(1, "a.b")]


def _import_surco() -> dict[str, object]:
    code = f"""
import json, sys, time
import torch
start = time.process_time()
import surco, surco.cli
cpu = time.process_time() - start
print(json.dumps({{"cpu": cpu, "heavy": [name for name in {HEAVY!r} if name in sys.modules]}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout)


def test_import_surco_is_light() -> None:
    found = [_import_surco() for _ in range(2)]  # the first run may have to compile the modules
    assert found[0]["heavy"] == []
    assert min(float(str(run["cpu"])) for run in found) < CPU_SECONDS


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["list"], 0),
        (["--help"], 0),
        (["check", "polska"], 2),
        (["check"], 2),
        (["solve", "planning/polskaa-v0", "--seconds", "1"], 2),
        (["verify", "nowhere"], 2),
        (["report", "nowhere"], 2),
    ],
)
def test_commands_that_build_no_problem_do_not_import_torch(arguments: list[str], code: int) -> None:
    watch = f"""
import sys
from surco.cli import main
try:
    code = main({arguments!r})
except SystemExit as stop:
    code = stop.code
print(code, "torch" in sys.modules, len([name for name in sys.modules if name.endswith(".domain")]))
"""
    done = subprocess.run([sys.executable, "-c", watch], capture_output=True, text=True, check=True, cwd=ROOT)
    found, has_torch, domains = done.stdout.split()[-3:]
    assert (int(found), has_torch) == (code, "False"), done.stderr
    assert int(domains) == (5 if arguments == ["list"] else int(domains))
