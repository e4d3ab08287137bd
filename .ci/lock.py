"""Write constraints.txt: the installed versions of everything that ``surco[all]`` and ``surco[rl]`` need, and no more.

Run by ``make lock`` inside ``.venv`` after its tests have passed, so that the versions listed are versions tested.
An extra whose packages are not installed is left out; local build tags (``+cpu``) are dropped, so that one list serves
machines with and without a GPU.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOTS = ("all", "rl", "gpu")
FORBIDDEN = {"highspy": "it cannot be imported in one process with ortools"}
HEADER = """\
# Tested versions of every dependency, direct and transitive: pip install -c constraints.txt -e ".[all]"
# Written by `make lock`. highspy must never appear here: it cannot be imported in one process with ortools.
"""


def closure(root: str, extras: tuple[str, ...]) -> dict[str, str]:
    """Canonical name -> public version of every installed distribution that ``root[extras]`` reaches."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    todo: list[tuple[str, str]] = [(root, extra) for extra in ("", *extras)]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            dist = distribution(name)
        except PackageNotFoundError:
            continue
        found[name] = dist.version.partition("+")[0]
        for text in dist.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                child = canonicalize_name(requirement.name)
                todo.extend((child, wanted) for wanted in ("", *requirement.extras))
    found.pop(root)
    return found


def main() -> int:
    """Write the file beside pyproject.toml; non-zero where a forbidden package is reached."""
    versions = closure("surco", ROOTS)
    bad = sorted(set(versions) & set(FORBIDDEN))
    if bad:
        sys.stderr.write("".join(f"{name}: {FORBIDDEN[name]}\n" for name in bad))
        return 1
    lines = [f"{name}=={version}" for name, version in sorted(versions.items())]
    Path(__file__).parent.parent.joinpath("constraints.txt").write_text(HEADER + "\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
